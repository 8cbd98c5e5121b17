"""Constant captions, shuffled photos, and people."""

import pytest
from caption_cases import bleu, drawn_captions

from raycap.baselines import constant_caption, human_rounds, shuffled
from raycap.metrics import PROTOCOLS, Corpus


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


def corpus_of(references):
    return Corpus.prepare([""] * len(references), references, PROTOCOLS["standard"])


def test_each_reference_takes_its_turn_against_the_others():
    references = [["a one", "a two", "a three"], ["b one", "b two"], ["c one"]]
    said = [[" ".join(words) for words in each.hypotheses] for each in human_rounds(corpus_of(references))]
    assert said == [["a one", "b one"], ["a two", "b two"], ["a three", "b one"]]  # c has nothing to stand against
    first = next(human_rounds(corpus_of(references)))
    assert first.references == [[["a", "two"], ["a", "three"]], [["b", "two"]]]


def test_five_turns_at_most():
    assert len(list(human_rounds(corpus_of([[str(n) for n in range(12)]])))) == 5


@pytest.mark.parametrize("references", [[], [["alone"]], [["alone"], ["too"]]])
def test_no_ceiling_without_two_references(references):
    assert list(human_rounds(corpus_of(references))) == []


def test_people_who_say_the_same_reach_the_top():
    _, references = drawn_captions(10, seed=0)
    for each in human_rounds(corpus_of([[some[0]] * 3 for some in references])):
        assert each.hypotheses == [wanted[0] for wanted in each.references]
