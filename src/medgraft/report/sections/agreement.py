"""Predicted quantities against their reference, and values case by case."""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

from typing import Any

import numpy as np

from medgraft.report import figures
from medgraft.report.drawn import Drawn
from medgraft.report.text import clean, finite, take
from medgraft.report.view import View, listed
from medgraft.stats.agreement import agreement, patient_interval

STRINGS = take(
    {
        "nav_agreement": ("Agreement", "一致性"),
        "nav_distribution": ("Distribution", "分布"),
        "scatter_title": ("Agreement with the reference", "与参考值的一致性"),
        "scatter_note": (
            "Left: prediction against reference. Right: Bland-Altman, the difference against the mean of both, with the bias and the limits between which "
            "19 of 20 differences are expected to lie. {shown}",
            "左：预测值对参考值。右：Bland-Altman 图，差值对二者均值，附偏差及预期 20 个差值中有 19 个落入的一致性界限。{shown}",
        ),
        "agreement_facts": (
            "Bias {bias}; limits of agreement {lower} and {upper}.",
            "偏差 {bias}；一致性界限 {lower} 与 {upper}。",
        ),
        "distribution_title": ("{quantity} case by case", "逐例 {quantity} 分布"),
        "distribution_note": (
            "One dot a case; the box holds the middle half of the cases, its line is the median. {shown}",
            "每点为一个病例；方框包含中间一半病例，框内线为中位数。{shown}",
        ),
    }
)


def make(view: View, drawn: Drawn) -> dict[str, Any] | None:
    """Scatter with Bland-Altman of quantities, and the distribution of values over the cases."""
    found = {"agreement": _agreement(view, drawn), "distribution": _distribution(view, drawn)}
    nav = [(anchor, view.text(f"nav_{anchor}")) for anchor, made in found.items() if made]
    return {"nav": nav, **found} if nav else None


def _agreement(view: View, drawn: Drawn) -> dict[str, Any] | None:
    """Scatter and Bland-Altman panels of quantities, with bias and limits and their intervals."""
    every = view.summary.get("scatter") or {}
    if not view.order(every):
        return None
    panels: list[dict[str, Any]] = []
    shown = ""
    for number, target in enumerate(listed(view.run.get("targets")) or [None]):
        points = (
            {k: [r for r in rows if r.get("target") in (None, target)] for k, rows in every.items()}
            if view.several_targets
            else every
        )
        found, shown = _agreement_of(view, drawn, points, str(target or ""), f"_{number + 1}" if number else "")
        panels += found
    return {"panels": panels, "note": view.text("scatter_note", shown=shown)} if panels else None


def _agreement_of(
    view: View, drawn: Drawn, points: dict[str, Any], target: str, ending: str
) -> tuple[list[dict[str, Any]], str]:
    """The panels of one quantity, and how many of them are shown."""
    text, ids = view.text, view.order(points)
    names = {k: view.join([clean(target, 40), v]) if view.several_targets else v for k, v in view.names.items()}
    unit = view.unit_of(target) if view.several_targets else view.value_unit
    owner = dict(zip((str(c.get("case_id")) for c in view.cases), view.patients))
    found, notes = {}, {}
    for k in ids[: figures.MOST_PANELS]:
        rows = [r for r in points[k] if finite(r.get("y_true")) and finite(r.get("y_pred"))]
        if len(rows) < 3:
            continue
        difference = np.array([r["y_pred"] - r["y_true"] for r in rows])
        patients = [owner.get(str(r.get("case_id")), str(r.get("case_id"))) for r in rows]
        three = patient_interval(agreement, difference, patients, view.confidence)
        found[k] = (three[0].value, three[1].value, three[2].value)
        metric = f"case.bias.{target}" if view.several_targets else "case.bias"
        lower, bias, upper = (view.interval(e.value, e.low, e.high, metric, form="interval_plain") for e in three)
        notes[k] = text("agreement_facts", bias=bias, lower=lower, upper=upper)
    title = text("scatter_title")
    left = drawn.panels(
        f"scatter{ending}", title, ids, lambda some: figures.scatter(points, some, names, text, unit), names
    )
    right = drawn.panels(
        f"bland_altman{ending}",
        title,
        ids,
        lambda some: figures.bland_altman(points, found, some, names, text, unit),
        names,
    )
    panels = [
        {**a, "second": b["svg"], "note": notes.get(a["id"], "")} for a, b in zip(left["panels"], right["panels"])
    ]
    return panels, left["shown"]


def _distribution(view: View, drawn: Drawn) -> dict[str, Any] | None:
    """The values of every model case by case, as strips with boxes."""
    ids = view.order((view.summary.get("heatmap") or {}).get("models") or [])
    if not view.asked.spread or not ids or not view.cases:
        return None
    text, some = view.text, ids[: figures.MOST_PANELS]
    label = figures.with_unit(view.quantity, view.case_unit)
    names = [view.names[k] for k in some]
    svg = drawn.keep("distribution", figures.distribution(view.matrix[: len(some)], names, label))
    shown = (
        text("first_shown", n=len(some), file=f"distribution{drawn.ending.removesuffix('.svg')}", most=len(some))
        if len(ids) > len(some)
        else ""
    )
    title = text("distribution_title", quantity=view.quantity[:1].upper() + view.quantity[1:])
    alt = text("figure_alt", title=title, models="; ".join(names))
    return {"title": title, "svg": drawn.inline(svg, alt), "note": text("distribution_note", shown=shown)}
