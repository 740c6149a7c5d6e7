"""Time of ``medgraft --help`` as a user sees it. Bar: under 0.4 s (median of 15 runs after one warm-up).

python bench/bench_startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def main() -> None:
    times = []
    for _ in range(16):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "medgraft", "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    median = statistics.median(times[1:])
    print(
        f"medgraft --help: median {median:.3f} s, {min(times[1:]):.3f} to {max(times[1:]):.3f}; bar 0.4 s: "
        f"{'met' if median < 0.4 else 'MISSED'}"
    )


if __name__ == "__main__":
    main()
