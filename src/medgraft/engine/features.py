"""Frozen features, computed once: with a still body and no augmentation they cannot change.

The cache is a file of the run (``features/<hash>.npz``), keyed by model, weights, window and data. A
linear head then trains on it in seconds, by the same loop, and a logistic head by scikit-learn.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from medgraft.config import TrainConfig
from medgraft.data import loader
from medgraft.data.dataset import CaseDataset
from medgraft.data.random import balanced_index, generator, stream_index
from medgraft.data.windows import Window
from medgraft.errors import UserError
from medgraft.files import write_bytes
from medgraft.models.heads import LinearHead
from medgraft.models.model import Model
from medgraft.tasks.task import Task


@torch.inference_mode()
def compute(
    fabric: Fabric, model: Model, samples: CaseDataset, *, batch_size: int, workers: int
) -> dict[str, np.ndarray]:
    """Features of every evaluation window: ``features (N, F)`` float32, ``case (N,)`` manifest rows, ``start (N,
    3)``.
    """
    fabric.to_device(model)
    model.eval()
    found: dict[str, list[np.ndarray]] = {"features": [], "case": [], "start": []}
    for _, batch in loader.eval_batches(samples, batch_size, workers):
        found["features"].append(model.features(fabric.to_device(batch)).float().cpu().numpy())
        found["case"].append(np.asarray(batch["case"]))
        found["start"].append(np.asarray(batch["start"]))
    return {key: np.concatenate(parts) for key, parts in found.items()}


def cached(path: Path, make: Any) -> dict[str, np.ndarray]:
    """Read the cache file, or make it; the file appears whole or not at all."""
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    found: dict[str, np.ndarray] = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, **found)  # type: ignore[arg-type]
    write_bytes(path, buffer.getbuffer())
    return found


class FeatureSamples:
    """A part of a data set seen through its cached features: stands in for ``CaseDataset`` in loop and prediction."""

    def __init__(self, samples: CaseDataset, cache: Mapping[str, np.ndarray]) -> None:
        self.samples, self.cache = samples, cache
        self.cases = samples.cases
        self._places: dict[int, np.ndarray] = {int(c): np.flatnonzero(cache["case"] == c) for c in samples.cases}
        empty = [c for c, places in self._places.items() if not len(places)]
        if empty:
            raise UserError(
                "has no cached features", case=f"manifest row {empty[0]}", fix="delete the features folder of the run"
            )
        self._labels = samples.labels()
        first = self._labels[:, 0]
        self._groups = [np.flatnonzero(first == value) for value in np.unique(first[~np.isnan(first)])]

    def __len__(self) -> int:
        return len(self.samples)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.samples, name)

    def labels(self) -> np.ndarray:
        return self._labels

    def train_batch(self, seed: int, step: int, batch_size: int, balanced: bool = False) -> dict[str, Any]:
        """Sample j of step i: case by the stream, one of its windows at random."""
        cases, places = [], []
        for j in range(batch_size):
            n = step * batch_size + j
            place = balanced_index(seed, n, self._groups) if balanced else stream_index(seed, n, len(self))
            windows = self._places[int(self.cases[place])]
            cases.append(place)
            places.append(
                windows[int(generator(seed, "window", step, j).integers(len(windows)))]
                if len(windows) > 1
                else windows[0]
            )
        return self._batch(cases, places)

    def eval_windows(self) -> list[Window]:
        return [
            Window(int(c), (0,), (0, 0, 1, 1), (1, 1, 1), k)
            for c in self.cases
            for k in range(len(self._places[int(c)]))
        ]

    def batch(self, windows: Sequence[Window]) -> dict[str, Any]:
        order = {int(c): k for k, c in enumerate(self.cases)}
        return self._batch([order[w.case] for w in windows], [self._places[w.case][w.index] for w in windows])

    def _batch(self, cases: Sequence[int], places: Sequence[int]) -> dict[str, Any]:
        index = np.asarray(places)
        return {
            "features": torch.from_numpy(self.cache["features"][index]),
            "y": torch.from_numpy(self._labels[np.asarray(cases)]),
            "case": torch.from_numpy(self.cache["case"][index].astype(np.int64)),
            "start": torch.from_numpy(self.cache["start"][index]),
        }

    def case_features(self) -> np.ndarray:
        """Mean features of each case (n, F), in order of ``cases``."""
        return np.stack([self.cache["features"][self._places[int(c)]].mean(0) for c in self.cases])


def fit_logistic(
    model: Model, task: Task, samples: FeatureSamples, setting: TrainConfig, *, groups: np.ndarray, seed: int
) -> float:
    """Fit a linear head in closed form on cached features and write it into ``model.head``; return the C used.

    Classification: L2 logistic regression on standardised features; C given, or chosen by 5-fold grouped
    cross-validation on the training part alone. Regression: ridge likewise. The standardisation is folded
    into the weights, so the model serves like any other.
    """
    from sklearn.linear_model import LogisticRegression, Ridge

    x = samples.case_features().astype(np.float64)
    y = samples.labels()
    mean, spread = x.mean(0), x.std(0)
    spread[spread < 1e-8] = 1.0
    x = (x - mean) / spread
    exclusive = bool(getattr(task, "exclusive", False))
    regress = task.name == "regress"
    grid = [setting.logistic_c] if setting.logistic_c else [1e-4, 1e-3, 1e-2, 1e-1, 1.0]

    def estimator(c: float) -> Any:
        return Ridge(alpha=1.0 / c) if regress else LogisticRegression(C=c, max_iter=2000)

    pairs = bool(getattr(task, "pairs", False))  # two logits a target: no stays 0, yes carries the regression
    weight = np.zeros((task.outputs, x.shape[1]))
    bias = np.zeros(task.outputs)
    used = grid[0]
    for j in range(y.shape[1]):
        known = ~np.isnan(y[:, j])
        target = y[known, j]
        if regress:
            target = (target - task.center[j]) / task.scale[j]  # type: ignore[attr-defined]
        elif len(np.unique(target)) < 2:
            raise UserError("the training part holds one class only", fix="use fewer folds, or split.kind=holdout")
        used = grid[0] if len(grid) == 1 else _choose_c(estimator, grid, x[known], target, groups[known], seed, regress)
        fitted = estimator(used).fit(x[known], target)
        coefficients, offset = np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_)
        if exclusive:
            for row, label in enumerate(
                fitted.classes_
            ):  # a class absent from the training part keeps a very low logit
                weight[int(label)], bias[int(label)] = coefficients[row], offset[row]
            bias[[k for k in range(task.outputs) if k not in set(fitted.classes_.astype(int))]] = -30.0
        else:
            row = 2 * j + 1 if pairs else j
            weight[row], bias[row] = coefficients[0], offset[0]
    weight /= spread
    bias -= weight @ mean
    head = model.head
    assert isinstance(head, LinearHead)
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(weight))
        head.linear.bias.copy_(torch.from_numpy(bias))
    return float(used)


def _choose_c(
    estimator: Any, grid: list[float], x: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int, regress: bool
) -> float:
    """The C with the least mean out-of-fold loss, over grouped folds that can be trained on; 0.01 where none can."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    folds = min(5, len(np.unique(groups)))
    if not regress:
        folds = min(folds, int(np.unique(y, return_counts=True)[1].min()))
    if folds < 2:
        return 1e-2
    splitter: Any = GroupKFold(folds) if regress else StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    losses: list[list[float]] = []
    for train, held in splitter.split(x, y, groups):
        if not regress and len(np.unique(y[train])) < 2:
            continue
        losses.append([_loss(estimator(c).fit(x[train], y[train]), x[held], y[held], regress) for c in grid])
    return grid[int(np.argmin(np.mean(losses, axis=0)))] if losses else 1e-2


def _loss(fitted: Any, x: np.ndarray, y: np.ndarray, regress: bool) -> float:
    """Mean squared error, or mean negative log-likelihood (a class never seen in training counts as probability
    1e-6).
    """
    if regress:
        return float(np.mean((fitted.predict(x) - y) ** 2))
    probability = fitted.predict_proba(x)
    column = {label: k for k, label in enumerate(fitted.classes_)}
    right = np.array([probability[row, column[label]] if label in column else 0.0 for row, label in enumerate(y)])
    return float(-np.log(np.clip(right, 1e-6, 1.0)).mean())
