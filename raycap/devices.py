"""TensorFlow's threads and memory, set once a process before its first use; knows nothing of models or Ray."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from raycap.errors import InputError

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep off standard error what TensorFlow's libraries write as they are loaded, which no setting of theirs does."""
    if os.environ.get("RAYCAP_VERBOSE"):
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


with _quietly():
    import keras
    import tensorflow as tf


def configure(num_threads: int | None = None) -> None:
    """Prepare TensorFlow for this process; call before anything else touches it.

    TensorFlow does not look at OMP_NUM_THREADS and takes every core of the machine: two processes on two cores fight.

    Args:
        num_threads: threads of an operation; None leaves TensorFlow's choice.

    Raises:
        InputError: if Keras runs on another backend.
    """
    if keras.backend.backend() != "tensorflow":
        raise InputError(f"Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=tensorflow")
    if num_threads is not None:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(num_threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError:  # TensorFlow has run in this process already, and keeps the threads it has
            return
