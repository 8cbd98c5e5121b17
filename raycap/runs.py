"""The record beside a stage's output: what was run, with what, what came of it. Knows neither Ray nor TensorFlow."""

import dataclasses
import hashlib
import json
import secrets
import socket
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from raycap.errors import ConflictError, FormatError, InputError, StaleError
from raycap.locations import join
from raycap.schema import FORMAT_VERSION, check_version
from raycap.storage import exists, is_folder, read_json, write_json

RUN_FILE = "run.json"


def short_hash(value: Any) -> str:
    """Return a short hash of anything that JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Return the versions of raycap and of the packages that decide its results."""
    names = ("raycap", "ray", "keras", "tensorflow", "tensorflow-cpu", "numpy", "pillow", "pyarrow", "nltk")
    return {name: metadata.version(name) for name in names if _is_installed(name)}


def _is_installed(name: str) -> bool:
    return next(iter(metadata.distributions(name=name)), None) is not None


def _git_commit() -> str | None:
    """The commit of the checkout that raycap runs from, or None where it is installed."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:  # a machine without git
        return None


def _change(name: str, was: Any, now: Any) -> str:
    if name.endswith("_hash"):
        return f"its {name.removesuffix('_hash')} changed"
    return f"{name} was {was!r}, now {now!r}"


@dataclasses.dataclass(kw_only=True)
class Run:
    """The record beside a stage's output, `run.json`: what was run, with what, and what came of it.

    Attributes:
        out: the folder that the stage writes.
        stage: its name.
        config: every option.
        identity: the part of the configuration that decides what the output holds; an output made under another
            identity is never added to.
        result: what came of it; None until it is finished.
        id: random, and stays when the run is resumed: another one says that all that follows from it is stale.
    """

    out: str
    stage: str
    config: Mapping[str, Any]
    identity: Mapping[str, Any]
    started_at: str = dataclasses.field(default_factory=_now)
    result: Mapping[str, Any] | None = None
    id: str = dataclasses.field(default_factory=lambda: secrets.token_hex(6))

    @classmethod
    def open(
        cls,
        out: str,
        stage: str,
        config: Any,
        *,
        ignore: Iterable[str] = (),
        inputs: Mapping[str, Any] | None = None,
        start_over: bool = False,
    ) -> "Run":
        """Start or resume the run whose output is `out`.

        Args:
            out: the output folder.
            stage: the stage's name.
            config: its dataclass.
            ignore: names of options that do not change what the output holds.
            inputs: what else decides what the output holds: hashes of the inputs, `captions_hash` for the captions.
                Where there is one of an option that is a location, `features_hash` of `features`, it counts in place
                of that option.
            start_over: what this stage made under other options is no conflict, and its result is not taken over.

        Raises:
            StaleError: if `out` was made with other options or from other inputs; the message names them.
            ConflictError: if it was made by another stage.
            FormatError: if its record is damaged or newer than this raycap.
        """
        values = json.loads(json.dumps(dataclasses.asdict(config)))
        identity = {name: value for name, value in values.items() if name not in {"out", *ignore}}
        identity |= inputs or {}
        run = cls(out=out, stage=stage, config=values, identity=identity)
        earlier = read_run(out)
        if earlier is None:
            if exists(out) and not is_folder(out):
                raise InputError(f"{out} is a file; give a folder to write to")
            return run
        if earlier["stage"] != stage:
            raise ConflictError(f"{out} holds the output of {earlier['stage']}; give {stage} another --out")
        if start_over:
            return run
        was = _with_defaults(earlier["identity"], config)
        # what an older raycap did not record of its inputs is not held against them; and what an input holds counts,
        # not where it lies, so that a folder of runs can be moved
        located = {name for name in values if all(_is_hashed_location(each, name) for each in (was, identity))}
        names = sorted(({*was, *identity} - ({*(inputs or {})} - {*was})) - {"out", *ignore, *located})
        changed = [name for name in names if was.get(name) != identity.get(name)]
        if changed:
            said = "; ".join(_change(name, was.get(name), identity.get(name)) for name in changed)
            raise StaleError(f"{out} was made with other options ({said})", "give another --out, or the old options")
        run.result, run.id = earlier["result"], earlier.get("id", run.id)
        if run.result is None:  # it goes on with what was begun
            run.started_at = earlier.get("started_at", run.started_at)
        return run

    def save(self, result: Mapping[str, Any] | None = None) -> None:
        """Write the record; with `result`, as finished."""
        self.result = result
        record = {
            "format_version": FORMAT_VERSION,
            "stage": self.stage,
            "id": self.id,
            "config": self.config,
            "identity": self.identity,
            "versions": versions(),
            "git_commit": _git_commit(),
            "started_at": self.started_at,
            "finished_at": None if result is None else _now(),
            "result": result,
        }
        write_json(join(self.out, RUN_FILE), record)


def _is_hashed_location(identity: Mapping[str, Any], name: str) -> bool:
    """Whether an option says where something lies, absolutely, of which there is a hash."""
    return bool(identity.get(f"{name}_hash")) and "/" in str(identity.get(name))


def _with_defaults(recorded: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Return recorded options, and defaults for those that there were not yet in the raycap that recorded them."""
    values = dict(recorded)
    for field in dataclasses.fields(config):
        given = getattr(config, field.name)
        if dataclasses.is_dataclass(given):
            values[field.name] = _with_defaults(values.get(field.name, {}), given)
        elif field.name not in values and field.default is not dataclasses.MISSING:
            values[field.name] = json.loads(json.dumps(field.default))
    return values


def require_record(out: str) -> None:
    """Check that this process sees the record of the run that it works for, and so will write where others read.

    Raises:
        InputError: if it does not, as on a node of a cluster that does not reach the output.
    """
    if not exists(join(out, RUN_FILE)):
        raise InputError(
            f"{out} is not the same on every node of the cluster: {socket.gethostname()} does not see it; give an "
            "--out that every node reaches, such as s3://... or a shared folder"
        )


def read_run(out: str) -> dict[str, Any] | None:
    """Return the record beside an output, or None if there is none.

    Raises:
        FormatError: if it is damaged, or written by a newer raycap.
    """
    location = join(out, RUN_FILE)
    if not exists(location):
        return None
    record = read_json(location)
    version = record.get("format_version") if isinstance(record, dict) else None
    if type(version) is not int:
        raise FormatError(f"{location} was not written by raycap")
    check_version(version, source=location)
    if not isinstance(record.get("identity"), dict) or not {"stage", "result"} <= record.keys():
        raise FormatError(f"{location} is damaged: it lacks what raycap writes")
    return cast("dict[str, Any]", record)
