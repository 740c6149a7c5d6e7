"""How strongly an acquisition fact goes with a label: a data set whose scanner tells the diagnosis proves nothing about
models.

The strength is one number from 0 (unrelated) to 1 (one tells the other): Cramér's V with Bergsma's bias correction
(2013) for two categories; the correlation ratio of the ranks (for two classes the rank point-biserial correlation),
its square corrected for chance as Kelley's epsilon squared (1935), for a number and a category; Spearman's rho without
its sign for two numbers.

p is by permutation of patients, because the images of one patient are not independent: each patient gets the facts of
another (the donor's images in turn), labels stay, and p = (1 + as strong or stronger) / (1 + permutations).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata


@dataclass(frozen=True)
class Association:
    """``strength`` 0..1 of ``measure`` (cramer_v, rank_eta, spearman), ``p`` by permutation of ``patients``, over the
    ``n`` cases that have both.
    """

    measure: str
    strength: float
    p: float
    n: int
    patients: int


def associate(
    fact: list[Any], label: list[Any], patient: list[str], *, permutations: int = 999, seed: int = 0
) -> Association | None:
    """Association of a fact with a label over the cases where both are known; None where either is the same everywhere.

    Text is a category, numbers are numbers.
    """
    known = [i for i, (f, y) in enumerate(zip(fact, label, strict=True)) if f is not None and y is not None]
    fact, label = [fact[i] for i in known], [label[i] for i in known]
    if len(set(fact)) < 2 or len(set(label)) < 2:
        return None
    x, x_categories = _coded(fact)
    y, y_categories = _coded(label)
    groups = np.unique([patient[i] for i in known], return_inverse=True)[1]
    if not x_categories and y_categories:
        measure = "rank_eta"
        observed = _eta(x[None], y, y_categories)[0]
    elif x_categories and not y_categories:
        measure = "rank_eta"
        observed = _eta_of(x[None], y, x_categories)[0]
    elif x_categories:
        measure = "cramer_v"
        observed = _cramer(x[None], y, x_categories, y_categories)[0]
    else:
        measure = "spearman"
        observed = _rho(x[None], y)[0]
    rng = np.random.default_rng(seed)
    reached = 0
    block = max(1, (1 << 22) // len(x))
    for start in range(0, permutations, block):
        moved = x[donors(groups, rng, min(block, permutations - start))]
        if measure == "cramer_v":
            drawn = _cramer(moved, y, x_categories, y_categories)
        elif measure == "spearman":
            drawn = _rho(moved, y)
        else:
            drawn = _eta_of(moved, y, x_categories) if x_categories else _eta(moved, y, y_categories)
        reached += int((drawn >= observed - 1e-12).sum())
    return Association(measure, float(observed), (1 + reached) / (1 + permutations), len(x), int(groups.max()) + 1)


def _coded(values: list[Any]) -> tuple[np.ndarray, int]:
    """Categories as codes with their number, or ranks of numbers with 0."""
    if any(isinstance(v, str) for v in values):
        names, codes = np.unique([str(v) for v in values], return_inverse=True)
        return codes.astype(np.int64), len(names)
    return rankdata(np.asarray(values, float)), 0


def donors(groups: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, n) places: for the j-th image of a patient the j-th of the patient it is given, from the first again
    where that one has fewer.
    """
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    starts = np.cumsum(sizes) - sizes
    within = np.empty(len(groups), np.int64)
    within[order] = np.arange(len(groups)) - np.repeat(starts, sizes)
    given = rng.permuted(np.tile(np.arange(len(sizes)), (count, 1)), axis=1)[:, groups]
    return np.asarray(order[starts[given] + within % sizes[given]])


def _cramer(x: np.ndarray, y: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Bias-corrected Cramér's V of each row of codes ``x`` (m, n) with ``y`` (n,)."""
    m, n = x.shape
    cells = (np.arange(m)[:, None] * rows + x) * columns + y
    table = np.bincount(cells.reshape(-1), minlength=m * rows * columns).reshape(m, rows, columns).astype(float)
    expected = table.sum(axis=2, keepdims=True) * table.sum(axis=1, keepdims=True) / n
    chi = np.where(expected > 0, (table - expected) ** 2 / np.maximum(expected, 1e-12), 0).sum(axis=(1, 2))
    r, c = rows - (rows - 1) ** 2 / max(n - 1, 1), columns - (columns - 1) ** 2 / max(n - 1, 1)
    phi = np.maximum(0, chi / n - (rows - 1) * (columns - 1) / max(n - 1, 1))
    return np.asarray(np.sqrt(np.minimum(1.0, phi / max(min(r, c) - 1, 1e-12))))


def _eta(x: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
    """Correlation ratio of the ranks ``x`` (m, n) over the classes ``y`` (n,)."""
    m, n = x.shape
    centred = x - x.mean(axis=1, keepdims=True)
    total = (centred**2).sum(axis=1)
    between = np.zeros(m)
    for k in range(classes):
        members = y == k
        if members.any():
            between += members.sum() * centred[:, members].mean(axis=1) ** 2
    return _corrected(between / np.maximum(total, 1e-12), n, classes)


def _eta_of(x: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
    """Correlation ratio of the ranks ``y`` (n,) over the classes in each row of ``x`` (m, n)."""
    m, _ = x.shape
    centred = y - y.mean()
    cells = np.arange(m)[:, None] * classes + x
    sums = np.bincount(cells.reshape(-1), np.tile(centred, m), minlength=m * classes).reshape(m, classes)
    counts = np.bincount(cells.reshape(-1), minlength=m * classes).reshape(m, classes)
    return _corrected((sums**2 / np.maximum(counts, 1)).sum(axis=1) / max((centred**2).sum(), 1e-12), len(y), classes)


def _corrected(share: np.ndarray, n: int, classes: int) -> np.ndarray:
    """Root of the explained share, less what as many classes explain by chance."""
    return np.asarray(np.sqrt(np.maximum(0, 1 - (1 - share) * (n - 1) / max(n - classes, 1))))


def _rho(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Size of the rank correlation of each row of ``x`` (m, n) with ``y`` (n,)."""
    a, b = x - x.mean(axis=1, keepdims=True), y - y.mean()
    return np.asarray(np.abs(a @ b) / np.sqrt(np.maximum((a**2).sum(axis=1) * (b**2).sum(), 1e-12)))
