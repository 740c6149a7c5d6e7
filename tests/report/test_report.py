"""The report page: what it says, that it holds everything, escapes everything and names every interval."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import polars as pl
import pytest

from medgraft import store, tables
from medgraft.errors import UserError
from medgraft.files import write_json
from medgraft.notices import notice, to_json
from medgraft.report import figures
from medgraft.report.page import build
from medgraft.report.sections.limits import limitations
from medgraft.report.text import STRINGS, Text
from medgraft.report.view import View
from medgraft.report.words import METRICS
from medgraft.stats.agreement import agreement, patient_interval, weighted_mean, weighted_quantile

UNKNOWN = to_json([notice("patients_unknown")])
HOSTILE = "<script>alert(1)</script>"
FORMULA = "=cmd()|\"$x^{' onerror=alert(1) http://evil.example/a"


def made(
    task: str = "classify", *, models: int = 3, cases: int = 40, labels: tuple[str, ...] = ("no", "yes"), seed: int = 0
) -> dict[str, Any]:
    """A summary as the statistics write it, with two cases a patient."""
    rng = np.random.default_rng(seed)
    starts = ["imagenet", "random"]
    ids = [f"net{i // 2} · {starts[i % 2]} · finetune" for i in range(models)]
    rows = [
        {
            "case_id": f"c{i:03d}",
            "patient_id": f"p{i // 2:03d}",
            "label": labels[i % len(labels)] if task == "classify" else 1.5 * i,
        }
        for i in range(cases)
    ]
    values = rng.uniform(0.2, 1.0, (models, cases)) if task != "regress" else rng.uniform(0, 9, (models, cases))
    names = {
        "classify": ["auc", "sensitivity", "specificity", "brier"],
        "regress": ["mae", "r2"],
        "segment": ["dice", "iou"],
    }[task]
    if task == "classify" and len(labels) > 2:
        names = ["macro_auc", "accuracy"]
    entries = []
    for k, name in enumerate(ids):
        metrics = {
            f"case.{m}": {
                "value": 0.9 - 0.02 * k,
                "low": 0.83 - 0.02 * k,
                "high": 0.95 - 0.02 * k,
                "n": cases,
                "unit": "patient",
                "n_units": cases // 2,
                "seed_sd": 0.004,
            }
            for m in names
        }
        model, start, strategy = name.split(" · ")
        rank = {"best": k + 1, "low": max(1, k), "high": min(models, k + 2)}
        entries.append(
            {
                "id": name,
                "model": model,
                "start": start,
                "strategy": strategy,
                "state": "done",
                "reason": "",
                "metrics": metrics,
                "rank": rank,
                "load": None,
            }
        )
    pairs = [
        {
            "a": ids[a],
            "b": ids[b],
            "metric": f"case.{names[0]}",
            "difference": 0.03,
            "low": -0.01,
            "high": 0.07,
            "p": 0.07,
            "p_adjusted": 0.14,
            "p_superior": 0.9,
            "method": "DeLong",
        }
        for a in range(models)
        for b in range(a + 1, models)
    ]
    missed = [{**rows[i], "values": {k: float(values[j, i]) for j, k in enumerate(ids)}} for i in (1, 4)]
    grid = np.linspace(0, 1, 11)
    curve = {"fpr": grid, "tpr": np.sqrt(grid), "low": grid, "high": np.minimum(1, np.sqrt(grid) + 0.1)}
    bins = [
        {"predicted": 0.2, "observed": 0.25, "low": 0.1, "high": 0.4, "n": 9},
        {"predicted": 0.8, "observed": None, "low": None, "high": None, "n": 0},
    ]
    points = [
        {"case_id": r["case_id"], "y_true": float(i), "y_pred": float(i + rng.normal())} for i, r in enumerate(rows)
    ]
    log = [
        {
            "cell": "aa",
            "outer": 0,
            "inner": 0,
            "seed": 0,
            "step": [0, 10, 20],
            "train_loss": [0.7, 0.5, None],
            "select_score": [None, 0.8, 0.9],
        }
    ]
    classify = task == "classify"
    return {
        "run": {
            "name": "study",
            "created": "2026-01-02 03:04",
            "task": task,
            "targets": ["finding"],
            "classes": {"finding": list(labels)} if classify else {},
            "positive": {"finding": labels[-1]} if classify and len(labels) == 2 else {},
            "units": {"finding": "mL"} if task == "regress" else {},
            "level": "case",
            "unit": "patient",
            "n_patients": cases // 2,
            "n_cases": cases,
            "folds": 3,
            "seeds": [0, 1, 2],
            "resamples": 2000,
            "confidence": 0.95,
            "primary_metric": f"case.{names[0]}",
            "data_hash": "d" * 64,
            "split_hash": "e" * 64,
            "warnings": [],
            "looks": [{"cell": "abc", "time": "noon"}],
            "versions": {"medgraft": "0", "numpy": "2"},
            "recipe": {"data": "/home/someone/secret/study", "train": {"learning_rate": 1e-4}},
        },
        "models": entries,
        "pairs": pairs,
        "roc": dict.fromkeys(ids, curve) if classify else {},
        "calibration": dict.fromkeys(ids, bins) if classify else {},
        "scatter": dict.fromkeys(ids, points) if task == "regress" else {},
        "heatmap": {"models": ids, "cases": rows, "values": values},
        "missed": missed,
        "curves": dict.fromkeys(ids, log),
    }


def written(folder: Path, summary: dict[str, Any], run: dict[str, Any] | None = None, lang: str = "en") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "summary.json", summary)
    write_json(folder / "run.json", run or {})
    path = build(folder, lang=lang)
    return path.read_text(encoding="utf-8")


class _Page(HTMLParser):
    """Tags, attributes and visible text of a page; checks that elements close in order."""

    VOID = {"meta", "img", "br", "link", "input", "hr"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    @property
    def said(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def section(html: str, name: str) -> str:
    return html[html.index(f'<section id="{name}"') :].partition("</section>")[0]


@pytest.mark.parametrize(
    "task,labels", [("classify", ("no", "yes")), ("classify", ("a", "b", "c")), ("regress", ("",)), ("segment", ("",))]
)
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_one_file_holds_everything(tmp_path: Path, task: str, labels: tuple[str, ...], lang: str) -> None:
    html = written(tmp_path, made(task, labels=labels), lang=lang)
    page = _Page(html)
    assert "http" not in html and "//" not in re.sub(r"base64,[^\"]*", "", re.sub(r"/\*.*?\*/", "", html))
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for key in ("src", "href", "srcset", "xlink:href"):
            value = attributes.get(key)
            assert value is None or value.startswith(("#", "data:image/")), value
        assert tag != "img" or attributes["alt"]
        if tag == "svg":
            assert attributes["aria-label"]
        assert not any(k.startswith("on") for k in attributes)
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:  # whatever is pointed at is there
        for target in re.findall(r"(?:^#|url\(#)([\w-]+)", attributes.get("href") or attributes.get("clip-path") or ""):
            assert target in ids, target
    wanted = {"classify": ["roc", "calibration"], "regress": ["scatter", "bland_altman"], "segment": ["distribution"]}[
        task
    ]
    for name in [*wanted, "forest", "heatmap", "learning"]:
        svg = (tmp_path / "figures" / f"{name}{'.zh' if lang == 'zh' else ''}.svg").read_text(encoding="utf-8")
        assert 'fill="#ffffff"' in svg and "var(" not in svg and "date" not in svg
    assert not re.search(r"\b(nan|None|null|undefined|inf)\b", page.said)
    # Where nothing is right or wrong the listed cases are the worst, not missed ones.
    assert lang == "zh" or ("very model misses" in page.said) == (task == "classify")
    assert "secret" not in html and "study" in html  # a path is cut to its last part


def test_first_screen_says_which_by_how_much_how_sure_and_for_whom(tmp_path: Path) -> None:
    said = _Page(written(tmp_path, made())).said
    assert (
        "net0 started from ImageNet and fine-tuned ranks first: AUC 0.90 (95 % interval 0.83 to 0.95; 40 cases, 20 "
        "patients)." in said.replace("\xa0", " ")
    )
    assert (
        "Against the same network from a random start: difference 0.03 (95 % interval −0.01 to 0.07), p = 0.14 "
        "(corrected): not shown." in said.replace("\xa0", " ")
    )
    assert "1 to 2 (95 % rank interval)" in said.replace("\xa0", " ")
    assert "of the yes cases (sensitivity)" in said
    assert re.search(
        r"Every model misses 2 of 40 cases \(5.0 %, 95 % interval [\d.]+ % to [\d.]+ %\): 1 of 20 no, 1 of 20 yes",
        said.replace("\xa0", " "),
    )
    assert "equal" not in said and "no difference" not in said.replace("no difference is shown", "")


def test_verdict_follows_p_and_direction() -> None:
    summary = made()
    row = summary["pairs"][0]
    view = View(summary, Text())
    assert view.verdict(row) == "not_shown"
    assert view.verdict({**row, "p_adjusted": 0.01}) == "shown"
    assert view.verdict({**row, "p_adjusted": 0.01, "difference": -0.03}) == "worse"
    assert view.verdict({**row, "p_adjusted": None, "p": None}) == "not_shown"
    turned = view.pair(row["b"], row["a"])
    assert (
        turned is not None
        and (turned["difference"], turned["low"], turned["high"]) == (-0.03, -0.07, 0.01)
        and turned["p_superior"] == pytest.approx(0.1)
    )
    lower = made("regress")
    assert View(lower, Text()).verdict({**row, "p_adjusted": 0.01}) == "worse"  # a larger error is worse


def test_every_performance_number_has_its_interval(tmp_path: Path) -> None:
    html = section(written(tmp_path, made()), "leaderboard")
    shown = re.findall(r'<td class="number[^"]*">([^<]*)</td>', html.split("Parameters")[0])
    assert len(shown) == 3 + 3 * 4  # the board, then all four measures of three models
    assert all(re.fullmatch(r"\d\.\d+ \(\d\.\d+ to \d\.\d+\)", s) for s in shown), shown


def test_undefined_numbers_come_with_their_reason(tmp_path: Path) -> None:
    summary = made()
    for model in summary["models"][1:]:
        model["metrics"]["case.auc"] = {
            "value": float("nan"),
            "low": None,
            "high": None,
            "n": 40,
            "unit": "patient",
            "seed_sd": None,
        }
        model["rank"] = None
    summary["models"][2]["metrics"]["case.auc"]["reason"] = "constant scores"
    summary["pairs"] = [
        {**p, "p": None, "p_adjusted": None, "low": float("nan"), "p_superior": None} for p in summary["pairs"]
    ]
    summary["heatmap"]["values"][1, :5] = np.nan
    html = written(tmp_path, summary)
    said = _Page(html).said
    assert "not defined: it needs both classes" in said and "not defined: constant scores" in said
    assert "interval not defined" in said and "no p value is defined" in said
    assert not re.search(r"\b(nan|NaN|None|null)\b", said) and "NaN" not in html
    everything = made()
    for model in everything["models"]:
        model["metrics"]["case.auc"]["value"] = None
    assert (
        "No model can be ranked: AUC is not defined for any of them" in _Page(written(tmp_path / "b", everything)).said
    )


def test_model_that_was_not_run_stands_with_its_reason_and_takes_no_place(tmp_path: Path) -> None:
    summary = made()
    gone = {
        "id": "big · imagenet · finetune",
        "model": "big",
        "start": "imagenet",
        "strategy": "finetune",
        "state": "not run",
        "reason": "weights absent",
    }
    summary["models"] = [gone | {"metrics": {}, "rank": None, "load": None}, *summary["models"]]
    html = written(tmp_path, summary)
    board = section(html, "leaderboard")
    assert "not run: weights absent" in board and board.index("net0") < board.index(">big<")
    assert "1 model not judged" in _Page(html).said
    assert "未运行：缺少权重文件" in written(tmp_path, summary, lang="zh")


def test_one_model_no_missed_case_and_no_judged_model(tmp_path: Path) -> None:
    alone = made(models=1)
    alone["missed"] = []
    said = _Page(written(tmp_path / "a", alone)).said
    assert (
        "is the only model judged" in said
        and "nothing to compare" in said
        and "No case was missed by every model" in said
    )
    none = made()
    none["missed"] = []
    # no miss among 20 patients: upper limit 1 - 0.025 ** (1 / 20)
    assert "up to 16.8 % of the patients" in _Page(written(tmp_path / "b", none)).said.replace("\xa0", " ")
    empty = made(models=0)
    assert "No model was judged" in _Page(written(tmp_path / "c", empty)).said


def test_hostile_names_are_text_everywhere(tmp_path: Path) -> None:
    summary = made(labels=(HOSTILE, FORMULA))
    run = summary["run"]
    for key in ("name", "created", "data_hash"):
        run[key] = HOSTILE
    run |= {
        "warnings": [HOSTILE],
        "targets": [FORMULA],
        "positive": {"finding": HOSTILE},
        "recipe": {HOSTILE: FORMULA},
        "versions": {HOSTILE: FORMULA},
    }
    run["looks"] = [{"cell": HOSTILE, "time": FORMULA, "arm": HOSTILE, "outer": 0}]
    swap = {m["id"]: f"{HOSTILE}{k} {FORMULA}" for k, m in enumerate(summary["models"])}
    for model in summary["models"]:
        model |= {"id": swap[model["id"]], "model": HOSTILE, "start": FORMULA, "strategy": f"x\x00y]]>{HOSTILE}"}
    for pair in summary["pairs"]:
        pair |= {"a": swap[pair["a"]], "b": swap[pair["b"]], "method": HOSTILE}
    for key in ("roc", "calibration", "curves"):
        summary[key] = {swap[k]: v for k, v in summary[key].items()}
    heat = summary["heatmap"]
    heat["models"] = [swap[k] for k in heat["models"]]
    heat["cases"][0]["case_id"], heat["cases"][1]["case_id"] = HOSTILE, f'</script><img src=x onerror="{FORMULA}">'
    summary["missed"] = [{**heat["cases"][1], "patient_id": HOSTILE, "values": dict.fromkeys(heat["models"], 0.1)}]
    html = written(tmp_path, summary)
    page = _Page(html)
    assert sum(tag == "script" for tag, _ in page.tags) == 2 and html.count("</script>") == 2
    assert "alert(1)" in page.said and "=cmd()" in page.said  # shown as text
    assert not any(k.startswith("on") for _, a in page.tags for k in a)
    assert "http" not in html and "\x00" not in html
    for path in (tmp_path / "figures").glob("*.svg"):
        assert "<script" not in path.read_text(encoding="utf-8")


def test_chinese_page_has_no_english_sentence(tmp_path: Path) -> None:
    assert all(len(pair) == 2 and all(pair) for pair in STRINGS.values()) and all(
        all(entry) for entry in METRICS.values()
    )
    for key, (english, chinese) in STRINGS.items():
        fields = [{name for _, name, _, _ in Formatter().parse(s) if name} for s in (english, chinese)]
        assert fields[0] == fields[1], key
    for k, task in enumerate(("classify", "regress", "segment")):
        summary = made(task)
        summary["run"]["warnings"] = UNKNOWN if task == "segment" else []
        html = written(tmp_path / str(k), summary, lang="zh")
        assert '<html lang="zh-Hans">' in html
        said = _Page(html).said + " ".join(
            str(v) for _, a in _Page(html).tags for v in (a.get("aria-label"), a.get("alt"), a.get("title")) if v
        )
        words = [
            piece.strip()
            for english, _ in STRINGS.values()
            for piece in re.split(r"\{\w+\}", english)
            if len(piece.strip()) > 9
        ]
        # Names of measures and a few headings are written in Latin letters in Chinese too.
        allowed = {piece.strip() for _, chinese in STRINGS.values() for piece in re.split(r"\{\w+\}", chinese)} | {
            "summary.json",
            "patient=none",
        }
        left = [w for w in words if w in said and w not in allowed]
        assert not left, left
        runs = re.findall(r"[A-Za-z]{3,}(?: [A-Za-z]{2,}){3,}", said)
        assert not runs, runs


def test_warnings_stand_at_every_section(tmp_path: Path) -> None:
    summary = made()
    summary["run"]["warnings"] = [*UNKNOWN, "few cases"]
    html = written(tmp_path, summary, run={"warnings": ["from the scan"]})
    for name in ("leaderboard", "pairs", "roc", "calibration", "heatmap", "missed", "learning", "made", "limits"):
        assert "With care: from the scan (and 2 more" in section(html, name), name
    assert section(html, "made").count("Patients were not identified") == 1 and "20 patients" not in _Page(html).said


def test_numbers_that_stand_together_share_their_decimals() -> None:
    view = View(made(), Text())
    assert view.interval(-0.0004, -0.18, 0.17, "case.bias") == "0.000 (−0.180 to 0.170)"
    assert (
        view.interval(0.03, -0.001, 0.07, "case.auc") == "0.030 (−0.001 to 0.070)"
    )  # a bound below zero never prints as zero
    assert view.interval(0.9, 0.85, 0.94, "case.auc") == "0.90 (0.85 to 0.94)"
    assert view.interval(1234.5, 99.0, 4000.0, "case.mae") == "1234 (99 to 4000)"
    assert view.interval(0.9, None, 0.94, "case.auc") == "0.90 (interval not defined)"
    assert [Text().p(v) for v in (0.0001, 0.0498, 0.0123, 0.35, None)] == [
        "<\u00a00.001",
        "0.0498",
        "0.012",
        "0.35",
        "not defined",
    ]


def test_a_measure_that_only_a_task_brings_is_ranked_and_printed_rightly(tmp_path: Path) -> None:
    summary = made()
    told = {"direction": "lower", "decimals": 1, "unit": "px", "description": "how far off", "title": ["Gap", "间距"]}
    summary["run"] |= {"primary_metric": "case.gap", "measures": {"gap": told}}
    for k, model in enumerate(summary["models"]):
        value = model["metrics"].pop("case.auc")
        model["metrics"] = {"case.gap": value | {"value": 12.34 - k, "low": 8.0, "high": 20.0}}
        model["rank"] = None
    for pair in summary["pairs"]:
        pair["metric"] = "case.gap"
    view = View(summary, Text())
    assert view.lower_is_better and [m["metrics"]["case.gap"]["value"] for m in view.judged] == [10.34, 11.34, 12.34]
    said = _Page(written(tmp_path / "a", summary)).said
    assert "ranks first: Gap 10.3 px (95 % interval 8.0 to 20.0 px;" in said and "how far off" in said
    assert "间距 10.3 px（95% 置信区间" in _Page(written(tmp_path / "b", summary, lang="zh")).said


def test_trivial_baseline_stands_on_the_first_screen_and_takes_no_rank(tmp_path: Path) -> None:
    summary = made()
    summary["run"] |= {"kind": "image", "baseline": {"facts": ["height"], "auc": 0.60, "low": 0.55, "high": 0.66}}
    html = written(tmp_path / "a", summary)
    said = _Page(html).said.replace("\xa0", " ")
    assert "A model that sees image size and brightness alone reaches AUC 0.60 (95 % interval 0.55 to 0.66)." in said
    assert "The best model lies clearly above that" in said and "lean on them" in said  # 0.83 > 0.66, and 0.55 > 0.5
    row = re.search(r'<tr class="trivial">.*?</tr>', section(html, "leaderboard"), re.DOTALL)
    assert row is not None and "0.60 (0.55 to 0.66)" in row.group() and '<td class="rank">–' in row.group()
    assert '<b style="left' in row.group()
    summary["run"]["baseline"] |= {"low": 0.45, "high": 0.84}
    said = _Page(written(tmp_path / "b", summary)).said
    assert "does not clearly beat that" in said and "above chance" not in said and "lean on them" not in said
    summary["run"]["baseline"]["auc"] = None
    assert "Acquisition baseline" not in written(tmp_path / "c", summary)
    three = made(labels=("a", "b", "c"))
    three["run"]["baseline"] = {"facts": [], "auc": 0.6, "low": 0.5, "high": 0.7}
    assert "Acquisition baseline" not in written(
        tmp_path / "d", three
    )  # an AUC beside another measure would compare nothing


def test_thresholds_are_told_with_their_rule(tmp_path: Path) -> None:
    summary = made()
    for model in summary["models"]:
        model |= {
            "threshold": {"0": 0.312, "1": 0.521},
            "threshold_rule": "Youden index on the inner parts, for each outer fold",
        }
    said = _Page(written(tmp_path / "a", summary)).said
    assert "With the threshold chosen on inner folds by Youden's index (0.31 to 0.52), it finds 0.90" in said
    assert (
        said.count("0.31 to 0.52") == 1 + 3
        and "chosen on inner folds by Youden's index, one for each outer fold" in said
    )
    for model in summary["models"]:
        model |= {"threshold": 0.5, "threshold_rule": "fixed at 0.5"}
    assert "With the threshold fixed at 0.50, it finds" in _Page(written(tmp_path / "b", summary)).said


def test_several_targets_and_structures_have_names_of_their_own(tmp_path: Path) -> None:
    text = Text()
    assert (text.metric("pooled.dice.left"), text.metric_level("pooled.dice.left")) == (
        "Dice (left)",
        "pixels of all cases pooled",
    )
    assert (text.metric("case.macro_auc"), text.metric("case.calibration_slope")) == ("Macro AUC", "Calibration slope")
    assert (text.model_name("resnet3d_10"), text.model_name("timm:resnet50"), text.model_name("mine_v2")) == (
        "3D ResNet-10",
        "ResNet-50",
        "mine_v2",
    )
    both = made()
    both["run"] |= {"targets": ["a", "b"], "classes": {"a": ["0", "1"], "b": ["0", "1"]}}
    for model in both["models"]:
        value = model["metrics"].pop("case.auc")
        model["metrics"] = {"case.macro_auc": value, "case.auc.a": value | {"value": 0.7}, "case.auc.b": value}
    both["run"]["primary_metric"] = "case.macro_auc"
    both["missed"][0]["targets"] = ["b"]
    said = _Page(written(tmp_path / "a", both)).said
    assert (
        "It does worst on a: AUC 0.70" in said
        and "every model gets the same target wrong" in said
        and "Wrong on: b" in said
    )
    two = made("regress")
    two["run"] |= {
        "targets": ["mass", "depth"],
        "units": {"mass": "g", "depth": "mm"},
        "primary_metric": "case.macro_r2",
    }
    for model in two["models"]:
        value = model["metrics"]["case.r2"]
        model["metrics"] = {"case.macro_r2": value, "case.mae.mass": value, "case.mae.depth": value}
    two["scatter"] = {
        k: [{**r, "target": t} for r in rows for t in ("mass", "depth")] for k, rows in two["scatter"].items()
    }
    html = written(tmp_path / "b", two)
    assert (
        "mass, net0" in html and "depth, net0" in html and (tmp_path / "b" / "figures" / "bland_altman_2.svg").is_file()
    )
    assert (
        "0.90\xa0g (0.83 to 0.95\xa0g)" in html and "0.90\xa0mm (0.83 to 0.95\xa0mm)" in html and "\xa0SD" in html
    )  # each in its own unit


def test_limits_come_from_the_facts() -> None:
    assert any("every model misses" in s for s in limitations(View(made(), Text())))
    for task, word in (("regress", "reference values"), ("segment", "contours")):
        told = " ".join(limitations(View(made(task), Text())))
        assert word in told and "misses" not in told and "a miss" not in told
    few = limitations(View(made(), Text()))
    assert (
        any("Only 20 patients" in s for s in few)
        and any("rarest label has 20 cases" in s for s in few)
        and any("3 seeds" in s for s in few)
    )
    large = made(cases=400)
    large["run"] |= {"folds": 1, "seeds": 1, "looks": [{"cell": "a"}, {"cell": "a"}]}
    found = limitations(View(large, Text()))
    assert (
        not any("Only" in s for s in found)
        and any("one seed" in s for s in found)
        and any("one held-out part" in s for s in found)
    )
    assert any("more than once" in s for s in found) and any("3 of the 3 comparisons" in s for s in found)


def test_thirty_models_on_five_hundred_cases_stay_small_and_quick(tmp_path: Path) -> None:
    summary = made(models=30, cases=500)
    begun = time.perf_counter()
    html = written(tmp_path, summary)
    assert time.perf_counter() - begun < 20
    assert len(html.encode()) < 15e6
    assert "All other comparisons (406)" in html


def test_two_builds_agree_to_the_byte(tmp_path: Path) -> None:
    assert written(tmp_path / "a", made()) == written(tmp_path / "b", made())
    for path in (tmp_path / "a" / "figures").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "figures" / path.name).read_bytes()


def _dataset(
    root: Path,
    kind: str,
    array: np.ndarray,
    mask: np.ndarray | None = None,
    state: str | None = "public",
    region: list[int] | None = None,
) -> None:
    root.mkdir(parents=True)
    kept = store.write_array(root, array)
    mask_id = store.write_mask(root, mask).array_id if mask is not None else None
    row = dict.fromkeys(tables.SCHEMAS["manifest"]) | {
        "patient_id": "p000",
        "case_id": "c001",
        "array_id": kept.array_id,
        "mask_id": mask_id,
    }
    row |= {
        "kind": kind,
        "shape": list(kept.shape),
        "value_unit": "raw",
        "p005": kept.p005,
        "p995": kept.p995,
        "pixel_text": state,
        "region": region,
    }
    tables.write(pl.DataFrame([row], schema=tables.SCHEMAS["manifest"]), root / "manifest.parquet", "manifest")
    frames = [
        {"array_id": kept.array_id, "frame": i, "mask_index": i - 3 if i in (3, 4, 5) else -1}
        for i in range(array.shape[1])
    ]
    tables.write(
        pl.DataFrame([dict.fromkeys(tables.SCHEMAS["frames"]) | f for f in frames], schema=tables.SCHEMAS["frames"]),
        root / "frames.parquet",
        "frames",
    )
    write_json(root / "dataset.json", {"name": "tiny", "patient": "column"})


def test_gallery_shows_the_stored_picture_and_strips_and_contours(tmp_path: Path) -> None:
    import base64
    import io

    from PIL import Image

    def pictures(html: str) -> list[Image.Image]:
        return [
            Image.open(io.BytesIO(base64.b64decode(d)))
            for d in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
        ]

    half = np.zeros((1, 1, 32, 32), np.int16)
    half[..., 16:] = 1000
    _dataset(tmp_path / "image", "image", half)
    (image,) = pictures(
        written(tmp_path / "image" / "run", made(), {"dataset": ".."})
    )  # c004 has no array: one picture, one blank
    pixels = np.asarray(image.convert("L")).astype(int)
    assert image.size == (240, 240) and pixels[:, :100].max() < 20 and pixels[:, 140:].min() > 235
    clip = np.full((1, 9, 32, 32), 60, np.uint8)
    _dataset(tmp_path / "video", "video", clip)
    html = written(tmp_path / "video" / "run", made(), {"dataset": ".."})
    (strip,) = pictures(html)
    assert strip.size == (5 * 128 + 4 * 2, 128) and "Frames or slices of case c001" in html
    mask = np.zeros((3, 1, 32, 32), np.uint8)  # three traced frames, of which the last holds nothing and is not shown
    mask[:2, :, 8:24, 8:24] = 1
    _dataset(tmp_path / "masked", "video", clip, mask)
    html = written(tmp_path / "masked" / "run", made("segment"), {"dataset": ".."})
    (traced,) = pictures(html)
    colour = np.asarray(traced.convert("RGB")).astype(int)
    yellow = (colour[..., 0] - colour[..., 2]) > 60
    assert traced.width == 2 * 128 + 2 and 200 < yellow.sum() < 2000 and "reference contours" in html


def test_the_report_says_whether_names_are_codes(tmp_path: Path) -> None:
    for n, (identity, says) in enumerate([("code", "keyed codes"), ("keep", "declared public"), (None, "")]):
        content = made()
        content["run"]["identity"] = identity
        html = written(tmp_path / str(n), content)
        assert ("Names of patients and cases" in html) == bool(says) and says in html


@pytest.mark.parametrize("state", [None, "unchecked", "found", "clear", "blacked"])
def test_thumbnails_are_masked_until_the_pixels_are_cleared(tmp_path: Path, state: str | None) -> None:
    import base64
    import io

    from PIL import Image

    bright = np.full((1, 1, 32, 32), 1000, np.int16)
    bright[..., 28:, :] = 0
    cleared = state in ("clear", "blacked")
    _dataset(tmp_path / "plain", "image", bright, state=state)
    html = written(tmp_path / "plain" / "run", made(), {"dataset": ".."})
    assert ("data:image/jpeg" in html, "pixels were not cleared of text" in html) == (cleared, not cleared)
    _dataset(tmp_path / "region", "image", bright, state=state, region=[8, 4, 32, 28])
    box = {
        "frame": 0,
        "top": 20,
        "left": 10,
        "bottom": 22,
        "right": 14,
        "kind": "name",
        "confidence": 1.0,
        "blacked": False,
    }
    array = tables.read(tmp_path / "region" / "manifest.parquet", "manifest")["array_id"][0]
    tables.write(pl.DataFrame([{"array_id": array, **box}]), tmp_path / "region" / "text.parquet", "text")
    html = written(tmp_path / "region" / "run", made(), {"dataset": ".."})
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    pixels = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(data))).convert("L").resize((32, 32), Image.Resampling.BOX)
    ).astype(int)
    assert pixels[10:17, 6:26].min() > 200  # the image region
    outside, text = max(pixels[2:7].max(), pixels[:, :3].max(), pixels[:, 30:].max()), pixels[20:22, 10:14].max()
    assert (outside > 200, text > 200) == (cleared, cleared)


def test_shares_and_limits_of_agreement_against_closed_forms() -> None:
    rng = np.random.default_rng(1)
    difference = rng.normal(2, 3, 400)
    lower, bias, upper = agreement(difference, np.ones((400, 1)))[:, 0]
    assert (bias, upper - lower) == pytest.approx((difference.mean(), 2 * 1.96 * difference.std(ddof=1)))
    found = patient_interval(weighted_mean, difference, [str(i) for i in range(400)], 0.95)[0]
    assert (found.high - found.low) == pytest.approx(2 * 1.96 * difference.std() / 20, rel=0.1)
    doubled = patient_interval(weighted_mean, np.repeat(difference, 2), [str(i // 2) for i in range(800)], 0.95)[0]
    assert (doubled.low, doubled.high) == pytest.approx(
        (found.low, found.high), abs=0.1
    )  # copies of a patient add no certainty
    assert weighted_quantile(0.1)(np.arange(1.0, 101), np.ones((100, 1)))[0, 0] == 10


def test_figures_follow_the_theme_and_keep_hostile_text_plain() -> None:
    svg = figures.forest([(f"{HOSTILE} $x", 0.9, 0.8, 0.95), ("b", float("nan"), 0.1, 0.2)], "AUC", 0.5)
    page = figures.inline(svg, "n", "alt")
    assert (
        "var(--blue)" in page
        and figures.BLUE not in page
        and "xmlns" not in page
        and "<script" not in page
        and "<style" not in page
    )
    assert "width=" not in page.partition(">")[0] and "$x" in page


def test_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to report"):
        build(tmp_path)
    write_json(tmp_path / "summary.json", [1])
    with pytest.raises(UserError, match="no list of models"):
        build(tmp_path)
    with pytest.raises(UserError, match="lang=en or lang=zh"):
        build(tmp_path, lang="fr")
