"""docs/formats.md: every line of it, run as it stands, on small outputs."""

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pycocotools.coco import COCO

import raycap
from raycap import parquet
from raycap.caption_formats import export as export_captions
from raycap.cli import main
from raycap.schema import GENERATED

DOC = (Path(__file__).parents[1] / "docs/formats.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```$", DOC, re.DOTALL | re.MULTILINE)
PHOTOS = 48


@pytest.fixture(scope="module")
def place(features: Path, model: Path, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with work/features, work/model, work/captions and photos, as the page has them."""
    place = tmp_path_factory.mktemp("formats")
    shutil.copytree(features, place / "work/features")
    shutil.copytree(model, place / "work/model")
    shutil.copytree(photo_folder, place / "photos")
    names = sorted(path.name for path in photo_folder.iterdir())
    rows = [
        {"image_id": name, "uri": str(place / "photos" / name), "caption": f"caption of {name}", "log_prob": -1.0}
        | {"num_tokens": 3, "width": 96, "height": 96, "model": "m", "encoder": "grid"}
        for name in names
    ]
    out = str(place / "work/captions")
    for start in range(0, PHOTOS, 20):
        table = pa.Table.from_pylist(rows[start : start + 20], GENERATED)
        parquet.write_table(f"{out}/captions/part-{start}.parquet", table)
    for file_format in ("imagefolder", "coco"):
        export_captions(f"{out}/captions", out, file_format, pa.table({"uri": [row["uri"] for row in rows]}))
    truth = {"info": {}, "annotations": [], "images": [{"id": name} for name in names]}
    (place / "annotations.json").write_text(json.dumps(truth))
    return place


def num_rows(value: Any) -> int:
    """Return how many rows what a line gives has, of whatever library it is."""
    if isinstance(value, COCO):
        return len(value.anns)
    return len(value.fetchall() if hasattr(value, "fetchall") else value)


def run_python(code: str, names: dict[str, Any]) -> list[Any]:
    """Run a block; return the values of the lines that are expressions."""
    values = []
    for node in ast.parse(code).body:
        if isinstance(node, ast.Expr):
            values.append(eval(compile(ast.Expression(node.value), "docs/formats.md", "eval"), names))
        else:
            exec(compile(ast.Module([node], []), "docs/formats.md", "exec"), names)
    return values


def test_every_line_of_the_page_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    names: dict[str, Any] = {}
    values: list[Any] = []
    for language, code in BLOCKS:
        if language == "python":
            values += run_python(code, names)
            continue
        for line in code.splitlines():
            program, *arguments = line.split()
            if program == "raycap":
                assert main(arguments) == 0
            else:
                subprocess.run([program, *arguments], check=True)
    found = [num_rows(value) for value in values if value is not None]  # None is what print gives
    assert found == [PHOTOS] * 13
    # the last block prints the greedy caption of the first photo
    feature = np.stack(pd.read_parquet("work/features/features")["feature"].iloc[:1])
    decoding = raycap.DecodingConfig(beam_width=1)
    [[best]] = raycap.Captioner.load("work/model").caption_features(feature, decoding, image_ids=["a"])
    assert capsys.readouterr().out.splitlines()[-1] == best.caption
