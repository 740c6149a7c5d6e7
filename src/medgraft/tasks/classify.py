"""Classification: binary, multi-class and multi-label, missing labels masked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from torch.nn import functional

from medgraft.config import TrainConfig
from medgraft.data.dataset import TargetSpec
from medgraft.datasets import Dataset
from medgraft.errors import UserError
from medgraft.notices import Notice
from medgraft.stats import metrics
from medgraft.tasks import linear
from medgraft.tasks.targets import specs
from medgraft.tasks.task import Answer, Columns, Grid, Joins, Linear, TaskSpec, Trivial, labelled


class Classify:
    """One multi-class target (softmax over its classes), or one or several yes/no targets (sigmoid each).

    Labels arrive as ``batch["y"] (B, T)``: class index for a multi-class target, 0 or 1 for yes/no,
    NaN where missing; missing ones add nothing to the loss. ``logits=2`` gives a yes/no target two outputs,
    no and yes in this order, and softmax cross-entropy; the prediction stays one probability, that of yes.
    """

    name: ClassVar[str] = "classify"
    joins: ClassVar[Joins] = "case"

    def __init__(
        self, targets: Sequence[TargetSpec], *, logits: int = 1, weight: float | str = 1.0, classes: Sequence[str] = ()
    ) -> None:
        """``weight`` is that of positive cases in the loss, a number or ``balanced``; ``classes`` those that take
        part.
        """
        if not targets:
            raise ValueError("a classification needs a target")
        self.targets = list(targets)
        self.exclusive = len(targets) == 1 and targets[0].kind == "classes"
        if not self.exclusive and any(t.kind != "binary" for t in targets):
            raise ValueError("several targets at once must all be yes/no")
        self.pairs = logits == 2 and not self.exclusive
        self.answers = len(targets[0].classes) if self.exclusive else len(targets)  # columns of ``scores``
        self.outputs = 2 * self.answers if self.pairs else self.answers
        name = "balanced_accuracy" if self.exclusive else "auc" if self.answers == 1 else "macro_auc"
        self.metric = metrics.METRICS[name]
        self.classes = list(classes)
        self._weight = weight
        self.positive_weight = np.ones(len(targets), np.float32)

    @property
    def question(self) -> str:
        return "multiclass" if self.exclusive else "binary" if self.answers == 1 else "multilabel"

    @property
    def yes_no(self) -> bool:
        return self.answers == 1

    @property
    def stratify(self) -> tuple[str, ...]:
        return tuple(target.name for target in self.targets)

    @classmethod
    def describe(cls, dataset: Dataset, names: Sequence[str], classes: Sequence[str]) -> TaskSpec:
        found = specs(dataset, names, classes)
        quantity = next((t.name for t in found if t.kind == "regress"), None)
        if quantity is not None:
            raise UserError("is a quantity, not a class", case=quantity, fix="use task=regress")
        return TaskSpec(cls.name, tuple(found), classes=tuple(classes))

    @classmethod
    def make(cls, spec: TaskSpec, setting: TrainConfig | None = None) -> Classify:
        setting = setting or TrainConfig()
        return cls(spec.targets, logits=setting.logits, weight=setting.positive_weight, classes=spec.classes)

    def usable(self, manifest: pl.DataFrame) -> pl.Series:
        """Rows with a label; where only some classes take part, with one of those."""
        found = labelled(manifest, self.targets)
        if self.classes:
            found &= manifest[f"label.{self.targets[0].name}"].cast(pl.String).is_in(self.classes).fill_null(False)
        return found

    def remarks(self, dataset: Dataset) -> list[Notice]:
        return []

    def refuse(self, setting: TrainConfig, join: str) -> None:
        pass

    def fit(self, y: np.ndarray) -> None:
        """Weight of positive labels in the loss of yes/no targets; ``balanced`` is negatives over positives of
        ``y (n, T)``, 1 for a target without positives or negatives.
        """
        if self._weight != "balanced":
            self.positive_weight = np.full(len(self.targets), float(self._weight), np.float32)
            return
        positive, negative = np.nansum(y == 1, axis=0), np.nansum(y == 0, axis=0)
        both = (positive > 0) & (negative > 0)
        self.positive_weight = np.where(both, negative / np.maximum(positive, 1), 1.0).astype(np.float32)

    def loss(self, output: torch.Tensor, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Cross-entropy (multi-class) or mean binary cross-entropy over known labels.

        ``output (B, outputs)`` logits.
        """
        y = batch["y"]
        known = ~torch.isnan(y)
        count = known.sum().clamp(min=1)
        if self.exclusive:
            labels = torch.where(known[:, 0], y[:, 0], torch.zeros_like(y[:, 0])).long()
            each = functional.cross_entropy(output.float(), labels, reduction="none")
            return {"loss": (each * known[:, 0]).sum() / count}
        if self.pairs:
            each = functional.cross_entropy(
                output.float().view(-1, 2), torch.nan_to_num(y).long().view(-1), reduction="none"
            ).view_as(y)
        else:
            each = functional.binary_cross_entropy_with_logits(output.float(), torch.nan_to_num(y), reduction="none")
        weight = torch.where(y == 1, torch.as_tensor(self.positive_weight, device=y.device), torch.ones_like(y))
        each = each * weight
        return {"loss": (each * known).sum() / count}

    def scores(self, output: torch.Tensor) -> torch.Tensor:
        """Probabilities: (B, classes), or (B, T) of yes."""
        if self.pairs:
            return output.float().unflatten(1, (-1, 2)).softmax(2)[..., 1]
        return output.float().softmax(1) if self.exclusive else output.float().sigmoid()

    def rows(
        self, case_ids: Sequence[str], patient_ids: Sequence[str], truth: np.ndarray, scores: np.ndarray
    ) -> Columns:
        """``truth (n, T)`` with NaN, ``scores (n, answers)`` -> prediction columns, one row per case and class (or
        target).
        """
        columns: Columns = {k: [] for k in ("patient_id", "case_id", "target", "class", "y_true", "y_pred")}
        for j in range(self.answers):
            target = self.targets[0 if self.exclusive else j]
            label = target.classes[j] if self.exclusive else (target.positive or "")
            known = truth[:, 0] if self.exclusive else truth[:, j]
            y = np.where(np.isnan(known), np.nan, known == j) if self.exclusive else known
            columns["patient_id"] += list(patient_ids)
            columns["case_id"] += list(case_ids)
            columns["target"] += [target.name] * len(case_ids)
            columns["class"] += [label] * len(case_ids)
            columns["y_true"] += [None if np.isnan(v) else float(v) for v in y]
            columns["y_pred"] += [float(v) for v in scores[:, j]]
        return columns

    def summary(self, columns: Columns) -> dict[str, float]:
        """Metrics of one part, by the functions that the report uses."""
        n = len(columns["case_id"]) // self.answers
        truth = np.array([np.nan if v is None else v for v in columns["y_true"]], float).reshape(self.answers, n).T
        pred = np.array(columns["y_pred"], float).reshape(self.answers, n).T
        if self.exclusive:
            known = ~np.isnan(truth).any(1)
            y = truth[known].argmax(1)
            return {
                "balanced_accuracy": metrics.point("balanced_accuracy", y, pred[known]),
                "accuracy": metrics.point("accuracy", y, pred[known]),
                "macro_auc": metrics.point("macro_auc", y, pred[known]),
            }
        if self.answers == 1:
            return {"auc": metrics.point("auc", truth[:, 0], pred[:, 0])}
        return {"macro_auc": metrics.point("macro_auc", truth, pred)}

    def state(self) -> dict[str, np.ndarray]:
        """Nothing that a served model needs: weights of the loss end with training."""
        return {}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        pass

    def closed_form(
        self, x: np.ndarray, y: np.ndarray, patients: np.ndarray, *, c: float | None, seed: int, balanced: bool = False
    ) -> Linear | None:
        """L2 logistic regression on standardised features, one a target, or one over all classes.

        Classes that exclude each other weigh the same, for balanced accuracy judges them. A yes/no target weighs its
        positives by ``train.positive_weight``, or with ``balanced`` as its negatives: else probabilities stay those of
        the training part, and AUC judges without regard to prevalence.
        """
        x, mean, spread = linear.standardise(x)
        weight, bias, used = np.zeros((self.outputs, x.shape[1])), np.zeros(self.outputs), 0.0
        for j in range(y.shape[1]):
            known = ~np.isnan(y[:, j])
            label, who, features = y[known, j], patients[known], x[known]
            classes, place = np.unique(label, return_inverse=True)
            if len(classes) < 2:
                raise UserError("the training part holds one class only", fix="use fewer folds, or split.kind=holdout")
            even = linear.class_weights(label)
            if self.exclusive:
                fitted = linear.fit(
                    features, place.astype(float), who, kind="classes", judge=self._right, c=c, seed=seed, weights=even
                )
                rows = classes.astype(int)
                bias[:] = -30.0  # a class absent from the training part keeps a very low logit
            else:
                weights = even if balanced else np.where(label == 1, self.positive_weight[j], 1.0)
                fitted = linear.fit(
                    features, label, who, kind="yes", judge=self._ranked, c=c, seed=seed, weights=weights
                )
                rows = np.array([2 * j + 1 if self.pairs else j])  # of two logits a target no stays 0
            weight[rows], bias[rows], used = fitted.weight, fitted.bias, fitted.c
        return Linear(*linear.fold_in(weight, bias, mean, spread), used)

    def _right(self, truth: np.ndarray, scores: np.ndarray, folds: np.ndarray) -> float:
        return metrics.point("balanced_accuracy", truth.astype(int), scores)

    def _ranked(self, truth: np.ndarray, scores: np.ndarray, folds: np.ndarray) -> float:
        return metrics.point("auc", truth, scores, strata=folds)

    def trivial(self, truths: Iterable[np.ndarray], grids: Sequence[Grid], kind: str) -> list[Trivial]:
        """The most frequent class, whose probability is its share of the training part; of several targets the most
        frequent answer of each. Empty where a target has no training label.
        """
        y = np.stack(list(truths)).astype(np.float64)
        if np.isnan(y).all(axis=0).any():
            return []
        if self.exclusive:
            shares = np.bincount(y[~np.isnan(y[:, 0]), 0].astype(int), minlength=self.answers)[: self.answers]
            scores = shares / shares.sum()
        else:
            scores = np.nanmean(y, axis=0)
        return [Trivial("majority", ("Most frequent class", "最常见的类别"), lambda grid: scores)]

    def answer(self, scores: np.ndarray, case: Mapping[str, Any], *, threshold: float | None) -> Answer:
        """Probabilities by class, and what the case is called: the likeliest class, or yes from the threshold on.

        Several targets are told apart by name. ``case["votes"]``, where windows vote, is the share that said yes.
        """
        target = self.targets[0]
        if self.exclusive:
            called = target.classes[int(np.argmax(scores))]
            return Answer({target.name: called, **{f"p({c})": float(p) for c, p in zip(target.classes, scores)}})
        if not self.yes_no:
            return Answer({f"{t.name} p({t.positive})": float(p) for t, p in zip(self.targets, scores)})
        columns: dict[str, Any] = {f"p({target.positive})": float(scores[0])}
        other = next((c for c in target.classes if c != target.positive), f"not {target.positive}")
        if threshold is not None:
            columns[target.name] = target.positive if scores[0] >= threshold else other
            columns["threshold"] = threshold
        if "votes" in case:
            columns["votes"] = float(case["votes"])
            columns[target.name] = target.positive if case["votes"] > 0.5 else other
        return Answer(columns)
