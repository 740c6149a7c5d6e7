"""Private memory while training batches are made: with 1 and 10 times the cases, with 0 and 4 workers.

    python bench/bench_memory.py

Each measurement is a fresh process that walks through training batches (8 clips of 32x112x112, stride 2,
pad-crop) of 176-frame videos. USS is ``Private_Clean + Private_Dirty`` of ``/proc/PID/smaps_rollup``: what
would come free if the process ended. It is read every tenth batch after all cases were seen; the
median counts. Measured are the training process and the largest of its workers, each by itself:
workers are processes, so their sum grows with their number by design, and ``plan_memory`` counts it. The
sum of PSS (shared pages divided among their users) is printed as the cost of all together.

Bars, each at most 1.10: training process and worker at 10 times the cases against 1 time; training process
with 4 workers against none. Forked workers share pages with the training process, which lowers its USS;
so workers are spawned here, and the comparison is one of equals. Exit code 1 when a bar is missed.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from bench_clips import BATCH, clips_of, picture, write_data_set

from medgraft.data.loader import train_batches
from medgraft.datasets import load_dataset

CASES, MOST, WORKERS, STEPS = 20, 10, 4, 240


def kilobytes(pid: int | str, *names: str) -> int:
    """Sum of the named lines of a process's memory summary."""
    with open(f"/proc/{pid}/smaps_rollup") as stream:
        return sum(int(line.split()[1]) for line in stream if line.split(":")[0] in names)


def workers_of(pid: int | str) -> list[int]:
    """Children that make batches; the resource tracker of the spawn method is not one."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(c) for c in children if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()]


def measure(folder: Path, cases: int, workers: int) -> dict[str, float]:
    """Walk through batches; medians in MB of the training process, its largest worker and all together (PSS)."""
    clips = clips_of(load_dataset(folder), cases)
    main, worker, every = [], [], []
    batches = train_batches(
        clips, seed=0, steps=STEPS, batch_size=BATCH, workers=workers, context="spawn" if workers else None
    )
    for step, _ in batches:
        # By a third of the way all cases were seen; near the end workers begin to leave.
        if STEPS // 3 <= step < STEPS - 4 * WORKERS and step % 10 == 0:
            family = [os.getpid(), *workers_of(os.getpid())]
            private = [kilobytes(pid, "Private_Clean", "Private_Dirty") for pid in family]
            main.append(private[0])
            worker.append(max(private[1:], default=0))
            every.append(sum(kilobytes(pid, "Pss") for pid in family))
    return {
        name: statistics.median(values) / 1024 for name, values in (("main", main), ("worker", worker), ("all", every))
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs=3, metavar=("FOLDER", "CASES", "WORKERS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        folder, cases, workers = arguments.measure
        print(json.dumps(measure(Path(folder), int(cases), int(workers))))
        return 0

    seen: dict[tuple[int, int], dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        write_data_set(Path(folder), (picture(rng) for _ in range(CASES * MOST)))
        for workers in (0, WORKERS):
            for cases in (CASES, CASES * MOST):
                command = [sys.executable, __file__, "--measure", folder, str(cases), str(workers)]
                seen[cases, workers] = json.loads(
                    subprocess.run(command, check=True, capture_output=True, text=True).stdout
                )

    print(
        f"{BATCH} clips of 32x112x112 a batch; {CASES} and {CASES * MOST} videos of {176 * 112 * 112 / 1e6:.1f} MB; "
        f"private memory (USS) in MB"
    )
    print(
        f"{'workers':>7s} {'cases':>6s} {'training process':>17s} {'largest worker':>15s} {'all, shared divided':>20s}"
    )
    for (cases, workers), mb in seen.items():
        print(f"{workers:7d} {cases:6d} {mb['main']:17.0f} {mb['worker'] or float('nan'):15.0f} {mb['all']:20.0f}")
    few, many = CASES, CASES * MOST
    ratios = {
        f"training process, {MOST} times the cases, 0 workers": seen[many, 0]["main"] / seen[few, 0]["main"],
        f"training process, {MOST} times the cases, {WORKERS} workers": seen[many, WORKERS]["main"]
        / seen[few, WORKERS]["main"],
        f"worker, {MOST} times the cases": seen[many, WORKERS]["worker"] / seen[few, WORKERS]["worker"],
        f"training process, {WORKERS} workers against none": seen[many, WORKERS]["main"] / seen[many, 0]["main"],
    }
    for name, ratio in ratios.items():
        print(f"{name:50s} {ratio:5.2f}  {'held' if ratio <= 1.1 else 'MISSED'}")
    return 0 if max(ratios.values()) <= 1.1 else 1


if __name__ == "__main__":
    sys.exit(main())
