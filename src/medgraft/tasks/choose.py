"""Every task by name, and which one a data set and a recipe ask for."""

from __future__ import annotations

from collections.abc import Sequence

from medgraft.datasets import Dataset
from medgraft.errors import UserError, did_you_mean
from medgraft.tasks.classify import Classify
from medgraft.tasks.regress import Regress
from medgraft.tasks.segment import Segment
from medgraft.tasks.targets import specs
from medgraft.tasks.task import Task, TaskSpec

TASKS: dict[str, type[Task]] = {task.name: task for task in (Classify, Regress, Segment)}  # type: ignore[type-abstract]


def describe(
    dataset: Dataset, task: str, target: str | Sequence[str] | None, classes: Sequence[str] | None
) -> TaskSpec:
    """What is learned: the task that was named, or with ``auto`` masks where there are no labels, else what the labels
    are.

    Raises ``UserError`` when the task is unknown, or the data set has neither labels nor masks, or several labels and
    no choice.
    """
    names = [target] if isinstance(target, str) else list(target or [])
    keep = list(classes or [])
    if task != "auto" and task not in TASKS:
        raise UserError(f"no task {task!r}", fix=did_you_mean(task, ["auto", *TASKS]))
    masks_alone = not names and not dataset.targets and bool(dataset.info.get("structures"))
    if (task != "auto" and TASKS[task].joins != "case") or (task == "auto" and masks_alone):
        return TASKS[Segment.name if task == "auto" else task].describe(dataset, names, keep)
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
    if task == "auto":
        quantities_alone = {t.kind for t in specs(dataset, names, keep)} == {"regress"}
        task = Regress.name if quantities_alone else Classify.name
    return TASKS[task].describe(dataset, names, keep)


def make(spec: TaskSpec, setting: object = None) -> Task:
    """The task of a spec under a training setting (``TrainConfig``; None: the default one)."""
    if spec.name not in TASKS:
        raise UserError(f"no task {spec.name!r} here", fix=did_you_mean(spec.name, TASKS))
    return TASKS[spec.name].make(spec, setting)  # type: ignore[arg-type]
