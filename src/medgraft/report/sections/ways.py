"""The same networks judged in other ways: ways of transfer, kinds of negatives, without views."""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

from typing import Any

from medgraft.report import figures
from medgraft.report.drawn import Drawn
from medgraft.report.text import clean, finite, split_metric, take
from medgraft.report.view import View

STRINGS = take(
    {
        "ways_title": ("Fine-tuning or frozen features", "微调还是冻结特征"),
        "ways_note": (
            "The same networks used in different ways. Bars are the main measure, lines its interval.",
            "同一网络的不同使用方式。条形为主要指标，线段为其置信区间。",
        ),
        "kinds_title": ("Against each kind of negative", "按阴性类型分别评估"),
        "kinds_note": (
            "All positive cases against the negative cases of one kind alone ({column}), AUC with {confidence} interval. What looks easy against the "
            "healthy may fail against other disease.",
            "所有阳性病例仅与某一类阴性病例（{column}）相比较，给出 AUC 及 {confidence} 置信区间。与健康者相比容易区分的，与其他疾病相比未必。",
        ),
        "kinds_specificity": ("specificity {value}", "特异度 {value}"),
        "clean_title": ("With and without test-time augmentation", "有无测试时增强"),
        "clean_note": (
            "The numbers above are means over the picture and random views of it, with a fixed seed. Here is what the picture alone gives.",
            "以上数值为原图与若干固定种子随机视图预测的平均。此处列出仅用原图的结果。",
        ),
        "clean_with": ("With views", "含随机视图"),
        "clean_without": ("Picture alone", "仅原图"),
        "clean_change": ("Change (with minus without)", "变化（有减无）"),
    }
)


#: Strategies by what they mean for a network: the bars of ``ways`` stand in this order.
WAYS = ("finetune", "gradual", "frozen", "frozen_logistic")

Groups = list[tuple[str, list[tuple[str, float, float, float]]]]


def make(view: View, drawn: Drawn) -> dict[str, Any] | None:
    """Bars of the ways of transfer, the table of kinds of negatives, and the table without views."""
    found = {"ways": _bars(view, drawn), "kinds": kinds(view), "clean": without_views(view)}
    return {"nav": [], **found} if any(found.values()) else None


def ways(view: View) -> Groups:
    """Networks that were used in several ways from one start: (network, [(way, value, low, high)]), for bars."""
    text, found, used = view.text, dict[str, list[tuple[str, float, float, float]]](), dict[str, set[str]]()
    order = sorted(
        view.judged,
        key=lambda m: next((i for i, w in enumerate(WAYS) if str(m.get("strategy")).startswith(w)), len(WAYS)),
    )
    for model in order:
        name, entry = text.model_name(model.get("model") or model["id"]), view.estimate(model, view.primary)
        used.setdefault(name, set()).add(str(model.get("strategy")).split("+")[0])
        if all(finite(entry.get(k)) for k in ("value", "low", "high")):
            way = view.join(text.way(model))
            found.setdefault(name, []).append((way, entry["value"], entry["low"], entry["high"]))
    return [(name, rows) for name, rows in found.items() if len(used[name]) > 1]


def _bars(view: View, drawn: Drawn) -> dict[str, Any] | None:
    """Fine-tuning beside frozen features, network by network."""
    groups = ways(view)
    if not groups:
        return None
    chance = 0.5 if split_metric(view.primary)[1] in ("auc", "macro_auc", "balanced_accuracy") else None
    svg = drawn.keep("ways", figures.bars(groups, view.metric_label(view.primary), chance))
    alt = view.text("figure_alt", title=view.text("ways_title"), models="; ".join(name for name, _ in groups))
    return {"svg": drawn.inline(svg, alt)}


def kinds(view: View) -> dict[str, Any] | None:
    """Rows a model, columns a kind of negative: AUC with interval, and specificity at the model's threshold."""
    text = view.text
    models = [m for m in view.judged if m.get("against")]
    if not models:
        return None
    names = list(dict.fromkeys(k for m in models for k in m["against"]))
    counts = {
        k: next((m["against"][k]["auc"].get("negatives") for m in models if k in m["against"]), None) for k in names
    }
    column = clean((view.run.get("negatives") or {}).get("column") or "", 60)
    return {
        "heads": [
            {"name": clean(k, 60), "n": text.count("cases", counts[k]) if finite(counts[k]) else ""} for k in names
        ],
        "rows": [
            {"name": view.names[m["id"]], "cells": [_against(view, m["against"].get(k)) for k in names]} for m in models
        ],
        "note": text("kinds_note", column=column, confidence=view.confidence_text),
    }


def _against(view: View, entry: dict[str, Any] | None) -> dict[str, str]:
    """AUC and specificity of one model against one kind."""

    def told(name: str) -> str:
        found = (entry or {}).get(name) or {}
        return view.interval(found.get("value"), found.get("low"), found.get("high"), f"case.{name}")

    return {"auc": told("auc"), "specificity": view.text("kinds_specificity", value=told("specificity"))}


def without_views(view: View) -> list[dict[str, str]]:
    """The primary measure with and without test-time augmentation, and the paired change."""
    base = split_metric(view.primary)[1]
    rows = []
    for model in view.judged:
        side = model.get("clean")
        if not side:
            continue
        entry = (side.get("metrics") or {}).get(base) or {}
        rows.append(
            {
                "name": view.names[model["id"]],
                "with": view.shown(model, view.primary),
                "without": view.interval(entry.get("value"), entry.get("low"), entry.get("high"), view.primary),
                "change": view.interval(side.get("difference"), side.get("low"), side.get("high"), view.primary),
                "p": view.text.p(side.get("p")),
            }
        )
    return rows
