"""What clusters are made from: the files for `ray up`, Kubernetes and Docker, their lock, and the page on them."""

import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import raycap
from raycap import config as configs
from raycap.arguments import parse
from raycap.options import build

ROOT = Path(__file__).parents[1]
CLUSTERS = ("cluster.yaml", "deploy/on-premises.yaml")
STAGES = ("prepare", "finetune", "extract", "train", "evaluate", "caption")
PAGES = ("docs/cluster.md", "docs/captioning.md", "deploy/rayjob.yaml")


def read(name: str) -> str:
    return (ROOT / name).read_text()


@cache
def lock(name: str) -> dict[str, set[str]]:
    """The versions of each package, of which there may be one for each Python."""
    versions: dict[str, set[str]] = {}
    for package, version in re.findall(r"^([a-z0-9][\w.-]*)==(\S+)", read(name), re.MULTILINE):
        versions.setdefault(package, set()).add(version)
    return versions


def ray_version() -> str:
    (version,) = lock("requirements-gpu.lock")["ray"]
    return version


def commands(cluster: str) -> list[str]:
    config = yaml.safe_load(read(cluster))
    return [line for key, lines in config.items() if key.endswith("_commands") for line in lines]


def manifest() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(read("deploy/rayjob.yaml"))
    return loaded


def groups() -> list[dict[str, Any]]:
    cluster = manifest()["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def container(group: dict[str, Any]) -> dict[str, Any]:
    (only,) = group["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


# The locks


def test_both_locks_hold_the_same_versions() -> None:
    here, nodes = lock("requirements.lock"), lock("requirements-gpu.lock")
    assert {name: here[name] for name in nodes.keys() & here.keys()} == {
        name: nodes[name] for name in nodes.keys() & here.keys()
    }
    assert here["tensorflow-cpu"] == nodes["tensorflow"]


def test_the_lock_of_nodes_has_what_nodes_need_and_no_more() -> None:
    nodes = lock("requirements-gpu.lock")
    # boto3 starts nodes on AWS, hatchling builds raycap without asking an index for anything
    assert {"ray", "keras", "tensorflow", "nvidia-cudnn-cu12", "boto3", "hatchling"} <= nodes.keys()
    assert not {"tensorflow-cpu", "pytest", "ruff", "moto"} & nodes.keys()


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-gpu.lock"])
def test_a_lock_has_hashes_and_no_address(name: str) -> None:
    text = read(name)
    assert "://" not in text
    assert "index" not in text
    assert len(text) < 1_000_000
    for entry in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in entry, entry


def test_the_locks_meet_what_pyproject_asks_for() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads(read("pyproject.toml"))
    extras = project["project"]["optional-dependencies"]
    groups = project["dependency-groups"]
    asked = {
        "requirements.lock": [*project["project"]["dependencies"], *extras["cpu"], *groups["dev"]],
        "requirements-gpu.lock": [*project["project"]["dependencies"], *extras["gpu"], *groups["cluster"]],
    }
    for name, requirements in asked.items():
        for requirement in map(Requirement, requirements):
            assert all(requirement.specifier.contains(each) for each in lock(name)[requirement.name.lower()]), name


# ray up


@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_accepts_the_cluster(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load(read(name)))
    validate_config(prepared)


@pytest.mark.parametrize("name", CLUSTERS)
def test_nodes_install_the_lock_and_nothing_else(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config

    prepared = prepare_config(yaml.safe_load(read(name)))
    # with Ray's defaults filled in, one of which installs packages of any version
    lines = [line for key, each in prepared.items() if key.endswith("setup_commands") for line in each]
    locked, package = dict.fromkeys(line for line in lines if "install" in line)
    assert "--require-hashes -r " in locked
    assert locked.endswith("/requirements-gpu.lock")
    assert "--no-deps --no-build-isolation " in package


@pytest.mark.parametrize("name", CLUSTERS)
def test_what_is_copied_to_nodes_exists_and_builds_raycap(name: str) -> None:
    mounts = yaml.safe_load(read(name))["file_mounts"]
    sources = {source for source in mounts.values() if not source.startswith("~")}
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert sources == {
        "raycap",
        "pyproject.toml",
        "requirements-gpu.lock",
        project["readme"],
        *project["license-files"],
    }
    assert all((ROOT / source).exists() for source in sources)
    assert "~/.ray/auth_token" in mounts.values()


@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_is_started_with_the_token_and_options_it_has(name: str) -> None:
    from ray.scripts import scripts

    known = {option for each in scripts.start.params if not getattr(each, "hidden", False) for option in each.opts}
    starts = [line for line in commands(name) if "ray start" in line]
    assert len(starts) == 2
    for line in starts:
        assert "RAY_AUTH_MODE=token" in line
        given = {word.partition("=")[0] for word in shlex.split(line.partition("ray start")[2])}
        assert given <= known
    head, _ = starts
    assert "--dashboard-host=127.0.0.1" in head


def test_the_cluster_on_aws() -> None:
    config = yaml.safe_load(read("cluster.yaml"))
    nodes = config["available_node_types"]
    head = nodes.pop(config["head_node_type"])
    assert config["docker"]["image"] == f"rayproject/ray:{ray_version()}-py311-cpu"
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]  # the head is what must not be taken away
    assert set(nodes) == {"gpu_worker", "cpu_worker"}
    assert sum(each["max_workers"] for each in nodes.values()) == config["max_workers"]
    for each in nodes.values():
        assert each["min_workers"] == 0
        assert each["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert "IamInstanceProfile" in each["node_config"]  # Ray gives one to the head only


# Docker


def test_the_image_is_that_of_the_lock() -> None:
    lines = read("deploy/Dockerfile").splitlines()
    assert [line for line in lines if line.startswith("FROM ")] == [f"FROM rayproject/ray:{ray_version()}-py311-cpu"]
    assert not [line for line in lines if line.startswith("USER ")]  # that of Ray's image, which is not root
    text = " ".join(lines)
    assert "--require-hashes -r requirements-gpu.lock" in text
    assert "--no-deps --no-build-isolation ." in text


def test_what_the_image_is_built_from_is_there_and_travels() -> None:
    copied = [
        source
        for line in read("deploy/Dockerfile").splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    ]
    ignored = [line for line in read(".dockerignore").splitlines() if line and not line.startswith("#")]
    assert ignored[0] == "*"  # all stays behind but what is named
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)
    assert all((ROOT / source).exists() for source in copied)


# Kubernetes


def test_the_manifest_is_of_this_raycap_and_the_locks_ray() -> None:
    job = manifest()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray_version()
    assert {container(group)["image"] for group in groups()} == {f"REGISTRY/raycap:{raycap.__version__}"}
    for name in ("deploy/Dockerfile", "deploy/on-premises.yaml"):
        assert set(re.findall(r"REGISTRY/raycap:([\d.]+)", read(name))) == {raycap.__version__}


def test_the_manifests_cluster_goes_after_the_job_and_asks_for_a_token() -> None:
    spec = manifest()["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    assert spec["rayClusterSpec"]["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_the_manifests_pods() -> None:
    head, *workers = groups()
    assert head["rayStartParams"] == {"num-cpus": "0"}
    assert [group["groupName"] for group in workers] == ["gpu", "cpu"]
    for group in groups():
        resources = container(group)["resources"]
        assert resources["requests"] == resources["limits"]  # what Ray counts with is what there is
        assert container(group)["envFrom"] == [{"secretRef": {"name": "raycap-s3"}}]
        assert "env" not in container(group)  # no secret stands in the manifest
    for group in workers:
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]
        # Ray takes a group's CPUs and GPUs from its pods
        assert group["rayStartParams"] == {}
    gpu, cpu = (container(group)["resources"]["limits"] for group in workers)
    assert gpu["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in cpu


def test_the_manifests_job_has_the_workers_it_asks_for() -> None:
    _, gpu, _ = groups()
    options = shlex.split(manifest()["spec"]["entrypoint"])
    assert int(options[options.index("--num-workers") + 1]) <= gpu["maxReplicas"]


# Jobs


def test_every_stage_has_a_job() -> None:
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == set(STAGES)
    for stage in STAGES:
        assert f'main(["{stage}", *sys.argv[1:]])' in read(f"jobs/{stage}.py")


def documented_jobs() -> list[tuple[str, str, str]]:
    """Every `python jobs/STAGE.py OPTIONS` that a page shows whole: page, stage, options."""
    found = []
    for page in PAGES:
        text = re.sub(r"\\\n\s*|\n *#? {3,}", " ", read(page))  # lines that go on
        for stage, options in re.findall(r"python \S*jobs/(\w+)\.py ((?:[^\n`|']|'[^'\n]*')+)", text):
            if "..." not in options:
                found.append((page, stage, options.strip()))
    return found


@pytest.mark.parametrize(("page", "stage", "options"), documented_jobs())
def test_the_options_shown_exist(page: str, stage: str, options: str) -> None:
    given = shlex.split(options)
    config = getattr(configs, f"{stage.capitalize()}Config")
    build(config, parse(config, given, prog=stage).values)


def test_every_stage_is_shown() -> None:
    assert {stage for page, stage, _ in documented_jobs() if page == "docs/cluster.md"} == set(STAGES)
    assert {stage for page, stage, _ in documented_jobs() if page == "deploy/rayjob.yaml"} == {"extract", "caption"}
