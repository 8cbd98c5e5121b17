"""What a release is made of: one version, one changelog, a wheel and an sdist that work where the checkout is not."""

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import raycap

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    answer = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


# The version


def test_the_version_stands_in_one_place() -> None:
    project = pyproject()
    assert "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "raycap/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", raycap.__version__)
    assigned = [
        path for path in (ROOT / "raycap").rglob("*.py") if re.search(r"^__version__\s*=", path.read_text(), re.M)
    ]
    assert assigned == [ROOT / "raycap/__init__.py"]
    assert importlib.metadata.version("raycap") == raycap.__version__


def test_the_changelog_is_one_that_tools_can_read() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "keepachangelog.com" in text
    releases = re.findall(r"^## (.*)$", text, re.M)
    assert releases[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", each) for each in releases[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for release in re.split(r"^## .*$", text, flags=re.M)[1:]:
        sections = re.findall(r"^### (.*)$", release, re.M)
        assert set(sections) <= kinds
        assert len(set(sections)) == len(sections)
        assert re.search(r"^- ", release, re.M)
        assert not re.search(r"^- ", release.partition("### ")[0], re.M), "a change stands under no heading"


# Python versions


def test_the_classifiers_are_the_pythons_that_it_runs_on() -> None:
    project = pyproject()["project"]
    named = [each.rpartition(" :: ")[2] for each in project["classifiers"] if re.search(r":: 3\.\d+$", each)]
    assert tuple(named) == PYTHONS
    allowed = SpecifierSet(project["requires-python"])
    assert [minor for minor in range(8, 20) if f"3.{minor}.0" in allowed] == [int(each[2:]) for each in PYTHONS]


def pinned(lock: str, python: str) -> dict[str, list[str]]:
    """Return the versions of each package that a lock has for a Python on Linux."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.5",
        "implementation_name": "cpython",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
    }
    versions: dict[str, list[str]] = {}
    for line in (ROOT / lock).read_text().splitlines():
        if found := re.match(r"([a-z0-9][\w.-]*)==(\S+)(?: ; (.*?))? \\$", line):
            name, version, marker = found.groups()
            if marker is None or Marker(marker).evaluate(environment):
                versions.setdefault(name, []).append(version)
    return versions


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    ("lock", "extra", "group"), [("requirements", "cpu", "dev"), ("requirements-gpu", "gpu", "cluster")]
)
def test_the_locks_hold_one_version_of_each_package_for_each_python(
    lock: str, extra: str, group: str, python: str
) -> None:
    project = pyproject()
    versions = pinned(f"{lock}.lock", python)
    assert not {name: several for name, several in versions.items() if len(several) != 1}
    asked = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"][extra]]
    for requirement in map(Requirement, [*asked, *project["dependency-groups"][group]]):
        (version,) = versions[requirement.name.lower()]
        assert version in requirement.specifier


# The packages


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An sdist of this checkout, and a wheel that was made from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    run(*build, "--no-build-isolation", "--wheel-dir", folder, sdist, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def test_the_sdist_holds_what_its_make_targets_need(packages: tuple[Path, Path]) -> None:
    sdist, _ = packages
    with tarfile.open(sdist) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    known = run("git", "-c", "safe.directory=*", "ls-files", cwd=ROOT).splitlines() if (ROOT / ".git").exists() else []
    assert {name for name in known if not name.startswith(".ci/")} <= held
    assert not {name for name in held if re.match(r"(work|dist|\.venv|\.git)/", name)}


def test_the_wheel_holds_the_package_its_data_and_nothing_else(packages: tuple[Path, Path]) -> None:
    _, wheel = packages
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        metadata = archive.read(f"raycap-{raycap.__version__}.dist-info/METADATA").decode()
    about = {name for name in held if name.startswith(f"raycap-{raycap.__version__}.dist-info/")}
    files = [path for path in (ROOT / "raycap").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    # modules, and what lies beside them: py.typed, and the pages' html, css and js
    assert held - about == {path.relative_to(ROOT).as_posix() for path in files}
    assert "raycap/py.typed" in held
    assert f"raycap-{raycap.__version__}.dist-info/licenses/LICENSE" in about
    for field in ("Version: " + raycap.__version__, "License-Expression: Apache-2.0", "Requires-Python: <3.14,>=3.11"):
        assert f"\n{field}\n" in metadata


def test_the_wheel_works_where_the_checkout_is_not(packages: tuple[Path, Path], tmp_path: Path) -> None:
    _, wheel = packages
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAYCAP_"))}
    run(sys.executable, "-m", "venv", "--without-pip", "env", cwd=tmp_path)
    python = tmp_path / "env/bin/python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    run(*install, "--disable-pip-version-check", wheel, cwd=tmp_path, env=environment)
    # what raycap needs, from where the tests have it, behind what is installed here; no .pth file there is read
    (site,) = (tmp_path / "env/lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    command = tmp_path / "env/bin/raycap"
    assert run(command, "--version", cwd=tmp_path, env=environment) == f"raycap {raycap.__version__}\n"
    assert "raycap caption" in run(command, "caption", "--help", cwd=tmp_path, env=environment)
    code = "import raycap, raycap.stages.caption; print(raycap.__file__)"
    where = run(python, "-c", code, cwd=tmp_path, env=environment).strip()
    assert Path(where).is_relative_to(site)
    (tmp_path / "captions.csv").write_text("image,caption\n")
    gone = subprocess.run(
        [command, "prepare", "--captions", "captions.csv", "--photos", "gone", "--out", "out"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert gone.returncode == 2, gone.stderr
