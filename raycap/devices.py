"""TensorFlow's threads and memory, set once a process before its first use; knows nothing of models or Ray."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import keras
import tensorflow as tf

from raycap.errors import InputError


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
