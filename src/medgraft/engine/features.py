"""Frozen features, computed once: with a still body and no augmentation they cannot change.

The cache is a file of the run (``features/<hash>.npz``), named by body, window, selection and data. A linear head then
trains on it in seconds, by the same loop, and a logistic head in closed form.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from medgraft import runs
from medgraft.config import TrainConfig
from medgraft.data import loader
from medgraft.data.dataset import CaseDataset
from medgraft.data.random import balanced_index, generator, stream_index
from medgraft.data.windows import Window
from medgraft.engine.plan import Arm, Setting, selection_key
from medgraft.engine.predict import Block, blocks
from medgraft.engine.session import Session, Training
from medgraft.errors import UserError
from medgraft.files import write_bytes
from medgraft.models import surgery
from medgraft.models.heads import LinearHead
from medgraft.models.model import Model
from medgraft.models.model import fingerprint as body_fingerprint
from medgraft.tasks.task import Task

IMAGES = 16  # in one pass of a body: what bounds its memory is images, not cases


def block_of(depth: int) -> int:
    """Windows in one pass, of so many images each."""
    return max(1, IMAGES // max(1, depth))


def compute(
    fabric: Fabric, model: Model, samples: CaseDataset, *, workers: int = 0, layout: Sequence[Block] | None = None
) -> dict[str, np.ndarray]:
    """Features of every evaluation window: ``features (N, F)`` float32, ``case (N,)`` manifest rows, ``start (N,
    3)``.
    """
    fabric.to_device(model)  # outside of inference mode: what moves inside could never be trained afterwards
    model.eval()
    with torch.inference_mode():
        return _computed(fabric, model, samples, workers, layout)


def _computed(
    fabric: Fabric, model: Model, samples: CaseDataset, workers: int, layout: Sequence[Block] | None
) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {"features": [], "case": [], "start": []}
    if layout is None:
        windows = samples.eval_windows()
        layout = blocks(windows, block_of(windows[0].size[0]))
    for number, batch in loader.part_batches(samples, [list(block.windows) for block in layout], workers):
        kept = list(layout[number].kept)
        found["features"].append(model.features(fabric.to_device(batch)).float().cpu().numpy()[kept])
        found["case"].append(np.asarray(batch["case"])[kept])
        found["start"].append(np.asarray(batch["start"])[kept])
    return {key: np.concatenate(parts) for key, parts in found.items()}


def cached(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Read the cache file, or make it; the file appears whole or not at all."""
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    found = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, **found)  # type: ignore[arg-type]
    write_bytes(path, buffer.getbuffer())
    return found


def of_training(session: Session, training: Training, model: Model) -> dict[str, np.ndarray]:
    """Cached features of the cases of a training part and of those it is judged on, under its body and window.

    Without a selection of frames all usable cases share one file; with one, each training part has its own, for a case
    has other features in training than when it is tested.
    """
    plan, setting = session.plan, training.setting
    refuse_mixing(model, training.arm)
    outer, inner = training.part
    selected = plan.selected.get(selection_key(outer, inner, setting.select))
    key = cache_key(session, training.arm, setting, model, selected)
    if key not in session.features:

        def make() -> dict[str, np.ndarray]:
            if selected is None:
                return compute(session.fabric, model, session.samples(session.rows(), setting))
            trains, judged = (session.rows(who) for who in plan.part(outer, inner))
            parts = [
                compute(session.fabric, model, session.samples(trains, setting, part=training.part)),
                compute(session.fabric, model, session.samples(judged, setting)),
            ]
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

        session.features[key] = cached(session.root / "features" / f"{key}.npz", make)
    return session.features[key]


def cache_key(session: Session, arm: Arm, setting: Setting, model: Model, selected: str | None) -> str:
    """Name of a feature cache: everything that decides a feature, the bytes of the body among it."""
    window = {name: value for name, value in asdict(setting.window).items() if name != "join"}
    facts = {
        "model": arm.model,
        "body": fingerprint(model),
        "window": window,
        "normalise": asdict(setting.normalise),
        "options": arm.options,
        "join": arm.head.join,
        "data": session.plan.data_hash,
        "selected": selected,
        "images": IMAGES,
        "device": session.plan.device,
        "precision": session.plan.precision,
        "threads": session.plan.threads if session.plan.device == "cpu" else 0,
    }
    return runs.digest(facts)[:12]


def fingerprint(model: Model) -> str:
    """Name of a body by the bytes of its tensors, and of what its inputs are brought to."""
    inputs = [model.mean.flatten().tolist(), model.std.flatten().tolist()]
    return runs.digest([body_fingerprint(model.body), *inputs])


def refuse_mixing(model: Model, arm: Arm) -> None:
    """Raise ``UserError`` for a body that mixes the cases of a batch: what it says of one depends on the others."""
    if surgery.mixes_cases(model.body):
        raise UserError(
            "a body with batch statistics says of a case what depends on the cases beside it, so its features cannot "
            "be kept",
            case=arm.id,
            fix="take out bn_mode: batch, or augment, or choose strategy=finetune",
        )


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


def fit_closed_form(
    model: Model, task: Task, samples: FeatureSamples, setting: TrainConfig, *, groups: np.ndarray, seed: int
) -> float:
    """Fit a linear head in closed form on cached features and write it into ``model.head``; return the strength used.

    The task says how (logistic regression, ridge); the standardisation is folded into the weights, so the model serves
    like any other. Raises ``UserError`` for a task that has no such head.
    """
    found = task.closed_form(
        samples.case_features(),
        samples.labels(),
        groups,
        c=setting.logistic_c,
        seed=seed,
        balanced=setting.balanced,
    )
    if found is None:
        raise UserError(f"{task.name} has no head in closed form", fix="choose strategy=frozen or finetune")
    head = model.head
    assert isinstance(head, LinearHead)
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(found.weight))
        head.linear.bias.copy_(torch.from_numpy(found.bias))
    return float(found.c)
