"""Classification: binary, multi-class and multi-label, missing labels masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from medgraft.data.dataset import TargetSpec
from medgraft.stats import metrics
from medgraft.tasks.task import Columns


class Classify:
    """One multi-class target (softmax over its classes), or one or several yes/no targets (sigmoid each).

    Labels arrive as ``batch["y"] (B, T)``: class index for a multi-class target, 0 or 1 for yes/no,
    NaN where missing; missing ones add nothing to the loss. ``logits=2`` gives a yes/no target two outputs,
    no and yes in this order, and softmax cross-entropy; the prediction stays one probability, that of yes.
    """

    name = "classify"
    dense = False
    higher_is_better = True

    def __init__(self, targets: Sequence[TargetSpec], *, logits: int = 1) -> None:
        if not targets:
            raise ValueError("a classification needs a target")
        self.targets = list(targets)
        self.exclusive = len(targets) == 1 and targets[0].kind == "classes"
        if not self.exclusive and any(t.kind != "binary" for t in targets):
            raise ValueError("several targets at once must all be yes/no")
        self.pairs = logits == 2 and not self.exclusive
        self.answers = len(targets[0].classes) if self.exclusive else len(targets)  # columns of ``scores``
        self.outputs = 2 * self.answers if self.pairs else self.answers
        self.metric = "balanced_accuracy" if self.exclusive else "auc" if self.answers == 1 else "macro_auc"
        self.positive_weight = np.ones(len(targets), np.float32)

    def fit_weight(self, y: np.ndarray, weight: float | str) -> None:
        """Weight of positive labels in the loss of yes/no targets: a number, or ``balanced``, negatives over positives
        of ``y (n, T)``.

        ``balanced`` leaves a target without positives or negatives at 1.
        """
        if weight != "balanced":
            self.positive_weight = np.full(len(self.targets), float(weight), np.float32)
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
