import math
import random

import pytest
from nltk.translate.bleu_score import corpus_bleu
from sacrebleu.metrics import BLEU

from raycap.metrics import PROTOCOLS, bleu, constant_caption, score_all, shuffled
from raycap.schema import END_TOKEN, START_TOKEN

# Every hypothesis here keeps at least four words under every protocol; see the last table for shorter ones.
CORPORA = {
    "one reference each": (
        ["the brown dog runs over green grass", "two small children play with red ball"],
        [["the brown dog runs across green grass"], ["two children are playing with the red ball"]],
    ),
    "ragged references": (
        ["the dog runs over the grass", "the man rides his blue bike", "two girls play in the snow"],
        [
            ["A dog is running over the grass .", "The brown dog runs over green grass .", "dog on grass"],
            ["The man rides a blue bike down the street ."],
            ["Two girls play in snow .", "Girls in the snow"],
        ],
    ),
    "shorter than the references": (
        ["the brown dog runs", "two children play outside"],
        [["the brown dog runs over the wide green grass"], ["two children play outside in the warm rain today"]],
    ),
    "longer than the references": (
        ["the big brown dog runs over the wide green grass today", "two children play outside in the rain"],
        [["big brown dog runs over grass"], ["two children play outside", "children outside"]],
    ),
    "as near to a shorter as to a longer reference": (
        ["the dog runs over grass"],
        [["the dog runs over", "the dog runs over green grass"]],
    ),
    "words repeated": (
        ["the the the the the the the", "dog dog dog dog dog"],
        [["the cat is on the mat", "there is the cat on the mat"], ["dog and dog and another dog"]],
    ),
    "capitals, punctuation, digits, single letters": (
        ["A dog's ball , it rolls to 2 men !", "T-shirts hang on a line (3 of them) outside"],
        [["The dogs ball rolls to 2 men .", "A ball rolls"], ["A line with 3 T-shirts hangs outside on it ."]],
    ),
    "no four words in a row": (
        ["the dog runs over the grass"],
        [["grass the dog runs under the sky"]],
    ),
    "no word in common": (
        ["red green blue yellow", "one two three four five"],
        [["cats sleep on chairs all day"], ["dogs bark at night", "birds sing early"]],
    ),
}


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
    assert scores["standard"] == scores["clean"] == {f"bleu_{order}": 0.0 for order in range(1, 5)}
    assert scores["tutorial"]["bleu_1"] == pytest.approx(2 / 6)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_signature_says_how_a_score_was_computed(protocol):
    assert protocol.signature.startswith(f"protocol:{protocol.name}|")
    assert ("bleu3:0.3+0.3+0.3|" in protocol.signature) is (protocol.name == "tutorial")
    assert ("ends:kept" in protocol.signature) is (protocol.name == "tutorial")
    assert len({each.signature for each in PROTOCOLS.values()}) == 3


def test_score_all_gives_every_protocol():
    corpus = CORPORA["ragged references"]
    assert score_all(*corpus) == {name: bleu(*corpus, protocol) for name, protocol in PROTOCOLS.items()}


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_no_photos_score_nothing(protocol):
    assert bleu([], [], protocol) == {f"bleu_{order}": 0.0 for order in range(1, 5)}


# Hypotheses of fewer than n words have no n-gram. Papineni's BLEU, and sacrebleu's, count none for them; nltk counts
# one that is wrong. raycap's numbers are nltk's, as the tutorial's are.
SHORT = {
    "an empty hypothesis among others": (
        ["", "the brown dog runs over green grass"],
        [["two children play"], ["the brown dog runs over green grass today"]],
    ),
    "one word": (["dog", "the brown dog runs over grass"], [["dog"], ["the brown dog runs over grass"]]),
    "nothing but empty hypotheses": (["", ""], [["two children play"], ["dog", "cat"]]),
    "punctuation only": ([" . "], [["two children play"]]),
    "an empty reference": (["the dog runs over grass"], [["", "the dog runs over green grass"]]),
}


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


def test_constant_caption_is_the_best_of_the_frequent_ones():
    photos = [
        ["A brown dog runs over the grass .", "Dog !"],
        ["A black dog runs over the grass .", "Dog !"],
        ["A white dog runs on the grass", "Look , a cat"],
    ]
    assert constant_caption(photos) == "a brown dog runs over the grass"
    # what is found is scored as any caption is, and no other training caption does better on these photos
    best = bleu(["a brown dog runs over the grass"] * 3, photos, PROTOCOLS["standard"])["bleu_4"]
    for captions in photos:
        for caption in captions:
            assert bleu([caption] * 3, photos, PROTOCOLS["standard"])["bleu_4"] <= best


def test_constant_caption_of_nothing():
    assert constant_caption([]) == ""


@pytest.mark.parametrize("count", [2, 3, 4, 10, 101])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shuffled_leaves_no_one_in_place(count, seed):
    hypotheses = [f"caption {n}" for n in range(count)]
    moved = shuffled(hypotheses, seed=seed)
    assert sorted(moved) == sorted(hypotheses)
    assert not any(mine == other for mine, other in zip(moved, hypotheses, strict=True))
    assert moved == shuffled(hypotheses, seed=seed)
    assert hypotheses == [f"caption {n}" for n in range(count)]


def test_shuffled_depends_on_the_seed():
    hypotheses = [str(n) for n in range(20)]
    assert len({tuple(shuffled(hypotheses, seed=seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize("hypotheses", [[], ["alone"]])
def test_shuffled_of_too_few_is_what_it_was(hypotheses):
    assert shuffled(hypotheses, seed=0) == hypotheses
