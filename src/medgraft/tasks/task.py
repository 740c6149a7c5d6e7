"""The contract of a task, once, with shapes.

A task turns the output of a model into a loss while training and into plain numbers when
predicting. It knows nothing of folds, files or devices.

``outputs``   how many numbers the head gives (classes, targets, two for each target, or structures).
``dense``     True when the model answers for every voxel.
``loss``      output (B, outputs) or (B, K, D, H, W) and the batch -> {"loss": scalar, ...parts}.
``scores``    output -> what windows of one case may be averaged: probabilities or quantities.
``rows``      joined scores of cases -> columns of ``predictions`` (dense tasks: of ``measures``).
``summary``   predictions or measures of a part -> {metric: value}; the same ``stats.metrics`` as the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

Columns = dict[str, list[Any]]


class Task(Protocol):
    """See the module's docstring."""

    name: str
    outputs: int
    dense: bool
    #: name of the metric used for selection, and whether more is better
    metric: str
    higher_is_better: bool

    def loss(self, output: torch.Tensor, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]: ...

    def scores(self, output: torch.Tensor) -> torch.Tensor: ...

    def rows(self, case_ids: Sequence[str], patient_ids: Sequence[str], truth: Any, scores: Any) -> Columns: ...

    def summary(self, columns: Columns) -> dict[str, float]: ...
