"""Options of the commands that are no stage: dataclasses like those of `raycap.config`. Knows nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from raycap.config import (
    DecodingConfig,
    EvaluateConfig,
    ExtractConfig,
    LimitsConfig,
    PrepareConfig,
    Preset,
    TrainConfig,
    TuningConfig,
    require,
    require_at_least,
)
from raycap.errors import InputError
from raycap.options import Positional, Prefixed


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Run prepare, extract, train, evaluate and report in order; what is up to date stays as it is.

    With --finetune-epochs the encoder is fine-tuned before extract.

    A stage's options begin with its name, --train.epochs 5; where one stage alone has an option, --epochs 5 will do.
    A configuration file, which `raycap config` prints, may give them too; those on the command line go before it.

    Example: raycap run --captions captions.csv --photos photos/ --out work

    Example: raycap run --preset best --captions captions.csv --photos photos/ --out work

    Example: raycap run flickr8k.toml --epochs 5 --evaluate.beam-width 5
    """

    DERIVED: ClassVar[Mapping[tuple[str, ...], tuple[str, ...]]] = {
        ("finetune_out",): ("out", "encoder"),
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

    preset: Preset = "tutorial"
    """Options to start from: `paper` is the published merge model, `best` a decoder with attention; docs/quality.md."""
    out: str = "work"
    """Folder to write: prepared/, features/, model/, scores/, report.html; encoder/ if one is fine-tuned."""
    report: bool = True
    """Write the report last."""
    redo: bool = False
    """Delete what the stages made under OUT with other options or inputs, and make it anew."""
    finetune_out: str
    """Folder to write the encoder to, if one is fine-tuned."""
    tuning: TuningConfig = field(default_factory=TuningConfig)
    prepare: Annotated[PrepareConfig, Prefixed]
    extract: Annotated[ExtractConfig, Prefixed]
    train: Annotated[TrainConfig, Prefixed]
    evaluate: Annotated[EvaluateConfig, Prefixed]

    def __post_init__(self) -> None:
        """Check that no stage is asked for what those before it do not make, as it would say hours later."""
        model, search = self.train.model, self.evaluate.decoding
        require(
            self.extract.spatial or not model.needs_regions,
            f"--decoder {model.decoder} looks at regions; give --spatial too, or --decoder merge",
        )
        require(
            model.needs_regions or not self.extract.spatial,
            "--spatial is for decoders that look at regions; give --decoder attention too, or --no-spatial",
        )
        require(
            search.num_views <= self.extract.num_views,
            "--mirrored needs features of mirrored photos; give --num-views 2 or more, or --no-mirrored",
        )
        require(
            self.train.keep_neighbors or not search.num_neighbors,
            "--num-neighbors needs a model that keeps them; give --keep-neighbors too, or --num-neighbors 0",
        )
        require(
            self.train.fit_matching or not search.matching,
            "--matching needs a model that learns it; give --fit-matching too, or --matching 0",
        )


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


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write a report on a run, or on two side by side: one HTML file that needs no network.

    Example: raycap report work/scores

    Example: raycap report work/scores work/other-scores --out comparison.html
    """

    runs: Annotated[tuple[str, ...], Positional]
    """What evaluate or caption wrote, or a folder that holds scores/; two are compared."""
    out: str | None = None
    """File to write; by default report.html inside the first run."""
    title: str | None = None
    """Heading of the report; by default the runs' names."""
    max_thumbnails: int = 1000
    """Photos shown at most: the worst, the best and an even spread; the others get a placeholder."""
    thumbnail_px: int = 256
    """Longer side of a photo as shown, in pixels; each takes 12 kB at most."""
    max_photos: int = 100_000
    """Photos in the gallery at most, chosen likewise; plots and scores are of all."""

    def __post_init__(self) -> None:
        if len(self.runs) not in {1, 2}:
            raise InputError(f"{len(self.runs)} runs are given; give one to report on, or two to compare")
        for name, least in (("max_thumbnails", 0), ("thumbnail_px", 16), ("max_photos", 1)):
            require_at_least(self, least, name)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a trained model in a form that needs no raycap: Keras, SavedModel or ONNX.

    Example: raycap export --model work/model --to onnx --out work/onnx
    """

    model: str
    """What train wrote, or its bundle."""
    to: Literal["keras", "savedmodel", "onnx"]
    """`keras` is one file for keras.models.load_model; `savedmodel` a folder for TensorFlow; `onnx` one file."""
    out: str
    """Folder to write: model.keras, saved_model/ or model.onnx; tokenizer.json, card.json."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Caption photos over HTTP, with Ray Serve, and on a page where a person drops one; ends with Ctrl-C.

    Example: raycap serve --model work/model

    Example: curl --data-binary @photo.jpg http://127.0.0.1:8000/
    """

    model: str
    """What train wrote, or its bundle."""
    preset: Preset = "tutorial"
    """On the command line, search options to start from: those by which `raycap run --preset` scores."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in. There is no password: put a proxy with one before it."""
    port: int = 8000
    """Port to listen on."""
    encoder_file: str | None = None
    """Where the encoder's saved model or weights file is now, if not where it was at extract."""
    num_replicas: int = 1
    """Processes that hold the model and share the photos."""
    num_gpus: float = 0.0
    """GPUs of each replica."""
    cpus_per_replica: int | None = None
    """Cores of each replica; by default TensorFlow takes what there are."""
    max_batch_size: int = 16
    """Photos a model call at most."""
    batch_wait_s: float = 0.02
    """Seconds that a photo waits at most for others to join its model call."""
    max_ongoing_requests: int = 32
    """Photos that a replica works on or batches at once."""
    max_queued_requests: int = 128
    """Photos that wait beyond those; further ones are told to come again later (503)."""
    request_timeout_s: float = 60.0
    """Seconds that a photo may take from its first byte to its caption."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    limits: LimitsConfig = field(
        default_factory=lambda: LimitsConfig(max_pixels=50_000_000, max_bytes=20 * 2**20, photo_timeout_s=10.0)
    )

    def __post_init__(self) -> None:
        require_at_least(self, 1, "num_replicas", "max_batch_size", "max_ongoing_requests", "max_queued_requests")
        require_at_least(self, 0, "num_gpus", "batch_wait_s")
        require_at_least(self, 1, "cpus_per_replica")
        if self.max_batch_size > self.max_ongoing_requests:
            raise InputError(
                f"--max-batch-size is {self.max_batch_size}; a replica works on --max-ongoing-requests "
                f"{self.max_ongoing_requests} at once, so give no more"
            )
        if not self.request_timeout_s > 0:
            raise InputError(f"--request-timeout-s is {self.request_timeout_s:g}; give more than 0")
        if not 1 <= self.port <= 65535:
            raise InputError(f"--port is {self.port}; give 1 to 65535")
