"""What a plan needs at work and cannot be written down: the device, the opened cases, what is kept of frozen bodies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric

from medgraft import runs
from medgraft.data.cases import Cases
from medgraft.data.dataset import CaseDataset
from medgraft.datasets import Box, Dataset, drawn_boxes, staged
from medgraft.engine.device import make_fabric
from medgraft.engine.plan import Arm, Plan, Setting, kept_frames
from medgraft.tasks.task import Task


@dataclass
class Session:
    """A plan at work on a data set, in a run folder."""

    plan: Plan
    dataset: Dataset
    root: Path  # the run folder
    fabric: Fabric
    store_root: Path | None = None
    features: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    @classmethod
    def open(cls, plan: Plan, dataset: Dataset, root: Path) -> Session:
        stage = None if plan.means.stage is None else Path(plan.means.stage)
        fabric = make_fabric(plan.device, plan.precision, plan.threads)
        return cls(plan, dataset, root, fabric, staged(dataset, stage))

    @cached_property
    def cases(self) -> Cases:
        return Cases(self.dataset, self.store_root)

    @cached_property
    def boxes(self) -> dict[str, list[Box]]:
        """Boxes that people drew, by case id."""
        return drawn_boxes(self.dataset.root)

    @cached_property
    def task(self) -> Task:
        """The task under the default setting, for what does not depend on one."""
        return self.plan.make_task()

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {case: row for row, case in enumerate(self.dataset.manifest["case_id"])}

    def rows(self, patients: Iterable[str] | None = None) -> list[int]:
        """Manifest rows of the plan's cases of these patients (of all where None), in the plan's order."""
        wanted = None if patients is None else set(patients)
        return [self._rows[case] for case, patient, _ in self.plan.cases if wanted is None or patient in wanted]

    def samples(
        self,
        rows: Sequence[int],
        setting: Setting,
        *,
        augmented: bool = False,
        part: tuple[int, int] | None = None,
        masks: bool = True,
    ) -> CaseDataset:
        """Cases as a setting cuts them. ``augmented`` for training batches and test-time views; ``part`` is the
        (outer, inner) training part whose selection of frames holds; ``masks`` go into the batch where the task joins
        fields.
        """
        kept = None
        if part is not None:
            trains, _ = self.plan.part(*part)
            kept = kept_frames(
                self.dataset, self.dataset.manifest, trains, setting.select, outer=part[0], inner=part[1]
            )
        return CaseDataset(
            self.dataset,
            rows,
            window=setting.window,
            augment=setting.augment if augmented else "none",
            targets=self.task.targets,
            dense=masks and self.task.joins == "field",
            store_root=self.store_root,
            hu_window=setting.normalise.hu_window,
            kept=kept,
        )


@dataclass(frozen=True)
class Training:
    """One cell to be trained: which, of what, and for which share of the steps."""

    cell: runs.Cell
    arm: Arm
    setting: Setting
    stop_share: float = 1.0

    @property
    def searches(self) -> bool:
        return self.cell.inner >= 0

    @property
    def largest(self) -> tuple[str, ...]:
        """Structures of which the search chose the largest component alone."""
        return tuple(self.cell.context.get("task", {}).get("largest", ()))

    @property
    def part(self) -> tuple[int, int]:
        return self.cell.outer, self.cell.inner
