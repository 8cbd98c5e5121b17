"""Caption on a cluster of several nodes: processes and nodes are killed for real, and the result compared."""

from pathlib import Path

import pytest
from nodes import (
    CAPTIONER,
    ENCODER,
    Nodes,
    finish,
    kill_loading,
    killed_and_started_again,
    on_a_full_disk,
    require_same_captions,
    shards,
    wait_for,
)

pytestmark = pytest.mark.slow


def test_caption_loses_workers_and_all_nodes_but_a_late_one(
    nodes: Nodes, many: tuple[Path, str], model: Path, captions_alone: Path, tmp_path: Path
) -> None:
    """In the end there is nobody but the late one to finish the run."""
    first, second = nodes.add(), nodes.add()
    out, texts = tmp_path / "captions", tmp_path / "texts"
    options = ("--model", model, "--out", out, "--formats", "jsonl", "--sidecars", texts, "--shard-size", 4)
    run = nodes.raycap("caption", many[0], *options)
    wait_for(lambda: shards(out / "captions") >= 3, run)
    captioners = [*nodes.workers(first, CAPTIONER), *nodes.workers(second, CAPTIONER)]
    captioners[0].kill()
    wait_for(lambda: shards(out / "captions") >= 10, run)
    nodes.workers(first, ENCODER)[0].kill()
    wait_for(lambda: shards(out / "captions") >= 20, run)
    nodes.remove(second)
    late = nodes.add()
    wait_for(lambda: nodes.workers(late, ENCODER) or nodes.workers(late, CAPTIONER), run)
    nodes.remove(first)
    assert shards(out / "captions") < 250, "too little is left to show anything"
    finish(run, expected=3)
    require_same_captions(out, texts, captions_alone)


def test_the_disk_is_full(many: tuple[Path, str], model: Path, captions_alone: Path, tmp_path: Path) -> None:
    """Shards, .txt files and captions.jsonl are on it."""
    out, texts = tmp_path / "disk/captions", tmp_path / "disk/texts"
    options = ("--model", model, "--out", out, "--formats", "jsonl", "--sidecars", texts, "--shard-size", 16)
    kept = on_a_full_disk(tmp_path, "2m", "caption", many[0], *options, expected=3)
    require_same_captions(kept / "captions", kept / "texts", captions_alone)


def test_a_captioner_dies_while_it_loads(
    nodes: Nodes, many: tuple[Path, str], model: Path, captions_alone: Path, tmp_path: Path
) -> None:
    """Killed in its constructor, three times; the next one loads, and the run goes on."""
    node = nodes.add()
    out, texts = tmp_path / "captions", tmp_path / "texts"
    options = ("--model", model, "--out", out, "--formats", "jsonl", "--sidecars", texts)
    run = nodes.raycap("caption", many[0], *options)
    for _ in range(3):
        wait_for(lambda: kill_loading(nodes, node, CAPTIONER), run)
    finish(run, expected=3)
    require_same_captions(out, texts, captions_alone)


@pytest.mark.timeout(1800)  # of twenty starts
def test_caption_with_its_driver_killed_20_times(
    nodes: Nodes, many: tuple[Path, str], model: Path, captions_alone: Path, tmp_path: Path
) -> None:
    nodes.add("--num-cpus=2")
    out, texts = tmp_path / "captions", tmp_path / "texts"
    options = ("--model", model, "--out", out, "--formats", "jsonl", "--sidecars", texts, "--shard-size", 4)
    code = killed_and_started_again(
        lambda: nodes.raycap("caption", many[0], *options), lambda: shards(out / "captions"), seed=1
    )
    assert code == 3
    require_same_captions(out, texts, captions_alone)
