"""The leaderboard with its interval bars, all measures, and what each model cost."""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

from typing import Any

import numpy as np

from medgraft.report import figures
from medgraft.report.drawn import Drawn
from medgraft.report.text import Text, clean, finite, split_metric, take
from medgraft.report.view import View, count_of

STRINGS = take(
    {
        "nav_leaderboard": ("Leaderboard", "排行榜"),
        "rule_youden_short": (
            "chosen on inner folds by Youden's index, one for each outer fold",
            "按约登指数在内层折上选定，每个外层折一个",
        ),
        "rule_fixed_short": ("fixed beforehand", "事先固定"),
        "rule_vote_short": ("majority vote of the windows of a case", "病例各窗口多数投票"),
        "threshold_row": ("Threshold", "阈值"),
        "baseline_name": ("Acquisition baseline", "采集信息基线"),
        "baseline_judged": ("all cases, cross-validated", "全部病例，交叉验证"),
        "leaderboard_title": ("Leaderboard", "排行榜"),
        "leaderboard_note_one": (
            "Ordered by {metric}, {level}, on the one held-out test part, averaged over the seeds. Brackets are {confidence} intervals over {unit}. Seed "
            "spread is the standard deviation between trainings that differ in the seed alone; "
            "it is not part of the interval.",
            "按 {metric}（{level}）排序，取自唯一的留出测试部分并对随机种子取平均。括号内为 {confidence} 置信区间（以{unit}计）。"
            "种子离散度是仅随机种子不同的训练之间的标准差，不包含在置信区间内。",
        ),
        "leaderboard_note": (
            "Ordered by {metric}, {level}, over all outer test folds and averaged over the seeds{ranked}. Brackets are {confidence} intervals over {unit}. Seed "
            "spread is the standard deviation between trainings that differ in the seed alone; "
            "it is not part of the interval.",
            "按 {metric}（{level}）排序，涵盖所有外层测试折并对随机种子取平均{ranked}。括号内为 {confidence} 置信区间（以{unit}计）。"
            "种子离散度是仅随机种子不同的训练之间的标准差，不包含在置信区间内。",
        ),
        "col_rank": ("Rank", "名次"),
        "col_rank_interval": ("{low} to {high}", "{low} 至 {high}"),
        "col_interval": ("Interval", "区间"),
        "col_seed": ("Seed spread (SD)", "种子离散度（标准差）"),
        "seed_spread": ("{sd} ({seeds})", "{sd}（{seeds}）"),
        "seed_single": ("not known: one seed", "未知：仅一个种子"),
        "metrics_title": ("All measures", "全部指标"),
        "metrics_note": (
            "Each number stands with its {confidence} interval over {unit}.",
            "每个数值均附 {confidence} 置信区间（以{unit}计）。",
        ),
        "cost_title": ("Size, weights and time", "规模、权重与耗时"),
        "col_parameters": ("Parameters", "参数量"),
        "col_loaded": ("Weights loaded", "已载入权重"),
        "col_source": ("Trained on (published accuracy there)", "预训练数据（其上发表的准确率）"),
        "col_seconds": ("Training time", "训练时间"),
        "col_inner": ("Selection score", "选择得分"),
        "inner_note": (
            "The selection score is what the inner parts said while settings were being chosen. It is optimistic and no result.",
            "选择得分是挑选设置时内层部分给出的得分，偏乐观，不能当作结果。",
        ),
        "million": ("{n} million", "{n} 百万"),
        "loaded_share": ("{share} of the body's parameters", "主干参数的 {share}"),
        "loaded_none": ("none (random start)", "无（随机初始化）"),
        "forest_title": ("{metric} with {confidence} interval", "{metric} 及其 {confidence} 置信区间"),
        "unlearnt": ("stopped before it had learned (see Limits)", "训练尚未学会即停止（见“局限”）"),
        "majority_row": ("always naming the larger class", "始终判为较多的类别"),
    }
)


def make(view: View, drawn: Drawn) -> dict[str, Any]:
    """The board, the table of all measures and the table of costs."""
    return {
        "nav": [("leaderboard", view.text("nav_leaderboard"))],
        "board": board(view, drawn),
        "metrics": metrics(view),
        "costs": costs(view),
    }


def rows(view: View) -> list[dict[str, Any]]:
    """Rows of the leaderboard: judged models, trivial answers, what acquisition alone tells, then the others with their
    reason.
    """
    baseline = [_baseline(view)] if view.baseline is not None else []
    beside = [*(_trivial(view, a) for a in view.trivial), *baseline]
    return [*(_judged(view, m) for m in view.judged), *beside, *(_absent(view, m) for m in view.not_judged)]


def _judged(view: View, model: dict[str, Any]) -> dict[str, Any]:
    text, entry, rank = view.text, view.estimate(model, view.primary), model.get("rank") or {}
    defined = finite(entry.get("value"))
    ranked = finite(rank.get("low")) and finite(rank.get("high")) and len(view.judged) > 1
    seeds, spread = count_of(view.run.get("seeds")), entry.get("seed_sd")
    return {
        "id": model["id"],
        "rank": str(rank["best"]) if defined and finite(rank.get("best")) else "",
        "rank_interval": text("col_rank_interval", low=rank["low"], high=rank["high"]) if defined and ranked else "",
        "name": text.model_name(model.get("model") or model["id"]),
        "detail": view.detail(model),
        "flag": text("unlearnt") if model["id"] in view.unlearnt else "",
        "shown": view.shown(model, view.primary),
        "value": entry.get("value") if defined else None,
        "low": entry.get("low"),
        "high": entry.get("high"),
        "n": view.judged_on(entry),
        "seed": text("seed_single")
        if seeds == 1
        else text("seed_spread", sd=_spread(spread, text), seeds=text.count("seeds", seeds))
        if finite(spread)
        else text("undefined"),
        "state": "",
    }


def _trivial(view: View, answer: dict[str, Any]) -> dict[str, Any]:
    """A row without rank or id: it is no model."""
    entry = view.estimate(answer, view.primary)
    return {
        "id": "",
        "rank": "",
        "rank_interval": "",
        "name": answer["name"],
        "detail": view.text("trivial_detail"),
        "flag": "",
        "shown": view.shown(answer, view.primary),
        "value": entry["value"] if finite(entry.get("value")) else None,
        "low": entry.get("low"),
        "high": entry.get("high"),
        "n": view.judged_on(entry),
        "seed": "–",
        "state": "",
    }


def _baseline(view: View) -> dict[str, Any]:
    text, found = view.text, view.baseline or {}
    return {
        "id": "",
        "rank": "",
        "rank_interval": "",
        "name": text("baseline_name"),
        "detail": view.baseline_facts,
        "flag": "",
        "shown": view.interval(found.get("auc"), found.get("low"), found.get("high"), "case.auc"),
        "value": found.get("auc"),
        "low": found.get("low"),
        "high": found.get("high"),
        "n": text("baseline_judged"),
        "seed": "–",
        "state": "",
    }


def _absent(view: View, model: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": model["id"],
        "name": view.text.model_name(model.get("model") or model["id"]),
        "detail": view.detail(model),
        "state": view.state(model),
    }


def _spread(value: float, text: Text) -> str:
    """A seed spread; one that is not zero never prints as zero."""
    if value == 0:
        return "0"
    return "<\u00a00.001" if abs(value) < 0.0005 else f"{value:.3f}" if abs(value) < 10 else text.number(value)


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers inside [low, high]."""
    if not high > low:
        return [low]
    step = 10.0 ** np.floor(np.log10((high - low) / 2))
    while (high - low) / step > 6:
        step *= 2 if round(step / 10.0 ** np.floor(np.log10(step))) in (1, 5) else 2.5
    first = np.ceil(low / step - 1e-9) * step
    return [round(float(first + i * step), 10) for i in range(int((high - first) / step + 1e-9) + 1)]


def _decimals(value: float) -> int:
    """Decimals that a round number needs."""
    return len(f"{value:.10f}".rstrip("0").partition(".")[2])


def board(view: View, drawn: Drawn) -> dict[str, Any]:
    """The leaderboard with its interval bars, placed in per cent of the bar's column."""
    text, lines = view.text, rows(view)
    valued = [r for r in lines if r.get("value") is not None]
    known = [v for r in valued for v in (r["value"], r["low"], r["high"]) if finite(v)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    pad = 0.04 * (high - low or 1.0)
    low, high = low - pad, high + pad

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    for row in lines:
        if row.get("value") is None:
            row["bar"] = None
            continue
        bounded = finite(row["low"]) and finite(row["high"])
        start, end = (row["low"], row["high"]) if bounded else (row["value"], row["value"])
        row["bar"] = {"left": place(start), "width": round(place(end) - place(start), 2), "dot": place(row["value"])}
    marks = ticks(low, high)
    decimals = max(text.decimals(known, view.primary) - 1, *(_decimals(v) for v in marks)) if known else 2
    _forest(view, drawn, valued, low, high)
    return {
        "rows": lines,
        "ticks": [{"at": place(v), "text": text.number(v, view.primary, decimals)} for v in marks],
        "note": _note(view),
        "metric": view.metric_label(view.primary),
    }


def _forest(view: View, drawn: Drawn, valued: list[dict[str, Any]], low: float, high: float) -> None:
    """The board as a figure for print."""
    if not valued:
        return
    chance = 0.5 if split_metric(view.primary)[1] in ("auc", "macro_auc") else None
    label = view.text("forest_title", metric=view.metric_label(view.primary), confidence=view.confidence_text)
    lines = [(view.names.get(r["id"], r["name"]), r["value"], r["low"], r["high"]) for r in valued]
    drawn.keep("forest", figures.forest(lines, label, chance if chance is not None and low <= chance <= high else None))


def _note(view: View) -> str:
    text = view.text
    note = text(
        "leaderboard_note_one" if view.one_part else "leaderboard_note",
        metric=text.metric(view.primary),
        level=text.metric_level(view.primary) or text(f"per_{view.level}"),
        confidence=view.confidence_text,
        ranked=view.ranked,
        unit=text(f"unit_{view.unit}"),
    )
    more = [view.trivial_note] if view.trivial else []
    if view.baseline is not None:
        more.append(text("baseline_note", facts=view.baseline_facts))
    return (" " if text.language == "en" else "").join([note, *more])


def metrics(view: View) -> dict[str, Any]:
    """All measures of all judged models and trivial answers, each with its interval: a row a measure, a column a
    model.
    """
    text, names = view.text, view.metric_names()
    columns = [*view.judged, *view.trivial]
    lines = [
        {
            "name": text.metric(c),
            "level": text.metric_level(c),
            "cells": [view.shown(m, c) if c in m["metrics"] else "–" for m in columns],
        }
        for c in names
    ]
    larger = view.run.get("majority")
    place = next((i for i, c in enumerate(names) if split_metric(c)[1:] == ("accuracy", "")), None)
    if finite(larger) and place is not None:
        cells = [text.number(larger, "case.accuracy")] * len(view.judged) + ["–"] * len(view.trivial)
        lines.insert(place + 1, {"name": text("majority_row"), "level": "", "cells": cells})
    return {
        "models": [
            *((text.model_name(m.get("model") or m["id"]), view.detail(m)) for m in view.judged),
            *((a["name"], text("trivial_detail")) for a in view.trivial),
        ],
        "rows": lines,
        "thresholds": _thresholds(view),
        "note": text("metrics_note", confidence=view.confidence_text, unit=text(f"unit_{view.unit}")),
    }


def _thresholds(view: View) -> dict[str, Any]:
    """The threshold of each model, and the rule where it is the same for all."""
    text, rules = view.text, [view.rule(m) for m in view.judged]
    if not any(rules) or view.several_targets:
        return {}
    told = rules[0] if len(set(rules)) == 1 and text.has(f"rule_{rules[0]}_short") else ""
    cells = [view.thresholds(m) or text("unknown") for m in view.judged]
    cells += ["–"] * len(view.trivial)
    return {"name": text("threshold_row"), "rule": text(f"rule_{told}_short") if told else "", "cells": cells}


def costs(view: View) -> list[dict[str, str]]:
    """Size, weights and time of every model."""
    text, lines = view.text, []
    for model in view.models:
        parameters, share = model.get("parameters"), (model.get("load") or {}).get("share")
        loaded = text("loaded_none") if model.get("start") == "random" else text("unknown")
        if finite(share) and model.get("start") != "random":
            loaded = text("loaded_share", share=text.percent(share, 0 if share in (0, 1) else 1))
        inner = model.get("inner_score")
        load = model.get("load") or {}
        source = text("unknown") if model.get("start") != "random" else "–"
        if load.get("source"):
            source = clean(load["source"], 80) + (f" ({clean(load['accuracy'], 60)})" if load.get("accuracy") else "")
        lines.append(
            {
                "name": view.names[model["id"]],
                "parameters": text("million", n=f"{parameters / 1e6:.2f}") if finite(parameters) else text("unknown"),
                "loaded": loaded,
                "source": source,
                "seconds": text.duration(model.get("seconds")),
                "inner": text.number(inner, view.primary) if finite(inner) else text("unknown"),
            }
        )
    return lines
