"""The contract of a task, once, with shapes.

A task says what of a data set it can learn, turns the output of a model into a loss while training, and into plain
numbers when predicting. It knows nothing of folds, files or devices. ``TASKS`` (``tasks/choose.py``) holds every task
by name; a file that puts its own class there is a task like any other.

class level
``name``       as a recipe says it.
``joins``      how windows become an answer: ``case`` (the mean of their scores), ``field`` (an overlap-weighted map on
the
               case's own grid), ``window`` (each window is judged alone, its measures are averaged over the case).
``describe``   data set, wanted names, classes to keep -> ``TaskSpec``, or a ``UserError`` that says what is lacking.
``make``       ``TaskSpec`` and a training setting (None: the default one) -> the task.

instance
``outputs``    how many numbers the head gives (classes, targets, two for each target, or structures).
``targets``    label columns that a batch carries in ``y``; empty where masks are learned.
``metric``     what settings are chosen by, an object that knows its direction.
``question``   the kind of question in ``stats.kinds`` that its tables answer.
``yes_no``     one yes/no question: it has thresholds, votes, kinds of negatives and boxes that explain it.
``usable``     which rows of a manifest it can learn from and be judged on.
``stratify``   the label columns by whose classes or values patients are dealt into parts.
``remarks``    notices that every page of a run of this task carries.
``refuse``     raises ``UserError`` for a setting that has no meaning here; what asks for yes/no targets is refused
               for every task (``refuse`` below).
``fit``        labels of the training part (n, T) -> what must be known before training (scale, weights).
``state``      what ``fit`` found, as arrays for the checkpoint; ``load`` puts it back.
``loss``       output (B, outputs) or (B, K, D, H, W) and the batch -> {"loss": scalar, ...parts}.
``scores``     output -> what windows of one case may be averaged: probabilities or quantities.
``rows``       joined scores of cases -> columns of ``predictions`` (``case``), or of ``measures`` (``field``,
``window``).
``summary``    predictions or measures of a part -> {metric: value}; the same ``stats.metrics`` as the report.
``closed_form`` features (n, F), labels (n, T), patients (n,) -> weights and bias of a linear head, or None where there
is none.
``trivial``    truths of the training part (labels (T,) of each case, or masks (K, D, H, W)), the grids (D, H, W) of the
               same cases and the kind of the data -> the answers that anybody could give without looking at a picture.
``answer``     joined scores of one new study -> what a table says of it, and a label map to write beside it where it
has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import polars as pl
import torch

from medgraft.config import TrainConfig
from medgraft.data.dataset import TargetSpec
from medgraft.datasets import Dataset
from medgraft.errors import UserError
from medgraft.notices import Notice
from medgraft.stats.metrics import Metric

Columns = dict[str, list[Any]]
Joins = Literal["case", "field", "window"]
Grid = tuple[int, int, int]


@dataclass(frozen=True)
class TaskSpec:
    """What is asked of a data set, as plain values: the task's name, its label columns or its structures.

    ``exclusive`` structures never share a voxel. Of ``largest`` structures only the largest connected component is
    called; ``weighs`` counts with and without that, so that it can be chosen.
    """

    name: str
    targets: tuple[TargetSpec, ...] = ()
    structures: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()  # of the only target that take part; empty: all
    exclusive: bool = False
    largest: tuple[str, ...] = ()
    weighs: bool = False

    @property
    def told(self) -> str:
        """How masks are learned, in a line; empty where labels are."""
        if len(self.structures) < 2:
            return f"masks of {self.structures[0]}: yes or no in every voxel (sigmoid)" if self.structures else ""
        names = ", ".join(self.structures)
        if self.exclusive:
            return f"masks of {names} exclude each other: one answer a voxel, background among them (softmax)"
        return f"masks of {names} may overlap: yes or no for each in every voxel (sigmoid)"

    def to_json(self) -> dict[str, Any]:
        """Plain values; what newer versions added is left out where it does not hold, so that older cells keep their
        names.
        """
        return {k: v for k, v in asdict(self).items() if k not in ("exclusive", "largest", "weighs") or v}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TaskSpec:
        targets = tuple(TargetSpec(**{**t, "classes": tuple(t["classes"])}) for t in value["targets"])
        structures, classes = tuple(value["structures"]), tuple(value["classes"])
        more = {"largest": tuple(value.get("largest", ())), "weighs": value.get("weighs", False)}
        return cls(value["name"], targets, structures, classes, value.get("exclusive", False), **more)


@dataclass(frozen=True)
class Linear:
    """A linear head in closed form: ``weight`` (outputs, F), ``bias`` (outputs,), and the strength ``c`` that was
    used.
    """

    weight: np.ndarray
    bias: np.ndarray
    c: float


@dataclass(frozen=True)
class Answer:
    """What is said of one new study: columns of the table, and a label map (D, H, W) uint8 to write, where there
    is one.
    """

    columns: dict[str, Any]
    labels: np.ndarray | None = None
    names: tuple[str, ...] = field(default=())  # of the label map's values 1, 2, ...


@dataclass(frozen=True)
class Trivial:
    """What is answered without looking: ``name`` as tables say it, ``title`` in English and Chinese.

    ``scores`` gives for the grid (D, H, W) of a case what ``Task.rows`` takes as the joined scores of one: (answers,),
    or (K, D, H, W) where the task joins fields.
    """

    name: str
    title: tuple[str, str]
    scores: Callable[[Grid], np.ndarray]


class Task(Protocol):
    """See the module's docstring."""

    name: ClassVar[str]
    joins: ClassVar[Joins]

    outputs: int
    targets: list[TargetSpec]
    metric: Metric

    @property
    def question(self) -> str: ...

    @property
    def yes_no(self) -> bool: ...

    @property
    def stratify(self) -> tuple[str, ...]: ...

    @classmethod
    def describe(cls, dataset: Dataset, names: Sequence[str], classes: Sequence[str]) -> TaskSpec: ...

    @classmethod
    def make(cls, spec: TaskSpec, setting: TrainConfig | None = None) -> Task: ...

    def usable(self, manifest: pl.DataFrame) -> pl.Series: ...

    def remarks(self, dataset: Dataset) -> list[Notice]: ...

    def refuse(self, setting: TrainConfig, join: str) -> None: ...

    def fit(self, y: np.ndarray) -> None: ...

    def state(self) -> dict[str, np.ndarray]: ...

    def load(self, state: Mapping[str, np.ndarray]) -> None: ...

    def loss(self, output: torch.Tensor, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]: ...

    def scores(self, output: torch.Tensor) -> torch.Tensor: ...

    def rows(self, case_ids: Sequence[str], patient_ids: Sequence[str], truth: Any, scores: Any) -> Columns: ...

    def summary(self, columns: Columns) -> dict[str, float]: ...

    def closed_form(
        self, x: np.ndarray, y: np.ndarray, patients: np.ndarray, *, c: float | None, seed: int, balanced: bool = False
    ) -> Linear | None: ...

    def trivial(self, truths: Iterable[np.ndarray], grids: Sequence[Grid], kind: str) -> list[Trivial]: ...

    def answer(self, scores: np.ndarray, case: Mapping[str, Any], *, threshold: float | None) -> Answer: ...


@runtime_checkable
class Weighs(Protocol):
    """A task that can choose what of an answer is cleaned away, where it ``weighs``: from the measure columns of the
    parts that select, cases of several parts together, ``cleaned`` names the structures of which only the largest
    connected component is called.
    """

    weighs: bool

    def cleaned(self, columns: Columns) -> tuple[str, ...]: ...


def labelled(manifest: pl.DataFrame, targets: Sequence[TargetSpec]) -> pl.Series:
    """Rows with a value of at least one target."""
    return manifest.select(pl.any_horizontal([pl.col(f"label.{t.name}").is_not_null() for t in targets])).to_series()


def refuse(task: Task, setting: TrainConfig, join: str) -> None:
    """Raise ``UserError`` for a setting that has no meaning: for the task alone, or for any but yes/no targets."""
    task.refuse(setting, join)
    if join == "vote" and not task.yes_no:
        raise UserError("windows vote on one yes/no target only", fix="set window.join=mean")
    if setting.positive_weight != 1 and not (task.targets and all(t.kind == "binary" for t in task.targets)):
        raise UserError(
            "positive_weight is for yes/no targets", fix="leave out train.positive_weight, or use balanced=true"
        )
