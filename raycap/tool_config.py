"""Options of the commands that are no stage: dataclasses like those of `raycap.config`. Knows nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from raycap.config import EvaluateConfig, ExtractConfig, PrepareConfig, TrainConfig
from raycap.options import Positional, Prefixed


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Run prepare, extract, train, evaluate and report in order; what is up to date stays as it is.

    A stage's options begin with its name, --train.epochs 5; where one stage alone has an option, --epochs 5 will do.
    A configuration file, which `raycap config` prints, may give them too; those on the command line go before it.

    Example: raycap run --captions captions.csv --photos photos/ --out work

    Example: raycap run flickr8k.toml --epochs 5 --evaluate.beam-width 5
    """

    DERIVED: ClassVar[Mapping[tuple[str, ...], tuple[str, ...]]] = {
        ("prepare", "out"): ("out", "prepared"),
        ("extract", "manifest"): ("prepare.out", "photos.parquet"),
        ("extract", "out"): ("out", "features"),
        ("train", "prepared"): ("prepare.out",),
        ("train", "features"): ("extract.out",),
        ("train", "out"): ("out", "model"),
        ("evaluate", "model"): ("train.out",),
        ("evaluate", "prepared"): ("prepare.out",),
        ("evaluate", "features"): ("extract.out",),
        ("evaluate", "out"): ("out", "scores"),
    }

    out: str = "work"
    """Folder to write: prepared/, features/, model/, scores/, report.html."""
    report: bool = True
    """Write the report last."""
    redo: bool = False
    """Delete what the stages made under OUT with other options or inputs, and make it anew."""
    prepare: Annotated[PrepareConfig, Prefixed]
    extract: Annotated[ExtractConfig, Prefixed]
    train: Annotated[TrainConfig, Prefixed]
    evaluate: Annotated[EvaluateConfig, Prefixed]


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Run every stage on the built-in dataset.

    Example: raycap demo
    """

    out: str = "work/demo"
    """Folder to write."""
    num_train: int = 320
    """Training scenes."""
    num_dev: int = 40
    """Dev scenes."""
    num_test: int = 60
    """Test scenes, of combinations that training does not show."""
    seed: int = 0
    """Seed of scenes, encoder weights and training."""


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Say what something that raycap wrote is: its kind, rows, schema, encoder, options, versions, size.

    Example: raycap inspect work/model

    Example: raycap inspect s3://bucket/captions --json
    """

    path: Annotated[str, Positional]
    """A folder that raycap wrote, or one Parquet, JSON, JSONL, CSV or .keras file; a local path or a URI."""


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Check what raycap needs of this machine, and say what to do where it is not there.

    Example: raycap doctor

    Example: raycap doctor --storage s3://bucket/work
    """

    storage: str | None = None
    """Folder to write a small file to, which is then removed; a local path or a URI."""
    start: bool = True
    """Start a Ray and import TensorFlow, in processes of their own; that takes most of the time."""


@dataclass(frozen=True, kw_only=True)
class CompletionConfig:
    """Print a script that completes commands and options in a shell.

    Example: raycap completion bash >> ~/.bashrc

    Example: raycap completion zsh > ~/.zfunc/_raycap

    Example: raycap completion fish > ~/.config/fish/completions/raycap.fish
    """

    shell: Annotated[Literal["bash", "zsh", "fish"], Positional]
    """The shell that it is for."""
