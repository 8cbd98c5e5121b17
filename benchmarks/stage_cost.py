"""What a stage costs: wall time, and the peak memory of each kind of process.

    python benchmarks/stage_cost.py raycap extract --manifest ... --out ...

Prints one table when the command ends. Memory is resident memory, sampled every second; what processes share, libraries
and Ray's object store, is counted in each of them. Kinds are the names that Ray gives its workers.
"""

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

_EVERY_S = 1.0


@dataclass
class Cost:
    wall_s: float = 0.0
    exit_code: int = 0
    peak_mib: dict[str, float] = field(default_factory=dict)
    at_once: dict[str, int] = field(default_factory=dict)
    cpu: list[tuple[float, float]] = field(default_factory=list)
    """At each look: when, in seconds since the epoch, and the core seconds of all processes until then."""


def measure(command: Sequence[str]) -> Cost:
    """Run a command and watch it and all that it starts."""
    cost = Cost()
    started = time.monotonic()
    process = psutil.Popen(command)
    core_s: dict[int, float] = {}
    while process.poll() is None:
        sizes: dict[str, list[float]] = {}
        for each in [process, *process.children(recursive=True)]:
            try:
                line = each.cmdline()
                kind = "driver" if each.pid == process.pid else kind_of(line)
                sizes.setdefault(kind, []).append(each.memory_info().rss / 2**20)
                core_s[each.pid] = sum(each.cpu_times()[:2])
            except psutil.Error:
                continue
        cost.cpu.append((time.time(), sum(core_s.values())))
        for kind, each_mib in sizes.items():
            cost.peak_mib[kind] = max(cost.peak_mib.get(kind, 0.0), *each_mib)
            cost.at_once[kind] = max(cost.at_once.get(kind, 0), len(each_mib))
        time.sleep(
            _EVERY_S if time.monotonic() - started > _EVERY_S else 0.2
        )  # a look costs some milliseconds of a core
    cost.wall_s, cost.exit_code = time.monotonic() - started, int(process.returncode)
    return cost


def kind_of(command: Sequence[str]) -> str:
    """Return the name of a process's kind: Ray's workers rename themselves after what they run."""
    first = command[0] if command else "gone"
    if not first.startswith("ray::"):
        return "Ray's own"
    name = first.removeprefix("ray::").split('"')[0].strip()
    return re.sub(r"\.\w+$", "", name)[:60]  # an actor's method says nothing of its kind


def main(command: Sequence[str]) -> int:
    cost = measure(command)
    print(f"\n{' '.join(command[:2])}: {cost.wall_s:.1f} s, exit code {cost.exit_code}")
    print(f"{'process':<62}{'at once':>8}{'peak MiB':>10}")
    for kind, peak in sorted(cost.peak_mib.items(), key=lambda item: -item[1])[:12]:
        print(f"{kind:<62}{cost.at_once[kind]:>8}{peak:>10.0f}")
    return cost.exit_code


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.SubprocessError as error:
        sys.exit(str(error))
