"""METEOR 1.5, whose matching its authors' Java program does; knows words only, and that Java may not be there.

Reference:
    Denkowski and Lavie 2014, Meteor universal: language specific translation evaluation for any target language.
"""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from raycap.errors import MeteorError
from raycap.progress import printable
from raycap.text import Words

WIDTH = 23
"""Numbers of a photo's statistics."""

_RUNS = 20  # where among them the runs of matches are

_WAY_OUT = 'METEOR needs pip install "raycap[meteor]" and Java (java on the PATH)'
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75  # tuned by the authors for English
_MODULES = np.array([1.0, 0.6, 0.8, 0.6])  # weights of equal words, equal stems, synonyms and paraphrases


def gap() -> str | None:
    """Return why METEOR cannot be computed here and what to do about it, or None if it can."""
    missing = [name for name, found in (("java", shutil.which("java")), ("pycocoevalcap", _jar())) if found is None]
    return f"{' and '.join(missing)} not found; {_WAY_OUT}" if missing else None


def statistics(
    hypotheses: Sequence[Words], references: Sequence[Sequence[Words]], *, timeout_s: float
) -> NDArray[np.float64]:
    """Return what METEOR counts in each photo, with the reference that scores best; one run of Java for all.

    Args:
        hypotheses: the words of a caption a photo.
        references: the words of each photo's human captions, one at least.
        timeout_s: seconds that Java may take; loading its tables takes 5 to 10 of them.

    Returns:
        `(photos, 23)`, numbers that add up over photos; `meteor` makes scores of them.

    Raises:
        MeteorError: if Java or the package is missing, fails, or takes too long.
    """
    if not hypotheses:
        return np.zeros((0, WIDTH))
    lines = [_line(said, wanted) for said, wanted in zip(hypotheses, references, strict=True)]
    row_of = {
        line: row for row, line in enumerate(dict.fromkeys(lines))
    }  # a constant caption is asked for once a photo
    counted = without_unbroken(_ask_java(row_of, timeout_s))
    return counted[[row_of[line] for line in lines]]


def meteor(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return METEOR.

    Args:
        sums: `(..., 23)`, statistics, of a photo or added up over photos: words of hypothesis and reference, function
            words of both; for each of four ways to match, content words and function words matched, of both; runs of
            matches in the same order; words matched, of both.

    Returns:
        `(...)`, 0 to 1.
    """
    matched = _matched(sums)
    function = sums[..., 2:4]
    length = _DELTA * (sums[..., :2] - function) + (1 - _DELTA) * function
    weighted = _MODULES @ (_DELTA * matched[..., 0, :] + (1 - _DELTA) * matched[..., 1, :])
    with np.errstate(divide="ignore", invalid="ignore"):  # nothing matched scores nothing
        share = np.nan_to_num(weighted / length)
        precision, recall = share[..., 0], share[..., 1]
        mean = np.nan_to_num(1 / ((1 - _ALPHA) / precision + _ALPHA / recall))
        scattered = np.nan_to_num(sums[..., _RUNS] / sums[..., 21:23].mean(axis=-1))
    scores: NDArray[np.float64] = mean * (1 - _GAMMA * scattered**_BETA)
    return scores


def without_unbroken(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what the program counted in each photo, as it adds it up over photos.

    Where every word is matched in one run nothing is scattered, and the program leaves that run out.
    """
    whole = (_matched(rows).sum(axis=(-3, -2)) == rows[..., :2]).all(axis=-1) & (rows[..., _RUNS] == 1)
    rows = rows.copy()
    rows[whole, _RUNS] = 0
    return rows


def _matched(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the words matched: `(..., 4, 2, 2)`; by way to match, content or function, hypothesis or reference."""
    return sums[..., 4:_RUNS].reshape(*sums.shape[:-1], len(_MODULES), 2, 2)


def _jar() -> str | None:
    """Return where the Java program lies, inside the package pycocoevalcap; None without it."""
    package = importlib.util.find_spec("pycocoevalcap")
    folders = list(package.submodule_search_locations or ()) if package is not None else []
    jars = [os.path.join(folder, "meteor", "meteor-1.5.jar") for folder in folders]
    return next((jar for jar in jars if os.path.isfile(jar)), None)


def _line(said: Words, wanted: Sequence[Words]) -> str:
    """Return a question in the program's protocol; words have neither white space nor the `|` that parts fields."""
    return " ||| ".join(["SCORE", *(" ".join(words) for words in wanted), " ".join(said)])


def _ask_java(lines: Iterable[str], timeout_s: float) -> NDArray[np.float64]:
    """Return the program's answers, a row a line."""
    missing, jar = gap(), _jar()
    if missing is not None or jar is None:
        raise MeteorError(missing or _WAY_OUT)
    command = ["java", "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", jar, "-", "-", "-stdio", "-l", "en", "-norm"]
    asked = "".join(f"{line}\n" for line in lines).encode(errors="replace")
    try:
        done = subprocess.run(command, input=asked, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise MeteorError(f"Java took longer than {timeout_s:g} s; --meteor-timeout-s gives it more") from None
    except OSError as error:
        raise MeteorError(f"Java cannot be started: {error}; {_WAY_OUT}") from error
    try:
        answers = np.array([line.split() for line in done.stdout.decode().splitlines()], np.float64)
        return answers.reshape(asked.count(b"\n"), WIDTH)
    except ValueError:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["without a word"])[-1]
        raise MeteorError(f"Java ended with code {done.returncode}: {printable(last)[:200]}") from None
