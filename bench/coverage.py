"""Do the intervals hold the truth as often as they say, and do tests of equal models find nothing?

    python bench/coverage.py                     1 000 studies a cell; writes bench/results/coverage.json (30 minutes)
    python bench/coverage.py studies=200         fewer
    python bench/coverage.py page                write the tables of docs/statistics.md from the results

A study has patients of two classes with one case each, or one to four whose scores have an intraclass correlation of
.6; scores are normal, as far apart as the true AUC asks. The threshold lies half way. Nominal: 95 % of the intervals
hold the truth, and of the tests of two equally good models (their errors correlated by .5) 5 % find a difference.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from medgraft.stats.compare import compare_two
from medgraft.stats.intervals import bootstrap

RESULTS = Path(__file__).resolve().parent / "results" / "coverage.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "statistics.md"
START, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"
MEASURES = ("auc", "sensitivity", "specificity", "accuracy", "balanced_accuracy")
COMPARED = ("auc", "accuracy", "balanced_accuracy")
RHO, BETWEEN = 0.6, 0.5

#: (true AUC, patients, share of positive patients, several cases a patient)
Cell = tuple[float, int, float, bool]


def cells() -> Iterator[Cell]:
    """All cells of the table."""
    for several in (False, True):
        for patients in (50, 100, 200):
            for share in (0.5, 0.2, 0.1):
                for auc in (0.75, 0.90, 0.98):
                    yield auc, patients, share, several


class Study:
    """One made-up study: labels, patients, and as many models' scores as are drawn from it."""

    def __init__(self, cell: Cell, number: int) -> None:
        auc, self.n, share, several = cell
        self.g = np.random.Generator(np.random.Philox(key=number, counter=[0, 0, self.n, int(1000 * auc)]))
        sizes = self.g.integers(1, 5, self.n) if several else np.ones(self.n, dtype=int)
        self.patient = np.repeat(np.arange(self.n), sizes)
        self.y = (self.patient < round(self.n * share)).astype(float)
        self.apart, self.several = float(np.sqrt(2) * norm.ppf(auc)), several

    def noise(self) -> np.ndarray:
        """Standard normal errors (n,), correlated within patients where these have several cases."""
        own = self.g.normal(size=len(self.patient))
        if not self.several:
            return own
        return np.sqrt(RHO) * self.g.normal(size=self.n)[self.patient] + np.sqrt(1 - RHO) * own

    def scores(self, common: np.ndarray | None = None) -> np.ndarray:
        """Scores of a model, half of whose errors are those of ``common``."""
        own = self.noise()
        error = own if common is None else np.sqrt(BETWEEN) * common + np.sqrt(1 - BETWEEN) * own
        return self.apart * self.y + error


def run(job: tuple[Cell, int]) -> dict[str, Any]:
    """A cell: how often intervals hold the truth, and how often equal models are called different."""
    cell, studies = job
    held, found = dict.fromkeys(MEASURES, 0), dict.fromkeys(COMPARED, 0)
    for number in range(studies):
        study = Study(cell, number)
        right = float(norm.cdf(study.apart / 2))
        truth = dict.fromkeys(MEASURES, right) | {"auc": cell[0]}
        given = (study.y, study.scores(), study.patient)
        told = bootstrap(*given, MEASURES, threshold=study.apart / 2, resamples=64)  # the bounds need no resamples
        for name in MEASURES:
            held[name] += told[name].low <= truth[name] <= told[name].high
        common = study.noise()
        a, b = study.scores(common), study.scores(common)
        for name in COMPARED:
            p = compare_two(study.y, a, b, study.patient, name, threshold=study.apart / 2).p
            found[name] += p < 0.05
    share = lambda counts: {k: v / studies for k, v in counts.items()}  # noqa: E731
    return {"cell": list(cell), "studies": studies, "held": share(held), "rejected": share(found)}


def page(rows: list[dict[str, Any]]) -> str:
    """The two tables as Markdown, in per cent."""
    head = ["true AUC", "patients", "positive", "cases a patient"]
    words = {"auc": "AUC", "balanced_accuracy": "balanced accuracy"}
    lines = [f"{rows[0]['studies']} studies a cell; intervals of 95 % that hold the truth, in per cent:", ""]
    for key, names in (("held", MEASURES), ("rejected", COMPARED)):
        lines += ["| " + " | ".join([*head, *(words.get(n, n) for n in names)]) + " |", "|---" * (4 + len(names)) + "|"]
        for row in rows:
            auc, patients, share, several = row["cell"]
            first = [f"{auc:.2f}", f"{patients}", f"{round(patients * share)}", "1 to 4" if several else "1"]
            lines.append("| " + " | ".join([*first, *(f"{100 * row[key][n]:.1f}" for n in names)]) + " |")
        if key == "held":
            lines += ["", "Two equally good models called different at .05, in per cent:", ""]
    return "\n".join(lines)


def main(words: list[str]) -> None:
    studies = int(next((w.partition("=")[2] for w in words if w.startswith("studies=")), 1000))
    if "page" not in words:
        with ProcessPoolExecutor() as pool:
            rows = []
            for row in pool.map(run, [(cell, studies) for cell in cells()]):
                rows.append(row)
                said = " ".join(
                    f"{k} {100 * v:.1f}" for k, v in (row["held"] | {"| auc p": row["rejected"]["auc"]}).items()
                )
                print(*row["cell"], said, flush=True)
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    rows = json.loads(RESULTS.read_text())
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(START)[0], text.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n{page(rows)}\n{END}{after}", encoding="utf-8")
    flat = [v for row in rows for v in row["held"].values()]
    print(f"{sum(0.93 <= v <= 0.97 for v in flat)} of {len(flat)} cells between 93 and 97 %, lowest {min(flat):.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
