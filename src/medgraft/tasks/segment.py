"""Segmentation of one or several structures in images, frames and volumes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from scipy import ndimage
from torch.nn import functional

from medgraft.config import TrainConfig
from medgraft.data.cases import exclusive_masks
from medgraft.data.dataset import TargetSpec
from medgraft.datasets import Dataset
from medgraft.errors import UserError
from medgraft.notices import Notice
from medgraft.stats import metrics
from medgraft.store import IGNORE
from medgraft.tasks.task import Answer, Columns, Grid, Joins, Linear, TaskSpec, Trivial

SHAPE_SIDE = 128  # voxels a side at most on which a mean shape is kept

KINDS = ("tp", "fp", "fn")
LARGEST = "largest"  # before the name of a count: as if of every structure the largest component alone were called


class Segment:
    """K structures in every voxel, learned by Dice plus cross-entropy.

    ``exclusive`` structures (a label map: one value a voxel) learn by softmax over background and structures, K + 1
    outputs; a voxel is a structure where that is likelier than every other and than background. Structures that may
    overlap learn by a sigmoid each, K outputs; a voxel is each structure whose probability exceeds one half. ``scores``
    are K probabilities in both. A single structure is one output: the softmax over two is the same thing.

    Of the structures in ``largest`` only the largest connected component of a case is called (``largest_component``).
    ``weighs`` adds counts as they would be if that held for every structure (``largest.tp.<structure>``, ...), from
    which ``cleaned`` chooses.

    Masks arrive as ``batch["mask"] (B, K, D, H, W)`` uint8 of 0, 1 and 255; a voxel of 255 counts
    nowhere. Counting comes first and dividing later: tp, fp and fn travel in ``measures``.
    """

    name: ClassVar[str] = "segment"
    joins: ClassVar[Joins] = "field"
    question = "segmentation"
    yes_no = False
    stratify: tuple[str, ...] = ()

    def __init__(
        self,
        structures: Sequence[str],
        *,
        exclusive: bool = False,
        largest: Sequence[str] = (),
        weighs: bool = False,
    ) -> None:
        if not structures:
            raise ValueError("a segmentation needs a structure")
        self.structures = list(structures)
        self.exclusive = exclusive and len(structures) > 1
        self.largest, self.weighs = tuple(largest), weighs
        self.targets: list[TargetSpec] = []
        self.outputs = len(structures) + self.exclusive
        self.metric = metrics.METRICS["dice"]

    @classmethod
    def describe(cls, dataset: Dataset, names: Sequence[str], classes: Sequence[str]) -> TaskSpec:
        structures = list(dataset.info.get("structures") or [])
        if not structures:
            raise UserError(
                "the data set has no masks", case=str(dataset.root), fix="scan it again with masks=COLUMN or masks=DIR"
            )
        unknown = [n for n in names if n not in structures]
        if unknown:
            raise UserError(f"no structure {unknown[0]!r}; there are {', '.join(structures)}")
        exclusive = len(structures) > 1 and exclusive_masks(dataset)
        return TaskSpec(cls.name, structures=tuple(structures), exclusive=exclusive)

    @classmethod
    def make(cls, spec: TaskSpec, setting: TrainConfig | None = None) -> Segment:
        return cls(spec.structures, exclusive=spec.exclusive, largest=spec.largest, weighs=spec.weighs)

    def usable(self, manifest: pl.DataFrame) -> pl.Series:
        """Rows with a mask."""
        return manifest["mask_id"].is_not_null()

    def remarks(self, dataset: Dataset) -> list[Notice]:
        return []

    def refuse(self, setting: TrainConfig, join: str) -> None:
        if setting.tta:
            raise UserError("test-time augmentation is for labels, not for masks", fix="leave out train.tta")

    def fit(self, y: np.ndarray) -> None:
        pass

    def state(self) -> dict[str, np.ndarray]:
        return {}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        pass

    def closed_form(
        self, x: np.ndarray, y: np.ndarray, patients: np.ndarray, *, c: float | None, seed: int, balanced: bool = False
    ) -> Linear | None:
        return None

    def trivial(self, truths: Iterable[np.ndarray], grids: Sequence[Grid], kind: str) -> list[Trivial]:
        """No structure anywhere, and the mean shape: the share of training cases in which a place, relative to the
        sides of the picture, is the structure; called as probabilities are (``said``). Of a video all traced frames
        count, and every frame gets the same shape. Voxels of 255 count nowhere.
        """
        k, flat = len(self.structures), kind == "video"
        depth, height, width = (min(SHAPE_SIDE, int(np.median([grid[axis] for grid in grids]))) for axis in range(3))
        sides = (1 if flat else depth, height, width)
        yes = torch.zeros(k, *sides, dtype=torch.float64)
        known = torch.zeros(k, *sides, dtype=torch.float64)
        for mask in truths:
            if flat:  # traced frames alone, one upon the other
                mask = mask[:, (mask != IGNORE).any(axis=(0, 2, 3))]
            for total, voxels in ((yes, mask == 1), (known, mask != IGNORE)):
                there = torch.from_numpy(np.ascontiguousarray(voxels, dtype=np.float32))
                if there.shape[1]:
                    total += functional.adaptive_avg_pool3d(there, sides) * (there.shape[1] if flat else 1)
        mean = (yes / known.clamp(min=1e-9)).float()

        def shape(grid: Grid) -> np.ndarray:
            size = (1, *grid[1:]) if flat else grid
            if tuple(mean.shape[1:]) == tuple(size):
                found = mean
            else:
                found = functional.interpolate(mean[None], size=size, mode="trilinear", align_corners=False)[0]
            return found.expand(k, *grid).numpy()

        return [
            Trivial("empty", ("Empty mask", "空掩膜"), lambda grid: np.zeros((k, *grid), np.float32)),
            Trivial("mean_shape", ("Mean shape", "平均形状"), shape),
        ]

    def answer(self, scores: np.ndarray, case: Mapping[str, Any], *, threshold: float | None) -> Answer:
        """Voxels of each structure, millilitres where a volume's spacing is known, and the label map (later ones
        on top). Raises ``UserError`` where there is another number of fields than of structures.
        """
        if len(scores) != len(self.structures):
            raise UserError(f"{len(scores)} fields for {len(self.structures)} structures", case=str(case["case_id"]))
        said = self.said(scores)
        labels = np.zeros(scores.shape[1:], np.uint8)
        spacing = case.get("spacing")
        known = case.get("kind") == "volume" and spacing is not None and all(s is not None for s in spacing)
        columns: dict[str, Any] = {}
        for k, name in enumerate(self.structures):
            labels[said[k]] = k + 1
            columns[f"{name} voxels"] = int(said[k].sum())
            if known:
                columns[f"{name} ml"] = float(said[k].sum() * np.prod(list(spacing or [])) / 1000)
        return Answer(columns, labels, tuple(self.structures))

    def loss(self, output: torch.Tensor, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Mean cross-entropy over counted voxels plus 1 - soft Dice (smoothing 1, over the batch, mean over
        structures; background takes no part in it).

        ``output (B, outputs, D, H, W)`` logits. Cross-entropy is that of a softmax, or of a sigmoid for each structure.
        """
        mask, logits = batch["mask"], output.float()
        truth = (mask == 1).float()
        if self.exclusive:  # a voxel whose label is not known for one structure is not known for the others
            known = (mask != IGNORE).all(1, keepdim=True).float()
            label = torch.where(truth.any(1), truth.argmax(1) + 1, 0)
            each = functional.cross_entropy(logits, label, reduction="none")[:, None]
        else:
            known = (mask != IGNORE).float()
            each = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        entropy = (each * known).sum() / known.sum().clamp(min=1)
        probability = self.scores(logits) * known
        axes = (0, 2, 3, 4)
        overlap = (probability * truth).sum(axes)
        dice = (2 * overlap + 1) / (probability.sum(axes) + (truth * known).sum(axes) + 1)
        return {"loss": entropy + (1 - dice).mean(), "entropy": entropy.detach(), "soft_dice": dice.mean().detach()}

    def scores(self, output: torch.Tensor) -> torch.Tensor:
        """Probabilities (B, K, D, H, W)."""
        return output.float().softmax(1)[:, 1:] if self.exclusive else output.float().sigmoid()

    def said(self, scores: np.ndarray) -> np.ndarray:
        """Which voxels of a case are called which structure: bool (K, ...) from probabilities (K, ...); none where they
        are NaN.

        An exclusive structure is called where it is likelier than the others and than background (1 - their sum). Then
        the smaller components of ``largest`` structures go; what they held is called nothing.
        """
        return self._cleaned(self._likely(scores), self.largest)

    def _cleaned(self, said: np.ndarray, structures: Sequence[str]) -> np.ndarray:
        if not structures:
            return said
        pairs = zip(self.structures, said)
        return np.stack([largest_component(one) if name in structures else one for name, one in pairs])

    def _likely(self, scores: np.ndarray) -> np.ndarray:
        if not self.exclusive:
            return scores > 0.5
        likeliest = np.concatenate([1 - scores.sum(0, keepdims=True), scores]).argmax(0)
        return likeliest == np.arange(1, len(scores) + 1).reshape(-1, *[1] * (scores.ndim - 1))

    def count(self, truth: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
        """tp, fp, fn of shape (K,) from a mask (K, ...) uint8 and probabilities (K, ...), ignored voxels left out;
        where it ``weighs``, largest.tp, largest.fp and largest.fn besides.
        """
        said = self.said(scores)
        found = _counts(truth, said)
        if self.weighs:
            cleaned = _counts(truth, self._cleaned(said, self.structures))
            found |= {f"{LARGEST}.{name}": values for name, values in cleaned.items()}
        return found

    def cleaned(self, columns: Columns) -> tuple[str, ...]:
        """The structures of which the largest component alone is to be called, from counts of the parts that select:
        where that takes something away and the mean Dice over their cases does not fall.
        """
        chosen = []
        for name in self.structures:
            every, only = (_table(columns, [name], prefix) for prefix in ("", f"{LARGEST}."))
            before, after = metrics.point("dice", None, every), metrics.point("dice", None, only)
            if every.shape == only.shape and (every != only).any() and after >= before:
                chosen.append(name)
        return tuple(chosen)

    def rows(
        self,
        case_ids: Sequence[str],
        patient_ids: Sequence[str],
        truth: Sequence[tuple[int, np.ndarray]],
        scores: Sequence[np.ndarray],
    ) -> Columns:
        """``truth[i] = (frame or -1, mask (K, ...))`` and ``scores[i] (K, ...)`` -> measure columns."""
        columns: Columns = {k: [] for k in ("case_id", "frame", "name", "value")}
        for case_id, (frame, mask), score in zip(case_ids, truth, scores):
            for name, values in self.count(mask, score).items():
                for structure, value in zip(self.structures, values):
                    columns["case_id"].append(case_id)
                    columns["frame"].append(frame)
                    columns["name"].append(f"{name}.{structure}")
                    columns["value"].append(float(value))
        return columns

    def summary(self, columns: Columns) -> dict[str, float]:
        """Mean Dice over cases and structures, from the counts of whole cases (frame -1)."""
        counts = _table(columns, self.structures)
        return {"dice": metrics.point("dice", None, counts) if len(counts) else float("nan")}


def largest_component(called: np.ndarray) -> np.ndarray:
    """The largest connected component of a mask (bool, any shape) in voxels; voxels that share a face, an edge or a
    corner are connected (26 neighbours in a volume, 8 in a picture). Of equal ones the first in the array's order.
    """
    parts, found = ndimage.label(called, np.ones((3,) * called.ndim, bool))
    if found < 2:
        return called
    sizes = np.bincount(parts.reshape(-1))
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())


def _counts(truth: np.ndarray, said: np.ndarray) -> dict[str, np.ndarray]:
    axes = tuple(range(1, truth.ndim))
    known, yes = truth != IGNORE, truth == 1
    return {
        "tp": (yes & said & known).sum(axes),
        "fp": (~yes & said & known).sum(axes),
        "fn": (yes & ~said & known).sum(axes),
    }


def _table(columns: Columns, structures: Sequence[str], prefix: str = "") -> np.ndarray:
    """tp, fp and fn of whole cases (frame -1): (cases, structures, 3), in order of first appearance."""
    wanted = {f"{prefix}{kind}.{s}": (k, place) for k, s in enumerate(structures) for place, kind in enumerate(KINDS)}
    counts: dict[str, np.ndarray] = {}
    for case_id, frame, name, value in zip(*(columns[k] for k in ("case_id", "frame", "name", "value"))):
        if frame == -1 and name in wanted:
            counts.setdefault(case_id, np.zeros((len(structures), 3)))[wanted[name]] = value
    return np.array(list(counts.values())).reshape(-1, len(structures), 3)
