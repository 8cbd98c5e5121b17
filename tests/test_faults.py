"""A cluster of several nodes, and what befalls extract and every stage on it: killed for real, the result compared."""

import json
import time
from pathlib import Path

import pytest
from nodes import (
    ENCODER,
    Nodes,
    finish,
    kill_loading,
    killed_and_started_again,
    loading,
    on_a_full_disk,
    require_same_features,
    shards,
    started,
    wait_for,
)

from raycap.storage import read_json

pytestmark = pytest.mark.slow


def test_extract_loses_a_worker_and_all_nodes_but_a_late_one(
    nodes: Nodes, many: tuple[Path, str], encoder_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """In the end there is nobody but the late one to finish the run."""
    first, second = nodes.add(), nodes.add()
    out = tmp_path / "features"
    options = ("--manifest", many[1], "--encoder", encoder_file, "--out", out, "--shard-size", 4)
    run = nodes.raycap("extract", *options)
    wait_for(lambda: shards(out / "features") >= 3, run)
    assert nodes.workers(first, ENCODER)
    assert nodes.workers(second, ENCODER), "only one of two nodes encodes"
    nodes.workers(first, ENCODER)[0].kill()
    wait_for(lambda: shards(out / "features") >= 20, run)
    nodes.remove(second)
    late = nodes.add()
    wait_for(lambda: nodes.workers(late, ENCODER), run)
    nodes.remove(first)
    assert shards(out / "features") < 250, "too little is left to show anything"
    finish(run)
    require_same_features(out, undisturbed)


def test_an_encoder_dies_while_it_loads(
    nodes: Nodes, many: tuple[Path, str], encoder_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Killed in its constructor, three times; the next one loads, and the run goes on."""
    node = nodes.add()
    out = tmp_path / "features"
    run = nodes.raycap("extract", "--manifest", many[1], "--encoder", encoder_file, "--out", out)
    for _ in range(3):
        wait_for(lambda: kill_loading(nodes, node, ENCODER), run)
    finish(run)
    require_same_features(out, undisturbed)


def test_an_encoder_that_always_dies_ends_the_run(
    nodes: Nodes, many: tuple[Path, str], encoder_file: Path, tmp_path: Path
) -> None:
    node = nodes.add()
    run = nodes.raycap("extract", "--manifest", many[1], "--encoder", encoder_file, "--out", tmp_path / "features")
    deadline = time.monotonic() + 150
    while run.poll() is None:
        assert time.monotonic() < deadline, "it tries for ever"
        for process in loading(nodes, node, ENCODER):
            process.kill()
        time.sleep(0.02)
    said = finish(run, expected=1)
    assert "the process of EncodePhotos died 4 times while it loaded its model" in said.splitlines()[-1]
    assert "Traceback" not in said


@pytest.mark.timeout(1800)  # of twenty starts
def test_extract_with_its_driver_killed_20_times(
    nodes: Nodes, many: tuple[Path, str], encoder_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    nodes.add("--num-cpus=2")
    out = tmp_path / "features"
    options = ("--manifest", many[1], "--encoder", encoder_file, "--out", out, "--shard-size", 4)
    code = killed_and_started_again(lambda: nodes.raycap("extract", *options), lambda: shards(out / "features"), seed=0)
    assert code == 0
    require_same_features(out, undisturbed)


def test_a_second_run_on_the_same_output_is_refused(
    nodes: Nodes, many: tuple[Path, str], encoder_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    nodes.add()
    out = tmp_path / "features"
    options = ("extract", "--manifest", many[1], "--encoder", encoder_file, "--out", out, "--shard-size", 8)
    first = nodes.raycap(*options)
    wait_for(lambda: shards(out / "features") >= 1, first)
    said = finish(nodes.raycap(*options), expected=1)
    assert f"another run is writing {out} (process {first.pid} on " in said
    finish(first)
    require_same_features(out, undisturbed)


def test_the_disk_is_full(many: tuple[Path, str], encoder_file: Path, undisturbed: Path, tmp_path: Path) -> None:
    options = ("extract", "--manifest", many[1], "--encoder", encoder_file, "--out", tmp_path / "disk/features")
    kept = on_a_full_disk(tmp_path, "200k", *options, "--shard-size", 16)
    require_same_features(kept / "features", undisturbed)


def test_nodes_that_an_autoscaler_starts(
    many: tuple[Path, str], encoder_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """A cluster that begins with a head of no CPUs and no GPUs: GPU nodes come because the job asks for them."""
    kinds = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "gpu_worker": {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    }
    provider = {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    config = {
        "cluster_name": "fake",
        "max_workers": 1,
        "provider": provider,
        "available_node_types": kinds,
        "head_node_type": "ray.head.default",
        "idle_timeout_minutes": 1,
        "upscaling_speed": 1.0,
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in ("cluster_synced_files", "initialization_commands", "setup_commands")},
        **{key: [] for key in ("head_setup_commands", "worker_setup_commands")},
        **{key: [] for key in ("head_start_ray_commands", "worker_start_ray_commands")},
    }
    (tmp_path / "cluster.json").write_text(json.dumps(config))
    scales = f"--autoscaling-config={tmp_path / 'cluster.json'}"
    # the port is where the provider of this kind of cluster looks for the head
    with started(scales, port=6379, AUTOSCALER_UPDATE_INTERVAL_S="1", RAY_FAKE_CLUSTER="1") as nodes:
        out = tmp_path / "features"
        options = ("--manifest", many[1], "--encoder", encoder_file, "--out", out, "--num-gpus", 1)
        said = finish(nodes.raycap("extract", *options))
    require_same_features(out, undisturbed)
    assert "waiting for a node with CPUs and 1 GPUs" in said


def test_an_output_that_a_node_does_not_see_is_refused(
    nodes: Nodes, many: tuple[Path, str], encoder_file: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """A node that joins after the job began, and has a disk of its own where the output is."""
    shared = tmp_path / "not shared"
    shared.mkdir()
    options = ("extract", "--manifest", many[1], "--encoder", encoder_file, "--out", shared / "features")
    run = nodes.raycap(*options)
    blind = nodes.add(hidden=shared)
    said = finish(run, expected=2)
    assert "is not the same on every node of the cluster" in said.splitlines()[-1]
    assert read_json(str(shared / "features/run.json"))["result"] is None
    nodes.remove(blind)
    nodes.add()
    finish(nodes.raycap(*options))
    require_same_features(shared / "features", undisturbed)
