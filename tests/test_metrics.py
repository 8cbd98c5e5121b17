import math
import random

import numpy as np
import pytest
from caption_cases import CORPORA, SHORT, as_coco_takes_them, bleu, drawn_captions, measured
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu, sentence_bleu
from pycocoevalcap.bleu.bleu import Bleu
from sacrebleu.metrics import BLEU

from raycap.metrics import METRICS, PROTOCOLS, Corpus, measure, score_all
from raycap.schema import END_TOKEN, START_TOKEN

BLEUS = [f"bleu_{order}" for order in range(1, 5)]


def words_of(corpus, protocol):
    hypotheses, references = corpus
    prepared = [[protocol.prepare(each) for each in row] for row in references]
    return [protocol.prepare(each) for each in hypotheses], prepared


def sacrebleu_of(corpus, protocol):
    """BLEU-1 to BLEU-4 by sacrebleu's counts, precisions and brevity penalty."""
    said, wanted = words_of(corpus, protocol)
    most = max(len(row) for row in wanted)
    streams = [
        [" ".join(row[place]) if place < len(row) else None for row in wanted] for place in range(most)
    ]  # sacrebleu wants the transpose, with holes
    scores = {}
    for order, weights in enumerate(protocol.weights, start=1):
        metric = BLEU(tokenize="none", smooth_method="none", max_ngram_order=order, effective_order=False, force=True)
        score = metric.corpus_score([" ".join(words) for words in said], streams)
        if len(set(weights)) == 1 and math.isclose(sum(weights), 1):
            scores[f"bleu_{order}"] = score.score / 100
        else:  # sacrebleu knows no weights; the same formula over its precisions
            logs = [
                weight * math.log(p / 100) if p else -math.inf
                for weight, p in zip(weights, score.precisions, strict=True)
            ]
            scores[f"bleu_{order}"] = score.bp * math.exp(sum(logs))
    return scores


def nltk_of(corpus, protocol):
    said, wanted = words_of(corpus, protocol)
    scores = {
        f"bleu_{order}": corpus_bleu(wanted, said, weights=weights)
        for order, weights in enumerate(protocol.weights, start=1)
    }
    return {name: score if score > 1e-50 else 0.0 for name, score in scores.items()}


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.filterwarnings(r"ignore:\s*The hypothesis contains 0 counts:UserWarning")
def test_bleu_agrees_with_nltk_and_sacrebleu(name, protocol):
    corpus = CORPORA[name]
    assert all(len(words) >= 4 for words in words_of(corpus, protocol)[0])
    scores = bleu(*corpus, protocol)
    assert list(scores) == ["bleu_1", "bleu_2", "bleu_3", "bleu_4"]
    assert scores == pytest.approx(nltk_of(corpus, protocol), abs=1e-12)
    assert scores == pytest.approx(sacrebleu_of(corpus, protocol), abs=1e-9)
    assert all(0.0 <= score <= 1.0 for score in scores.values())


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_bleu_agrees_on_a_larger_corpus(protocol):
    rng = random.Random(0)
    nouns, verbs = ["dog", "cat", "man", "woman", "child", "bird"], ["runs", "jumps", "sits", "sleeps", "plays"]

    def sentence():
        words = ["The", rng.choice(nouns), rng.choice(verbs), "on", "a", rng.choice(nouns), "near", "the"]
        return " ".join([*words, rng.choice(nouns), "with", rng.choice(nouns)][: rng.randint(6, 11)]) + " ."

    corpus = [sentence() for _ in range(200)], [[sentence() for _ in range(rng.randint(1, 5))] for _ in range(200)]
    scores = bleu(*corpus, protocol)
    assert scores == pytest.approx(nltk_of(corpus, protocol), abs=1e-12)
    assert scores == pytest.approx(sacrebleu_of(corpus, protocol), abs=1e-9)
    assert 0.01 < scores["bleu_4"] < scores["bleu_1"] < 1.0


def test_bleu_by_hand():
    # 5 of 6 words, 3 of 5 pairs ("the dog", "over the", "the grass"), 1 of 4 triples; as long as its reference
    scores = bleu(["the dog runs over the grass"], [["the dog walks over the grass"]], PROTOCOLS["standard"])
    expected = {
        "bleu_1": 5 / 6,
        "bleu_2": math.sqrt(5 / 6 * 3 / 5),
        "bleu_3": (5 / 6 * 3 / 5 * 1 / 4) ** (1 / 3),
        "bleu_4": 0.0,
    }
    assert scores == pytest.approx(expected)
    assert scores["bleu_4"] == 0.0  # not nltk's smallest float
    # under tutorial 7 of 8, 5 of 7, 2 + 1 of 6 and 0 + 1 of 5, start and end being words
    scores = bleu(["the dog runs over the grass"], [["the dog walks over the grass"]], PROTOCOLS["tutorial"])
    precisions = [7 / 8, 5 / 7, 3 / 6, 1 / 5]
    assert scores["bleu_1"] == pytest.approx(precisions[0])
    assert scores["bleu_3"] == pytest.approx(math.prod(precisions[:3]) ** 0.3)
    assert scores["bleu_4"] == pytest.approx(math.prod(precisions) ** 0.25)


def test_a_short_caption_is_penalised():
    scores = bleu(["the dog runs over"], [["the dog runs over the green grass"]], PROTOCOLS["standard"])
    assert scores == pytest.approx(dict.fromkeys(scores, math.exp(1 - 7 / 4)))


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_perfect_match_scores_one(protocol):
    hypotheses = ["A brown dog runs over 2 green hills .", "Two small girls play in deep snow !"]
    references = [["Something else .", hypotheses[0]], [hypotheses[1]]]
    scores = bleu(hypotheses, references, protocol)
    if protocol.name == "tutorial":  # weights of .3 do not sum to one, and forgive nothing here
        assert scores["bleu_3"] == pytest.approx(1.0)
    assert scores == pytest.approx(dict.fromkeys(scores, 1.0))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("standard", "a dogs ball rolls to 2 men"),
        ("clean", "dogs ball rolls to men"),
        ("tutorial", f"{START_TOKEN} dogs ball rolls to men {END_TOKEN}"),
    ],
)
def test_what_each_protocol_compares(name, words):
    assert " ".join(PROTOCOLS[name].prepare("A dog's ball rolls to 2 men .")) == words


def test_the_weights_of_each_protocol():
    assert {name: protocol.weights[2] for name, protocol in PROTOCOLS.items()} == {
        "standard": (1 / 3, 1 / 3, 1 / 3),
        "clean": (1 / 3, 1 / 3, 1 / 3),
        "tutorial": (0.3, 0.3, 0.3),
    }
    for protocol in PROTOCOLS.values():
        assert [len(weights) for weights in protocol.weights] == [1, 2, 3, 4]


def test_start_and_end_alone_score_under_tutorial_and_nowhere_else():
    scores = score_all(["red green blue yellow"], [["cats sleep on chairs"]])
    assert scores["standard"] == scores["clean"] == dict.fromkeys([*BLEUS, "rouge_l", "cider_d"], 0.0)
    assert scores["tutorial"]["bleu_1"] == pytest.approx(2 / 6)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_signature_says_how_a_score_was_computed(protocol):
    assert protocol.signature.startswith(f"protocol:{protocol.name}|")
    assert ("bleu3:0.3+0.3+0.3|" in protocol.signature) is (protocol.name == "tutorial")
    assert ("ends:kept" in protocol.signature) is (protocol.name == "tutorial")
    assert len({each.signature for each in PROTOCOLS.values()}) == 3


def test_score_all_gives_every_protocol():
    corpus = CORPORA["ragged references"]
    scores = score_all(*corpus)
    for name, protocol in PROTOCOLS.items():
        assert list(scores[name]) == [each for each in METRICS if each != "meteor"]
        assert {each: scores[name][each] for each in BLEUS} == bleu(*corpus, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_no_photos_score_nothing(protocol):
    assert bleu([], [], protocol) == {f"bleu_{order}": 0.0 for order in range(1, 5)}


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("name", SHORT)
@pytest.mark.filterwarnings(r"ignore:\s*The hypothesis contains 0 counts:UserWarning")
def test_short_hypotheses_score_as_nltk_scores_them(name, protocol):
    scores = bleu(*SHORT[name], protocol)
    assert scores == pytest.approx(nltk_of(SHORT[name], protocol), abs=1e-12)
    theirs = sacrebleu_of(SHORT[name], protocol)
    for order in range(1, 5):
        if all(len(words) >= order for words in words_of(SHORT[name], protocol)[0]):
            assert scores[f"bleu_{order}"] == pytest.approx(theirs[f"bleu_{order}"], abs=1e-9)
        else:
            assert scores[f"bleu_{order}"] <= theirs[f"bleu_{order}"] + 1e-9


def test_how_far_a_short_hypothesis_parts_nltk_from_sacrebleu():
    corpus = SHORT["one word"]  # both captions are perfect
    assert sacrebleu_of(corpus, PROTOCOLS["standard"])["bleu_4"] == pytest.approx(1.0)
    assert bleu(*corpus, PROTOCOLS["standard"])["bleu_4"] == pytest.approx((5 / 6 * 4 / 5 * 3 / 4) ** 0.25)


@pytest.mark.parametrize("name", CORPORA)
def test_bleu_agrees_with_the_coco_toolkit(name, capsys):
    corpus = Corpus.prepare(*CORPORA[name], PROTOCOLS["standard"])
    theirs, _ = Bleu(4).compute_score(*as_coco_takes_them(corpus), verbose=0)
    for score, expected in zip(bleu(*CORPORA[name], PROTOCOLS["standard"]).values(), theirs, strict=True):
        if score > 0:
            assert score == pytest.approx(expected, abs=1e-6)
        else:  # the toolkit counts a trace where an order has nothing in common: 1e-15, to the power of 1/4
            assert expected < 2e-4


@pytest.mark.parametrize("corpus", [*CORPORA.values(), *SHORT.values(), drawn_captions(30, seed=0)])
def test_the_bleu_of_a_photo_is_nltks_smoothed_sentence_bleu(corpus):
    said, wanted = words_of(corpus, PROTOCOLS["standard"])
    smooth = SmoothingFunction().method2
    expected = [
        sentence_bleu(references, words, smoothing_function=smooth)
        for words, references in zip(said, wanted, strict=True)
    ]
    photos = measured(*corpus, PROTOCOLS["standard"]).photo_scores()
    assert photos["bleu_4"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_the_order_of_the_photos_does_not_matter(protocol):
    hypotheses, references = drawn_captions(40, seed=1)
    order = random.Random(2).sample(range(40), 40)
    one = measured(hypotheses, references, protocol)
    other = measured([hypotheses[n] for n in order], [references[n] for n in order], protocol)
    assert one.scores() == pytest.approx(other.scores(), abs=1e-12)
    for name, scores in one.photo_scores().items():
        assert scores[order] == pytest.approx(other.photo_scores()[name], abs=1e-12)


def test_captions_that_are_references_score_the_most():
    _, references = drawn_captions(30, seed=3)
    only = [each[:1] for each in references]
    scores = score_all([each[0] for each in only], only)["standard"]
    assert scores["rouge_l"] == pytest.approx(1.0)
    assert scores["bleu_1"] == pytest.approx(1.0)
    long = [each for each in only if len(each[0].split()) >= 4]  # shorter ones have no n-grams of the highest order
    assert score_all([each[0] for each in long], long)["standard"]["cider_d"] == pytest.approx(10.0)


def test_weights_choose_photos():
    hypotheses, references = drawn_captions(5, seed=4)
    whole = measured(hypotheses, references, PROTOCOLS["standard"])
    chosen = [0, 0, 3]
    part = whole.scores(np.array([[2.0, 0, 0, 1, 0], [1, 1, 1, 1, 1]]))
    alone = bleu([hypotheses[n] for n in chosen], [references[n] for n in chosen], PROTOCOLS["standard"])
    for name, score in alone.items():
        assert part[name][0] == pytest.approx(score, abs=1e-12)
    assert {name: values[1] for name, values in part.items()} == pytest.approx(whole.scores())
    assert part["rouge_l"][0] == pytest.approx(whole.photo_scores()["rouge_l"][chosen].mean())


def test_a_gap_is_named_where_meteor_is_left_out_or_missing(monkeypatch):
    corpora = [Corpus.prepare(*CORPORA["ragged references"], PROTOCOLS["standard"])]
    [left_out], reason = measure(corpora, meteor_timeout_s=0)
    assert reason == "left out, as --meteor-timeout-s is 0"
    monkeypatch.setenv("PATH", "")
    [missing], reason = measure(corpora, meteor_timeout_s=60)
    assert "java" in reason
    assert 'pip install "raycap[meteor]"' in reason
    assert list(missing.scores()) == list(left_out.scores()) == [name for name in METRICS if name != "meteor"]
