"""Kinds of question as records: nothing else in the statistics knows one by name, and a task brings its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_summary import Study, entry

from medgraft import notices
from medgraft.errors import UserError
from medgraft.notices import NOTICES, notice
from medgraft.report.page import build
from medgraft.stats import claims, kinds, metrics
from medgraft.stats.kinds import KINDS, Kind, Question, ask, register
from medgraft.stats.metrics import METRICS, Weights, metric
from medgraft.stats.thresholds import thresholds, youden_threshold
from medgraft.stats.write import write_tables


def test_every_metric_is_of_known_kinds_and_every_primary_metric_is_its_kind_s() -> None:
    assert {task for m in METRICS.values() for task in m.tasks} == set(KINDS)
    for kind in KINDS.values():
        assert kind.name in METRICS[kind.primary].tasks
    assert {k.name for k in KINDS.values() if METRICS[k.primary].direction == "lower"} == {"regression"}
    assert {k.name for k in KINDS.values() if k.hardest == "high"} == {"regression", "quantities"}


def test_a_kind_stands_once_and_has_its_metric() -> None:
    with pytest.raises(ValueError, match="binary stands already"):
        register(KINDS["binary"])
    made = KINDS["regression"]
    with pytest.raises(ValueError, match="auc is no metric of a new question"):
        register(Kind(**{**made.__dict__, "name": "new", "primary": "auc"}))
    assert "new" not in KINDS


def test_an_unknown_task_is_named() -> None:
    empty = Study().tables()
    with pytest.raises(UserError, match=r"no statistics for the task 'clasify'.*did you mean 'classify'"):
        ask(*empty[:2], {"task": "clasify"})
    with pytest.raises(UserError, match="no structure was measured"):
        ask(*empty[:2], {"task": "segment"})


def test_a_target_with_several_classes_stands_alone() -> None:
    made = Study(per_patient=1, seeds=1)
    cell = made.cell("net", 0, 0)
    for target, cls in (("a", "x"), ("a", "y"), ("b", "yes")):
        made.rows(cell, made.fold == 0, made.y, made.y, target=target, cls=cls)
    with pytest.raises(UserError, match="several classes stands beside other targets"):
        made.summary()


@pytest.fixture
def landmarks() -> Iterator[Kind]:
    """What the file of a task that nobody foresaw registers: a measure in pixels, a kind, a notice."""

    @metric("landmark", (0, np.inf), "mean distance to the mark", direction="lower", decimals=1, unit="px")
    def gap(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> np.ndarray:
        total, n = weights.sums(y_pred, np.ones(len(y_pred)))
        return np.asarray(total / n)

    def asks(predictions: pl.DataFrame, measures: pl.DataFrame, run: Any) -> Question | None:
        return Question(kind, ["tip"], [], [("tip", "")])

    def rows(predictions: pl.DataFrame, measures: pl.DataFrame, asked: Question) -> pl.DataFrame:
        found = measures.filter(pl.col("name") == "gap.tip")
        return found.select(
            "cell",
            "case_id",
            pl.lit(None, dtype=pl.String).alias("patient_id"),
            pl.lit(0, dtype=pl.Int64).alias("column"),
            pl.lit(0, dtype=pl.Int64).alias("part"),
            pl.lit(0.0).alias("y_true"),
            pl.col("value").alias("y_pred"),
        )

    kind = register(
        Kind(
            name="landmark",
            task="locate",
            primary="gap",
            dimensions=1,
            question=asks,
            rows=rows,
            arrays=lambda labels, values: (None, values[:, :, 0, 0], np.zeros(len(labels), dtype=bool)),
            case_values=lambda asked, answers: answers.y_pred.mean(axis=0),
            hardest="high",
            label=lambda asked, y: "",
            by_patient=False,
        )
    )
    notices.register("off_picture", "{n} marks lie off the picture", "{n} 个标志点在图像之外")
    yield kind
    del METRICS["gap"], KINDS["landmark"], NOTICES["off_picture"]


def test_a_task_brings_its_kind_and_is_judged_and_told(landmarks: Kind, tmp_path: Path) -> None:
    made = Study(patients=60, per_patient=1, seeds=1)
    made.run |= {"task": "locate", "targets": ["tip"], "classes": {}}
    made.run["warnings"] = notices.to_json([notice("off_picture", n=2)])
    gaps = {"near": 2 + np.arange(60) % 3, "far": 9 + np.arange(60) % 3}
    for model, values in gaps.items():
        for outer in range(3):
            cell = made.cell(model, outer, 0)
            made.measures += [
                {"cell": cell, "case_id": made.case[i], "frame": -1, "name": "gap.tip", "value": float(values[i])}
                for i in np.flatnonzero(made.fold == outer)
            ]
    s = made.summary()
    near = "near · imagenet · finetune"
    assert s["run"]["primary_metric"] == "case.gap" and entry(s, near, "case.gap")["value"] == pytest.approx(3)
    assert s["models"][0]["id"] == near and s["models"][0]["rank"]["best"] == 1
    assert s["pairs"][0]["a"] == near and s["pairs"][0]["difference"] < 0 and s["pairs"][0]["p_superior"] == 1
    assert s["roc"] == {} and s["scatter"] == {} and len(s["missed"]) == 12
    assert s["missed"][0]["values"][near] == 4  # the largest gap is the hardest
    write_tables(s, tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["run"]["measures"]["gap"]["direction"] == "lower"
    page = build(tmp_path).read_text(encoding="utf-8").replace("\xa0", " ")
    assert "ranks first: gap 3.0 px" in page and "2 marks lie off the picture" in page
    assert "2 个标志点在图像之外" in build(tmp_path, lang="zh").read_text(encoding="utf-8")


def test_claims_range_over_relations_and_over_runs() -> None:
    made = Study(per_patient=1, seeds=1)
    made.add("good", 1.5), made.add("fair", 0.3)
    made.run["recipe"] = {"claims": [{"text": "t", "relation": "bettr", "better": {"model": "good"}}]}
    with pytest.raises(UserError, match=r"t: no relation 'bettr' of claims.*did you mean 'better'"):
        made.summary()
    plain = {"text": "t", "better": {"model": "good"}, "than": {"model": "fair"}}
    made.run["recipe"] = {"claims": [plain, plain | {"relation": "better"}]}
    first, second = made.summary()["claims"]
    assert first == second and first["verdict"] == "supported" and first["reason"] == []
    predictions, measures, cells = made.tables()
    asked = ask(predictions, measures, made.run)
    from medgraft.stats.collect import collect
    from medgraft.stats.pairs import Calls

    judged = collect(predictions, measures, cells, asked, made.run, [])
    entries = [{"id": i, "model": i.split(" ")[0], "run": run, "state": "done"} for run in ("a", "b") for i in judged]
    both = {f"{run}: {i}": answers for run in ("a", "b") for i, answers in judged.items()}
    half = {k: np.full(60, 0.5) for k in both}
    options = {"resamples": 200, "confidence": 0.95, "seed": 0}
    across = {"text": "t", "better": {"model": "good", "run": "a"}, "than": {"model": "good", "run": "b"}}
    (told,) = claims.verdicts([across], Calls(asked, both, half, options), entries)
    (pair,) = told["comparisons"]
    assert pair["a"].startswith("a: good") and pair["b"].startswith("b: good") and pair["difference"] == 0
    del both[pair["b"]]
    (gone,) = claims.verdicts([across], Calls(asked, both, half, options), entries)
    assert gone["verdict"] == "not run" and gone["reason"][0]["values"]["model"] == pair["b"]


def test_thresholds_come_from_the_inner_parts_of_the_chosen_setting() -> None:
    made = Study(per_patient=1, seeds=1, folds=2)
    name = made.add("good", 1.0)
    chosen, other = made.cell("good", 0, 0, inner=0), made.cell("good", 0, 0, inner=0, setting='{"learning_rate": 1}')
    select = made.fold == 1
    made.rows(chosen, select, made.y, made.scores["good", 0], split="select")
    made.rows(other, select, made.y, 1 - made.scores["good", 0], split="select")
    predictions, _, cells = made.tables()
    wanted = youden_threshold(made.y[select], made.scores["good", 0][select])
    assert thresholds(cells, predictions) == {name: {"0": pytest.approx(wanted)}}


def test_the_best_value_follows_the_measure() -> None:
    assert metrics.best([3.0, 1.0], KINDS["regression"].primary) == 1
    assert metrics.best([3.0, 1.0], kinds.BINARY.primary) == 0
