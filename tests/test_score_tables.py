"""What a person reads of an evaluation."""

from raycap.score_tables import evaluation_text
from raycap.scores import EvaluateResult

BLEUS = {f"bleu_{order}": order / 10 for order in range(1, 5)}
OLD = {
    "split": "dev",
    "num_photos": 1000,
    "num_missing": 0,
    "num_references": 5000,
    "scores": {"model": {"standard": BLEUS}, "constant caption": {"standard": BLEUS}},
    "signatures": {"standard": "protocol:standard"},
    "constant_caption": "a dog",
    "keeps_one_letter_words": True,
    "decode_s": 1.0,
}
SPREAD = {
    "num_captions": 1000,
    "distinct_captions": 412,
    "distinct_1": 0.03,
    "distinct_2": 0.1,
    "seen_in_training": 0.234,
    "repeats_a_word": 0.001,
    "unfinished": 0.002,
    "mean_length": 9.81,
    "vocabulary_used": 310,
    "vocabulary_share": 0.041,
}


def test_a_table_of_what_there_is() -> None:
    assert evaluation_text(EvaluateResult(**OLD)).splitlines() == [
        "dev: 1,000 photos, 5,000 references",
        "protocol  captions              BLEU-1  BLEU-2  BLEU-3  BLEU-4  METEOR ROUGE-L CIDEr-D",
        "standard  model                  0.100   0.200   0.300   0.400       -       -       -",
        "standard  constant caption       0.100   0.200   0.300   0.400       -       -       -",
    ]


def test_intervals_gaps_and_diversity() -> None:
    result = EvaluateResult(
        **OLD,
        intervals={"standard": {"bleu_1": [0.08, 0.13]}},
        gaps={"meteor": "java not found; do something"},
        diversity={"model": SPREAD, "references": SPREAD | {"distinct_captions": 998}},
    )
    lines = evaluation_text(result).splitlines()
    assert lines[3] == "            95% interval, ±      0.025       -       -       -       -       -       -"
    assert "METEOR: none, java not found; do something" in lines
    assert lines[-2].startswith("captions (people's): 412 (998) of 1,000 differ, 23% (23%) as in training, 9.8 (9.8)")
    assert lines[-1] == "  0.1% (0.1%) say a word of meaning twice, 0.2% (0.2%) are unfinished"
    assert max(map(len, lines)) <= 120


def test_a_comparison_says_with_what_and_how_sure() -> None:
    difference = {"difference": 0.0123, "low": -0.001, "high": 0.02, "p": 0.031}
    comparison = {"against": "other\x1b[2J", "num_photos": 7, "differences": {"standard": {"rouge_l": difference}}}
    comparison["gaps"] = {"meteor": "java not found"}
    lines = evaluation_text(EvaluateResult(**OLD, comparison=comparison)).splitlines()[4:]
    assert lines[0] == "against other\\x1b[2J, on the 7 photos that both have:"
    assert [line.split()[-2] for line in lines[2:-1]] == ["+0.012", "-0.001", "+0.020", "0.031"]
    assert [line[:30].strip() for line in lines[1:]] == [
        "protocol  difference",
        "standard  model - other",
        "95% from",
        "to",
        "p",
        "METEOR: none, java not found",
    ]
