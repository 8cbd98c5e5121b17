"""The commands: the options of each, its function, how its result is said. Imports none before it is run."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from raycap import summaries, tool_summaries

STAGES, USE, LOOK, SHELL = "Stages, each for itself", "Use a model elsewhere", "Look", "Shell"
_ALL: Final = "All stages in a row"


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command.

    Attributes:
        help: what it does, in a line.
        group: the title that it stands under.
        config: `module:Dataclass` of its options.
        function: `module:function` that takes the dataclass and returns a result, itself a dataclass.
        say: the result and the options as text, for standard output.
        exit_code: of the result.
    """

    help: str
    group: str
    config: str
    function: str
    say: Callable[[Any, Any], str]
    exit_code: Callable[[Any], int] = lambda _: 0

    @property
    def options(self) -> type:
        """The dataclass of its options."""
        found: type = _load(self.config)
        return found

    @property
    def run(self) -> Callable[[Any], Any]:
        """Its function."""
        found: Callable[[Any], Any] = _load(self.function)
        return found


def _stage(name: str, help_text: str, say: Callable[[Any, Any], str], **others: Any) -> Command:
    config = f"raycap.config:{name.capitalize()}Config"
    return Command(
        help=help_text, group=STAGES, config=config, function=f"raycap.stages.{name}:{name}", say=say, **others
    )


def _tool(name: str, group: str, help_text: str, *, module: str | None = None) -> Command:
    return Command(
        help=help_text,
        group=group,
        config=f"raycap.tool_config:{name.capitalize()}Config",
        function=f"raycap.{module or name}:{name}",
        say=getattr(tool_summaries, f"say_{name}"),
    )


COMMANDS: Final[Mapping[str, Command]] = {
    "demo": Command(
        help="all of it on a built-in dataset, with nothing to download",
        group=_ALL,
        config="raycap.tool_config:DemoConfig",
        function="raycap.demo:demo",
        say=tool_summaries.say_demo,
    ),
    "run": Command(
        help="all of it on your photos and captions; again, it does what is missing",
        group=_ALL,
        config="raycap.tool_config:RunConfig",
        function="raycap.workflow:run",
        say=tool_summaries.say_run,
    ),
    "config": Command(
        help="print a configuration file for run, with every option and its help",
        group=_ALL,
        config="raycap.tool_config:RunConfig",
        function="raycap.config_file:template",
        say=lambda text, _: str(text),
    ),
    "prepare": _stage(
        "prepare", "caption files and a photo folder: manifest, captions, tokenizer", summaries.say_prepare
    ),
    "finetune": _stage(
        "finetune", "an encoder that learns the captions' words, with Ray Train", summaries.say_finetune
    ),
    "extract": _stage("extract", "a feature for each photo, with Ray Data", summaries.say_extract),
    "train": _stage("train", "a captioner, with Ray Train", summaries.say_train),
    "evaluate": _stage("evaluate", "captions of a split and their scores, with Ray Data", summaries.say_evaluate),
    "caption": _stage(
        "caption",
        "captions of new photos, with Ray Data",
        summaries.say_caption,
        exit_code=lambda result: 3 if result.num_failures else 0,
    ),
    "report": _tool(
        "report", LOOK, "scores, plots and a gallery of a run, or of two, as one HTML file", module="reporting.report"
    ),
    "export": _tool("export", USE, "a model for programs without raycap: Keras, SavedModel, ONNX"),
    "serve": _tool("serve", USE, "captions over HTTP and on a page, with Ray Serve"),
    "inspect": Command(
        help="what a folder or file that raycap wrote is",
        group=LOOK,
        config="raycap.tool_config:InspectConfig",
        function="raycap.inspection:inspect",
        say=tool_summaries.say_inspection,
    ),
    "doctor": Command(
        help="what is missing on this machine, and what to do about it",
        group=LOOK,
        config="raycap.tool_config:DoctorConfig",
        function="raycap.doctor:doctor",
        say=tool_summaries.say_doctor,
        exit_code=lambda result: int(any(check.state == "problem" for check in result.checks)),
    ),
    "completion": Command(
        help="a script that completes commands and options in bash, zsh or fish",
        group=SHELL,
        config="raycap.tool_config:CompletionConfig",
        function="raycap.completion:completion",
        say=lambda text, _: str(text),
    ),
}


def by_group() -> list[tuple[str, Sequence[tuple[str, str]]]]:
    """Return the commands and what each does, under the titles of their groups."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, command in COMMANDS.items():
        groups.setdefault(command.group, []).append((name, command.help))
    return list(groups.items())


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
