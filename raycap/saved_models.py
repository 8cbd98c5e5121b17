"""Saved Keras models, perhaps a stranger's: what is in one is checked before Keras opens it. Knows no framework.

Keras' own `safe_mode` refuses layers made of Python code. As ways around it have been found before, what may be in a
file is listed here as well: three members, and Keras' own layers, operations and what they are configured with.
"""

import io
import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from raycap.storage import read_bytes

_CONFIG: Final = "config.json"
_MEMBERS: Final = frozenset({"metadata.json", _CONFIG, "model.weights.h5"})
_MAX_CONFIG_BYTES: Final = 64 * 2**20
# a file that unpacks to more than this, and to so many times its own size, is there to fill the memory
_BOMB_BYTES, _BOMB_RATIO = 2**28, 20

_VALUES = frozenset({"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"})
_CLASSES_FROM = frozenset({"keras"}) | {
    f"keras.{name}"
    for name in (
        *("layers", "models", "initializers", "regularizers", "constraints", "dtype_policies", "quantizers", "random"),
        *("optimizers", "optimizers.schedules", "losses", "metrics"),
    )
}
_CLASSES_INSIDE = ("keras.src.ops.", "keras.src.models.", "keras.src.layers.", "keras.src.applications.")
_FUNCTIONS_FROM = frozenset({"builtins", "keras.activations", "keras.ops", "keras.initializers", "keras.losses"})
# Keras' own, but made of code or files
_REFUSED = frozenset({"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"})


@contextmanager
def checked_copy(location: str) -> Iterator[Path]:
    """Yield a local copy of the `.keras` file at `location`, which Keras may open with `safe_mode`.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not a saved Keras model, or holds anything but Keras' own layers.
    """
    content = read_bytes(location)
    check_config(read_config(content))
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "model.keras"
        local.write_bytes(content)
        yield local


def read_config(content: bytes) -> Any:
    """Return the configuration in a `.keras` file.

    Raises:
        ValueError: if it is no such file, holds other files too, or unpacks to far more than it is.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_members(archive.infolist(), len(content))
            return json.loads(archive.read(_CONFIG))
    except (zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError, RuntimeError) as error:
        # RuntimeError: an encrypted member, or JSON that is nested too deeply
        raise ValueError(f"it is not a whole saved Keras model: {error}") from error


def _check_members(members: list[zipfile.ZipInfo], num_bytes: int) -> None:
    others = [each.filename for each in members if each.filename not in _MEMBERS]
    if others or len(members) > len(_MEMBERS):
        raise ValueError(f"it holds {(others or ['a file twice'])[0]!r:.80}; only {', '.join(sorted(_MEMBERS))} may be")
    unpacked = sum(each.file_size for each in members)
    config_bytes = sum(each.file_size for each in members if each.filename == _CONFIG)
    if config_bytes > _MAX_CONFIG_BYTES or (unpacked > _BOMB_BYTES and unpacked > _BOMB_RATIO * num_bytes):
        raise ValueError(f"it would unpack to {unpacked:,} bytes")


def check_config(config: Any) -> None:
    """Check that a model's configuration names nothing but Keras' own layers, operations and functions.

    How the model was compiled is left out, as it is never loaded.

    Raises:
        ValueError: naming what is something else.
    """
    queue = [config]
    if isinstance(config, dict):
        queue = [value for name, value in config.items() if name != "compile_config"]
        _check_object(config)
    while queue:
        each = queue.pop()
        if isinstance(each, dict):
            if "class_name" in each:
                _check_object(each)
            queue += each.values()
        elif isinstance(each, list):
            queue += each


def _check_object(named: Mapping[str, Any]) -> None:
    kind, module, registered = (named.get(name) for name in ("class_name", "module", "registered_name"))
    name = named.get("config") if kind == "function" else kind
    if isinstance(kind, str) and kind in _VALUES and module is None:
        return
    if not isinstance(kind, str) or not isinstance(name, str) or not isinstance(module, str):
        known = False
    elif kind == "function":
        known = module in _FUNCTIONS_FROM
    else:
        known = module in _CLASSES_FROM or module.startswith(_CLASSES_INSIDE)
    if not known or kind in _REFUSED or registered not in (None, name):
        said = f"{module}.{name}" if registered in (None, name) else registered
        raise ValueError(f"it holds {said!r:.80}; only Keras' own layers and operations are loaded, as others run code")
