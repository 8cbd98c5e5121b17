"""What raycap needs of a machine: is it there, and what to do if not. Imports neither Ray nor TensorFlow itself."""

import hashlib
import os
import platform
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from raycap import __version__
from raycap.doctor_probes import Probe, limited_cpus, limited_memory
from raycap.errors import RaycapError
from raycap.locations import absolute, join
from raycap.storage import delete_file, delete_folder, is_folder, read_text, write_text
from raycap.tool_config import DoctorConfig

State = Literal["ok", "warning", "problem"]

_GB: Final = 10**9
_WEIGHTS: Final = "vgg16_weights_tf_dim_ordering_tf_kernels.h5"
_WEIGHTS_MD5: Final = "64373286793e3c8b2b4e3219cbf3544b"  # what Keras checks a download against
_OPTIONAL: Final = {
    "heif": ("pillow-heif",),
    "serve": ("fastapi", "starlette"),
    "onnx": ("tf2onnx", "onnx"),
    "meteor": ("pycocoevalcap",),
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of it.
        state: `ok`; `warning`, where raycap works but not all of it or not as well; `problem`, where it will not.
        found: what there is.
        advice: what to do, unless it is ok.
    """

    name: str
    state: State
    found: str
    advice: str = ""


@dataclass(frozen=True)
class DoctorResult:
    """All that was looked at."""

    checks: list[Check]


def doctor(config: DoctorConfig) -> DoctorResult:
    """Look at this machine, as this process may use it."""
    checks = [check for look in _LOOKS for check in look()]
    if config.storage is not None:
        checks.append(_storage(config.storage))
    if config.start:
        checks += [Check(*probe.answer()) for probe in (Probe.tensorflow(), Probe.ray())]
    return DoctorResult(checks)


def _python() -> Iterator[Check]:
    version = platform.python_version()
    known = (3, 11) <= sys.version_info[:2] <= (3, 13)
    advice = "" if known else "install Python 3.11, 3.12 or 3.13"
    yield Check("Python", "ok" if known else "problem", f"{version}, raycap {__version__} in {sys.prefix}", advice)


def _packages() -> Iterator[Check]:
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in metadata.requires("raycap") or ()]
    except metadata.PackageNotFoundError:
        yield Check("packages", "warning", "raycap is not installed, only on the path", "pip install '.[cpu]'")
        return
    wrong = []
    for requirement in (each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})):
        there = _version(requirement.name)
        if there is None or there not in requirement.specifier:
            wrong.append(f"{requirement.name} {there or 'missing'}, wanted {requirement.specifier}")
    if wrong:
        yield Check("packages", "problem", "; ".join(wrong), "pip install '.[cpu]', or '.[gpu]', into this environment")
    else:
        yield Check("packages", "ok", ", ".join(f"{name} {_version(name)}" for name in ("ray", "keras", "pyarrow")))
    extras = {extra: all(map(_version, names)) for extra, names in _OPTIONAL.items()}
    missing = [extra for extra, there in extras.items() if not there]
    found = ", ".join(f"{extra} {'yes' if there else 'no'}" for extra, there in extras.items())
    yield Check("extras", "ok", found + (f"; pip install 'raycap[{','.join(missing)}]' adds them" if missing else ""))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _tensorflow_packages() -> Iterator[Check]:
    there = [name for name in ("tensorflow", "tensorflow-cpu") if _version(name)]
    if len(there) == 1:
        return
    found = "both tensorflow and tensorflow-cpu, which hold the same files" if there else "no TensorFlow"
    advice = "pip uninstall both, then pip install 'raycap[cpu]' or 'raycap[gpu]'"
    yield Check("TensorFlow", "problem", found, advice if there else advice.partition("then ")[2])


def _cpus() -> Iterator[Check]:
    cpus, limit = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        limited_cpus(),
    )
    flags = _cpu_flags()
    found = f"{cpus} {'core' if cpus == 1 else 'cores'}" + (f", of which a limit leaves {limit:g}" if limit else "")
    best = [name for name in ("avx512f", "avx2", "fma", "avx") if name in flags]
    found += f"; {' '.join(best)}" if best else ""
    if flags and "avx" not in flags and platform.machine() == "x86_64":
        yield Check("CPU", "problem", found, "TensorFlow needs AVX, which this machine has not; use another one")
    elif limit and limit < 1:
        yield Check("CPU", "warning", found, "allow this container a whole core or more")
    else:
        yield Check("CPU", "ok", found)


def _cpu_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def _memory() -> Iterator[Check]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    usable = min(total, limited_memory() or total)
    found = _gb(usable) + (f", a limit; the machine has {_gb(total)}" if usable < total else "")
    if usable < 2 * _GB:
        yield Check(
            "memory", "problem", found, "a worker with VGG16 takes about 1.5 GB; use a machine with 4 GB or more"
        )
    elif usable < 4 * _GB:
        yield Check("memory", "warning", found, "give --num-workers 1 where it runs out")
    else:
        yield Check("memory", "ok", found)


def _shared_memory(folder: str = "/dev/shm") -> Iterator[Check]:  # noqa: S108 - looked at, not written to
    if not os.path.isdir(folder):
        return
    size = shutil.disk_usage(folder).total
    if size < 2 * _GB:
        advice = "Ray then keeps its objects on disk, which is slow; docker run --shm-size=4g"
        yield Check("shared memory", "warning", f"{_gb(size)} in {folder}", advice)
    else:
        yield Check("shared memory", "ok", f"{_gb(size)} in {folder}")


def _disks() -> Iterator[Check]:
    for name, folder in (("disk, here", os.getcwd()), ("disk, Ray's", os.environ.get("RAY_TMPDIR", "/tmp"))):  # noqa: S108
        usage = shutil.disk_usage(folder)
        found = f"{_gb(usage.free)} free of {_gb(usage.total)} in {folder}"
        is_full = usage.free < 0.05 * usage.total or usage.free < 2 * _GB
        advice = "Ray stops writing objects to a disk that is 95% full; make room, or set RAY_TMPDIR"
        yield Check(name, "warning" if is_full else "ok", found, advice if is_full else "")


def _open_files() -> Iterator[Check]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < 4096
    advice = f"Ray opens many; run ulimit -n {hard if 0 < hard < 65536 else 65536} first"
    yield Check("open files", "warning" if few else "ok", f"{soft:,} at most", advice if few else "")


def _weights() -> Iterator[Check]:
    path = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models" / _WEIGHTS
    if not path.exists():
        advice = (
            "extract downloads them on its first run (553 MB); without internet, put the file there, or give --weights"
        )
        yield Check("VGG16 weights", "warning", f"not in {path.parent}", advice)
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if digest == _WEIGHTS_MD5:
        yield Check("VGG16 weights", "ok", str(path))
    else:
        yield Check("VGG16 weights", "problem", f"{path} is damaged", "delete it; the next run downloads it anew")


def _java() -> Iterator[Check]:
    java = shutil.which("java")
    advice = "evaluate leaves METEOR out; for it, install a Java runtime"
    yield Check("Java", "ok" if java else "warning", java or "none", "" if java else advice)


def _storage(location: str) -> Check:
    folder = absolute(location)
    probe = join(folder, f"raycap-doctor-{uuid.uuid4().hex}.txt")
    try:
        was_there = is_folder(folder)
        write_text(probe, "raycap doctor")
        whole = read_text(probe) == "raycap doctor"
        delete_file(probe)
        if not was_there:
            delete_folder(folder)
    except (OSError, RaycapError) as error:
        advice = "check the address, your right to write there, and for a URI its credentials"
        return Check("storage", "problem", f"{location}: {str(error).splitlines()[0]:.200}", advice)
    if not whole:
        return Check("storage", "problem", f"{location}: what was read is not what was written", "use another storage")
    return Check("storage", "ok", f"{location}: written, read and removed")


def _gb(number: float) -> str:
    return f"{number / _GB:,.1f} GB"


_LOOKS: Final[tuple[Callable[[], Iterator[Check]], ...]] = (
    _python,
    _packages,
    _tensorflow_packages,
    _cpus,
    _memory,
    _shared_memory,
    _disks,
    _open_files,
    _weights,
    _java,
)
