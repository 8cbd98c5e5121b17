"""Imports point down only, and the lower layers know neither Ray nor TensorFlow."""

import ast
import json
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "raycap"

STAGES = ("stages.prepare", "stages.finetune", "stages.extract", "stages.train", "stages.evaluate", "stages.caption")
LAYERS = {
    0: "schema errors locations options config tool_config presets",
    1: """averaging consensus self_critical
        encoder_card model_card datasets caption_files scenes images views text sequences features metrics storage runs
        neighbors matching word_shares
        parquet shards prepared progress input_sizes diagram decoding threads top_words photo_sources photo_tables
        photo_reader photo_decoder given_photos time_limit batching sidecars caption_formats sole_writer saved_models
        encoder_choice readers uploads serve_page published bleu rouge cider meteor baselines bootstrap
        diversity scores scoring score_tables arguments usage chatter config_file inspected_files inspection
        doctor_probes doctor
        reporting.markup reporting.plots reporting.sources reporting.gallery reporting.charts reporting.thumbnails
        reporting.scoring reporting.facts reporting.page reporting.report""",
    2: """devices feature_maps encoder schedules encoder_tuning decoders.normalization decoders.packed_lstm
        decoders.places decoders.regions decoders.vocabulary
        decoders.merge decoders.merge_forcing decoders.merge_steps
        decoders.attention decoders.attention_steps decoders.transformer decoders.transformer_steps
        decoders.steps decoders.ensemble decoders
        losses dev_loss model fitting captioner operators
        export""",  # what runs models; knows no Ray
    # what runs on Ray, and is called by the stages
    3: "cluster board pipeline training_job stages.train_worker stages.finetune_worker",
    4: " ".join(STAGES),
    5: "summaries workflow demo serve serve_app decoder_pool",
    6: "tool_summaries commands completion cli",
    7: "__main__",
}
LAYER = {module: layer for layer, modules in LAYERS.items() for module in modules.split()}

TENSORFLOW_SIDE = (
    "devices",
    "feature_maps",
    "encoder",
    "encoder_tuning",
    "schedules",
    "model",
    "losses",
    "dev_loss",
    "decoders.normalization",
    "decoders.packed_lstm",
    "decoders.places",
    "decoders.regions",
    "decoders.vocabulary",
    "decoders.merge",
    "decoders.merge_forcing",
    "decoders.merge_steps",
    "decoders.attention",
    "decoders.attention_steps",
    "decoders.steps",
    "decoders.ensemble",
    "decoders.transformer",
    "decoders.transformer_steps",
    "decoders",
    "fitting",
    "captioner",
    "export",
)
PURE = (*LAYERS[0].split(), *LAYERS[1].split(), "operators", "stages.prepare", *LAYERS[6].split())
RAY_SIDE = ("stages.finetune", "stages.extract", "stages.evaluate", "stages.caption", "pipeline", "cluster")

# Each module is imported in a process of its own, forked from one that has imported other people's libraries only.
PROBE = """
import importlib, json, os, sys
import numpy, PIL.Image, pyarrow.compute, pyarrow.parquet
found = {}
for module in sys.argv[2:]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            importlib.import_module(f"raycap.{module}")
            names = [name for name in sys.argv[1].split(",") if name in sys.modules]
            os.write(write, json.dumps(names).encode())
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    found[module] = json.loads(said) if status == 0 else "cannot be imported alone"
print(json.dumps(found))
"""


def what_importing_loads(modules, libraries):
    """Return which of `libraries` each module brings in, each in a fresh process."""
    done = run_python(PROBE, ",".join(libraries), *modules)
    found = json.loads(done.stdout)
    assert "cannot be imported alone" not in found.values(), f"{found}\n{done.stderr}"
    return {module: names for module, names in found.items() if names}


def loaded_together(modules, libraries):
    """Return which of `libraries` all the modules bring in, in one process: of what is not there, none brought any."""
    imports = "\n".join(f"import raycap.{module}" for module in modules)
    done = run_python(
        f"import sys\n{imports}\nprint(*(name for name in sys.argv[1:] if name in sys.modules))", *libraries
    )
    return done.stdout.split()


def run_python(script, *arguments):
    command = [sys.executable, "-c", script, *arguments]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def modules_of_the_package():
    """Return the file of each module, by its name as in `raycap.NAME`."""
    paths = [path for path in PACKAGE.rglob("*.py") if path.stem != "__init__"]
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in paths}


def imports_of(path):
    """Return the modules of raycap that a file imports anywhere: at its top, in functions, for types."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import, which this test does not follow"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {name.removeprefix("raycap.") for name in names}
    return found & modules_of_the_package().keys()


def libraries_imported_at_the_top(path):
    statements = ast.parse(path.read_text(encoding="utf-8")).body
    plain = [alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names]
    return {name.split(".")[0] for name in plain} | {
        node.module.split(".")[0] for node in statements if isinstance(node, ast.ImportFrom) and node.module
    }


def test_every_module_has_a_layer():
    assert modules_of_the_package().keys() - LAYER.keys() == set(), "say in LAYERS where the new modules belong"


@pytest.mark.parametrize("module", modules_of_the_package())
def test_imports_point_down(module):
    upward = {name for name in imports_of(modules_of_the_package()[module]) if LAYER[name] > LAYER[module]}
    assert upward == set()


def test_no_imports_go_in_a_circle():
    graph = {module: imports_of(path) for module, path in modules_of_the_package().items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)


@pytest.mark.parametrize("stage", STAGES)
def test_stages_do_not_import_each_other(stage):
    assert imports_of(modules_of_the_package()[stage]) & set(STAGES) == set()


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_jobs_import_the_command_line_alone(path):
    assert imports_of(path) == {"cli"}


@pytest.mark.parametrize("module", modules_of_the_package())
def test_libraries_are_imported_where_they_may_be(module):
    there = libraries_imported_at_the_top(modules_of_the_package()[module])
    if module not in TENSORFLOW_SIDE:
        assert not there & {"tensorflow", "keras"}
    if LAYER[module] < 3:
        assert "ray" not in there


def test_the_lower_layers_load_neither_ray_nor_tensorflow():
    modules = [module for module in PURE if module in modules_of_the_package()]
    assert what_importing_loads(modules, ("ray", "tensorflow", "keras")) == {}


def test_the_stages_on_ray_data_load_no_tensorflow():
    assert loaded_together(RAY_SIDE, ("tensorflow", "keras")) == []


def test_the_model_layer_loads_no_ray():
    assert loaded_together(TENSORFLOW_SIDE, ("ray",)) == []
