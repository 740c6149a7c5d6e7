"""ROC curves and calibration, where the run has them."""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

from typing import Any

from medgraft.report import figures
from medgraft.report.drawn import Drawn
from medgraft.report.text import take
from medgraft.report.view import View, listed

STRINGS = take(
    {
        "nav_curves": ("ROC", "ROC 曲线"),
        "nav_calibration": ("Calibration", "校准"),
        "roc_title": ("Receiver operating characteristic", "受试者工作特征曲线"),
        "roc_note": (
            "Each curve with its {confidence} band; the other models in grey. {shown}",
            "每条曲线附 {confidence} 区间带；灰色为其他模型。{shown}",
        ),
        "roc_macro": (
            "Curves are means over the classes or targets, each against the rest. ",
            "曲线为各类别（或目标）对其余之曲线的平均。",
        ),
        "calibration_title": ("Calibration", "校准"),
        "calibration_note": (
            "Of the cases given a probability, how many had the disease or class? On the diagonal the probability can be taken at its word. "
            "Bars are {confidence} intervals; the area of a dot grows with its number of cases. {shown}",
            "在获得某一预测概率的病例中，实际有多少属于该类别？落在对角线上表示概率可信。竖线为 {confidence} 置信区间；点的面积随病例数增大。{shown}",
        ),
    }
)


def make(view: View, drawn: Drawn) -> dict[str, Any] | None:
    """Panels of ROC curves and of calibration."""
    found = {"roc": _roc(view, drawn), "calibration": _calibration(view, drawn)}
    words = {"roc": "nav_curves", "calibration": "nav_calibration"}
    nav = [(anchor, view.text(words[anchor])) for anchor, made in found.items() if made]
    return {"nav": nav, **found} if nav else None


def _roc(view: View, drawn: Drawn) -> dict[str, Any] | None:
    text, curves = view.text, view.summary.get("roc") or {}
    ids = view.order(curves)
    if not ids:
        return None
    made = drawn.panels("roc", text("roc_title"), ids, lambda some: figures.roc(curves, some, view.names, text))
    macro = text("roc_macro") if view.several_targets or len(_classes(view)) > 2 else ""
    return {**made, "note": text("roc_note", confidence=view.confidence_text, shown=macro + made["shown"])}


def _calibration(view: View, drawn: Drawn) -> dict[str, Any] | None:
    text, bins = view.text, view.summary.get("calibration") or {}
    ids = view.order(bins)
    if not ids:
        return None
    title = text("calibration_title")
    made = drawn.panels("calibration", title, ids, lambda some: figures.calibration(bins, some, view.names, text))
    return {**made, "note": text("calibration_note", confidence=view.confidence_text, shown=made["shown"])}


def _classes(view: View) -> list[Any]:
    """The classes of a run with one target."""
    classes = view.run.get("classes")
    return listed(next(iter(classes.values()), [])) if isinstance(classes, dict) else listed(classes)
