"""One model's answers as arrays, one row a seed; of cases, or averaged over the cases of a patient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

ID = pl.concat_str(["model", "start", "strategy"], separator=" · ").alias("id")
Entry = dict[str, Any]  # a part of summary.json


@dataclass(frozen=True)
class Judged:
    """One model's answers on n cases (or patients) with S seeds.

    ``y_true`` (n,) or (n, T), None for segmentation; ``y_pred`` (S, n), (S, n, C or T) or (S, n, K, 3); ``outer`` (S,
    n) the fold in which each was a test case; ``seeds`` name of each row. ``votes`` (S, n), where the windows of a
    case vote on a yes/no target: the share of them that said yes. It decides what the case is called;
    ``y_pred`` stays the mean probability, which ranks.
    """

    id: str
    cases: np.ndarray
    patients: np.ndarray
    y_true: np.ndarray | None
    y_pred: np.ndarray
    outer: np.ndarray
    seeds: list[str]
    votes: np.ndarray | None = None

    def decided(self, threshold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What decisions are taken of: scores (S, n, ...) and the threshold (n,) they must reach.

        A tie of votes is a no.
        """
        return (
            (self.y_pred, threshold)
            if self.votes is None
            else ((self.votes > 0.5).astype(np.float64), np.full(len(threshold), 0.5))
        )

    def taken(self, needs_threshold: bool, threshold: np.ndarray) -> dict[str, Any]:
        """What a measure is taken of, as arguments of ``intervals.answers``: calls where it needs a threshold, else
        scores; ranked within the fold whose network scored a case.
        """
        scores, at = self.decided(threshold) if needs_threshold else (self.y_pred, threshold)
        return {
            "y_true": self.y_true,
            "y_pred": scores,
            "patient": self.patients,
            "threshold": at,
            "strata": self.outer,
        }

    def take(self, rows: np.ndarray) -> Judged:
        """Some of the cases (mask or indices)."""
        return replace(
            self,
            cases=self.cases[rows],
            patients=self.patients[rows],
            y_true=None if self.y_true is None else self.y_true[rows],
            y_pred=self.y_pred[:, rows],
            outer=self.outer[:, rows],
            votes=None if self.votes is None else self.votes[:, rows],
        )


def by_patient(judged: Judged) -> Judged | None:
    """The mean prediction of each patient over its cases; None where labels differ within a patient."""
    if judged.y_true is None:
        return None
    names, first, codes = np.unique(judged.patients, return_index=True, return_inverse=True)
    y = judged.y_true.reshape(len(codes), -1)
    truth = np.full((len(names), y.shape[1]), np.nan)
    for t in range(y.shape[1]):
        known = ~np.isnan(y[:, t])
        truth[codes[known], t] = y[known, t]
        if (truth[codes[known], t] != y[known, t]).any():
            return None
    flat = judged.y_pred.reshape(len(judged.seeds), len(codes), -1)
    member = sparse.csr_matrix((1 / np.bincount(codes)[codes], (codes, np.arange(len(codes)))))
    mean = np.stack([member @ scores for scores in flat])
    votes = None if judged.votes is None else np.stack([member @ share for share in judged.votes])
    return replace(
        judged,
        cases=names,
        patients=names,
        y_true=truth.reshape((len(names), *judged.y_true.shape[1:])),
        y_pred=mean.reshape((len(judged.seeds), len(names), *judged.y_pred.shape[2:])),
        outer=judged.outer[:, first],
        votes=votes,
    )
