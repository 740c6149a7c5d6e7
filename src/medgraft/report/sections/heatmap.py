"""Every model on every case."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from medgraft.report import figures
from medgraft.report.drawn import Drawn
from medgraft.report.text import clean, take
from medgraft.report.view import View

STRINGS = take(
    {
        "nav_heatmap": ("Case by case", "逐例结果"),
        "heatmap_title": ("Every model on every case", "每个模型在每个病例上的表现"),
        "heatmap_note": (
            "A column is a case, a row a model. Orange columns through all rows are cases that no model understands. "
            "Point at a cell, or use the arrow keys, to read it.",
            "每列为一个病例，每行为一个模型。贯穿所有行的橙色列是所有模型都无法识别的病例。指向单元格或用方向键即可读取数值。",
        ),
        "heatmap_absent": ("not judged", "未受评"),
        "heatmap_sort": ("Order of cases", "病例顺序"),
        "heatmap_hardest": ("hardest first", "最难在前"),
        "heatmap_label": ("by label, then hardest", "按标签，再按难度"),
        "heatmap_id": ("by case id", "按病例编号"),
        "heatmap_canvas": (
            "Heat map of {models} by {cases}. Arrow keys move between cells; the line above reads the cell.",
            "{models} × {cases} 的热图。用方向键在单元格间移动；上方一行显示该单元格内容。",
        ),
        "heatmap_read": ("Point at a cell to read it.", "指向单元格以读取。"),
        "heatmap_mean": ("mean over models", "各模型均值"),
        "axis_cases": ("Cases, hardest first", "病例（最难在前）"),
    }
)


def make(view: View, drawn: Drawn) -> dict[str, Any] | None:
    """The map as one byte a cell for the script, and as a picture for print and for pages without script."""
    ids = view.order((view.summary.get("heatmap") or {}).get("models") or [])
    values = view.matrix
    if not ids or not view.cases or not np.isfinite(values).any():
        return None
    text, less = view.text, view.case_less
    low, high = _scale(view, values)
    known = np.isfinite(values)
    sums = np.where(known, values, 0).sum(axis=0)
    means = np.where(known.any(axis=0), sums / np.maximum(known.sum(axis=0), 1), np.inf)
    hardest = np.argsort(-means if less else means, kind="stable")
    labels = [view.label(c.get("label")) for c in view.cases]
    shown = [clean(c.get("case_id"), 80) for c in view.cases]
    rank = np.argsort(hardest)
    by_label = sorted(range(len(labels)), key=lambda i: (labels[i], int(rank[i])))
    by_id = sorted(range(len(labels)), key=lambda i: shown[i])
    origin = 0.0 if view.asked.share else min(0.0, float(np.nanmin(values)))
    span = 1.0 if view.asked.share else max(high, float(np.nanmax(values))) - origin
    cells = np.clip(np.round(254 * (np.where(known, values, origin) - origin) / (span or 1.0)), 0, 254)
    names = [view.names[k] for k in ids]
    scale = figures.with_unit(view.quantity, view.case_unit)
    svg = drawn.keep("heatmap", figures.heatmap(values[:, hardest], names, low, high, less, text("axis_cases"), scale))
    title = text("heatmap_canvas", models=text.count("models", len(ids)), cases=text.count("cases", len(shown)))
    ends = _ends(view, low, high)
    return {
        "nav": [("heatmap", text("nav_heatmap"))],
        "svg": drawn.inline(svg, title),
        "alt": title,
        "names": names,
        "quantity": view.quantity,
        "low": ends[0],
        "high": ends[1],
        "reverse": less,
        "labelled": len(set(labels)) > 1 and view.case_word == "missed_label",
        "data": {
            "cells": base64.b64encode(np.where(known, cells, 255).astype(np.uint8).tobytes()).decode("ascii"),
            "models": names,
            "cases": shown,
            "labels": labels,
            "orders": {"hardest": hardest.tolist(), "label": [int(i) for i in by_label], "id": [int(i) for i in by_id]},
            "origin": origin,
            "span": span,
            "low": low,
            "high": high,
            "reverse": less,
            "colours": list(figures.HEAT),
            "unit": view.case_unit,
            "words": {
                "absent": text("heatmap_absent"),
                "mean": text("heatmap_mean"),
                "label": text(view.case_word),
                "quantity": view.quantity,
            },
        },
    }


def _scale(view: View, values: np.ndarray) -> tuple[float, float]:
    """The values at which the colours end: 0 and 1 for shares; else the worst twentieth shares one colour."""
    if view.asked.share:
        return 0.0, 1.0
    if view.case_less:
        return 0.0, float(np.nanquantile(values, 0.95)) or 1.0
    low, high = float(np.nanquantile(values, 0.05)), float(np.nanmax(values))
    return low, high if high > low else low + 1.0


def _ends(view: View, low: float, high: float) -> tuple[str, str]:
    """The ends of the scale in words; the end at which the scale is cut says so."""
    if view.asked.share:
        return view.text.number(low, view.primary), view.text.number(high)
    unit = f"\u00a0{view.case_unit}" if view.case_unit else ""
    first, last = (view.text.number(v, view.case_measure) for v in (low, high))
    return (first, f"≥\u00a0{last}{unit}") if view.case_less else (f"≤\u00a0{first}", f"{last}{unit}")
