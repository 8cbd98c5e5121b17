import json

import pytest

from raycap.errors import FormatError
from raycap.schema import END_TOKEN, FORMAT_VERSION, PAD_ID, START_TOKEN
from raycap.text import Tokenizer, clean_words, standard_words

CAPTIONS = ["A dog runs .", "The dog sleeps .", "A cat sees the dog !"]


@pytest.mark.parametrize(
    ("caption", "clean", "clean_keeping_one_letter", "standard"),
    [
        ("A Dog runs .", "dog runs", "a dog runs", "a dog runs"),
        ("", "", "", ""),
        (" . , ! ", "", "", ""),
        ("the girl's T-shirt", "the girls tshirt", "the girls tshirt", "the girls tshirt"),
        ("2 dogs , 10th race", "dogs race", "dogs race", "2 dogs 10th race"),
        ("a 'b' (c) de", "de", "a b c de", "a b c de"),
        ("tab\tand\nnew line", "tab and new line", "tab and new line", "tab and new line"),
        ("Der Hund läuft über Eis", "der hund läuft über eis", "der hund läuft über eis", "der hund läuft über eis"),
        ("“quoted” dash — 狗", "quoted dash", "quoted dash 狗", "quoted dash 狗"),
        ("The man\u2019s «old» dog…", "the mans old dog", "the mans old dog", "the mans old dog"),
        ("cafe\u0301 café", "café café", "café café", "café café"),
        ("एक कुत्ता दौड़ता है।", "एक कुत्ता दौड़ता है", "एक कुत्ता दौड़ता है", "एक कुत्ता दौड़ता है"),
        ("می\u200cدود ½ 10€", "می\u200cدود", "می\u200cدود", "می\u200cدود ½ 10€"),
        ("I ❤\ufe0f dogs \ufe0f\u200d", "dogs", "i dogs", "i ❤\ufe0f dogs \ufe0f\u200d"),
        ("一只狗在海滩上奔跑。", "一只狗在海滩上奔跑", "一只狗在海滩上奔跑", "一只狗在海滩上奔跑"),
    ],
)
def test_cleaning(caption, clean, clean_keeping_one_letter, standard):
    assert " ".join(clean_words(caption)) == clean
    assert " ".join(clean_words(caption, keep_one_letter_words=True)) == clean_keeping_one_letter
    assert " ".join(standard_words(caption)) == standard


def test_words_rank_by_frequency_then_by_first_appearance():
    tokenizer = Tokenizer.fit(CAPTIONS)
    assert tokenizer.words == (START_TOKEN, "dog", END_TOKEN, "the", "runs", "sleeps", "cat", "sees")
    assert tokenizer.ids["dog"] == 2
    assert PAD_ID not in tokenizer.ids.values()
    assert tokenizer.vocab_size == 9
    assert tokenizer.max_length == 6  # startseq cat sees the dog endseq


def test_fitting_takes_any_iterable():
    assert Tokenizer.fit(iter(CAPTIONS)) == Tokenizer.fit(CAPTIONS)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A cat sees the dog !", "cat sees the dog"),
        ("The zebra sleeps", "the sleeps"),  # a word that was never seen is dropped
        ("zebra", ""),
        ("", ""),
    ],
)
def test_encode_and_decode_round_trip(caption, expected):
    tokenizer = Tokenizer.fit(CAPTIONS)
    token_ids = tokenizer.encode(tokenizer.clean(caption))
    assert token_ids[0] == tokenizer.start_id
    assert token_ids[-1] == tokenizer.end_id
    assert tokenizer.decode(token_ids) == expected


def test_decode_stops_at_the_end_token_and_skips_padding():
    tokenizer = Tokenizer.fit(CAPTIONS)
    dog, cat = tokenizer.ids["dog"], tokenizer.ids["cat"]
    assert tokenizer.decode([tokenizer.start_id, dog, PAD_ID, cat, tokenizer.end_id, dog, PAD_ID]) == "dog cat"
    assert tokenizer.decode([dog, cat]) == "dog cat"
    assert tokenizer.decode([]) == ""


def test_min_word_count_leaves_rare_words_out_but_never_start_and_end():
    tokenizer = Tokenizer.fit(CAPTIONS, min_word_count=2)
    assert tokenizer.words == (START_TOKEN, "dog", END_TOKEN, "the")
    assert tokenizer.max_length == 4
    assert tokenizer.decode(tokenizer.encode(tokenizer.clean(CAPTIONS[2]))) == "the dog"
    assert Tokenizer.fit(["dog"], min_word_count=9).words == (START_TOKEN, END_TOKEN)


def test_one_letter_words_are_kept_when_asked_for():
    tokenizer = Tokenizer.fit(CAPTIONS, keep_one_letter_words=True)
    assert "a" in tokenizer.words
    assert tokenizer.max_length == 7
    assert tokenizer.clean("A dog .") == ["a", "dog"]
    assert "a" not in Tokenizer.fit(CAPTIONS).words


@pytest.mark.parametrize("options", [{}, {"keep_one_letter_words": True, "min_word_count": 2}])
def test_json_round_trip(options):
    tokenizer = Tokenizer.fit([*CAPTIONS, "Der Hund läuft über Eis"], **options)
    text = tokenizer.to_json()
    assert Tokenizer.from_json(text) == tokenizer
    assert Tokenizer.from_json(text).to_json() == text
    assert json.loads(text)["format_version"] == FORMAT_VERSION


def test_a_newer_format_is_refused():
    fields = json.loads(Tokenizer.fit(CAPTIONS).to_json()) | {"format_version": FORMAT_VERSION + 1, "surprise": True}
    with pytest.raises(FormatError, match=r"bundle/t\.json was written by a newer raycap; upgrade"):
        Tokenizer.from_json(json.dumps(fields), source="bundle/t.json")


def _without(name):
    fields = json.loads(Tokenizer.fit(CAPTIONS).to_json())
    del fields[name]
    return json.dumps(fields)


def _with(**changes):
    return json.dumps(json.loads(Tokenizer.fit(CAPTIONS).to_json()) | changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not JSON",
        "[]",
        "null",
        "3",
        Tokenizer.fit(CAPTIONS).to_json()[:-20],
        *(_without(name) for name in ("format_version", "words", "max_length")),
        _with(words=["dog"]),
        _with(words=None),
        _with(words=[["dog"]]),
        _with(format_version="one"),
        _with(surprise=True),
    ],
)
def test_a_damaged_tokenizer_is_refused(text):
    with pytest.raises(FormatError, match=r"t\.json is not a tokenizer written by raycap"):
        Tokenizer.from_json(text, source="t.json")
