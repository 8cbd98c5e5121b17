"""Train a photo captioner and run it over very many photos, on Ray.

    import raycap

    raycap.Captioner.load("work/model").caption("beach.jpg").caption        # no Ray needed
    raycap.extract(raycap.ExtractConfig(manifest="work/prepared/photos.parquet", out="work/features"))
    raycap.read_captions("work/captions")                                   # a pyarrow table

Names are loaded when they are first used: `import raycap` alone loads neither Ray, TensorFlow nor pyarrow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

__version__ = "0.1.0"

if TYPE_CHECKING:
    from raycap.captioner import Captioner, GeneratedCaption, PhotoCaption
    from raycap.config import (
        CaptionConfig,
        DecodingConfig,
        EvaluateConfig,
        ExtractConfig,
        FinetuneConfig,
        LimitsConfig,
        ModelConfig,
        ModelWorkersConfig,
        OutputConfig,
        PhotosConfig,
        PrepareConfig,
        TrainConfig,
        TuningConfig,
        WorkersConfig,
    )
    from raycap.errors import (
        ConflictError,
        DatasetError,
        EncoderMismatchError,
        FormatError,
        ImageDecodeError,
        ImageEmptyError,
        ImageError,
        ImageFeatureError,
        ImageMissingError,
        ImageShapeError,
        ImageTimeoutError,
        ImageTooLargeError,
        InputError,
        RaycapError,
        TooManyFailuresError,
        WeightsError,
        WorkerDiedError,
    )
    from raycap.readers import (
        read_captions,
        read_failures,
        read_features,
        read_hypotheses,
        read_manifest,
        read_references,
    )
    from raycap.stages.caption import caption
    from raycap.stages.evaluate import evaluate
    from raycap.stages.extract import extract
    from raycap.stages.finetune import finetune
    from raycap.stages.prepare import prepare
    from raycap.stages.train import train

__all__ = [
    "CaptionConfig",
    "Captioner",
    "ConflictError",
    "DatasetError",
    "DecodingConfig",
    "EncoderMismatchError",
    "EvaluateConfig",
    "ExtractConfig",
    "FinetuneConfig",
    "FormatError",
    "GeneratedCaption",
    "ImageDecodeError",
    "ImageEmptyError",
    "ImageError",
    "ImageFeatureError",
    "ImageMissingError",
    "ImageShapeError",
    "ImageTimeoutError",
    "ImageTooLargeError",
    "InputError",
    "LimitsConfig",
    "ModelConfig",
    "ModelWorkersConfig",
    "OutputConfig",
    "PhotoCaption",
    "PhotosConfig",
    "PrepareConfig",
    "RaycapError",
    "TooManyFailuresError",
    "TrainConfig",
    "TuningConfig",
    "WeightsError",
    "WorkerDiedError",
    "WorkersConfig",
    "__version__",
    "caption",
    "evaluate",
    "extract",
    "finetune",
    "prepare",
    "read_captions",
    "read_failures",
    "read_features",
    "read_hypotheses",
    "read_manifest",
    "read_references",
    "train",
]

_STAGES: Final = frozenset({"prepare", "finetune", "extract", "train", "evaluate", "caption"})
_CAPTIONER: Final = frozenset({"Captioner", "GeneratedCaption", "PhotoCaption"})


def _module_of(name: str) -> str:
    if name in _STAGES:
        return f"raycap.stages.{name}"
    if name in _CAPTIONER:
        return "raycap.captioner"
    if name.startswith("read_"):
        return "raycap.readers"
    return "raycap.config" if name.endswith("Config") else "raycap.errors"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'raycap' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_module_of(name)), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
