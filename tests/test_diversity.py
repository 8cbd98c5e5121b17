import pytest

from raycap.diversity import diversity


def test_by_hand():
    captions = [["a", "dog", "runs"], ["a", "dog", "runs"], ["a", "cat"], []]
    found = diversity(captions, training={"a cat", "a dog"}, vocabulary=["a", "dog", "bird", "cow"])
    assert found == {
        "num_captions": 4,
        "distinct_captions": 3,
        "distinct_1": 4 / 8,
        "distinct_2": 3 / 5,  # a dog, dog runs, a cat
        "seen_in_training": 1 / 4,
        "repeats_a_word": 0,
        "unfinished": 1 / 4,
        "mean_length": 2.0,
        "vocabulary_used": 4,
        "vocabulary_share": 2 / 4,
    }


@pytest.mark.parametrize("captions", [[], [[]], [["dog"]]])
def test_too_few_words_for_pairs_are_no_error(captions):
    found = diversity(captions, training=set(), vocabulary=[])
    assert found["distinct_2"] == found["seen_in_training"] == found["vocabulary_share"] == 0


def test_only_words_that_carry_meaning_count_as_repeated():
    captions = [["a", "dog", "and", "a", "cat"], ["a", "dog", "and", "a", "dog"]]
    assert diversity(captions, training=set(), vocabulary=[])["repeats_a_word"] == 1 / 2


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("", True),
        ("a man in front of a red", True),
        ("a dog on the", True),
        ("red", False),
        ("a man in red", False),
        ("a man in a red shirt", False),
    ],
)
def test_unfinished_sentences_are_counted(caption, expected):
    assert diversity([caption.split()], training=set(), vocabulary=[])["unfinished"] == expected
