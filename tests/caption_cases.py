"""Captions to score, and what people said of the same photos; what tests of several metrics are held to."""

import random

from raycap.metrics import Corpus, Protocol, Statistics, as_numbers, measure

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


def measured(hypotheses: list[str], references: list[list[str]], protocol: Protocol) -> Statistics:
    """What all metrics but METEOR are made of."""
    [statistics], _ = measure([Corpus.prepare(hypotheses, references, protocol)], meteor_timeout_s=0)
    return statistics


def bleu(hypotheses: list[str], references: list[list[str]], protocol: Protocol) -> dict[str, float]:
    scores = as_numbers(measured(hypotheses, references, protocol).scores())
    return {name: score for name, score in scores.items() if name.startswith("bleu_")}


def as_coco_takes_them(corpus: Corpus) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """References and hypotheses of each photo, as the COCO toolkit takes them."""
    references = {photo: [" ".join(words) for words in some] for photo, some in enumerate(corpus.references)}
    return references, {photo: [" ".join(words)] for photo, words in enumerate(corpus.hypotheses)}


def drawn_captions(count: int, *, seed: int) -> tuple[list[str], list[list[str]]]:
    """Captions of `count` photos with one to five references each, from few words, so that they have much in common."""
    rng = random.Random(seed)
    words = [
        "a",
        "the",
        "dog",
        "cat",
        "man",
        "two",
        "girls",
        "runs",
        "sit",
        "on",
        "near",
        "grass",
        "snow",
        "red",
        "ball",
    ]

    def caption() -> str:
        return " ".join(rng.choices(words, weights=range(len(words), 0, -1), k=rng.randint(1, 14)))

    return [caption() for _ in range(count)], [[caption() for _ in range(rng.randint(1, 5))] for _ in range(count)]
