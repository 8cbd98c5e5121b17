"""The benchmarks that watch raycap from inside still fit it; what they measure is not looked at here."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("decode", ["tutorial's way, greedy", "raycap, greedy", "raycap, beam 5"]),
        ("train", ["tutorial's generator, fit, 1 photo a step", "raycap, 64 photos a step"]),
        ("train_workers", ["16 photos a step, 2 workers of 1 core", "64 photos a step, two such trainings at once"]),
        ("scores", ["raycap, BLEU, ROUGE-L and CIDEr-D"]),
    ],
)
def test_a_benchmark_runs_and_prints_its_table(name: str, rows: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for row in rows:
        assert row in done.stdout
