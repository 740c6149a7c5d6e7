"""The summary from tables built by hand: what it says, and what it must refuse to say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn import metrics as oracle
from stats_studies import auc_within

from medgraft import tables
from medgraft.errors import UserError
from medgraft.notices import from_json
from medgraft.stats.compare import compare_two
from medgraft.stats.intervals import bootstrap
from medgraft.stats.summary import summarise
from medgraft.stats.write import leaderboard, sentence, write_tables

OPTIONS = {"resamples": 300, "confidence": 0.95, "seed": 0}


class Study:
    """Hand-made run: patients with ``per_patient`` cases, folds by patient, several models and seeds, and inner
    cells.
    """

    def __init__(
        self, patients: int = 60, per_patient: int = 2, folds: int = 3, seeds: int = 2, label_on: str = "patient"
    ) -> None:
        g = np.random.default_rng(0)
        self.patient = np.repeat(np.arange(patients), per_patient)
        n = len(self.patient)
        self.case = [f"case{i:04d}" for i in range(n)]
        self.y = (self.patient % 2 if label_on == "patient" else g.permutation(np.arange(n) % 2)).astype(float)
        self.fold = self.patient % folds if label_on == "patient" and folds % 2 else (self.patient // 2) % folds
        self.folds, self.seeds, self.g = folds, seeds, g
        self.scores: dict[tuple[str, int], np.ndarray] = {}
        self.cells: list[dict[str, Any]] = []
        self.predictions: list[dict[str, Any]] = []
        self.measures: list[dict[str, Any]] = []
        self.run: dict[str, Any] = {
            "name": "made by hand",
            "task": "classify",
            "targets": ["finding"],
            "classes": {"finding": ["healthy", "ill"]},
            "positive": {"finding": "ill"},
            "level": "case",
            "unit": "patient",
            "patients": {c: f"p{p:03d}" for c, p in zip(self.case, self.patient)},
        }

    def cell(self, model: str, outer: int, seed: int, inner: int = -1, state: str = "done", setting: str = "{}") -> str:
        name = f"{model}-{outer}-{inner}-{seed}-{setting}"
        row = {
            "hash": name,
            "model": model,
            "start": "imagenet",
            "strategy": "finetune",
            "setting": setting,
            "outer": outer,
            "inner": inner,
        }
        self.cells.append({**row, "seed": seed, "data_hash": "d", "state": state})
        return name

    def rows(
        self,
        cell: str,
        cases: np.ndarray,
        y: np.ndarray,
        p: np.ndarray,
        split: str = "test",
        target: str = "finding",
        cls: str = "ill",
    ) -> None:
        for i in np.flatnonzero(cases):
            self.predictions.append(
                {
                    "cell": cell,
                    "split": split,
                    "inner": -1 if split == "test" else 0,
                    "patient_id": f"p{self.patient[i]:03d}",
                    "case_id": self.case[i],
                    "window": -1,
                    "window_start": 0,
                    "view": 0,
                    "target": target,
                    "class": cls,
                    "y_true": None if np.isnan(y[i]) else float(y[i]),
                    "y_pred": float(p[i]),
                }
            )

    def add(self, model: str, strength: float, folds: list[int] | None = None, seeds: int | None = None) -> str:
        """A binary model; returns its id."""
        for seed in range(self.seeds if seeds is None else seeds):
            noise = np.random.default_rng([seed, len(model), int(100 * strength)]).normal(size=len(self.y))
            p = 1 / (1 + np.exp(-(strength * (2 * self.y - 1) + noise)))
            self.scores[model, seed] = p
            for outer in range(self.folds) if folds is None else folds:
                self.rows(self.cell(model, outer, seed), self.fold == outer, self.y, p)
        return f"{model} · imagenet · finetune"

    def tables(self) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
        made = (("predictions", self.predictions), ("measures", self.measures), ("cells", self.cells))
        p, m, c = (tables.validate(pl.DataFrame(rows, schema=tables.SCHEMAS[name]), name) for name, rows in made)
        return p, m, c

    def summary(self, **options: Any) -> dict[str, Any]:
        return summarise(*self.tables(), self.run, **{**OPTIONS, **options})


def entry(summary: dict[str, Any], model: str, name: str) -> dict[str, Any]:
    return next(m for m in summary["models"] if m["id"] == model)["metrics"][name]


def warned(summary: dict[str, Any], *words: str) -> bool:
    return any(all(word in str(from_json(line)) for word in words) for line in summary["run"]["warnings"])


@pytest.fixture(scope="module")
def study() -> Study:
    made = Study()
    made.add("good", 1.2)
    made.add("fair", 0.5)
    return made


def test_numbers_are_those_of_the_pooled_test_folds(study: Study) -> None:
    s = study.summary()
    good, fair = (f"{m} · imagenet · finetune" for m in ("good", "fair"))
    assert [m["id"] for m in s["models"]] == [good, fair]
    assert s["run"]["primary_metric"] == "case.auc" and next(iter(s["models"][0]["metrics"])) == "case.auc"
    seeds = [auc_within(study.y, study.scores["good", k], study.fold) for k in range(2)]
    auc = entry(s, good, "case.auc")
    assert auc["value"] == pytest.approx(np.mean(seeds)) and auc["seed_sd"] == pytest.approx(np.std(seeds, ddof=1))
    assert (auc["n"], auc["n_units"], auc["unit"]) == (120, 60, "patient") and auc["low"] < auc["value"] < auc["high"]
    folds = [
        oracle.roc_auc_score(study.y[study.fold == f], study.scores["good", k][study.fold == f])
        for k in range(2)
        for f in range(3)
    ]
    assert auc["fold_mean"] == pytest.approx(np.mean(folds))
    direct = bootstrap(
        study.y,
        np.stack([study.scores["good", k] for k in range(2)]),
        study.patient,
        ["auc", "f1"],
        resamples=300,
        strata=study.fold,
    )
    assert (auc["low"], auc["high"]) == pytest.approx((direct["auc"].low, direct["auc"].high))
    assert entry(s, good, "case.f1")["high"] == pytest.approx(direct["f1"].high)
    mean = [np.array([study.scores["good", k][study.patient == p].mean() for p in range(60)]) for k in range(2)]
    by_patient = entry(s, good, "patient.auc")
    assert (
        by_patient["value"]
        == pytest.approx(np.mean([auc_within(np.arange(60) % 2, m, np.arange(60) % 3) for m in mean]))
        and by_patient["n"] == 60
    )
    assert s["run"]["n_patients"] == 60 and s["run"]["n_cases"] == 120 and s["run"]["folds"] == 3
    assert s["run"]["warnings"] == []


def test_pairs_test_and_rank_the_models(study: Study) -> None:
    s = study.summary()
    (pair,) = s["pairs"]
    a, b = (
        np.stack([study.scores[m, k] for k in range(2)]) for m in (pair["a"].split(" ")[0], pair["b"].split(" ")[0])
    )
    test = compare_two(study.y, a, b, study.patient, strata=study.fold)
    assert pair["method"] == "paired t" and pair["p"] == pytest.approx(test.p) == pair["p_adjusted"]
    assert pair["difference"] == pytest.approx(test.difference) and pair["low"] < pair["difference"] < pair["high"]
    assert pair["a"].startswith("good") and pair["p_superior"] > 0.95
    assert s["models"][0]["rank"] == {"best": 1, "low": 1, "high": 1} and s["models"][1]["rank"]["best"] == 2


def test_the_curve_has_the_area_that_stands_beside_it() -> None:
    made = Study(patients=120, per_patient=1, seeds=1)
    name = made.add("good", 1.0)
    for row in made.predictions:  # each fold's network answers on a scale of its own
        row["y_pred"] = row["y_pred"] / (1 + int(row["cell"].split("-")[1]))
    s = made.summary()
    curve = s["roc"][name]
    area = float(np.trapezoid(curve["tpr"], curve["fpr"]))
    assert area == pytest.approx(entry(s, name, "case.auc")["value"], abs=0.02)


def test_the_correction_covers_all_pairs() -> None:
    made = Study(per_patient=1, seeds=1)
    for model, strength in (("a", 0.2), ("bb", 0.4), ("ccc", 0.6)):
        made.add(model, strength)
    pairs = sorted(made.summary()["pairs"], key=lambda pair: pair["p"])
    p = [pair["p"] for pair in pairs]
    holm = np.minimum(1, np.maximum.accumulate([3 * p[0], 2 * p[1], p[2]]))
    found = np.array([pair["p_adjusted"] for pair in pairs])
    assert (found <= holm + 1e-12).all() and (np.diff(found) >= 0).all() and p[0] < found[0] < holm[0]


def test_the_winner_is_told_what_it_owes_to_luck() -> None:
    """Eight equal models: the best one's lead is chance, and the estimate moves to their mean; a truly better one
    keeps its lead.
    """
    made = Study(patients=200, per_patient=1, seeds=1)
    for k in range(8):
        made.add("m" * (k + 1), 0.7)
    s = made.summary()
    values = [m["metrics"]["case.auc"]["value"] for m in s["models"]]
    won = s["winner"]
    assert won["id"] == s["models"][0]["id"] and won["metric"] == "case.auc" and won["value"] == max(values)
    assert won["optimism"] > 0.3 * (max(values) - np.mean(values)) > 0
    assert won["expected"] == pytest.approx(won["value"] - won["optimism"])
    first = s["models"][0]["metrics"]["case.auc"]
    assert (won["low"], won["high"]) == pytest.approx((first["low"] - won["optimism"], first["high"] - won["optimism"]))
    made = Study(patients=200, per_patient=1, seeds=1)
    made.add("good", 2.0)
    for k in range(7):
        made.add("m" * (k + 1), 0.3)
    s = made.summary()
    lead = s["winner"]["value"] - np.mean([m["metrics"]["case.auc"]["value"] for m in s["models"]])
    assert 0 <= s["winner"]["optimism"] < 0.15 * lead
    made = Study(seeds=1)
    made.add("alone", 1.0)
    assert made.summary()["winner"] is None


def test_order_of_the_rows_changes_nothing(study: Study) -> None:
    p, m, c = study.tables()
    first = summarise(p, m, c, study.run, **OPTIONS)
    again = summarise(
        p.sample(fraction=1, shuffle=True, seed=1), m, c.sample(fraction=1, shuffle=True, seed=2), study.run, **OPTIONS
    )
    assert json.dumps(first) == json.dumps(again)


def test_window_rows_inner_cells_and_unfinished_cells_are_not_judged(study: Study) -> None:
    p, m, c = study.tables()
    noise = p.with_columns(pl.lit(3, dtype=pl.Int64).alias("window"), pl.lit(0.5).alias("y_pred"))
    running = c.head(1).with_columns(
        pl.lit("x").alias("hash"), pl.lit("running").alias("state"), pl.lit("late").alias("model")
    )
    inner = c.head(1).with_columns(pl.lit("y").alias("hash"), pl.lit(0, dtype=pl.Int64).alias("inner"))
    extra = [
        p.filter(pl.col("cell") == c["hash"][0]).with_columns(pl.lit(h).alias("cell"), pl.lit(0.5).alias("y_pred"))
        for h in ("x", "y")
    ]
    select = p.with_columns(
        pl.lit("select").alias("split"), pl.lit(0.5).alias("y_pred")
    )  # a refit's rows of its own training part
    s = summarise(pl.concat([p, noise, select, *extra]), m, pl.concat([c, running, inner]), study.run, **OPTIONS)
    assert s["run"]["warnings"] == []
    plain = study.summary()
    assert json.dumps([s["models"][:2], s["pairs"]]) == json.dumps([plain["models"], plain["pairs"]])
    assert s["models"][2]["state"] == "running" and s["models"][2]["metrics"] == {}


def test_schema_and_files(study: Study, tmp_path: Path) -> None:
    made = Study()
    made.add("good", 1.2)
    made.cell("absent", 0, 0, state="not run: weights absent")
    load = {"loaded": 5, "share": 0.9, "source": "ImageNet-1k", "accuracy": "top-1 75.1 %"}
    made.run["cell_facts"] = {
        c["hash"]: {"seconds": 2.0, "parameters": 7, "load": load | {"card": "x"}} for c in made.cells[:6]
    }
    made.run["curves"] = {
        made.cells[0]["hash"]: [{"step": 1.0, "learning_rate": 0.1, "train_loss": 0.7, "select_score": float("nan")}]
    }
    s = made.summary()
    write_tables(s, tmp_path)
    read = json.loads((tmp_path / "summary.json").read_text())
    assert list(read) == [
        "run",
        "models",
        "trivial",
        "pairs",
        "winner",
        "roc",
        "calibration",
        "scatter",
        "heatmap",
        "missed",
        "curves",
        "claims",
    ]
    good, absent = read["models"]
    assert (
        absent["state"] == "not run"
        and absent["reason"] == {"kind": "weights_absent", "values": {}}
        and absent["metrics"] == {}
        and absent["rank"] is None
    )
    assert (good["seconds"], good["parameters"], good["load"]) == (12.0, 7, load)
    assert good["threshold"] == 0.5 and good["threshold_rule"] == "fixed at 0.5"
    assert set(good) >= {
        "id",
        "model",
        "start",
        "strategy",
        "state",
        "reason",
        "parameters",
        "metrics",
        "rank",
        "inner_score",
        "seconds",
        "load",
    }
    assert set(good["metrics"]["case.auc"]) >= {"value", "low", "high", "n", "unit", "seed_sd", "fold_mean"}
    curve = read["roc"][good["id"]]
    assert (
        len(curve["fpr"]) == len(curve["tpr"]) == len(curve["low"]) == len(curve["high"])
        and curve["low"][50] <= curve["tpr"][50] <= curve["high"][50]
    )
    assert sum(b["n"] for b in read["calibration"][good["id"]]) == 240
    assert read["curves"][good["id"]][0] | {"cell": ""} == {
        "cell": "",
        "outer": 0,
        "inner": -1,
        "seed": 0,
        "step": [1.0],
        "train_loss": [0.7],
        "select_score": [None],
    }
    table = pl.read_csv(tmp_path / "leaderboard.csv")
    assert table["id"].to_list() == [good["id"], absent["id"]]
    assert (
        table["case.auc.low"][0] == pytest.approx(good["metrics"]["case.auc"]["low"]) and table["case.auc"][1] is None
    )
    assert pl.read_csv(tmp_path / "pairs.csv").columns[:3] == ["a", "b", "metric"]
    write_tables(study.summary(), tmp_path)
    assert pl.read_csv(tmp_path / "pairs.csv").height == 1
    line = sentence("case.auc", s["models"][0]["metrics"]["case.auc"])
    assert (
        line.startswith(f"case.auc {s['models'][0]['metrics']['case.auc']['value']:.3f} (95 % interval")
        and "120 cases of 60 patients" in line
    )


def test_heat_map_and_missed_cases() -> None:
    made = Study(patients=60, per_patient=1)
    ids = [made.add("good", 0.6), made.add("fair", 0.3)]
    made.run["thresholds"] = {ids[0]: 0.4}
    s = made.summary()
    heat = s["heatmap"]
    assert [c["label"] for c in heat["cases"]] == ["healthy"] * 30 + ["ill"] * 30
    values = np.array(heat["values"])
    for part in (values[:, :30], values[:, 30:]):
        assert (np.diff(part.mean(axis=0)) >= -1e-12).all()
    index = {c: i for i, c in enumerate(made.case)}
    mean = {m: (made.scores[m, 0] + made.scores[m, 1]) / 2 for m in ("good", "fair")}
    for row, model in zip(heat["values"], heat["models"]):
        for value, case in zip(row, heat["cases"]):
            i = index[case["case_id"]]
            p = mean[model.split(" ")[0]][i]
            assert value == pytest.approx(p if made.y[i] else 1 - p)
    wrong = ((mean["good"] >= 0.4) != made.y) & ((mean["fair"] >= 0.5) != made.y)
    assert {m["case_id"] for m in s["missed"]} == {made.case[i] for i in np.flatnonzero(wrong)} and wrong.any()
    good = next(m for m in s["models"] if m["id"] == ids[0])
    assert (good["threshold"], good["threshold_rule"]) == (0.4, "Youden index on the inner parts")
    sensitivity = np.mean([(made.scores["good", k][made.y == 1] >= 0.4).mean() for k in range(2)])
    assert good["metrics"]["case.sensitivity"]["value"] == pytest.approx(sensitivity)


def test_thresholds_of_each_fold_apply_to_the_cases_it_tested() -> None:
    made = Study(per_patient=1, seeds=1)
    name = made.add("good", 1.0)
    made.run["thresholds"] = {name: {"0": 0.2, "1": 0.5, "2": 0.8}}
    s = made.summary()
    cut = np.array([0.2, 0.5, 0.8])[made.fold]
    right = (made.scores["good", 0] >= cut) == made.y
    assert entry(s, name, "case.accuracy")["value"] == pytest.approx(right.mean())


def test_inner_score_is_of_the_chosen_setting_on_the_select_part() -> None:
    made = Study(per_patient=1, seeds=1)
    name = made.add("good", 1.0)
    chosen, other = made.cell("good", 0, 0, inner=0), made.cell("good", 0, 0, inner=0, setting='{"learning_rate": 1}')
    select = made.fold == 1
    made.rows(chosen, select, made.y, made.scores["good", 0], split="select")
    made.rows(other, select, made.y, 1 - made.scores["good", 0], split="select")
    s = made.summary()
    assert next(m for m in s["models"] if m["id"] == name)["inner_score"] == pytest.approx(
        oracle.roc_auc_score(made.y[select], made.scores["good", 0][select])
    )


def test_models_judged_on_different_cases_are_compared_on_the_common_ones() -> None:
    made = Study(per_patient=1, seeds=1)
    full, part = made.add("full", 1.0), made.add("part", 0.7, folds=[0, 2])
    made.cell("part", 1, 0, state="failed: loss is not a number")
    s = made.summary()
    assert (
        warned(s, part, "40 of 60 cases", "fold 2")
        and warned(s, "different cases", "cases in common")
        and warned(s, "2 of 3 trainings")
    )
    assert entry(s, full, "case.auc")["n"] == 60 and entry(s, part, "case.auc")["n"] == 40
    both = made.fold != 1
    (pair,) = s["pairs"]
    sign = 1 if pair["a"] == full else -1
    wanted = auc_within(made.y[both], made.scores["full", 0][both], made.fold[both]) - auc_within(
        made.y[both], made.scores["part", 0][both], made.fold[both]
    )
    assert pair["difference"] == pytest.approx(sign * wanted) and pair["n"] == 40
    failed = next(m for m in s["models"] if m["id"] == part)
    assert failed["state"] == "done" and failed["reason"]["values"]["states"] == ["failed: loss is not a number"]


def test_a_seed_without_all_folds_is_left_out_not_mixed_in() -> None:
    made = Study(per_patient=1, seeds=1)
    name = made.add("good", 1.0)
    p = 1 - made.scores["good", 0]
    made.rows(made.cell("good", 0, 1), made.fold == 0, made.y, p)
    s = made.summary()
    assert warned(s, name, "seed 1", "20 of 60 cases", "left out")
    assert entry(s, name, "case.auc")["value"] == pytest.approx(auc_within(made.y, made.scores["good", 0], made.fold))
    assert np.isnan(entry(s, name, "case.auc")["seed_sd"])


def test_labels_that_differ_within_patients_have_no_patient_metrics() -> None:
    made = Study(label_on="case")
    name = made.add("good", 1.0)
    s = made.summary()
    assert not [k for m in s["models"] for k in m["metrics"] if k.startswith("patient.")]
    made.run["level"] = "patient"
    s = made.summary()
    assert (
        s["run"]["primary_metric"] == "case.auc"
        and warned(s, "differ within some patient")
        and entry(s, name, "case.auc")["n"] == 120
    )


def test_level_patient_counts_patients_only() -> None:
    made = Study()
    name = made.add("good", 1.0)
    made.run["level"] = "patient"
    s = made.summary()
    assert s["run"]["primary_metric"] == "patient.auc" and entry(s, name, "patient.auc")["n"] == 60
    assert not [k for m in s["models"] for k in m["metrics"] if k.startswith("case.")]
    assert len(s["heatmap"]["cases"]) == 60 and s["run"]["n_cases"] == 120


def test_odd_data_gets_a_word_and_never_a_wrong_number() -> None:
    made = Study(patients=8, per_patient=1, folds=2, seeds=1)
    made.y[:] = 1
    name = made.add("good", 1.0)
    s = made.summary()
    assert np.isnan(entry(s, name, "case.auc")["value"]) and np.isnan(entry(s, name, "case.auc")["low"])
    assert entry(s, name, "case.sensitivity")["value"] > 0.5
    assert warned(s, "all judged cases have one class (ill)") and warned(s, "only 8 patients", "below 50")
    assert s["roc"] == {} and s["models"][0]["rank"] is None and s["pairs"] == []

    made = Study(patients=60, per_patient=1, seeds=1)
    constant = made.add("flat", 1.0)
    for row in made.predictions:
        row["y_pred"] = 0.5
    twin = made.add("twin", 1.0)
    for row in made.predictions[60:]:
        row["y_pred"] = round(row["y_pred"], 1)
    s = made.summary()
    auc = entry(s, constant, "case.auc")
    assert auc["value"] == 0.5 and np.isnan([auc["low"], auc["high"]]).all() and warned(s, constant, "same score")
    assert np.isnan(entry(s, constant, "case.calibration_slope")["value"])
    assert warned(s, twin, "different scores", "count half")

    made = Study(patients=2, per_patient=20, seeds=1, folds=1)
    two = made.add("good", 1.0)
    s = made.summary()
    auc = entry(s, two, "case.auc")
    assert (
        auc["value"] == pytest.approx(oracle.roc_auc_score(made.y, made.scores["good", 0]))
        and np.isnan(auc["low"])
        and np.isnan(auc["high"])
    )
    assert warned(s, "only 2 patients", "too few")

    made = Study(patients=60, per_patient=1, seeds=1)
    perfect = made.add("good", 40.0)
    s = made.summary()
    auc = entry(s, perfect, "case.auc")
    assert auc["value"] == auc["high"] == 1 and 0.9 < auc["low"] < 0.99 and warned(s, perfect, "1 in every resample")


def test_nan_scores_name_the_cell_and_missing_labels_are_ignored() -> None:
    made = Study(per_patient=1, seeds=1)
    broken, whole = made.add("broken", 1.0), made.add("whole", 1.0)
    made.predictions[5]["y_pred"] = float("nan")
    s = made.summary()
    assert np.isnan(entry(s, broken, "case.auc")["value"]) and warned(
        s, broken, made.predictions[5]["cell"], made.predictions[5]["case_id"]
    )
    assert s["pairs"] == [] and entry(s, whole, "case.auc")["value"] > 0.5
    made = Study(per_patient=1, seeds=1)
    name = made.add("good", 1.0)
    hidden = {made.case[i] for i in range(0, 20)}
    for row in made.predictions:
        if row["case_id"] in hidden:
            row["y_true"] = None
    s = made.summary()
    assert entry(s, name, "case.auc")["n"] == 40 and s["run"]["n_cases"] == 40
    assert entry(s, name, "case.auc")["value"] == pytest.approx(
        auc_within(made.y[20:], made.scores["good", 0][20:], made.fold[20:])
    )


def test_a_fold_with_one_class_is_named() -> None:
    made = Study(patients=60, per_patient=1, seeds=1)
    made.fold = np.where(made.y == 1, np.arange(60) // 2 % 2, np.arange(60) // 2 % 3)  # fold 2 has no ill case
    name = made.add("good", 1.0)
    s = made.summary()
    assert warned(s, "finding: outer fold 3 lacks a class")
    folds = [oracle.roc_auc_score(made.y[made.fold == f], made.scores["good", 0][made.fold == f]) for f in (0, 1)]
    assert entry(s, name, "case.auc")["fold_mean"] == pytest.approx(np.mean(folds))


def test_patients_unknown_is_carried() -> None:
    made = Study(per_patient=1, seeds=1)
    made.add("good", 1.0)
    made.run |= {"unit": "case", "patient": "none"}
    s = made.summary()
    assert s["models"][0]["metrics"]["case.auc"]["unit"] == "case" and warned(s, "patient=none")


def classes_study(absent: bool = False) -> tuple[Study, str, np.ndarray]:
    made = Study(patients=60, per_patient=1, seeds=1)
    made.run["classes"] = {"finding": ["covid", "normal", "pneumonia"]}
    y = np.arange(60) % (2 if absent else 3)
    p = np.random.default_rng(0).dirichlet([1, 1, 1], 60) + 0.6 * np.eye(3)[y]
    p /= p.sum(axis=1, keepdims=True)
    for outer in range(3):
        cell = made.cell("net", outer, 0)
        for k, c in enumerate(["covid", "normal", "pneumonia"]):
            made.rows(cell, (np.arange(60) // 6) % 3 == outer, (y == k).astype(float), p[:, k], cls=c)
    made.y = y
    return made, "net · imagenet · finetune", p


def test_multiclass() -> None:
    made, name, p = classes_study()
    s = made.summary()
    assert s["run"]["primary_metric"] == "case.balanced_accuracy"
    assert entry(s, name, "case.balanced_accuracy")["value"] == pytest.approx(
        oracle.balanced_accuracy_score(made.y, p.argmax(axis=1))
    )
    fold = (np.arange(60) // 6) % 3
    each = [auc_within((made.y == k).astype(float), p[:, k], fold) for k in range(3)]
    assert entry(s, name, "case.macro_auc")["value"] == pytest.approx(np.mean(each))
    assert entry(s, name, "case.auc.normal")["value"] == pytest.approx(each[1])
    assert {c["label"] for c in s["heatmap"]["cases"]} == {"covid", "normal", "pneumonia"}
    assert {m["case_id"] for m in s["missed"]} == {made.case[i] for i in np.flatnonzero(p.argmax(axis=1) != made.y)}
    made, name, _ = classes_study(absent=True)
    s = made.summary()
    assert warned(s, "no judged case has class pneumonia") and np.isfinite(
        entry(s, name, "case.balanced_accuracy")["value"]
    )
    assert np.isnan(entry(s, name, "case.auc.pneumonia")["value"])


def test_multilabel_with_gaps() -> None:
    made = Study(patients=60, per_patient=1, seeds=1, folds=2)
    g = np.random.default_rng(0)
    y = (g.random((60, 2)) < 0.5).astype(float)
    p = np.clip(0.4 * y + 0.6 * g.random((60, 2)), 0, 1)
    y[:15, 1] = np.nan
    made.run |= {"targets": ["fluid", "nodule"], "classes": {}}
    for outer in range(2):
        cell = made.cell("net", outer, 0)
        for k, target in enumerate(["fluid", "nodule"]):
            made.rows(cell, np.arange(60) % 2 == outer, y[:, k], p[:, k], target=target, cls="yes")
    s = made.summary()
    name = "net · imagenet · finetune"
    fold = np.arange(60) % 2
    each = [auc_within(y[:, 0], p[:, 0], fold), auc_within(y[15:, 1], p[15:, 1], fold[15:])]
    assert (
        entry(s, name, "case.macro_auc")["value"] == pytest.approx(np.mean(each))
        and s["run"]["primary_metric"] == "case.macro_auc"
    )
    assert [entry(s, name, f"case.auc.{t}")["value"] for t in ("fluid", "nodule")] == pytest.approx(each)
    assert entry(s, name, "case.auc.nodule")["n"] == 45
    wrong = ((p >= 0.5) != (y == 1)) & ~np.isnan(y)
    assert {m["case_id"]: m["targets"] for m in s["missed"]} == {
        made.case[i]: [t for t, w in zip(["fluid", "nodule"], wrong[i]) if w] for i in np.flatnonzero(wrong.any(axis=1))
    }


def test_regression() -> None:
    made = Study(patients=60, per_patient=1, seeds=2)
    made.run |= {"task": "regress", "targets": ["ef"], "classes": {}}
    y = np.random.default_rng(0).normal(55, 10, 60)
    noise = {"good": 3.0, "bad": 9.0}
    scores = {}
    for model, sd in noise.items():
        for seed in range(2):
            scores[model, seed] = y + np.random.default_rng(seed + 5).normal(0, sd, 60)
            for outer in range(3):
                made.rows(
                    made.cell(model, outer, seed), made.fold == outer, y, scores[model, seed], target="ef", cls=""
                )
    s = made.summary()
    good = "good · imagenet · finetune"
    assert (
        s["run"]["primary_metric"] == "case.mae"
        and s["models"][0]["id"] == good
        and s["models"][0]["rank"]["best"] == 1
    )
    assert entry(s, good, "case.r2")["value"] == pytest.approx(
        np.mean([oracle.r2_score(y, scores["good", k]) for k in range(2)])
    )
    (pair,) = s["pairs"]
    assert pair["method"] == "paired t" and pair["p"] < 1e-6
    assert (pair["difference"] < 0) == (pair["a"] == good) and round(pair["p_superior"]) == (pair["a"] == good)
    assert len(s["scatter"][good]) == 60 and s["roc"] == {} and "threshold" not in s["models"][0]
    assert len(s["missed"]) == 12
    means = [np.mean(list(m["values"].values())) for m in s["missed"]]
    assert means == sorted(means, reverse=True)


def test_segmentation() -> None:
    made = Study(patients=60, per_patient=1, seeds=1)
    made.run |= {"task": "segment", "targets": [], "structures": ["tail", "head"], "classes": {}}
    g = np.random.default_rng(0)
    counts = g.integers(1, 100, (60, 2, 3)).astype(float)
    counts[0] = 0
    for outer in range(3):
        cell = made.cell("unet", outer, 0)
        for i in np.flatnonzero(made.fold == outer):
            for k, structure in enumerate(["tail", "head"]):
                for kind, value in zip(("tp", "fp", "fn"), counts[i, k]):
                    parts = (
                        {-1: value} if i % 2 else {0: value - 1, 1: 1.0} if value else {0: 0.0}
                    )  # frames add up where no case row stands
                    for frame, v in parts.items():
                        made.measures.append(
                            {
                                "cell": cell,
                                "case_id": made.case[i],
                                "frame": frame,
                                "name": f"{kind}.{structure}",
                                "value": v,
                            }
                        )
                    if i % 2:
                        made.measures.append(
                            {
                                "cell": cell,
                                "case_id": made.case[i],
                                "frame": 0,
                                "name": f"{kind}.{structure}",
                                "value": 77.0,
                            }
                        )
    s = made.summary()
    name = "unet · imagenet · finetune"
    each = 2 * counts[1:, :, 0] / (2 * counts[1:, :, 0] + counts[1:, :, 1] + counts[1:, :, 2])
    total = counts.sum(axis=0)
    assert s["run"]["primary_metric"] == "case.dice" and entry(s, name, "case.dice")["value"] == pytest.approx(
        each.mean()
    )
    assert entry(s, name, "case.dice.tail")["value"] == pytest.approx(each[:, 0].mean())
    pooled = 2 * total[:, 0] / (2 * total[:, 0] + total[:, 1] + total[:, 2])
    assert entry(s, name, "pooled.dice")["value"] == pytest.approx(pooled.mean())
    assert entry(s, name, "pooled.dice.head")["value"] == pytest.approx(pooled[1])
    assert entry(s, name, "case.iou")["low"] < entry(s, name, "case.iou")["value"]
    assert [m["values"][name] for m in s["missed"]] == pytest.approx(sorted(each.mean(axis=1))[:12])
    assert np.isnan(np.array(s["heatmap"]["values"], dtype=float)).sum() == 1
    made.run["patients"].pop(made.case[7])
    with pytest.raises(UserError, match=f"{made.case[7]}: no patient is known"):
        made.summary()


def test_a_case_without_a_score_is_not_among_the_worst() -> None:
    """Eight cases, fewer than the list holds; one has nothing drawn and nothing predicted, so it has no Dice to be bad
    at.
    """
    made = Study(patients=8, per_patient=1, seeds=1, folds=2)
    made.run |= {"task": "segment", "targets": [], "structures": ["lesion"], "classes": {}}
    for outer in range(2):
        cell = made.cell("unet", outer, 0)
        for i in np.flatnonzero(made.fold == outer):
            for kind, value in (("tp", i), ("fp", 1 if i else 0), ("fn", 0)):
                made.measures.append(
                    {
                        "cell": cell,
                        "case_id": made.case[i],
                        "frame": -1,
                        "name": f"{kind}.lesion",
                        "value": float(value),
                    }
                )
    s = made.summary()
    assert [m["case_id"] for m in s["missed"]] == made.case[1:]
    assert all(np.isfinite(value) for m in s["missed"] for value in m["values"].values())


def test_repeated_cross_validation_counts_like_further_seeds() -> None:
    made = Study(per_patient=1, seeds=1)
    name = made.add("good", 1.0)
    other = 1 / (1 + np.exp(-(2 * made.y - 1 + np.random.default_rng(9).normal(size=60))))
    for outer in range(3):
        made.rows(made.cell("good", 3 + outer, 0), (np.arange(60) // 20) == outer, made.y, other)
    s = made.summary()
    values = [auc_within(made.y, made.scores["good", 0], made.fold), auc_within(made.y, other, np.arange(60) // 20)]
    assert (
        entry(s, name, "case.auc")["value"] == pytest.approx(np.mean(values)) and entry(s, name, "case.auc")["n"] == 60
    )


def test_nothing_to_judge_is_said() -> None:
    made = Study()
    made.cell("absent", 0, 0, state="not run: weights absent")
    with pytest.raises(UserError, match="no case was predicted"):
        made.summary()


def test_leaderboard_is_a_table(study: Study) -> None:
    table = leaderboard(study.summary())
    assert table["rank"].to_list() == [1, 2] and {"case.auc", "case.auc.low", "case.auc.high", "patient.auc"} <= set(
        table.columns
    )
