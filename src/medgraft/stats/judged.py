"""From the tables to arrays: what each model said about which cases, one row a seed.

Only whole cases (window -1) of refitted cells that are done count. A model's cases are those that all of
its seeds judged; what had to be left out is said in a warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from medgraft.errors import UserError
from medgraft.notices import Notice, notice
from medgraft.stats.metrics import labelled_rows

ID = pl.concat_str(["model", "start", "strategy"], separator=" · ").alias("id")


@dataclass(frozen=True)
class Question:
    """What is asked of the models.

    ``task`` as in ``stats.metrics``; ``columns`` the (target, class) pairs or structures, in order.
    """

    task: str
    targets: list[str]
    classes: list[str]  # of the only target when binary (negative, positive) or multi-class
    columns: list[tuple[str, str]]

    @property
    def primary(self) -> str:
        """Name of the primary metric."""
        return {
            "binary": "auc",
            "multiclass": "balanced_accuracy",
            "multilabel": "macro_auc",
            "regression": "mae",
            "quantities": "macro_r2",
            "segmentation": "dice",
        }[self.task]


@dataclass(frozen=True)
class Judged:
    """One model's answers on n cases (or patients) with S seeds.

    ``y_true`` (n,) or (n, T), None for segmentation; ``y_pred`` (S, n), (S, n, C or T) or (S, n, K, 3); ``outer`` (S,
    n) the fold in which each was a test case; ``seeds`` name of each row. ``votes`` (S, n), where the windows of a
    case vote on a yes/no target: the share of them that said yes. It decides what the case is called;
    ``y_pred`` stays the mean probability, which ranks.
    """

    id: str
    cases: np.ndarray
    patients: np.ndarray
    y_true: np.ndarray | None
    y_pred: np.ndarray
    outer: np.ndarray
    seeds: list[str]
    votes: np.ndarray | None = None

    def decided(self, threshold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What decisions are taken of: scores (S, n, ...) and the threshold (n,) they must reach.

        A tie of votes is a no.
        """
        return (
            (self.y_pred, threshold)
            if self.votes is None
            else ((self.votes > 0.5).astype(np.float64), np.full(len(threshold), 0.5))
        )

    def take(self, rows: np.ndarray) -> Judged:
        """Some of the cases (mask or indices)."""
        return replace(
            self,
            cases=self.cases[rows],
            patients=self.patients[rows],
            y_true=None if self.y_true is None else self.y_true[rows],
            y_pred=self.y_pred[:, rows],
            outer=self.outer[:, rows],
            votes=None if self.votes is None else self.votes[:, rows],
        )


def question(predictions: pl.DataFrame, measures: pl.DataFrame, run: dict[str, Any]) -> Question:
    """What kind of task the tables hold.

    Raises ``UserError`` when targets of different kinds are mixed or there is nothing to judge.
    """
    if run.get("task") == "segment":
        found = measures.filter(pl.col("name").str.starts_with("tp."))["name"].str.slice(3).unique().sort().to_list()
        wanted = [s for s in run.get("structures") or [] if s in found]
        structures = wanted + [s for s in found if s not in wanted]
        if not structures:
            raise UserError("no structure was measured", fix="see the states of the cells in cells.parquet")
        return Question("segmentation", structures, [], [(s, "") for s in structures])
    pairs = predictions.filter(pl.col("window") == -1).select("target", "class").unique().sort("target", "class").rows()
    if not pairs:
        raise UserError("no case was predicted", fix="see the states of the cells in cells.parquet")
    order = list(run.get("targets") or [])
    targets = sorted({t for t, _ in pairs}, key=lambda t: (order.index(t) if t in order else len(order), t))
    if run.get("task") == "regress":
        return Question("regression" if len(targets) == 1 else "quantities", targets, [], [(t, "") for t in targets])
    classes = {t: [c for target, c in pairs if target == t] for t in targets}
    if len(targets) == 1 and len(classes[targets[0]]) > 1:
        named = [str(c) for c in _of(run.get("classes"), targets[0]) or []]
        listed = [c for c in named if c in classes[targets[0]]] + [c for c in classes[targets[0]] if c not in named]
        return Question("multiclass", targets, listed, [(targets[0], c) for c in listed])
    mixed = [t for t in targets if len(classes[t]) > 1]
    if mixed:
        raise UserError(
            "a target with several classes stands beside other targets",
            case=mixed[0],
            fix="judge it in a run of its own with target=",
        )
    if len(targets) == 1:
        positive = classes[targets[0]][0]
        negative = [str(c) for c in _of(run.get("classes"), targets[0]) or [] if str(c) != positive]
        return Question(
            "binary",
            targets,
            [negative[0] if len(negative) == 1 else f"not {positive}", positive],
            [(targets[0], positive)],
        )
    return Question("multilabel", targets, [], [(t, classes[t][0]) for t in targets])


def _of(value: Any, target: str) -> Any:
    return value.get(target) if isinstance(value, dict) else value


def collect(
    predictions: pl.DataFrame,
    measures: pl.DataFrame,
    cells: pl.DataFrame,
    asked: Question,
    run: dict[str, Any],
    warnings: list[Notice],
) -> dict[str, Judged]:
    """Every model's answers on the test parts, by id. Appends to ``warnings`` what was left out and why."""
    refits = cells.filter((pl.col("inner") == -1) & (pl.col("state") == "done")).with_columns(ID)
    twice = refits.group_by("id", "outer", "seed").len().filter(pl.col("len") > 1).sort("id")
    warnings += [notice("refitted_again", model=i, fold=int(o), n=int(n), seed=int(s)) for i, o, s, n in twice.rows()]
    rows = _rows(predictions.filter(pl.col("split") == "test"), measures, asked).join(
        refits.select("id", "outer", "seed", pl.col("hash").alias("cell")), on="cell"
    )
    result = {}
    for (name,), part in rows.sort("id").group_by(["id"], maintain_order=True):
        judged = _arrays(str(name), part, asked, run, warnings)
        if judged is not None:
            result[judged.id] = judged
    return result


def inner_parts(
    predictions: pl.DataFrame, measures: pl.DataFrame, cells: pl.DataFrame, asked: Question, run: dict[str, Any]
) -> dict[str, list[tuple[str, Judged]]]:
    """Answers of the inner cells of the chosen settings on their select parts: id -> [(cell, answers)].

    Chosen settings are those that the fold's refit has; where none matches, all count.
    """
    named = cells.with_columns(ID)
    chosen = named.filter(pl.col("inner") == -1).select("id", "outer", "setting").unique()
    inner = named.filter((pl.col("inner") >= 0) & (pl.col("state") == "done"))
    matched = inner.join(chosen, on=["id", "outer", "setting"], how="semi")
    inner = pl.concat([matched, inner.join(matched.select("id").unique(), on="id", how="anti")])
    rows = _rows(predictions.filter(pl.col("split") == "select"), measures, asked)
    rows = rows.join(inner.select("id", "outer", "seed", pl.col("hash").alias("cell")), on="cell")
    result: dict[str, list[tuple[str, Judged]]] = {}
    for (cell,), part in rows.sort("id", "cell").group_by(["cell"], maintain_order=True):
        judged = _arrays(str(part["id"][0]), part, asked, run, [])
        if judged is not None:
            result.setdefault(judged.id, []).append((str(cell), judged))
    return result


def _rows(predictions: pl.DataFrame, measures: pl.DataFrame, asked: Question) -> pl.DataFrame:
    """One row for each cell, case and column: cell, case_id, patient_id, column, (part), y_true, y_pred."""
    if asked.task == "segmentation":
        kinds = {
            f"{kind}.{structure}": (k, i)
            for k, (structure, _) in enumerate(asked.columns)
            for i, kind in enumerate(("tp", "fp", "fn"))
        }
        rows = measures.filter(pl.col("name").is_in(list(kinds)))
        # Counts add up: where a case has no count of its own its frames are summed.
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
    rows = rows.group_by("cell", "case_id", "column").agg(  # the mean over views, where there are several
        pl.col("patient_id").first(),
        pl.col("y_true").first(),
        pl.col("y_pred").mean(),
        pl.lit(0, dtype=pl.Int64).alias("part"),
    )
    if asked.task != "binary":
        return rows
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


def _arrays(
    name: str, rows: pl.DataFrame, asked: Question, run: dict[str, Any], warnings: list[Notice]
) -> Judged | None:
    """Arrays of one model from its rows; None when no labelled case is left."""
    # A case that stands in the test part of several folds (repeated cross-validation) makes rows like further seeds.
    rows = rows.sort("seed", "outer", "cell", "case_id", "column", "part")
    rows = rows.with_columns(pl.int_range(pl.len()).over("seed", "case_id", "column", "part").alias("again"))
    repeats = rows.select("seed", "again").unique().sort("seed", "again").rows()
    cases = rows["case_id"].unique().sort().to_list()
    size = len(repeats), len(cases), len(asked.columns), 3 if asked.task == "segmentation" else 1
    row_of, case_of = {r: i for i, r in enumerate(repeats)}, {c: i for i, c in enumerate(cases)}
    s = np.array([row_of[r] for r in rows.select("seed", "again").iter_rows()], dtype=np.int64)
    c = np.array([case_of[x] for x in rows["case_id"].to_list()], dtype=np.int64)
    t, part = rows["column"].to_numpy(), rows["part"].to_numpy()
    y_pred, there = np.zeros(size), np.zeros(size[:3], dtype=bool)
    y_pred[s, c, t, part] = rows["y_pred"].to_numpy()
    there[s, c, t] = True
    votes = np.full(size[:2], np.nan)
    if "share" in rows.columns:
        votes[s, c] = rows["share"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    labels = np.full(size[1:3], np.nan)
    labels[c, t] = rows["y_true"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    outer = np.full(size[:2], -1)
    outer[s, c] = rows["outer"].to_numpy()
    whole = np.asarray(there.any(axis=2) if asked.task == "segmentation" else there.all(axis=2))
    kept = whole.sum(axis=1) == whole.sum(axis=1).max()
    names = [f"{seed}" if again == 0 else f"{seed} (repeat {again + 1})" for seed, again in repeats]
    for i in np.flatnonzero(~kept):
        warnings.append(
            notice("seed_left_out", model=name, seed=names[i], n=int(whole[i].sum()), all=int(whole.sum(axis=1).max()))
        )
    common = whole[kept].all(axis=0)
    if (lost := int(whole[kept].any(axis=0).sum() - common.sum())) > 0:
        warnings.append(notice("cases_left_out", model=name, n=lost))
    patients = _patients(rows, cases, run)
    y_true, common = _truth(labels, common, asked, name, warnings)
    if y_true is not None:
        common = common & labelled_rows(y_true)
    if not common.any():
        warnings.append(notice("no_labelled_case", model=name))
        return None
    pred = y_pred if asked.task == "segmentation" else y_pred[..., 0]
    if asked.task in ("binary", "regression"):
        pred = pred[..., 0]
    judged = Judged(
        name,
        np.array(cases),
        patients,
        y_true,
        pred[kept],
        outer[kept],
        [n for n, k in zip(names, kept) if k],
        votes[kept],
    ).take(common)
    if judged.votes is None or np.isnan(judged.votes).any():
        judged = replace(judged, votes=None)
    scores = judged.y_pred.reshape(len(judged.seeds), len(judged.cases), -1)
    holes = np.asarray(np.isnan(scores).any(axis=(0, 2)))
    if holes.any():
        bad = rows.filter(pl.col("y_pred").is_nan() & pl.col("case_id").is_in(judged.cases[holes].tolist()))
        warnings.append(
            notice(
                "not_a_number",
                model=name,
                n=int(holes.sum()),
                cells=sorted(bad["cell"].unique().to_list()),
                case=str(judged.cases[holes][0]),
            )
        )
    return judged


def _truth(
    labels: np.ndarray, common: np.ndarray, asked: Question, name: str, warnings: list[Notice]
) -> tuple[np.ndarray | None, np.ndarray]:
    """Labels in the shape of the task; cases whose multi-class truth is no single class are left out."""
    if asked.task == "segmentation":
        return None, common
    if asked.task in ("binary", "regression"):
        return labels[:, 0], common
    if asked.task != "multiclass":
        return labels, common
    known = ~np.isnan(labels).any(axis=1)
    single = known & ((labels == 1).sum(axis=1) == 1)
    if (odd := int((known & ~single & common).sum())) > 0:
        warnings.append(notice("no_single_class", model=name, n=odd, classes=list(asked.classes)))
    return np.where(single, labels.argmax(axis=1), np.nan), common & single


def _patients(rows: pl.DataFrame, cases: Sequence[str], run: dict[str, Any]) -> np.ndarray:
    given = dict(
        rows.filter(pl.col("patient_id").is_not_null())
        .select("case_id", "patient_id")
        .unique(subset="case_id")
        .iter_rows()
    )
    known = {**(run.get("patients") or {}), **given}
    absent = [c for c in cases if known.get(c) is None]
    if absent:
        raise UserError(
            "no patient is known for this case", case=str(absent[0]), fix="give run['patients'] = {case_id: patient_id}"
        )
    return np.array([str(known[c]) for c in cases])


def by_patient(judged: Judged) -> Judged | None:
    """The mean prediction of each patient over its cases; None where labels differ within a patient."""
    if judged.y_true is None:
        return None
    names, first, codes = np.unique(judged.patients, return_index=True, return_inverse=True)
    y = judged.y_true.reshape(len(codes), -1)
    truth = np.full((len(names), y.shape[1]), np.nan)
    for t in range(y.shape[1]):
        known = ~np.isnan(y[:, t])
        truth[codes[known], t] = y[known, t]
        if (truth[codes[known], t] != y[known, t]).any():
            return None
    flat = judged.y_pred.reshape(len(judged.seeds), len(codes), -1)
    member = sparse.csr_matrix((1 / np.bincount(codes)[codes], (codes, np.arange(len(codes)))))
    mean = np.stack([member @ scores for scores in flat])
    votes = None if judged.votes is None else np.stack([member @ share for share in judged.votes])
    return replace(
        judged,
        cases=names,
        patients=names,
        y_true=truth.reshape((len(names), *judged.y_true.shape[1:])),
        y_pred=mean.reshape((len(judged.seeds), len(names), *judged.y_pred.shape[2:])),
        outer=judged.outer[:, first],
        votes=votes,
    )
