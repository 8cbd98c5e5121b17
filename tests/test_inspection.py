"""`raycap inspect` on everything that the stages write, and on what they do not."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import make_manifest

from raycap.cli import main
from raycap.config import CaptionConfig, EvaluateConfig, ExtractConfig, OutputConfig
from raycap.errors import FormatError, InputError
from raycap.inspection import Inspection, inspect
from raycap.parquet import write_table
from raycap.stages.caption import caption
from raycap.stages.evaluate import evaluate
from raycap.stages.extract import extract
from raycap.tool_config import InspectConfig
from raycap.tool_summaries import say_inspection


def look(path: Path | str) -> Inspection:
    found = inspect(InspectConfig(path=str(path)))
    json.dumps(found.facts)  # for --json
    assert say_inspection(found, None)
    return found


def test_what_prepare_wrote(prepared: Path) -> None:
    found = look(prepared)
    assert found.kind.startswith("a prepared dataset")
    assert found.facts["photos"] == "train 32, dev 8, test 8"
    assert found.facts["captions"] == "train 64, dev 16, test 16"
    assert found.changed_options["keep_one_letter_words"] is True
    assert found.default_options["min_word_count"] == 1
    assert found.versions["raycap"]
    assert found.started_at
    assert found.finished_at
    assert found.unfinished is None
    assert found.num_bytes == sum(path.stat().st_size for path in prepared.iterdir())
    assert look(prepared / "photos.parquet").kind == "a manifest: the photos of a dataset and their splits"
    assert look(prepared / "photos.parquet").facts == {"rows": 48}
    assert look(prepared / "captions.parquet").kind == "captions that people wrote, cleaned"
    assert look(prepared / "tokenizer.json").kind == "a vocabulary"
    assert "the record of a run of prepare" in look(prepared / "run.json").kind
    assert look(f"file://{prepared}").facts == found.facts


def test_features(features: Path, encoder_file: Path) -> None:
    for place in (features, features / "features", sorted((features / "features").iterdir())[0]):
        found = look(place)
        assert found.kind == "features"
        assert found.encoder["name"] == "grid"
        assert found.encoder["feature"] == "48 numbers, of output"
        assert found.columns == {"image_id": "string", "feature": found.columns["feature"]}
        assert found.columns["feature"].endswith("[48]")
    found = look(features)
    assert found.facts["rows"] == 48
    assert found.changed_options["encoder"] == str(encoder_file)
    assert found.default_options["dtype"] == "float32"


def test_a_model(model: Path) -> None:
    import keras

    learnt = keras.models.load_model(model / "bundle" / "model.keras", compile=False).count_params()
    for place in (model, model / "bundle"):
        found = look(place)
        assert "bundle" in found.kind
        assert found.facts["parameters"] == learnt
        assert found.facts["max length"] == 10
        assert found.encoder["name"] == "grid"
        assert found.changed_options["model.units"] == 32
        assert found.default_options["model.merge"] == "add"
    assert look(model).facts["epochs"] == 25
    assert look(model / "bundle" / "model.keras").facts["parameters"] == learnt
    assert look(model / "bundle" / "card.json").kind == "the card of a model bundle"
    assert look(model / "history.json").kind == "the history of a training"


@pytest.mark.slow
def test_scores_captions_and_a_whole_run(
    model: Path, prepared: Path, features: Path, photo_folder: Path, tmp_path: Path
) -> None:
    scores, captions = tmp_path / "scores", tmp_path / "captions"
    evaluate(EvaluateConfig(model=str(model), prepared=str(prepared), features=str(features), out=str(scores)))
    found = look(scores)
    assert found.facts["standard"].startswith("BLEU-1 0.")
    assert look(scores / "scores.json").facts["standard"] == found.facts["standard"]
    assert look(scores / "hypotheses.parquet").facts == {"rows": 8}

    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(sorted(photo_folder.iterdir())[0], photos)
    (photos / "broken.jpg").write_text("no photo")
    (photos / "empty.jpg").touch()
    output = OutputConfig(formats=("parquet", "jsonl", "csv"))
    caption(CaptionConfig(photos=(str(photos),), model=str(model), out=str(captions), output=output))
    found = look(captions)
    assert found.kind == "captions of photos"
    assert found.facts["rows"] == 1
    assert found.facts["photos"] == 3
    assert found.failures == {"ImageDecodeError": 1, "ImageEmptyError": 1}
    assert "2: 1 Image" in say_inspection(found, None)
    for name in ("captions", "captions.jsonl", "captions.csv"):
        assert look(captions / name).kind == "captions that a model made"
        assert look(captions / name).facts["rows"] == 1
    assert look(captions / "failures").kind == "photos that failed, and why"

    for name, place in (("prepared", prepared), ("features", features), ("model", model)):
        (tmp_path / name).symlink_to(place)
    found = look(tmp_path)
    assert found.kind.startswith("a run")
    assert [part.location for part in found.parts] == [
        str(tmp_path / name) for name in ("prepared", "features", "model", "scores")
    ]
    assert found.unfinished is None
    (tmp_path / "model").unlink()
    assert look(tmp_path).unfinished == "no model"


def test_what_is_not_finished_says_so(tmp_path: Path, encoder_file: Path, ray_cluster: None) -> None:
    manifest = make_manifest(tmp_path / "m.parquet", {"gone.jpg": "/nowhere/gone.jpg"})
    out = tmp_path / "features"
    with pytest.raises(Exception, match="the only photo failed"):
        extract(ExtractConfig(manifest=manifest, out=str(out), encoder=str(encoder_file)))
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | {"result": None, "finished_at": None}))
    found = look(out)
    assert found.kind == "features, of which there are none yet"
    assert found.failures == {"ImageMissingError": 1}
    assert found.unfinished is not None
    assert "the same command goes on" in found.unfinished


def test_strangers_files(tmp_path: Path) -> None:
    write_table(str(tmp_path / "x" / "other.parquet"), pa.table({"a": [1, 2], "b": ["x", "y"]}))
    found = look(tmp_path / "x" / "other.parquet")
    assert found.kind == "a table that raycap did not write"
    assert found.facts == {"rows": 2}
    assert found.columns == {"a": "int64", "b": "string"}
    assert look(tmp_path / "x").facts == {"rows": 2, "shards": 1}
    (tmp_path / "list.json").write_text("[1, 2, 3]")
    assert look(tmp_path / "list.json").facts == {"entries": 3}
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert look(tmp_path / "other.csv").columns == {"a": "", "b": ""}


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("a.txt", "x", InputError, "no file that raycap writes"),
        ("a.parquet", "x", FormatError, "not whole Parquet"),
        ("a.json", "{", FormatError, "is damaged"),
        ("a.jsonl", "{", FormatError, "not JSON lines"),
        ("a.keras", "x", FormatError, "not a saved Keras model"),
        ("run.json", '{"format_version": 99, "stage": "x"}', FormatError, "newer"),
        ("empty/.hidden", "", InputError, "is nothing that raycap wrote"),
    ],
)
def test_what_cannot_be_told_is_a_clear_error(
    tmp_path: Path, name: str, content: str, error: type[Exception], says: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(error, match=says):
        look(path.parent if name in {"run.json", "empty/.hidden"} else path)


def test_names_cannot_steer_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(str(tmp_path / "a.parquet"), pa.table({"\x1b[31mred\nline": [1]}))
    assert main(["inspect", str(tmp_path / "a.parquet")]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\\x1b[31mred\\nline int64" in printed
    assert main(["inspect", str(tmp_path / "a.parquet"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["columns"] == {"\x1b[31mred\nline": "int64"}
