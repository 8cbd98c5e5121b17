"""ROUGE-L, held to the COCO toolkit's."""

import random

import pytest
from caption_cases import CORPORA, SHORT, as_coco_takes_them, drawn_captions
from pycocoevalcap.rouge.rouge import Rouge, my_lcs

from raycap.metrics import PROTOCOLS, Corpus
from raycap.rouge import longest_common_subsequence, rouge_l

CASES = CORPORA | SHORT | {f"drawn, seed {seed}": drawn_captions(60, seed=seed) for seed in range(3)}


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("name", CASES)
def test_rouge_l_agrees_with_the_coco_toolkit(name, protocol):
    corpus = Corpus.prepare(*CASES[name], protocol)
    mean, photos = Rouge().compute_score(*as_coco_takes_them(corpus))
    ours = rouge_l(corpus.hypotheses, corpus.references)
    assert ours == pytest.approx(photos, abs=1e-12)
    assert ours.mean() == pytest.approx(mean, abs=1e-12)


def test_the_longest_common_subsequence_is_the_tables():
    rng = random.Random(0)
    for _ in range(500):
        one, other = (rng.choices("abcde", k=rng.randint(0, 90)) for _ in range(2))
        assert longest_common_subsequence(one, other) == my_lcs(one, other)


def test_precision_and_recall_may_be_of_different_references():
    # all three words are in the first; the second is said whole
    [score] = rouge_l([["a", "b", "c"]], [[["a", "b", "c", "d", "e", "f"], ["b"]]])
    assert score == 1.0
