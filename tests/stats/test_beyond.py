"""Trivial answers beside models: same cases, same intervals, same paired test, no rank; a notice where a model does not
clearly beat them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_summary import OPTIONS, Study

from medgraft import tables
from medgraft.notices import from_json
from medgraft.stats.compare import compare_two
from medgraft.stats.summary import summarise
from medgraft.stats.trivial import Given
from medgraft.stats.write import leaderboard, sentence, write_tables

TITLES = {"majority": ("Most frequent class", "最常见的类别"), "mean": ("Mean", "均值"), "median": ("Median", "中位数")}


def given(study: Study, name: str, scores: np.ndarray, **target: str) -> Given:
    """A trivial answer for every case of a study, by its folds."""
    own = Study.__new__(Study)
    own.__dict__.update(study.__dict__, cells=[], predictions=[], measures=[])
    for outer in range(study.folds):
        own.cell("trivial", outer, 0)
        own.cells[-1] |= {"start": name, "strategy": "", "hash": f"trivial.{name}.{outer}"}
        own.rows(f"trivial.{name}.{outer}", study.fold == outer, study.y, scores, **target)
    predictions, measures, cells = own.tables()
    return Given(predictions, measures, cells, TITLES)


def both(one: Given, two: Given) -> Given:
    parts = [pl.concat([getattr(g, n) for g in (one, two)]) for n in ("predictions", "measures", "cells")]
    return Given(*parts, TITLES)


def notices(summary: dict[str, Any]) -> list[str]:
    found = [from_json(w) for w in summary["run"]["warnings"]]
    return [str(n.values["model"]) for n in found if n.kind == "not_beyond_trivial"]


def test_beside_models_stands_what_the_majority_gets() -> None:
    study = Study(patients=80)
    strong, weak = study.add("strong", 2.0), study.add("weak", 0.0)
    share = np.full(len(study.y), 0.4)
    plain = study.summary()
    s = summarise(*study.tables(), study.run, **OPTIONS, beyond=given(study, "majority", share))
    (answer,) = s["trivial"]
    assert answer["title"] == {"en": "Most frequent class", "zh": "最常见的类别"}
    known = answer["metrics"]
    assert known["case.auc"]["value"] == 0.5 and known["case.auc"]["n"] == len(study.y)
    assert known["case.accuracy"]["value"] == pytest.approx(1 - study.y.mean())
    assert known["case.balanced_accuracy"]["value"] == 0.5 and known["case.accuracy"]["low"] < 0.5
    assert known["case.sensitivity"]["value"] == 0 and known["case.sensitivity"]["low"] is None  # for certain
    assert known["patient.auc"]["value"] == 0.5 and set(known) == set(s["models"][0]["metrics"])
    assert known["case.accuracy"]["method"] == s["models"][0]["metrics"]["case.accuracy"]["method"]
    assert notices(s) == [weak]
    by_id = {m["id"]: m["beyond"] for m in s["models"]}
    assert by_id[strong]["shown"] and by_id[strong]["p_adjusted"] < 0.001 and not by_id[weak]["shown"]
    p = np.stack([study.scores["strong", seed] for seed in range(2)])
    direct = compare_two(study.y, p, share, study.patient, strata=study.fold)
    assert by_id[strong]["difference"] == pytest.approx(direct.difference)
    assert by_id[strong]["low"] == pytest.approx(direct.low) and by_id[strong]["p"] == pytest.approx(direct.p)
    # nothing else knows of it: ranks, pairs, winner, curves and heat map are those of the models
    for key in ("pairs", "winner", "heatmap", "missed", "roc"):
        assert str(s[key]) == str(plain[key]), key
    assert [m["rank"] for m in s["models"]] == [m["rank"] for m in plain["models"]]
    assert plain["trivial"] == [] and "beyond" not in plain["models"][0] and not notices(plain)


def test_a_lead_on_the_wrong_side_is_none_and_less_is_better_where_it_is() -> None:
    study = Study(patients=60, seeds=1)
    study.run |= {"task": "regress", "targets": ["ef"], "classes": {}, "positive": {}}
    study.y = np.random.default_rng(0).normal(50, 10, len(study.y))
    near, far = (f"{name} · imagenet · finetune" for name in ("near", "far"))
    for model, spread, shift in (("near", 3.0, 0.0), ("far", 3.0, 30.0)):
        scores = study.y + np.random.default_rng(1).normal(shift, spread, len(study.y))
        for outer in range(study.folds):
            study.rows(study.cell(model, outer, 0), study.fold == outer, study.y, scores, target="ef", cls="")
    n, kind = len(study.y), {"target": "ef", "cls": ""}
    one = given(study, "mean", np.full(n, 52.0), **kind)
    two = given(study, "median", np.full(n, float(np.median(study.y))), **kind)
    s = summarise(*study.tables(), study.run, **OPTIONS, beyond=both(one, two))
    assert [a["name"] for a in s["trivial"]] == ["median", "mean"]  # the smaller error first
    by_id = {m["id"]: m["beyond"] for m in s["models"]}
    assert {b["id"] for b in by_id.values()} == {"trivial · median"}  # against the best of them
    assert by_id[near]["shown"] and by_id[near]["difference"] < 0
    assert by_id[far]["difference"] > 0 and by_id[far]["p"] < 0.001 and not by_id[far]["shown"]
    assert notices(s) == [far]
    value = s["trivial"][0]["metrics"]["case.r2"]["value"]
    assert value == pytest.approx(
        1 - ((study.y - np.median(study.y)) ** 2).sum() / ((study.y - study.y.mean()) ** 2).sum()
    )


def test_only_judged_cases_count_and_each_model_meets_it_on_its_own() -> None:
    study = Study(patients=60, folds=3)
    part = study.add("part", 2.0, folds=[0, 1])
    s = summarise(*study.tables(), study.run, **OPTIONS, beyond=given(study, "majority", np.full(len(study.y), 0.5)))
    judged = int((study.fold < 2).sum())
    assert s["trivial"][0]["metrics"]["case.auc"]["n"] == judged == s["models"][0]["beyond"]["n"]
    assert s["run"]["flow"]["judged"]["cases"] == judged
    whole = study.add("whole", 2.0)
    s = summarise(*study.tables(), study.run, **OPTIONS, beyond=given(study, "majority", np.full(len(study.y), 0.5)))
    assert {m["id"]: m["beyond"]["n"] for m in s["models"]} == {part: judged, whole: len(study.y)}
    less = study.add("x", 2.0, folds=[0])
    flow = summarise(*study.tables(), study.run, **OPTIONS)["run"]["flow"]["judged"]
    assert flow["models"] == {part: judged, whole: len(study.y), less: int((study.fold == 0).sum())}
    assert (flow["cases"], flow["patients"]) == (len(study.y), 60)  # of any of them
    assert s["trivial"][0]["metrics"]["case.auc"]["n"] == len(study.y)


def test_many_arms_are_corrected_among_themselves() -> None:
    study = Study(patients=60, seeds=1)
    for k in range(12):
        study.add(f"m{'x' * k}", 0.22)
    s = summarise(*study.tables(), study.run, **OPTIONS, beyond=given(study, "majority", np.full(len(study.y), 0.5)))
    raw = np.array([m["beyond"]["p"] for m in s["models"]])
    corrected = np.array([m["beyond"]["p_adjusted"] for m in s["models"]])
    assert (corrected >= raw).all() and (corrected > raw).any() and len(raw) == 12
    assert [m["id"] for m in s["models"] if not m["beyond"]["shown"]] == sorted(
        notices(s), key=[m["id"] for m in s["models"]].index
    )


def test_too_few_patients_of_a_class_show_nothing() -> None:
    study = Study(patients=40, seeds=1, per_patient=1)
    study.y = (np.arange(40) < 2).astype(float)
    model = study.add("m", 4.0)
    s = summarise(*study.tables(), study.run, **OPTIONS, beyond=given(study, "majority", np.full(40, 0.05)))
    lead = s["models"][0]["beyond"]
    assert np.isnan(lead["p"]) and np.isnan(lead["low"]) and not lead["shown"] and notices(s) == [model]


def test_patients_are_the_level_where_labels_live_on_them(tmp_path: Path) -> None:
    study = Study(patients=60)
    study.run["level"] = "patient"
    study.add("m", 1.0)
    s = summarise(*study.tables(), study.run, **OPTIONS, beyond=given(study, "majority", np.full(len(study.y), 0.5)))
    assert s["trivial"][0]["metrics"]["patient.auc"]["n"] == 60
    write_tables(s, tmp_path)
    table = leaderboard(s)
    assert table["state"].to_list() == ["done", "trivial"] and table["id"].to_list()[1] == "trivial · majority"
    assert table["rank"].to_list() == [1, None] and table["patient.auc"].to_list()[1] == 0.5
    assert sentence("patient.auc", s["trivial"][0]["metrics"]["patient.auc"]).startswith("patient.auc 0.500")
    assert tables.empty("cells").height == 0 == len(Given().cells)
