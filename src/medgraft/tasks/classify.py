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
    NaN where missing; missing ones add nothing to the loss.
    """

    name = "classify"
    dense = False
    higher_is_better = True

    def __init__(self, targets: Sequence[TargetSpec]) -> None:
        if not targets:
            raise ValueError("a classification needs a target")
        self.targets = list(targets)
        self.exclusive = len(targets) == 1 and targets[0].kind == "classes"
        if not self.exclusive and any(t.kind != "binary" for t in targets):
            raise ValueError("several targets at once must all be yes/no")
        self.outputs = len(targets[0].classes) if self.exclusive else len(targets)
        self.metric = "balanced_accuracy" if self.exclusive else "auc" if self.outputs == 1 else "macro_auc"

    def loss(self, output: torch.Tensor, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Cross-entropy (multi-class) or mean binary cross-entropy over known labels. ``output (B, outputs)`` logits."""
        y = batch["y"]
        known = ~torch.isnan(y)
        count = known.sum().clamp(min=1)
        if self.exclusive:
            labels = torch.where(known[:, 0], y[:, 0], torch.zeros_like(y[:, 0])).long()
            each = functional.cross_entropy(output.float(), labels, reduction="none")
            return {"loss": (each * known[:, 0]).sum() / count}
        each = functional.binary_cross_entropy_with_logits(output.float(), torch.nan_to_num(y), reduction="none")
        return {"loss": (each * known).sum() / count}

    def scores(self, output: torch.Tensor) -> torch.Tensor:
        """Probabilities (B, outputs)."""
        return output.float().softmax(1) if self.exclusive else output.float().sigmoid()

    def rows(self, case_ids: Sequence[str], patient_ids: Sequence[str], truth: np.ndarray, scores: np.ndarray) -> Columns:
        """``truth (n, T)`` with NaN, ``scores (n, outputs)`` -> prediction columns, one row per case and class (or target)."""
        columns: Columns = {k: [] for k in ("patient_id", "case_id", "target", "class", "y_true", "y_pred")}
        for j in range(self.outputs):
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
        n = len(columns["case_id"]) // self.outputs
        truth = np.array([np.nan if v is None else v for v in columns["y_true"]], float).reshape(self.outputs, n).T
        pred = np.array(columns["y_pred"], float).reshape(self.outputs, n).T
        if self.exclusive:
            known = ~np.isnan(truth).any(1)
            y = truth[known].argmax(1)
            return {
                "balanced_accuracy": metrics.point("balanced_accuracy", y, pred[known]),
                "accuracy": metrics.point("accuracy", y, pred[known]),
                "macro_auc": metrics.point("macro_auc", y, pred[known]),
            }
        if self.outputs == 1:
            return {"auc": metrics.point("auc", truth[:, 0], pred[:, 0])}
        return {"macro_auc": metrics.point("macro_auc", truth, pred)}
