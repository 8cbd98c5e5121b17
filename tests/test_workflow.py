"""`raycap run`: the stages in a row, what is up to date, what is stale, interruptions; its configuration files."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycap.cli import main
from raycap.config import DecodingConfig, EvaluateConfig, ModelConfig, TrainConfig
from raycap.config_file import read, template
from raycap.demo import demo
from raycap.errors import InputError, StaleError
from raycap.options import build, options_of
from raycap.presets import PRESETS
from raycap.stages.evaluate import evaluate
from raycap.stages.train import train
from raycap.tool_config import DemoConfig, RunConfig
from raycap.workflow import RunResult, run

STAGES = ["prepare", "extract", "train", "evaluate"]


def config(dataset: Path, out: Path, encoder_file: Path, **options: Any) -> RunConfig:
    values: dict[tuple[str, ...], Any] = {
        ("out",): str(out),
        ("report",): False,
        ("prepare", "captions"): (str(dataset / "captions.csv"),),
        ("prepare", "photos"): str(dataset / "photos"),
        ("prepare", "keep_one_letter_words"): True,
        ("extract", "encoder"): str(encoder_file),
        ("train", "model", "units"): 8,
        ("train", "epochs"): 1,
        ("evaluate", "decoding", "beam_width"): 1,
    }
    return build(RunConfig, values | {tuple(name.split("__")): value for name, value in options.items()})


@pytest.fixture(scope="module")
def dataset(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the photos and their captions that tests may change."""
    folder = tmp_path_factory.mktemp("run") / "dataset"
    shutil.copytree(photo_folder.parent, folder)
    return folder


@pytest.fixture(scope="module")
def whole(ray_cluster: None, dataset: Path, encoder_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(config(dataset, tmp_path_factory.mktemp("run") / "out", encoder_file))


@pytest.fixture
def out(whole: RunResult) -> Path:
    return Path(whole.out)


def test_the_stages_run_in_order_and_then_are_up_to_date(
    whole: RunResult, dataset: Path, encoder_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(whole.seconds) == STAGES
    assert whole.evaluation.num_photos == 8
    before = {path: path.stat().st_mtime_ns for path in Path(whole.out).rglob("*") if path.is_file()}
    again = run(config(dataset, Path(whole.out), encoder_file))
    assert again.up_to_date == STAGES
    assert again.evaluation == whole.evaluation
    assert {path: path.stat().st_mtime_ns for path in Path(whole.out).rglob("*") if path.is_file()} == before
    said = capsys.readouterr().err
    assert [line for line in said.splitlines() if "up to date" in line] == [f"{name}: up to date" for name in STAGES]


def test_an_earlier_report_does_not_outlive_what_it_is_of(
    out: Path, dataset: Path, encoder_file: Path, tmp_path: Path
) -> None:
    shutil.copytree(out, tmp_path / "copy")
    options = config(dataset, tmp_path / "copy", encoder_file)
    report = tmp_path / "copy/report.html"
    report.write_text("of what is there")
    assert run(options).up_to_date == STAGES
    assert report.exists()
    run(replace(options, evaluate=replace(options.evaluate, seed=7), redo=True))
    assert not report.exists()


def test_a_run_folder_that_was_moved_is_up_to_date(
    out: Path, dataset: Path, encoder_file: Path, tmp_path: Path
) -> None:
    shutil.copytree(out, tmp_path / "moved")
    shutil.copy(encoder_file, tmp_path / "moved" / encoder_file.name)
    assert run(config(dataset, tmp_path / "moved", tmp_path / "moved" / encoder_file.name)).up_to_date == STAGES


def test_another_option_is_an_error_that_names_it_and_the_way_out(out: Path, dataset: Path, encoder_file: Path) -> None:
    with pytest.raises(StaleError, match=r"model was made with other options \(epochs was 1, now 2\); give --redo"):
        run(config(dataset, out, encoder_file, train__epochs=2))


def test_features_that_came_later_make_a_model_stale(
    model: Path, prepared: Path, features: Path, tmp_path: Path, encoder_file: Path
) -> None:
    """train and evaluate look at which photos have features, and at the captions, each by its content."""
    record = json.loads((model / "run.json").read_text())
    assert {"captions_hash", "photos_hash", "tokenizer_hash", "encoder_hash"} <= record["identity"].keys()
    out = tmp_path / "model"
    shutil.copytree(model, out)
    wanted = TrainConfig(**{**record["config"], "out": str(out), "model": _model(record)})
    assert train(wanted).best_epoch == record["result"]["best_epoch"]  # it is whole, and nothing is done
    for name in ("captions_hash", "photos_hash", "features_hash"):
        (out / "run.json").write_text(json.dumps({**record, "identity": {**record["identity"], name: "another"}}))
        with pytest.raises(StaleError, match=f"its {name.removesuffix('_hash')} changed"):
            train(wanted)
    identity = {name: value for name, value in record["identity"].items() if name != "photos_hash"}
    (out / "run.json").write_text(json.dumps({**record, "identity": identity}))
    assert train(wanted).best_epoch == record["result"]["best_epoch"]  # an older raycap's record is no conflict

    scores = tmp_path / "scores"
    options = EvaluateConfig(model=str(model), prepared=str(prepared), features=str(features), out=str(scores))
    evaluate(options)
    made = json.loads((scores / "run.json").read_text())
    for name in ("captions_hash", "photos_hash", "features_hash", "model_hash"):
        (scores / "run.json").write_text(json.dumps({**made, "identity": {**made["identity"], name: "another"}}))
        with pytest.raises(StaleError, match=f"its {name.removesuffix('_hash')} changed"):
            evaluate(options)


def _model(record: dict[str, Any]) -> Any:
    return ModelConfig(**record["config"]["model"])


def test_redo_leaves_alone_what_is_not_the_runs_own(
    out: Path, dataset: Path, encoder_file: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "shared-prepared"
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "out/prepared").rename(elsewhere)
    with pytest.raises(InputError, match=f"{elsewhere} is not this run's own"):
        run(
            config(
                dataset,
                tmp_path / "out",
                encoder_file,
                redo=True,
                prepare__out=str(elsewhere),
                prepare__keep_one_letter_words=False,
            )
        )
    assert (elsewhere / "photos.parquet").exists()
    for name in ("features", "model", "scores"):  # nor is anything deleted before it says so
        assert (tmp_path / "out" / name / "run.json").exists()


def test_an_encoder_of_another_name_is_removed_too(tmp_path: Path) -> None:
    from raycap.config import FinetuneConfig
    from raycap.workflow import _forget, _Stage

    place = tmp_path / "encoder"
    place.mkdir()
    names = {"old-finetuned.keras", "history.json", "mine.txt"}
    for name in names:
        (place / name).write_text("")
    result = {"encoder": "/where/it/was/old-finetuned.keras"}
    record = {"format_version": 1, "stage": "finetune", "identity": {}, "result": result}
    (place / "run.json").write_text(json.dumps(record))
    config = FinetuneConfig(prepared="p", out=str(place))
    _forget(_Stage("finetune", print, config, ("new-finetuned.keras", "history.json", "checkpoints/"), None))
    assert {path.name for path in place.iterdir() if path.suffix} == {"mine.txt"}


def test_other_photos_under_the_same_names_make_features_anew(
    out: Path, dataset: Path, encoder_file: Path, tmp_path: Path
) -> None:
    from raycap.workflow import _has_same_photos

    same = config(dataset, out, encoder_file, prepare__keep_one_letter_words=False)
    assert _has_same_photos(same)
    other = config(dataset, out, encoder_file, prepare__photos=str(tmp_path))
    assert not _has_same_photos(other)


@pytest.mark.slow
def test_other_captions_make_model_and_scores_stale_and_redo_makes_them_anew(
    out: Path, dataset: Path, encoder_file: Path
) -> None:
    mine = out / "model" / "mine.txt"
    mine.write_text("not raycap's")
    features = {path: path.stat().st_mtime_ns for path in (out / "features").rglob("*.parquet")}
    captions = dataset / "captions.csv"
    captions.write_text(captions.read_text().replace("There is a red", "Here is a red"))
    wanted = config(dataset, out, encoder_file)
    with pytest.raises(StaleError, match=r"its captions changed; its tokenizer changed\); give --redo"):
        run(wanted)
    result = run(replace(wanted, redo=True))
    assert result.up_to_date == ["prepare", "extract"]  # prepare wrote what changed before the run stopped
    assert list(result.seconds) == ["train", "evaluate"]
    assert mine.read_text() == "not raycap's"
    assert {path: path.stat().st_mtime_ns for path in (out / "features").rglob("*.parquet")} == features


def test_locations_between_stages_are_in_the_run_folder() -> None:
    made = build(RunConfig, {("out",): "s3://b/o?x=1", ("prepare", "captions"): ("c",), ("prepare", "photos"): "p"})
    assert made.prepare.out == "s3://b/o/prepared?x=1"
    assert made.extract.manifest == "s3://b/o/prepared/photos.parquet?x=1"
    assert made.train.features == made.evaluate.features == made.extract.out == "s3://b/o/features?x=1"
    assert made.evaluate.model == made.train.out == "s3://b/o/model?x=1"
    moved = build(RunConfig, {("prepare", "captions"): ("c",), ("prepare", "photos"): "p", ("extract", "out"): "f"})
    assert moved.train.features == "f"
    assert moved.out == "work"


def test_the_printed_configuration_is_the_defaults(tmp_path: Path) -> None:
    values = {("prepare", "captions"): ("a.csv", 'test="b"\\.json'), ("prepare", "photos"): "photos\tü"}
    path = tmp_path / "run.toml"
    path.write_text(template(values))
    assert read(str(path), RunConfig) == values
    # every default that is commented out, but for those that are none or made of others, is read back as the same
    unset = {option.path for option in options_of(RunConfig) if option.default is None or option.derived}
    lines, table = [], ()
    for line in template(values).splitlines():
        if line.startswith("["):
            table = tuple(line.strip("[]").split("."))
        plain = re.sub(r"^# (?=\w+ = )", "", line)
        lines.append(line if (*table, plain.partition(" = ")[0]) in unset else plain)
    path.write_text("\n".join(lines))
    found = read(str(path), RunConfig)
    assert len(found) == len(options_of(RunConfig)) - len(unset)
    assert build(RunConfig, found) == build(RunConfig, values)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_options_that_others_go_before(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = ["--captions", "c.csv", "--photos", "p", "--preset", name, "--units", "64"]
    assert main(["config", *given]) == 0
    path = tmp_path / "run.toml"
    path.write_text(capsys.readouterr().out)
    made = read(str(path), RunConfig)
    wanted = {**PRESETS[name], ("train", "model", "units"): 64}
    assert {option: made[option] for option in wanted} == wanted
    built = build(RunConfig, made)
    assert built.preset == name
    assert built.train.model.units == 64


def test_the_default_is_the_tutorials_model() -> None:
    """What another default would change without a word; sizes are counted in test_model."""
    assert PRESETS["tutorial"] == {}
    made = build(RunConfig, {("prepare", "captions"): ("c",), ("prepare", "photos"): "p"})
    assert made.preset == "tutorial"
    prepare = (made.prepare.keep_one_letter_words, made.prepare.min_word_count)
    assert prepare == (False, 1)
    extract = made.extract
    assert (extract.encoder, extract.spatial, extract.num_views, extract.dtype) == ("vgg16", False, 1, "float32")
    assert made.tuning.finetune_epochs == 0
    assert made.train.model == ModelConfig(
        decoder="merge", units=256, embedding_dim=256, dropout=0.5, merge="add", normalization="none"
    )
    plain = {"learning_rate": 1e-3, "schedule": "constant", "label_smoothing": 0.0, "weight_average": 0.0}
    plain |= {"cider_epochs": 0, "num_members": 1, "select_by": "dev_loss", "epochs": 20, "patience": 3}
    assert {name: getattr(made.train, name) for name in plain} == plain


def test_caption_and_serve_search_as_a_preset_does(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def take(config: Any) -> Any:
        given.append(config)
        raise InputError("enough")

    monkeypatch.setattr("raycap.stages.caption.plan", take)
    monkeypatch.setattr("raycap.serve.serve", take)
    for command in (["caption", "p", "--dry-run"], ["serve"]):
        for preset in ([], ["--preset", "best"], ["--preset", "best", "--beam-width", "2", "--no-mirrored"]):
            assert main([*command, "--model", "m", *preset]) == 2
    wanted = build(RunConfig, {**PRESETS["best"], ("prepare", "captions"): ("c",), ("prepare", "photos"): "p"})
    best = wanted.evaluate.decoding
    assert best.consensus > 0
    expected = [DecodingConfig(), best, replace(best, beam_width=2, mirrored=False)]
    assert [config.decoding for config in given] == expected * 2


def test_every_option_is_in_the_printed_configuration_with_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--captions", "c.csv", "--epochs", "7"]) == 0
    printed = capsys.readouterr().out
    plain = re.sub(r"\n# | ", " ", printed).replace("\n#", " ")
    for option in options_of(RunConfig):
        assert re.search(rf"^(# )?{option.path[-1]} = ", printed, re.MULTILINE)
        assert option.help in re.sub(r"\s+", " ", plain)
    assert "\nepochs = 7\n" in printed
    assert '\ncaptions = ["c.csv"]\n' in printed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[train]\nepoch = 3", "there is no key 'train.epoch'; did you mean train.epochs?"),
        ("epochs = 3", "there is no key 'epochs'; did you mean train.epochs?"),
        ("[train]\nunits = 3", "there is no key 'train.units'; did you mean train.model.units?"),
        ("[trian]\nepochs = 3", "there is no key 'trian'; did you mean train?"),
        ("[train]\nepochs = '3'", "train.epochs takes a whole number, not '3'"),
        ("[train]\nepochs = true", "train.epochs takes a whole number, not True"),
        ("[train]\nuse_gpu = 1", "train.use_gpu takes true or false, not 1"),
        ("[train]\nmodel = 3", "train.model is a table, not 3; write [train.model]"),
        ("[train.model]\nmerge = 'mul'", "train.model.merge takes add or concat, not 'mul'"),
        ("[prepare]\ncaptions = 'a.csv'", "prepare.captions takes a list, not 'a.csv'"),
        ("[evaluate.decoding]\nbeam_width = [3]", "evaluate.decoding.beam_width takes a whole number, not [3]"),
        ("out = ", "is not TOML"),
    ],
)
def test_mistakes_in_a_file_name_file_and_key(
    tmp_path: Path, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    assert main(["run", str(path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"raycap run: {path}")
    assert says in line


def test_options_go_before_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[train]\nepochs = 3\nlearning_rate = 1\n")
    assert read(str(path), RunConfig)["train", "learning_rate"] == 1.0
    assert main(["config", str(path), "--train.epochs", "5"]) == 0
    printed = capsys.readouterr().out
    assert "\nepochs = 5\n" in printed
    assert "\nlearning_rate = 1.0\n" in printed


def test_the_demo_of_an_older_raycap_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "features-random").mkdir()
    with pytest.raises(InputError, match=r"holds the demo of an older raycap.*delete it, or give another --out"):
        demo(DemoConfig(out=str(tmp_path)))
    assert list(tmp_path.iterdir()) == [tmp_path / "features-random"]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_the_same_command_goes_on(how: signal.Signals, dataset: Path, encoder_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "raycap",
        "run",
        "--out",
        str(out),
        "--no-report",
        "--units",
        "8",
        "--epochs",
        "40",
    ]
    command += ["--captions", str(dataset / "captions.csv"), "--photos", str(dataset / "photos"), "--patience", "40"]
    command += ["--encoder", str(encoder_file), "--beam-width", "1", "--keep-one-letter-words"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    first = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 400
    while not (out / "model" / "history.json").exists():  # in the middle of training
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    first.send_signal(how)
    _, said = first.communicate(timeout=120)
    assert first.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL), said
    if how == signal.SIGINT:
        assert said.splitlines()[-1] == "raycap run: interrupted; the same command goes on from here"
    assert "Traceback" not in said
    second = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    result = json.loads(second.stdout)
    assert result["up_to_date"] == ["prepare", "extract"]
    assert list(result["seconds"]) == ["train", "evaluate"]
    assert "Traceback" not in second.stderr


@pytest.mark.slow
def test_the_demo_falls_back_to_random_weights_and_twice_is_once(ray_cluster: None, tmp_path: Path) -> None:
    options = DemoConfig(out=str(tmp_path / "demo"), num_train=16, num_dev=4, num_test=4)
    first = demo(options)
    assert first.weights == ("random" if (tmp_path / "demo" / "NOTICE.txt").exists() else "imagenet")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("run.json")}
    assert {path.parent.name for path in before} == {"prepared", "features", "model", "scores"}
    assert demo(options) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("run.json")} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train__model__decoder": "attention"}, "--decoder attention looks at regions; give --spatial too"),
        ({"extract__spatial": True}, "--spatial is for decoders that look at regions; give --decoder attention too"),
        ({"evaluate__decoding__mirrored": True}, "--mirrored needs features of mirrored photos; give --num-views 2"),
        (
            {"evaluate__decoding__num_neighbors": 5, "evaluate__decoding__consensus": 0.5},
            "--num-neighbors needs a model that keeps them; give --keep-neighbors too",
        ),
        (
            {"evaluate__decoding__matching": 0.4, "evaluate__decoding__consensus": 0.5},
            "--matching needs a model that learns it; give --fit-matching too",
        ),
    ],
)
def test_what_no_stage_makes_is_missed_before_the_first(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        config(tmp_path, tmp_path / "out", tmp_path / "encoder.keras", **options)
