"""Training loss and selection score of every training."""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

from typing import Any

from medgraft.report import figures
from medgraft.report.drawn import Drawn
from medgraft.report.text import take
from medgraft.report.view import View

STRINGS = take(
    {
        "nav_learning": ("Learning curves", "学习曲线"),
        "learning_title": ("Learning curves", "学习曲线"),
        "learning_note": (
            "One line a training (fold and seed); a dot by itself is a training of which one value was kept. Upper panel: training loss; lower panel: score on the "
            "selection part, on which the choice of settings rests. {shown}",
            "每条线为一次训练（折与种子）；孤立的点表示该训练只记录了一个值。上图：训练损失；下图：选择部分上的得分，设置即据此选定。{shown}",
        ),
        "learning_none": ("No learning curves were kept.", "未保存学习曲线。"),
    }
)


def make(view: View, drawn: Drawn) -> dict[str, Any]:
    """Panels of learning curves."""
    text, lines = view.text, view.summary.get("curves") or {}
    ids, title = view.order(lines), text("learning_title")
    made = drawn.panels("learning", title, ids, lambda some: figures.learning(lines, some, view.names, text))
    return {"nav": [("learning", text("nav_learning"))], **made, "note": text("learning_note", shown=made["shown"])}
