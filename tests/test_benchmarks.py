"""The benchmarks that watch raycap from inside still fit it; what they measure is not looked at here."""

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycap.arguments import parse
from raycap.config import DecodingConfig
from raycap.options import build
from raycap.presets import PRESETS
from raycap.tool_config import RunConfig

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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("decode", {"side_px": 32, "photos": "PHOTOS"}),
        ("encode", {"count": 2, "encoder": "mobilenetv2", "shard": 2}),
        ("caption", {"count": 2, "bundle": "MODEL", "max_length": 4, "shard": 2}),
    ],
)
def test_a_stage_alone_has_a_rate(
    stage: str, options: dict[str, Any], model: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    alone_rate = runpy.run_path(str(ROOT / "benchmarks/alone.py"))["alone_rate"]
    there = {"PHOTOS": str(photo_folder), "MODEL": str(model)}
    assert alone_rate(stage, **{name: there.get(str(value), value) for name, value in options.items()}) > 0


def test_each_row_of_quality_is_a_run_that_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    quality = runpy.run_path(str(ROOT / "benchmarks/quality.py"))
    runs: dict[str, RunConfig] = {}
    for name in quality["VARIANTS"]:
        given = [
            "--captions",
            "captions.csv",
            "--photos",
            "photos",
            *quality["flags"](name, Path("/work"), "some.keras"),
        ]
        values: dict[Any, Any] = dict(parse(RunConfig, given, prog="raycap run").values)
        runs[name] = build(RunConfig, {**PRESETS[values.get(("preset",), "tutorial")], **values})
        assert runs[name].evaluate.split == "dev"
        features, views = runs[name].extract.out, runs[name].extract.num_views
        assert features.endswith(f"spatial-{views}" if runs[name].extract.spatial else "whole")
    # rows that share a folder differ in nothing that decides what is in it
    made: dict[str, Any] = {}
    for each in runs.values():
        for config in (each.prepare, replace(each.extract, manifest=""), each.train):
            assert made.setdefault(config.out, config) == config
    assert runs["tutorial"].evaluate.decoding == DecodingConfig()
