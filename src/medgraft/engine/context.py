"""What every cell of a run shares: data, task, device, weights. Built once from the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from lightning_fabric import Fabric

from medgraft import runs
from medgraft.config import ArmConfig, Recipe, TrainConfig, WindowConfig
from medgraft.data import transforms
from medgraft.data.dataset import CaseDataset, TargetSpec
from medgraft.data.transforms import Augment
from medgraft.data.windows import WindowSpec
from medgraft.datasets import Box, Dataset, drawn_boxes
from medgraft.engine.predict import Cases
from medgraft.errors import UserError
from medgraft.files import cores
from medgraft.models import registry
from medgraft.models.model import Model
from medgraft.tasks.classify import Classify
from medgraft.tasks.regress import Regress
from medgraft.tasks.segment import Segment
from medgraft.tasks.task import Task

PRESETS = {"image": "light", "video": "ultrasound", "volume": "volume"}
CLIP_LENGTH = 8
VOLUME_SIDE = 64


@dataclass
class Context:
    """See the module's docstring. ``splits`` maps (outer, inner) to role -> patient ids."""

    recipe: Recipe
    dataset: Dataset
    kind: str  # image, video, volume
    task_name: str
    targets: list[TargetSpec]
    structures: list[str]
    fabric: Fabric
    threads: int
    store_root: Path | None = None
    data_hash: str = ""
    split_hash: str = ""
    outer: dict[int, dict[str, set[str]]] = field(default_factory=dict)
    inner: dict[tuple[int, int], dict[str, set[str]]] = field(default_factory=dict)
    features: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    @cached_property
    def cases(self) -> Cases:
        return Cases(self.dataset, self.store_root)

    @cached_property
    def boxes(self) -> dict[str, list[Box]]:
        """Boxes that people drew, by case id."""
        return drawn_boxes(self.dataset.root)

    def explains(self, model: Model) -> bool:
        """Whether Grad-CAM can be held against boxes: one yes/no target on pictures that have boxes, an image
        network.
        """
        fit = (
            self.kind == "image"
            and self.task_name == "classify"
            and len(self.targets) == 1
            and self.targets[0].kind == "binary"
        )
        return fit and bool(self.boxes) and model.info.dims == 2

    def make_task(self, setting: TrainConfig | None = None) -> Task:
        """The task under a training setting (the default one where there is none yet)."""
        if self.task_name == "segment":
            return Segment(self.structures)
        if self.task_name == "regress":
            return Regress(
                self.targets,
                None if setting is None else setting.label_center,
                None if setting is None else setting.label_scale,
            )
        return Classify(self.targets, logits=1 if setting is None else setting.logits)

    def rows_of(self, patients: set[str] | None) -> list[int]:
        """Manifest rows of the given patients (all where None) that can be used for the task, in manifest order."""
        frame = self.dataset.manifest.with_row_index("row")
        if patients is not None:
            frame = frame.filter(pl.col("patient_id").is_in(sorted(patients)))
        if self.task_name == "segment":
            frame = frame.filter(pl.col("mask_id").is_not_null())
        else:
            frame = frame.filter(pl.any_horizontal([pl.col(f"label.{t.name}").is_not_null() for t in self.targets]))
            if self.recipe.classes:
                frame = frame.filter(pl.col(f"label.{self.targets[0].name}").cast(pl.String).is_in(self.recipe.classes))
        return [int(r) for r in frame["row"]]

    def window(self, arm: ArmConfig) -> WindowSpec:
        """The window of an arm: the recipe's, with ``auto`` and 0 resolved by kind of data and network."""
        config, info = self.recipe.arm_window(arm), registry.info(arm.model)
        if arm.join == "bert" and (info.dims != 2 or info.dense):
            raise UserError(
                "BERT joins the frames of an image network that gives features", case=arm.id, fix="leave out join"
            )
        if config.join == "vote" and (self.task_name != "classify" or [t.kind for t in self.targets] != ["binary"]):
            raise UserError("windows vote on one yes/no target only", case=arm.id, fix="set window.join=mean")
        return resolve_window(config, info, self.kind, self.task_name, self._depths())

    def _depths(self) -> list[int]:
        return [int(s[1]) for s in self.dataset.manifest["shape"].to_list()]

    def augment(self, setting: TrainConfig) -> Augment:
        """The augmentation of a setting, ``auto`` resolved by kind of data."""
        found = transforms.preset(PRESETS[self.kind] if setting.augment == "auto" else setting.augment)
        return found if setting.mirror else transforms.without_mirror(found)

    def samples(
        self, rows: Sequence[int], window: WindowSpec, augment: Augment | str, hu_window: tuple[float, float]
    ) -> CaseDataset:
        return CaseDataset(
            self.dataset,
            rows,
            window=window,
            augment=augment,
            targets=self.targets,
            dense=self.task_name == "segment",
            store_root=self.store_root,
            hu_window=hu_window,
        )

    def cell(
        self, arm: ArmConfig, setting: TrainConfig, *, outer: int, inner: int, seed: int, steps: int | None = None
    ) -> runs.Cell:
        """The cell of one training. ``steps`` is what the search found for a refit."""
        return runs.Cell(
            model=arm.model,
            start=arm.start,
            strategy=arm.strategy_name,
            setting=setting.model_dump(mode="json"),
            outer=outer,
            inner=inner,
            seed=seed,
            data_hash=self.data_hash,
            context={
                "how": arm.strategy,
                "split": self.split_hash,
                "task": self.task_name,
                "targets": [t.name for t in self.targets],
                "window": self.recipe.arm_window(arm).model_dump(mode="json"),
                "steps": steps,
                "threads": self.threads if self.fabric.device.type == "cpu" else 0,
                "device": self.fabric.device.type,
                "precision": self.recipe.precision,
                **arm.join_facts,
                **({"classes": list(self.recipe.classes)} if self.recipe.classes else {}),
                **({"options": arm.options} if arm.options else {}),
                **({"hidden": arm.hidden} if arm.hidden else {}),
                **({"explain": self.recipe.explain} if self.recipe.explain and inner < 0 else {}),
                **({"compat": sorted(self.recipe.compat)} if self.recipe.compat else {}),
            },
        )


def resolve_window(
    config: WindowConfig, info: registry.BackboneInfo, kind: str, task: str, depths: Sequence[int]
) -> WindowSpec:
    """Fill in what the recipe leaves to medgraft.

    Images: the whole image. Videos: a clip of 8 frames, one from each eighth. Volumes: for an image
    network 8 slices, one from each eighth; for a 3D network the whole volume resampled to 64 a side.
    Segmentation: the traced frames; of volumes, blocks for a 3D network and slices for a 2D one.
    """
    size: int | tuple[int, int] = (
        config.size if isinstance(config.size, int) else (int(config.size[0]), int(config.size[1]))
    )
    chosen, length = config.kind, config.length
    flat = info.dims == 2
    if chosen == "auto":
        if task == "segment":
            chosen = "cubes" if kind == "volume" and not flat else "labelled"
        elif kind == "image":
            chosen = "centre"
        elif kind == "volume" and not flat:
            chosen = "whole"
        else:
            chosen = "uniform"
    if not length:
        if kind == "image" or chosen == "labelled":
            length = 1
        elif chosen in ("whole", "cubes"):
            length = VOLUME_SIDE if chosen == "whole" else 32
        else:
            length = 1 if chosen == "slices" else CLIP_LENGTH
    if not size:
        size = VOLUME_SIDE if kind == "volume" and not flat else int(info.default_size[-1])
    if max(depths, default=1) == 1:
        length = 1
    views = None if chosen in ("all", "cubes", "labelled", "slices", "whole", "centre") else config.views
    return WindowSpec(chosen, length, size, config.stride, config.overlap, views, config.join)  # type: ignore[arg-type]


def infer_task(dataset: Dataset, recipe: Recipe) -> tuple[str, list[TargetSpec], list[str]]:
    """Task name, targets and structures, from the recipe and the data.

    Raises ``UserError`` when the data set has neither labels nor masks, or several labels and no choice.
    """
    structures = list(dataset.info.get("structures") or [])
    names = [recipe.target] if isinstance(recipe.target, str) else list(recipe.target or [])
    task = recipe.task
    if task == "segment" or (task == "auto" and not names and not dataset.targets and structures):
        if not structures:
            raise UserError(
                "the data set has no masks", case=str(dataset.root), fix="scan it again with masks=COLUMN or masks=DIR"
            )
        wanted = names or structures
        unknown = [n for n in wanted if n not in structures]
        if unknown:
            raise UserError(f"no structure {unknown[0]!r}; there are {', '.join(structures)}")
        return "segment", [], structures
    if not names:
        if len(dataset.targets) != 1:
            raise UserError(
                f"the data set has {len(dataset.targets)} label columns: {', '.join(dataset.targets) or 'none'}",
                fix="choose with target=NAME",
            )
        names = dataset.targets
    missing = [n for n in names if n not in dataset.targets]
    if missing:
        raise UserError(
            f"no label column {missing[0]!r}; there are {', '.join(dataset.targets)}", fix="choose with target=NAME"
        )
    if recipe.classes and len(names) > 1:
        raise UserError("classes= goes with one target", fix="leave it out, or choose one target")
    specs = [
        target_spec(dataset, name, regress=task == "regress", several=len(names) > 1, keep=recipe.classes)
        for name in names
    ]
    kinds = {s.kind for s in specs}
    if task == "auto":
        task = "regress" if kinds == {"regress"} else "classify"
    if task == "classify" and "regress" in kinds:
        raise UserError(
            "is a quantity, not a class",
            case=str(next(s.name for s in specs if s.kind == "regress")),
            fix="use task=regress",
        )
    return task, specs, []


def target_spec(
    dataset: Dataset, name: str, *, regress: bool, several: bool, keep: Sequence[str] | None = None
) -> TargetSpec:
    """How a label column is learned: its kind, classes and positive class."""
    column = dataset.manifest[f"label.{name}"]
    values = column.drop_nulls()
    if not len(values):
        raise UserError("has no value at all", case=f"label {name}", fix="choose another target")
    if regress:
        if column.dtype == pl.String:
            raise UserError("holds text, so it cannot be a quantity", case=f"label {name}", fix="use task=classify")
        return TargetSpec(name, "regress", (), None)
    if column.dtype != pl.String and not set(values.unique().to_list()) <= {0.0, 1.0}:
        return TargetSpec(name, "regress", (), None)
    facts = dataset.info.get("targets", {}).get(name, {})
    classes = tuple(str(c) for c in (facts.get("classes") or sorted({_text(v) for v in values.to_list()})))
    if keep:
        unknown = [c for c in keep if c not in classes]
        if unknown:
            raise UserError(f"has no class {unknown[0]!r}; there are {', '.join(classes)}", case=f"label {name}")
        classes = tuple(c for c in classes if c in keep)
    if len(classes) < 2:
        raise UserError(
            f"has one class only ({classes[0]})", case=f"label {name}", fix="a comparison needs at least two"
        )
    if len(classes) > 2:
        if several:
            raise UserError(
                "has more than two classes; several targets at once must each be yes/no", case=f"label {name}"
            )
        return TargetSpec(name, "classes", classes, None)
    positive = str(facts.get("positive") if facts.get("positive") in classes else classes[-1])
    return TargetSpec(name, "binary", classes, positive)


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def make_fabric(recipe: Recipe) -> tuple[Fabric, int]:
    """The device and the number of CPU threads. Kernels are deterministic where PyTorch has them."""
    threads = recipe.threads or cores()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    precision = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[recipe.precision]
    device = recipe.device
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise UserError(f"no device {device!r}", fix="use auto, cpu, cuda or mps")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is available", fix="use device=auto")
    accelerator = {"auto": "cuda" if torch.cuda.is_available() else "cpu"}.get(device, device)
    return Fabric(accelerator=accelerator, devices=1, precision=precision), threads  # type: ignore[arg-type]
