"""Regression of one or several quantities, missing labels masked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch

from medgraft.config import TrainConfig
from medgraft.data.dataset import TargetSpec
from medgraft.datasets import Dataset
from medgraft.errors import UserError
from medgraft.notices import Notice
from medgraft.stats import metrics
from medgraft.tasks import linear
from medgraft.tasks.targets import quantities
from medgraft.tasks.task import Answer, Columns, Grid, Joins, Linear, TaskSpec, Trivial, labelled


class Regress:
    """Mean squared error in units of the training part's standard deviation; predictions in the label's own unit.

    ``center`` and ``scale`` (T,) come from the training labels (``fit_scale``) and travel with the
    checkpoint, so that a served model answers in the label's unit. The network answers
    ``scale * output + center``, so ``center`` is a bias of its last layer: with ``center`` 55.6 and ``scale`` 1
    it learns exactly as one whose bias starts at 55.6 and whose loss is in squared points (EchoNet-Dynamic).
    """

    name: ClassVar[str] = "regress"
    joins: ClassVar[Joins] = "case"
    yes_no = False

    @property
    def stratify(self) -> tuple[str, ...]:
        return tuple(target.name for target in self.targets)

    def __init__(self, targets: Sequence[TargetSpec], center: float | None = None, scale: float | None = None) -> None:
        """``center`` and ``scale`` given here stay, whatever the labels; only a single quantity has them."""
        if len(targets) > 1 and (center is not None or scale is not None):
            raise UserError(
                f"label_center and label_scale are of one quantity, there are {len(targets)}",
                fix="leave them out, or choose one target",
            )
        self.targets = list(targets)
        self.metric = metrics.METRICS["mae"]
        self._given = (center, scale)
        self.outputs = len(targets)
        self.center = np.full(self.outputs, 0.0 if center is None else center, np.float32)
        self.scale = np.full(self.outputs, 1.0 if scale is None else scale, np.float32)

    @property
    def question(self) -> str:
        return "regression" if self.outputs == 1 else "quantities"

    @classmethod
    def describe(cls, dataset: Dataset, names: Sequence[str], classes: Sequence[str]) -> TaskSpec:
        return TaskSpec(cls.name, tuple(quantities(dataset, names)), classes=tuple(classes))

    @classmethod
    def make(cls, spec: TaskSpec, setting: TrainConfig | None = None) -> Regress:
        setting = setting or TrainConfig()
        return cls(spec.targets, setting.label_center, setting.label_scale)

    def usable(self, manifest: pl.DataFrame) -> pl.Series:
        """Rows with a value of at least one quantity."""
        return labelled(manifest, self.targets)

    def remarks(self, dataset: Dataset) -> list[Notice]:
        return []

    def refuse(self, setting: TrainConfig, join: str) -> None:
        pass

    def fit(self, y: np.ndarray) -> None:
        """Mean and standard deviation of the training labels (n, T), NaN ignored, unless they were given."""
        center, scale = self._given
        if center is None:
            self.center = np.nanmean(y, axis=0).astype(np.float32)
        if scale is None:
            spread = np.nanstd(y, axis=0).astype(np.float32)
            self.scale = np.where(spread > 0, spread, 1.0).astype(np.float32)

    def _to(self, array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(array, device=like.device, dtype=torch.float32)

    def loss(self, output: torch.Tensor, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Mean squared error over known labels, standardised. ``output (B, T)`` standardised."""
        y = batch["y"]
        known = ~torch.isnan(y)
        target = (torch.nan_to_num(y) - self._to(self.center, y)) / self._to(self.scale, y)
        each = (output.float() - target) ** 2
        return {"loss": (each * known).sum() / known.sum().clamp(min=1)}

    def scores(self, output: torch.Tensor) -> torch.Tensor:
        """Quantities (B, T) in the label's unit."""
        return output.float() * self._to(self.scale, output) + self._to(self.center, output)

    def rows(
        self, case_ids: Sequence[str], patient_ids: Sequence[str], truth: np.ndarray, scores: np.ndarray
    ) -> Columns:
        """``truth (n, T)`` with NaN, ``scores (n, T)`` -> prediction columns with an empty class."""
        columns: Columns = {k: [] for k in ("patient_id", "case_id", "target", "class", "y_true", "y_pred")}
        for j, target in enumerate(self.targets):
            columns["patient_id"] += list(patient_ids)
            columns["case_id"] += list(case_ids)
            columns["target"] += [target.name] * len(case_ids)
            columns["class"] += [""] * len(case_ids)
            columns["y_true"] += [None if np.isnan(v) else float(v) for v in truth[:, j]]
            columns["y_pred"] += [float(v) for v in scores[:, j]]
        return columns

    def summary(self, columns: Columns) -> dict[str, float]:
        """Mean over targets of MAE (divided by the training spread where there are several) and R2."""
        n = len(columns["case_id"]) // self.outputs
        truth = np.array([np.nan if v is None else v for v in columns["y_true"]], float).reshape(self.outputs, n)
        pred = np.array(columns["y_pred"], float).reshape(self.outputs, n)
        maes, r2s = [], []
        for j in range(self.outputs):
            known = ~np.isnan(truth[j])
            divisor = float(self.scale[j]) if self.outputs > 1 else 1.0
            maes.append(metrics.point("mae", truth[j, known], pred[j, known]) / divisor)
            r2s.append(metrics.point("r2", truth[j, known], pred[j, known]))
        return {"mae": float(np.mean(maes)), "r2": float(np.mean(r2s))}

    def state(self) -> dict[str, np.ndarray]:
        return {"center": self.center, "scale": self.scale}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        self.center, self.scale = np.asarray(state["center"]), np.asarray(state["scale"])

    def closed_form(
        self, x: np.ndarray, y: np.ndarray, patients: np.ndarray, *, c: float | None, seed: int, balanced: bool = False
    ) -> Linear | None:
        """Ridge regression of each quantity, in units of ``scale``, on standardised features."""
        x, mean, spread = linear.standardise(x)
        weight, bias, used = np.zeros((self.outputs, x.shape[1])), np.zeros(self.outputs), 0.0
        for j in range(y.shape[1]):
            known = ~np.isnan(y[:, j])
            target = (y[known, j] - self.center[j]) / self.scale[j]
            fitted = linear.fit(x[known], target, patients[known], kind="quantity", judge=self._close, c=c, seed=seed)
            weight[j], bias[j], used = fitted.weight[0], fitted.bias[0], fitted.c
        return Linear(*linear.fold_in(weight, bias, mean, spread), used)

    def _close(self, truth: np.ndarray, value: np.ndarray, folds: np.ndarray) -> float:
        return -metrics.point("mae", truth, value)

    def trivial(self, truths: Iterable[np.ndarray], grids: Sequence[Grid], kind: str) -> list[Trivial]:
        """The mean of the training labels (least squared error) and their median (least absolute error), in the label's
        unit. Empty where a target has no training label.
        """
        y = np.stack(list(truths)).astype(np.float64)
        if np.isnan(y).all(axis=0).any():
            return []
        mean, median = np.nanmean(y, axis=0), np.nanmedian(y, axis=0)
        return [
            Trivial("mean", ("Mean of the training part", "训练部分的均值"), lambda grid: mean),
            Trivial("median", ("Median of the training part", "训练部分的中位数"), lambda grid: median),
        ]

    def answer(self, scores: np.ndarray, case: Mapping[str, Any], *, threshold: float | None) -> Answer:
        """Each quantity in its label's unit."""
        return Answer({target.name: float(score) for target, score in zip(self.targets, scores)})
