"""The kinds of question that a run can ask, as records: what is measured, of which parts, and how a case is told.

Nothing else in the statistics knows a kind by name. A task that asks another kind of question registers it in its own
file, beside its measures (``stats.metrics.metric``) and notices (``notices.register``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from medgraft.errors import UserError, did_you_mean
from medgraft.stats.judged import Judged
from medgraft.stats.metrics import METRICS, for_task, overlap

#: What metrics are taken of: (suffix of the printed name, kind, metrics, y_true, y_pred with its seeds).
Part = tuple[str, str, list[str], np.ndarray | None, np.ndarray]
Arrays = tuple[np.ndarray | None, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Question:
    """What is asked of the models: the kind, and the (target, class) pairs or structures in order (``columns``)."""

    kind: Kind
    targets: list[str]
    classes: list[str]  # of the only target when binary (negative, positive) or multi-class
    columns: list[tuple[str, str]]

    @property
    def task(self) -> str:
        """Name of the kind, as metrics know it."""
        return self.kind.name

    @property
    def primary(self) -> str:
        """Name of the primary metric."""
        return self.kind.primary


def _whole(asked: Question, answers: Judged) -> Part:
    return "", asked.task, for_task(asked.task), answers.y_true, answers.y_pred


def _only_whole(asked: Question, answers: Judged) -> Iterable[Part]:
    yield _whole(asked, answers)


def _no_labels(asked: Question, answers: Judged) -> Iterable[tuple[str, np.ndarray, list[str]]]:
    return ()


def whole_cases(predictions: pl.DataFrame, measures: pl.DataFrame, asked: Question) -> pl.DataFrame:
    """Predictions of whole cases (window -1), the mean over views where there are several."""
    place = pl.DataFrame(
        {
            "target": [t for t, _ in asked.columns],
            "class": [c for _, c in asked.columns],
            "column": list(range(len(asked.columns))),
        },
        schema={"target": pl.String, "class": pl.String, "column": pl.Int64},
    )
    rows = predictions.filter(pl.col("window") == -1).with_columns(pl.col("class").fill_null(""))
    rows = rows.join(place, on=["target", "class"]).with_columns(pl.col("y_pred").fill_null(float("nan")))
    return rows.group_by("cell", "case_id", "column").agg(
        pl.col("patient_id").first(),
        pl.col("y_true").first(),
        pl.col("y_pred").mean(),
        pl.lit(0, dtype=pl.Int64).alias("part"),
    )


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of question. Shapes are those of ``stats.metrics``; n cases, T columns, S seeds.

    - ``task`` of the recipes that may ask it; ``primary`` metric; ``dimensions`` of ``y_pred`` without the seeds.
    - ``question(predictions, measures, run)`` is what the tables ask, or None when it is of another kind.
    - ``rows``: one for each cell, case and column (cell, case_id, patient_id, column, part, y_true, y_pred); ``values``
      numbers that a column has (``part``); ``any_column``: a case counts when any of its columns is there, else all.
    - ``arrays(labels (n, T), values (S, n, T, values))``: y_true, y_pred, and which cases (n,) have labels that do not
      make a truth.
    - ``parts``: the whole, then each target, class or structure.
    - ``case_values``: how right a model was about each case (n,), mean over its seeds; ``hardest``: whether low or high
      values mark the hard cases; ``label``: a case in words.
    - ``wrong(asked, answers, threshold)`` (n, T), None where there is no right and wrong.
    - ``labels``: (target, class index of each case, class names) of every target with classes.
    - ``by_patient``: answers of a patient's cases can be averaged.
    - ``curves`` of roc, calibration, scatter; ``beside`` of majority, threshold, slope, negatives, looks_at;
      ``caveats`` of constant, ties, undefined.
    """

    name: str
    task: str
    primary: str
    dimensions: int
    question: Callable[[pl.DataFrame, pl.DataFrame, Mapping[str, Any]], Question | None]
    arrays: Callable[[np.ndarray, np.ndarray], Arrays]
    case_values: Callable[[Question, Judged], np.ndarray]
    label: Callable[[Question, Any], Any]
    rows: Callable[[pl.DataFrame, pl.DataFrame, Question], pl.DataFrame] = whole_cases
    values: int = 1
    any_column: bool = False
    parts: Callable[[Question, Judged], Iterable[Part]] = _only_whole
    hardest: Literal["low", "high"] = "low"
    wrong: Callable[[Question, Judged, np.ndarray], np.ndarray] | None = None
    labels: Callable[[Question, Judged], Iterable[tuple[str, np.ndarray, list[str]]]] = _no_labels
    by_patient: bool = True
    curves: frozenset[str] = frozenset()
    beside: frozenset[str] = frozenset()
    caveats: frozenset[str] = frozenset()

    @property
    def has_classes(self) -> bool:
        """Whether cases fall into classes, each of which needs some patients."""
        return self.labels is not _no_labels


KINDS: dict[str, Kind] = {}  # in the order in which the kinds of a task are asked


def register(kind: Kind) -> Kind:
    """Add a kind; its measures come first.

    Raises ``ValueError`` when the kind stands already or its primary metric is none of its metrics.
    """
    if kind.name in KINDS:
        raise ValueError(f"a kind of question named {kind.name} stands already")
    if kind.primary not in METRICS or kind.name not in METRICS[kind.primary].tasks:
        raise ValueError(f"{kind.primary} is no metric of a {kind.name} question")
    KINDS[kind.name] = kind
    return kind


def ask(predictions: pl.DataFrame, measures: pl.DataFrame, run: Mapping[str, Any]) -> Question:
    """What the tables of a run ask: the first kind of its task that knows them.

    Raises ``UserError`` when there is nothing to judge or targets of different kinds are mixed.
    """
    task = str(run.get("task") or "classify")
    kinds = [kind for kind in KINDS.values() if kind.task == task]
    if not kinds:
        raise UserError(
            f"no statistics for the task {task!r}", fix=did_you_mean(task, {k.task for k in KINDS.values()})
        )
    for kind in kinds:
        asked = kind.question(predictions, measures, run)
        if asked is not None:
            return asked
    raise UserError(
        f"no question of the task {task} fits the tables", fix="see the states of the cells in cells.parquet"
    )


# ---- what the tables ask ------------------------------------------------------------------------


def _of(value: Any, target: str) -> Any:
    return value.get(target) if isinstance(value, dict) else value


def _found(predictions: pl.DataFrame, run: Mapping[str, Any]) -> dict[str, list[str]]:
    """{target: its predicted classes}, in the order of the run."""
    pairs = predictions.filter(pl.col("window") == -1).select("target", "class").unique().sort("target", "class").rows()
    if not pairs:
        raise UserError("no case was predicted", fix="see the states of the cells in cells.parquet")
    order = list(run.get("targets") or [])
    targets = sorted({t for t, _ in pairs}, key=lambda t: (order.index(t) if t in order else len(order), t))
    return {t: [c for target, c in pairs if target == t] for t in targets}


def _asks_binary(predictions: pl.DataFrame, measures: pl.DataFrame, run: Mapping[str, Any]) -> Question | None:
    found = _found(predictions, run)
    target, classes = next(iter(found.items()))
    if len(found) > 1 or len(classes) > 1:
        return None
    positive = classes[0]
    negative = [str(c) for c in _of(run.get("classes"), target) or [] if str(c) != positive]
    named = [negative[0] if len(negative) == 1 else f"not {positive}", positive]
    return Question(BINARY, [target], named, [(target, positive)])


def _asks_multiclass(predictions: pl.DataFrame, measures: pl.DataFrame, run: Mapping[str, Any]) -> Question | None:
    found = _found(predictions, run)
    if len(found) > 1:
        return None
    target, classes = next(iter(found.items()))
    named = [str(c) for c in _of(run.get("classes"), target) or []]
    listed = [c for c in named if c in classes] + [c for c in classes if c not in named]
    return Question(MULTICLASS, [target], listed, [(target, c) for c in listed])


def _asks_multilabel(predictions: pl.DataFrame, measures: pl.DataFrame, run: Mapping[str, Any]) -> Question | None:
    found = _found(predictions, run)
    mixed = [t for t, classes in found.items() if len(classes) > 1]
    if mixed:
        raise UserError(
            "a target with several classes stands beside other targets",
            case=mixed[0],
            fix="judge it in a run of its own with target=",
        )
    return Question(MULTILABEL, list(found), [], [(t, classes[0]) for t, classes in found.items()])


def _asks_regression(predictions: pl.DataFrame, measures: pl.DataFrame, run: Mapping[str, Any]) -> Question | None:
    found = list(_found(predictions, run))
    return Question(REGRESSION, found, [], [(t, "") for t in found]) if len(found) == 1 else None


def _asks_quantities(predictions: pl.DataFrame, measures: pl.DataFrame, run: Mapping[str, Any]) -> Question | None:
    found = list(_found(predictions, run))
    return Question(QUANTITIES, found, [], [(t, "") for t in found])


def _asks_segmentation(predictions: pl.DataFrame, measures: pl.DataFrame, run: Mapping[str, Any]) -> Question | None:
    found = measures.filter(pl.col("name").str.starts_with("tp."))["name"].str.slice(3).unique().sort().to_list()
    wanted = [s for s in run.get("structures") or [] if s in found]
    structures = wanted + [s for s in found if s not in wanted]
    if not structures:
        raise UserError("no structure was measured", fix="see the states of the cells in cells.parquet")
    return Question(SEGMENTATION, structures, [], [(s, "") for s in structures])


# ---- rows and arrays ----------------------------------------------------------------------------


def _with_votes(predictions: pl.DataFrame, measures: pl.DataFrame, asked: Question) -> pl.DataFrame:
    """Whole cases, with the share of their windows that said yes where windows vote."""
    rows = whole_cases(predictions, measures, asked)
    cast = measures.filter(pl.col("name").is_in(["votes", "windows"])).pivot(
        "name", index=["cell", "case_id"], values="value"
    )
    if not len(cast):
        return rows
    return rows.join(
        cast.select("cell", "case_id", (pl.col("votes") / pl.col("windows")).alias("share")),
        on=["cell", "case_id"],
        how="left",
    )


def _counted(predictions: pl.DataFrame, measures: pl.DataFrame, asked: Question) -> pl.DataFrame:
    """Counts tp, fp and fn of each structure. They add up: where a case has none of its own its frames are summed."""
    kinds = {
        f"{kind}.{structure}": (k, i)
        for k, (structure, _) in enumerate(asked.columns)
        for i, kind in enumerate(("tp", "fp", "fn"))
    }
    rows = measures.filter(pl.col("name").is_in(list(kinds)))
    whole = rows.filter(pl.col("frame") == -1)
    frames = rows.filter(pl.col("frame") >= 0).join(
        whole.select("cell", "case_id").unique(), on=["cell", "case_id"], how="anti"
    )
    rows = pl.concat([whole, frames]).group_by("cell", "case_id", "name").agg(pl.col("value").sum())
    return rows.select(
        "cell",
        "case_id",
        pl.lit(None, dtype=pl.String).alias("patient_id"),
        pl.col("name").replace_strict({n: k for n, (k, _) in kinds.items()}, return_dtype=pl.Int64).alias("column"),
        pl.col("name").replace_strict({n: i for n, (_, i) in kinds.items()}, return_dtype=pl.Int64).alias("part"),
        pl.lit(0.0).alias("y_true"),
        pl.col("value").alias("y_pred"),
    )


def _one_column(labels: np.ndarray, values: np.ndarray) -> Arrays:
    return labels[:, 0], values[:, :, 0, 0], np.zeros(len(labels), dtype=bool)


def _columns(labels: np.ndarray, values: np.ndarray) -> Arrays:
    return labels, values[..., 0], np.zeros(len(labels), dtype=bool)


def _class_index(labels: np.ndarray, values: np.ndarray) -> Arrays:
    """The one true class of each case; a case that has none or several is not sound."""
    known = ~np.isnan(labels).any(axis=1)
    single = known & ((labels == 1).sum(axis=1) == 1)
    return np.where(single, labels.argmax(axis=1), np.nan), values[..., 0], known & ~single


def _counts(labels: np.ndarray, values: np.ndarray) -> Arrays:
    return None, values, np.zeros(len(labels), dtype=bool)


# ---- parts --------------------------------------------------------------------------------------


def _each_class(asked: Question, answers: Judged) -> Iterable[Part]:
    yield _whole(asked, answers)
    y, p = _truth(answers), answers.y_pred
    for k, (_, name) in enumerate(asked.columns):
        yield f".{name}", BINARY.name, ["auc", "auprc"], np.where(np.isnan(y), np.nan, y == k), p[..., k]


def _each_label(asked: Question, answers: Judged) -> Iterable[Part]:
    yield _whole(asked, answers)
    metrics = ["auc", "auprc", "sensitivity", "specificity", "f1", "brier", "ece"]
    for k, (name, _) in enumerate(asked.columns):
        yield f".{name}", BINARY.name, metrics, _truth(answers)[:, k], answers.y_pred[..., k]


def _each_quantity(asked: Question, answers: Judged) -> Iterable[Part]:
    yield _whole(asked, answers)
    for k, (name, _) in enumerate(asked.columns):
        yield f".{name}", REGRESSION.name, for_task(REGRESSION.name), _truth(answers)[:, k], answers.y_pred[..., k]


def _each_structure(asked: Question, answers: Judged) -> Iterable[Part]:
    yield _whole(asked, answers)
    for k, (name, _) in enumerate(asked.columns if len(asked.columns) > 1 else []):
        yield f".{name}", asked.task, for_task(asked.task), None, answers.y_pred[:, :, k : k + 1]


# ---- cases --------------------------------------------------------------------------------------


def _truth(answers: Judged) -> np.ndarray:
    assert answers.y_true is not None
    return answers.y_true


def _over_columns(truth: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Mean over the known columns and the seeds of values (S, n, T), with truth (n, T): (n,)."""
    known = ~np.isnan(truth)
    return np.asarray((np.where(known, right, 0).sum(axis=2) / known.sum(axis=1)).mean(axis=0))


def _flat(answers: Judged) -> tuple[np.ndarray, np.ndarray]:
    """Truth (n, T) and scores (S, n, T)."""
    y, p = _truth(answers), answers.y_pred
    return y.reshape(len(y), -1), p.reshape(len(p), len(y), -1)


def _probability(asked: Question, answers: Judged) -> np.ndarray:
    """Probability of the truth, the mean over several targets."""
    truth, scores = _flat(answers)
    return _over_columns(truth, np.where(truth == 1, scores, 1 - scores))


def _class_probability(asked: Question, answers: Judged) -> np.ndarray:
    """Probability of the true class."""
    y = _truth(answers)
    return np.asarray(answers.y_pred[:, np.arange(len(y)), y.astype(np.int64)].mean(axis=0))


def _error(asked: Question, answers: Judged) -> np.ndarray:
    """Absolute error; several quantities are averaged after dividing by each target's standard deviation."""
    truth, scores = _flat(answers)
    spread = np.nanstd(truth, axis=0) if truth.shape[1] > 1 else np.ones(1)
    return _over_columns(truth, np.abs(scores - truth) / np.where(spread > 0, spread, 1))


def _dice(asked: Question, answers: Judged) -> np.ndarray:
    """Dice over structures and seeds; NaN where a case has nothing drawn and nothing called."""
    values = overlap(answers.y_pred)  # (S, n, K)
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=(0, 2))
    return np.where(known.any(axis=(0, 2)), total / np.maximum(known.sum(axis=(0, 2)), 1), np.nan)


def _beyond_threshold(asked: Question, answers: Judged, threshold: np.ndarray) -> np.ndarray:
    """Whether the mean score over the seeds (or the vote of the windows) is on the wrong side (n, T)."""
    y = _truth(answers)
    truth, mean = y.reshape(len(y), -1), answers.y_pred.mean(axis=0).reshape(len(y), -1)
    said = mean >= threshold[:, None] if answers.votes is None else answers.votes.mean(axis=0)[:, None] > 0.5
    return np.asarray(~np.isnan(truth) & (said != (truth == 1)))


def _other_class(asked: Question, answers: Judged, threshold: np.ndarray) -> np.ndarray:
    """Whether the mean over the seeds calls another class (n, 1)."""
    return np.asarray((answers.y_pred.mean(axis=0).argmax(axis=1) != _truth(answers))[:, None])


def _class_of(asked: Question, y: Any) -> Any:
    return asked.classes[int(y)]


def _positives(asked: Question, y: Any) -> Any:
    return ", ".join(t for (t, _), v in zip(asked.columns, y) if v == 1) or "none"


def _one_target(asked: Question, answers: Judged) -> Iterable[tuple[str, np.ndarray, list[str]]]:
    yield asked.targets[0], _truth(answers), asked.classes


def _several_targets(asked: Question, answers: Judged) -> Iterable[tuple[str, np.ndarray, list[str]]]:
    for k, (target, name) in enumerate(asked.columns):
        yield target, _truth(answers)[:, k], [f"not {name}", name]


# ---- the kinds ----------------------------------------------------------------------------------

BINARY = register(
    Kind(
        name="binary",
        task="classify",
        primary="auc",
        dimensions=1,
        question=_asks_binary,
        rows=_with_votes,
        arrays=_one_column,
        case_values=_probability,
        label=_class_of,
        wrong=_beyond_threshold,
        labels=_one_target,
        curves=frozenset({"roc", "calibration"}),
        beside=frozenset({"majority", "threshold", "slope", "negatives", "looks_at"}),
        caveats=frozenset({"constant", "ties"}),
    )
)
MULTICLASS = register(
    Kind(
        name="multiclass",
        task="classify",
        primary="balanced_accuracy",
        dimensions=2,
        question=_asks_multiclass,
        arrays=_class_index,
        parts=_each_class,
        case_values=_class_probability,
        label=_class_of,
        wrong=_other_class,
        labels=_one_target,
        curves=frozenset({"roc", "calibration"}),
        beside=frozenset({"majority"}),
        caveats=frozenset({"constant"}),
    )
)
MULTILABEL = register(
    Kind(
        name="multilabel",
        task="classify",
        primary="macro_auc",
        dimensions=2,
        question=_asks_multilabel,
        arrays=_columns,
        parts=_each_label,
        case_values=_probability,
        label=_positives,
        wrong=_beyond_threshold,
        labels=_several_targets,
        curves=frozenset({"roc", "calibration"}),
        beside=frozenset({"threshold"}),
        caveats=frozenset({"constant"}),
    )
)
REGRESSION = register(
    Kind(
        name="regression",
        task="regress",
        primary="mae",
        dimensions=1,
        question=_asks_regression,
        arrays=_one_column,
        case_values=_error,
        hardest="high",
        label=lambda asked, y: float(y),
        curves=frozenset({"scatter"}),
        caveats=frozenset({"constant", "undefined"}),
    )
)
QUANTITIES = register(
    Kind(
        name="quantities",
        task="regress",
        primary="macro_r2",
        dimensions=2,
        question=_asks_quantities,
        arrays=_columns,
        parts=_each_quantity,
        case_values=_error,
        hardest="high",
        label=lambda asked, y: ", ".join(f"{v:.4g}" for v in y),
        curves=frozenset({"scatter"}),
        caveats=frozenset({"constant", "undefined"}),
    )
)
SEGMENTATION = register(
    Kind(
        name="segmentation",
        task="segment",
        primary="dice",
        dimensions=3,
        question=_asks_segmentation,
        rows=_counted,
        values=3,
        any_column=True,
        arrays=_counts,
        parts=_each_structure,
        case_values=_dice,
        label=lambda asked, y: "",
        by_patient=False,
        caveats=frozenset({"undefined"}),
    )
)
