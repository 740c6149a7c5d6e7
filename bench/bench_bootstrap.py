"""Bootstrap of the AUC: ours against a Python loop over scikit-learn's ``roc_auc_score``.

    python bench/bench_bootstrap.py

10 000 resamples of 1 277 patients, one case each. The loop is timed on a part of the resamples and scaled;
the two take turns so that a change of the machine's pace hits both. Prints each time, the ratio and its
95 % interval (t interval of the log ratios). Exit code 1 when the lower bound is below 100.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from scipy import stats
from sklearn.metrics import roc_auc_score

from medgraft.stats.intervals import bootstrap


def study(patients: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels at 30 % prevalence, scores with an AUC near .8, one case a patient."""
    generator = np.random.default_rng(seed)
    y = (generator.random(patients) < 0.3).astype(float)
    return y, generator.normal(size=patients) + 1.2 * y, np.arange(patients)


def loop(y: np.ndarray, p: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """What everybody writes."""
    generator = np.random.default_rng(seed)
    values = np.empty(resamples)
    for r in range(resamples):
        index = generator.integers(len(y), size=len(y))
        values[r] = roc_auc_score(y[index], p[index])
    return values


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=1277)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--part", type=int, default=400, help="resamples of the loop that are really run in each turn")
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    y, p, patient = study(options.patients)
    bootstrap(y, p, patient, resamples=256)  # warm both before timing
    loop(y, p, 20)
    ours, theirs = [], []
    for turn in range(options.turns):
        start = time.perf_counter()
        interval = bootstrap(y, p, patient, resamples=options.resamples, seed=turn)["auc"]
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        values = loop(y, p, options.part, seed=turn)
        theirs.append((time.perf_counter() - start) * options.resamples / options.part)
        print(f"turn {turn}: ours {ours[-1]:.3f} s, loop {theirs[-1]:.1f} s, ratio {theirs[-1] / ours[-1]:.0f}")
    logs = np.log(np.array(theirs) / np.array(ours))
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    middle, low, high = np.exp([logs.mean(), logs.mean() - half, logs.mean() + half])
    print(f"AUC {interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]")
    print(f"standard deviation over resamples: loop {values.std():.4f}, ours {interval.distribution.std():.4f}")
    print(f"{options.resamples} resamples of {options.patients} patients")
    print(f"{middle:.0f} times the loop's speed, 95 % interval {low:.0f} to {high:.0f}")
    return 0 if low >= 100 else 1


if __name__ == "__main__":
    sys.exit(main())
