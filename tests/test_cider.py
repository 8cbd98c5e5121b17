"""CIDEr-D, held to the COCO toolkit's."""

import numpy as np
import pytest
from caption_cases import CORPORA, SHORT, as_coco_takes_them, drawn_captions
from pycocoevalcap.cider.cider import Cider

from raycap.cider import CiderD, cider_d
from raycap.metrics import PROTOCOLS, Corpus

CASES = CORPORA | SHORT | {f"drawn, seed {seed}": drawn_captions(60, seed=seed) for seed in range(3)}


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("name", CASES)
def test_cider_d_agrees_with_the_coco_toolkit(name, protocol):
    corpus = Corpus.prepare(*CASES[name], protocol)
    mean, photos = Cider().compute_score(*as_coco_takes_them(corpus))
    ours = cider_d(corpus.hypotheses, corpus.references)
    assert ours == pytest.approx(photos, abs=1e-9)
    assert ours.mean() == pytest.approx(mean, abs=1e-9)


def test_a_word_that_all_photos_have_weighs_nothing():
    everywhere = [[["dog"]], [["dog"]]]
    assert list(cider_d([["dog"], ["dog"]], everywhere)) == [0, 0]
    # of the other words each is one photo's; of four orders only the first has n-grams
    assert list(cider_d([["cat"], ["cow"]], [[["cat"]], [["cow"]]])) == pytest.approx([2.5, 2.5])


def test_length_is_penalised_by_hand():
    # the only n-gram in common is a word of weight log 2; lengths differ by 2
    [score, _] = cider_d([["cat"], ["x"]], [[["cat", "of", "mine"]], [["cow"]]])
    # a caption of one word has no pairs, and the toolkit measures length in pairs
    assert score == pytest.approx(10 / 4 * (1 / np.sqrt(3)) * np.exp(-(2**2) / (2 * 6**2)))


@pytest.mark.parametrize(
    ("hypotheses", "references"),
    [([], []), ([[]], [[[]]]), ([["dog"]], [[["dog"]]]), ([[], []], [[["dog"]], [["cat"]]])],
)
def test_where_nothing_can_be_told_the_score_is_nothing(hypotheses, references):
    assert list(cider_d(hypotheses, references)) == [0.0] * len(hypotheses)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("name", CASES)
def test_weights_taken_once_score_as_those_of_the_whole(name, protocol):
    corpus = Corpus.prepare(*CASES[name], protocol)
    scorer = CiderD(corpus.references)
    pairs = zip(corpus.hypotheses, corpus.references, strict=True)
    alone = [scorer([hypothesis], references)[0] for hypothesis, references in pairs]
    assert alone == pytest.approx(list(cider_d(corpus.hypotheses, corpus.references)), abs=1e-9)


def test_captions_may_be_token_ids():
    scorer = CiderD([[[4, 5, 6]], [[7, 8]]])
    right, part, wrong = scorer([[4, 5, 6], [4, 9], [7, 8]], [[4, 5, 6]])
    assert right > part > wrong == 0
