import dataclasses
import re
from contextlib import nullcontext
from datetime import datetime, timedelta

import pytest

from raycap.errors import ConflictError, FormatError, InputError, StaleError
from raycap.runs import RUN_FILE, Run, read_run, short_hash, versions
from raycap.schema import FORMAT_VERSION
from raycap.storage import read_json, write_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    out: str
    captions: tuple[str, ...] = ("a.txt", "b.txt")
    seed: int = 0
    num_workers: int = 1
    inner: Inner = dataclasses.field(default_factory=Inner)
    limit: int | None = None
    encoder: str = "vgg16"


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


def finished(out, **options):
    run = Run.open(out, "extract", Config(out=out), **options)
    run.save({"num_features": 5})
    return run


def test_a_new_output_has_no_result_and_nothing_is_written(out, tmp_path):
    run = Run.open(out, "extract", Config(out=out))
    assert run.result is None
    assert read_run(out) is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_things_in_it_can_be_an_output(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    assert Run.open(str(tmp_path), "extract", Config(out=str(tmp_path))).result is None


def test_the_same_options_resume_with_the_result(out):
    finished(out)
    assert Run.open(out, "extract", Config(out=out)).result == {"num_features": 5}


def test_an_unfinished_run_resumes_without_a_result(out):
    Run.open(out, "extract", Config(out=out)).save()
    assert Run.open(out, "extract", Config(out=out)).result is None


def test_a_run_that_goes_on_is_unfinished_until_it_is_saved_again(out):
    finished(out)
    run = Run.open(out, "extract", Config(out=out))
    run.save()
    assert Run.open(out, "extract", Config(out=out)).result is None
    run.save({"num_features": 9})
    assert Run.open(out, "extract", Config(out=out)).result == {"num_features": 9}


def test_an_interrupted_run_began_when_it_began(out):
    run = Run.open(out, "extract", Config(out=out))
    run.started_at = "2020-01-01T00:00:00+00:00"
    run.save()
    assert Run.open(out, "extract", Config(out=out)).started_at == run.started_at
    run.save({})
    assert Run.open(out, "extract", Config(out=out)).started_at != run.started_at


def test_a_machine_without_git_keeps_a_record_too(out, monkeypatch):
    monkeypatch.setenv("PATH", "")
    finished(out)
    assert read_run(out)["git_commit"] is None


def test_the_output_may_be_moved(out, tmp_path):
    finished(out)
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    assert Run.open(str(moved), "extract", Config(out=str(moved))).result == {"num_features": 5}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 7}, ["seed was 0, now 7"]),
        ({"limit": 3}, ["limit was None, now 3"]),
        ({"captions": ("a.txt",)}, ["captions was ['a.txt', 'b.txt'], now ['a.txt']"]),
        ({"inner": Inner(width=9)}, ["inner was {'width': 3}, now {'width': 9}"]),
        ({"seed": 7, "num_workers": 2}, ["seed was 0, now 7", "num_workers was 1, now 2"]),
    ],
)
def test_a_changed_option_is_a_conflict_that_names_it_and_both_values(change, said, out):
    finished(out)
    with pytest.raises(ConflictError) as error:
        Run.open(out, "extract", Config(**{"out": out, **change}))
    assert out in str(error.value)
    for part in said:
        assert part in str(error.value)
    unchanged = {"captions", "seed", "num_workers", "inner", "limit"} - change.keys()
    assert not [name for name in unchanged if f"{name} was" in str(error.value)]


def test_an_unfinished_output_is_protected_too(out):
    Run.open(out, "extract", Config(out=out)).save()
    with pytest.raises(ConflictError, match="seed was 0, now 1"):
        Run.open(out, "extract", Config(out=out, seed=1))


def test_ignored_options_do_not_conflict(out):
    finished(out, ignore=("num_workers", "inner"))
    changed = Config(out=out, num_workers=8, inner=Inner(width=9))
    assert Run.open(out, "extract", changed, ignore=("num_workers", "inner")).result == {"num_features": 5}


def test_options_that_an_older_raycap_did_not_have_count_as_their_defaults(out):
    finished(out)
    record = read_json(f"{out}/run.json")
    del record["identity"]["seed"], record["identity"]["inner"]
    write_json(f"{out}/run.json", record)
    assert Run.open(out, "extract", Config(out=out)).result == {"num_features": 5}
    with pytest.raises(ConflictError, match="seed was 0, now 1"):
        Run.open(out, "extract", Config(out=out, seed=1))
    with pytest.raises(ConflictError, match=r"inner was \{'width': 3\}, now \{'width': 4\}"):
        Run.open(out, "extract", Config(out=out, inner=Inner(width=4)))


def test_inputs_conflict(out):
    finished(out, inputs={"model_hash": "abc"})
    same = Run.open(out, "extract", Config(out=out), inputs={"model_hash": "abc"})
    assert same.result == {"num_features": 5}
    with pytest.raises(ConflictError, match="its model changed"):
        Run.open(out, "extract", Config(out=out), inputs={"model_hash": "def"})


@pytest.mark.parametrize(
    ("was", "now", "file_is_the_same", "is_stale"),
    [
        ("/a/x.keras", "/b/x.keras", True, False),
        ("/a/x.keras", "s3://b/x.keras", True, False),
        ("/a/x.keras", "/a/x.keras", False, True),
        ("vgg16", "resnet50", True, True),  # of the same weights' file
        ("vgg16", "/b/x.keras", True, True),
    ],
)
def test_what_an_input_holds_counts_not_where_it_lies(was, now, file_is_the_same, is_stale, out):
    Run.open(out, "extract", Config(out=out, encoder=was), inputs={"encoder_hash": "abc"}).save({})
    hashes = {"encoder_hash": "abc" if file_is_the_same else "def"}
    with pytest.raises(StaleError, match="encoder") if is_stale else nullcontext():
        assert Run.open(out, "extract", Config(out=out, encoder=now), inputs=hashes).result == {}


def test_another_stage_is_a_conflict(out):
    finished(out)
    with pytest.raises(ConflictError, match="holds the output of extract; give caption another --out"):
        Run.open(out, "caption", Config(out=out))


def test_a_newer_format_is_refused(out):
    finished(out)
    write_json(f"{out}/{RUN_FILE}", read_run(out) | {"format_version": FORMAT_VERSION + 1})
    with pytest.raises(FormatError, match=r"run\.json was written by a newer raycap"):
        Run.open(out, "extract", Config(out=out))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        "{}",
        '{"stage": "extract"}',
        f'{{"format_version": {FORMAT_VERSION}}}',
        f'{{"format_version": {FORMAT_VERSION}, "stage": "extract"}}',
        f'{{"format_version": {FORMAT_VERSION}, "stage": "extract", "identity": {{}}}}',
        '{"format_version": "one", "stage": "extract", "identity": {}, "result": null}',
        f'{{"format_version": {FORMAT_VERSION}, "stage": "extract", "identity": [], "result": null}}',
    ],
)
def test_a_damaged_record_is_a_format_error(content, tmp_path):
    (tmp_path / RUN_FILE).write_text(content)
    with pytest.raises(FormatError, match=r"run\.json"):
        Run.open(str(tmp_path), "extract", Config(out=str(tmp_path)))


def test_an_output_that_is_a_file_is_an_input_error(tmp_path):
    out = tmp_path / "photo.jpg"
    out.write_bytes(b"")
    with pytest.raises(InputError, match=r"photo\.jpg is a file"):
        Run.open(str(out), "extract", Config(out=str(out)))


def test_the_record_says_what_was_run_with_what_and_when(out):
    run = Run.open(out, "extract", Config(out=out), ignore=("num_workers",), inputs={"hash": "abc"})
    run.save()
    record = read_run(out)
    assert record["format_version"] == FORMAT_VERSION
    assert record["stage"] == "extract"
    assert record["config"] == {
        "out": out,
        "captions": ["a.txt", "b.txt"],
        "seed": 0,
        "num_workers": 1,
        "inner": {"width": 3},
        "limit": None,
        "encoder": "vgg16",
    }
    assert record["identity"] == {
        "captions": ["a.txt", "b.txt"],
        "seed": 0,
        "inner": {"width": 3},
        "limit": None,
        "encoder": "vgg16",
        "hash": "abc",
    }
    assert record["versions"] == versions()
    assert record["git_commit"] is None or re.fullmatch("[0-9a-f]{40}", record["git_commit"])
    assert record["finished_at"] is None
    assert record["result"] is None
    run.save({"num_features": 5})
    record = read_run(out)
    assert record["result"] == {"num_features": 5}
    started, ended = (datetime.fromisoformat(record[name]) for name in ("started_at", "finished_at"))
    assert timedelta(0) <= ended - started < timedelta(minutes=1)
    assert started.tzinfo is not None


def test_versions_are_of_the_packages_that_decide_results():
    import numpy as np
    import pyarrow as pa

    said = versions()
    assert said["numpy"] == np.__version__
    assert said["pyarrow"] == pa.__version__
    assert {"ray", "keras", "pillow", "nltk"} <= said.keys()
    assert {"tensorflow", "tensorflow-cpu"} & said.keys()


def test_short_hash_is_stable_and_blind_to_the_order_of_keys():
    assert short_hash({"a": 1, "b": [1, 2]}) == short_hash({"b": [1, 2], "a": 1})
    assert short_hash({"a": 1}) != short_hash({"a": 2})
    assert short_hash([1, 2]) != short_hash([2, 1])
    assert re.fullmatch("[0-9a-f]{12}", short_hash(None))
