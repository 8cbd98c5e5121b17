"""What the machine allows: the limit that a benchmark's figures stand beside, measured in the same run."""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_SIDE = 2048


def median_s(work: Callable[[], Any], repetitions: int = 5) -> float:
    """Return the median time of a call, the first left out."""
    work()
    times = []
    for _ in range(repetitions):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def output_of(what: str, command: Sequence[str]) -> str:
    """Return a command's standard output; end with the last thing that it said if it fails."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
        raise SystemExit(f"{what}: {said[-1]}")
    return ended.stdout


def peak_gflops(rows: int = _SIDE, inner: int = _SIDE, columns: int = _SIDE) -> float:
    """Return the GFLOP/s of a float32 matrix product, by default a large one, the better of numpy's and TensorFlow's.

    TensorFlow's threads must be set before, as for what is measured beside.
    """
    import numpy as np
    import tensorflow as tf
    from threadpoolctl import threadpool_limits

    num_threads = os.cpu_count() or 1
    rng = np.random.default_rng(0)
    left = rng.normal(size=(rows, inner)).astype(np.float32)
    right = rng.normal(size=(inner, columns)).astype(np.float32)
    out = np.empty((rows, columns), np.float32)
    parts = np.array_split(np.arange(rows), num_threads)
    on_device = tf.constant(left), tf.constant(right)
    product = tf.function(tf.matmul)
    with ThreadPoolExecutor(num_threads) as threads, threadpool_limits(1, "blas"):

        def with_numpy() -> None:
            list(threads.map(lambda part: np.matmul(left[part], right, out=out[part[0] : part[-1] + 1]), parts))

        fastest = min(median_s(with_numpy, 7), median_s(lambda: product(*on_device).numpy(), 7))
    return 2 * rows * inner * columns / fastest / 1e9


def print_table(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Print rows as a table, the first column left, numbers to three significant digits."""
    texts = [tuple(_text(each) for each in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    print(f"\n{title}")
    for row in (columns, *texts):
        print(
            "  ".join(
                text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
            )
        )


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
