"""METEOR: the formula on what its Java program counted, the program itself, and what becomes of its faults."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from caption_cases import CORPORA, SHORT, as_coco_takes_them, drawn_captions

from raycap import meteor
from raycap.errors import MeteorError
from raycap.metrics import PROTOCOLS, Corpus, measure

# hypothesis, reference: what the program counts, and what it scores
COUNTED = {
    "a dog runs over the grass, word for word": ("6 6 3 3 3 3 3 3 0 0 0 0 0 0 0 0 0 0 0 0 1 6 6", 1.0),
    "the dog runs across grass, a dog is running on grass": (
        "5 6 1 3 2 2 0 0 0 0 0 0 0 0 0 0 1 0 0 1 2 3 3",
        0.24881457135294163,
    ),
    "two kids play, two children are playing": ("3 4 1 2 0 0 1 1 0 0 0 0 1 1 0 0 1 1 0 1 1 3 4", 0.7276236429433053),
    "no words, a dog": ("0 2 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0", 0.0),
    "bird, a cat sits on the red mat": ("1 7 0 3 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0", 0.0),
    "a dog, a dog runs": ("2 3 1 1 1 1 1 1 0 0 0 0 0 0 0 0 0 0 0 0 1 2 2", 0.29170666383042776),
    "a man rides his bicycle down the road, the man is riding a bike on the street": (
        "8 9 3 5 1 1 2 2 0 0 0 0 0 0 0 0 1 1 0 1 4 4 5",
        0.1761748096825392,
    ),
}
ROWS = np.array([counts.split() for counts, _ in COUNTED.values()], np.float64)
needs_java = pytest.mark.skipif(meteor.gap() is not None, reason=meteor.gap() or "")


def test_the_formula_is_the_programs():
    rows = meteor.without_unbroken(ROWS)
    assert list(meteor.meteor(rows)) == pytest.approx([score for _, score in COUNTED.values()], abs=1e-12)
    assert meteor.meteor(rows.sum(axis=0)) == pytest.approx(0.251846309333174, abs=1e-12)  # of all photos together
    assert meteor.meteor(np.zeros(meteor.WIDTH)) == 0


@pytest.mark.slow
@needs_java
def test_meteor_agrees_with_the_coco_toolkit():
    from pycocoevalcap.meteor.meteor import Meteor

    theirs = Meteor()
    cases = [
        *CORPORA.values(),
        *SHORT.values(),
        drawn_captions(20, seed=0),
        (["Ein Hund , é 狗 \u2028 x"], [["é 狗 dog"]]),
    ]
    corpora = [Corpus.prepare(*case, protocol) for case in cases for protocol in PROTOCOLS.values()]
    measured, gap = measure(corpora, meteor_timeout_s=300)
    assert gap is None
    for corpus, statistics in zip(corpora, measured, strict=True):
        score, photos = theirs.compute_score(*as_coco_takes_them(corpus))
        assert statistics.scores()["meteor"] == pytest.approx(score, abs=1e-9)
        assert list(statistics.photo_scores()["meteor"]) == pytest.approx(photos, abs=1e-9)


def test_no_photos_need_no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert meteor.statistics([], [], timeout_s=1).shape == (0, meteor.WIDTH)


# A program in Java's place that fails as Java can
FAULTS = {
    "exec sleep 60": "took longer than 0.5 s; --meteor-timeout-s gives it more",
    "echo 'no room \033[2J' >&2; exit 3": r"ended with code 3: no room \\x1b\[2J",
    "exit 1": "ended with code 1: without a word",
    "cat > /dev/null; echo 1 2 3": "ended with code 0",
    "cat > /dev/null; echo Error: what was that": "ended with code 0",
    "cat > /dev/null; printf '\\377'": "ended with code 0",
}


@pytest.mark.parametrize("script", FAULTS)
def test_a_fault_of_javas_is_a_named_gap(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocoevalcap.meteor")
    java = tmp_path / "java"
    java.write_text(f"#!{shutil.which('sh')}\n{script}\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    limit_s = 0.5 if "sleep" in script else 60.0
    with pytest.raises(MeteorError, match=FAULTS[script]):
        meteor.statistics([["a", "dog"]], [[["a", "dog"]]], timeout_s=limit_s)
    _, gap = measure([Corpus.prepare(["a dog"], [["a dog"]], PROTOCOLS["standard"])], meteor_timeout_s=limit_s)
    assert gap is not None
    assert "\033" not in gap


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "pycocoevalcap not found" in (meteor.gap() or "")
    with pytest.raises(MeteorError, match=r"raycap\[meteor\]"):
        meteor.statistics([["a"]], [[["a"]]], timeout_s=60)
