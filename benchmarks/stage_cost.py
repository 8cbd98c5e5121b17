"""What a stage costs: wall time, and the peak memory of each kind of process.

    python benchmarks/stage_cost.py raycap extract --manifest ... --out ...

Prints one table when the command ends. Memory is resident memory, sampled every 0.2 s, shared pages counted in each
process; kinds are the names that Ray gives its workers.
"""

import subprocess
import sys
import time
from collections.abc import Sequence

import psutil


def main(command: Sequence[str]) -> int:
    peaks: dict[str, float] = {}
    counts: dict[str, int] = {}
    started = time.monotonic()
    process = psutil.Popen(command)
    while process.poll() is None:
        sizes: dict[str, list[float]] = {}
        for each in [process, *process.children(recursive=True)]:
            try:
                line = each.cmdline()
                kind = "driver" if each.pid == process.pid else kind_of(line)
                sizes.setdefault(kind, []).append(each.memory_info().rss / 2**20)
            except psutil.Error:
                continue
        for kind, each_mib in sizes.items():
            peaks[kind] = max(peaks.get(kind, 0.0), *each_mib)
            counts[kind] = max(counts.get(kind, 0), len(each_mib))
        time.sleep(0.2)
    wall_s = time.monotonic() - started
    print(f"\n{' '.join(command[:2])}: {wall_s:.1f} s, exit code {process.returncode}")
    print(f"{'process':<44}{'at once':>8}{'peak MiB':>10}")
    for kind, peak in sorted(peaks.items(), key=lambda item: -item[1])[:12]:
        print(f"{kind:<44}{counts[kind]:>8}{peak:>10.0f}")
    return int(process.returncode)


def kind_of(command: Sequence[str]) -> str:
    first = command[0] if command else "gone"
    return first.split('"')[0].strip()[:42] if first.startswith("ray::") else "Ray's own"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.SubprocessError as error:
        sys.exit(str(error))
