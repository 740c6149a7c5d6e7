"""Is one model better than another? Every comparison, those with the best model first."""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

import re
from typing import Any

from medgraft.report.drawn import Drawn
from medgraft.report.text import Text, clean, finite, take
from medgraft.report.view import View

STRINGS = take(
    {
        "nav_pairs": ("Comparisons", "两两比较"),
        "pairs_title": ("Is one model better than another?", "一个模型是否优于另一个？"),
        "pairs_note": (
            "Differences are first minus second on the same {unit}, with {confidence} intervals. p values are corrected for the {n} comparisons, "
            "taken together. “Not shown” means that these data cannot tell; it does not mean that the two perform alike.",
            "差值为同一批{unit}上前者减后者，附 {confidence} 置信区间。p 值按 {n} 次比较的联合分布作校正。“未能证明”表示现有数据无法判断，并不表示二者表现相同。",
        ),
        "pairs_note_one": (
            "The difference is first minus second on the same {unit}, with its {confidence} interval. “Not shown” means that these data cannot tell; "
            "it does not mean that the two perform alike.",
            "差值为同一批{unit}上前者减后者，附 {confidence} 置信区间。“未能证明”表示现有数据无法判断，并不表示二者表现相同。",
        ),
        "pairs_none": (
            "There is one judged model only, so there is nothing to compare.",
            "只有一个受评模型，无从比较。",
        ),
        "pairs_rest": ("All other comparisons ({n})", "其余全部比较（{n}）"),
        "col_difference": ("Difference in {metric}", "{metric} 差值"),
        "col_superior": ("One-sided confidence in the first", "对前者更优的单侧置信度"),
        "superior_most": ("> 99 %", "> 99 %"),
        "superior_least": ("< 1 %", "< 1 %"),
        "col_method": ("Method", "方法"),
        "col_verdict": ("A difference is", "差异"),
        "pair_other": ("against {b}", "对 {b}"),
        "method_paired_t": ("paired t test on what each patient adds", "按患者贡献的配对 t 检验"),
        "method_signs": ("signs of what each patient adds", "按患者贡献的符号检验"),
    }
)


def make(view: View, drawn: Drawn) -> dict[str, Any]:
    """Comparisons that hold the best model, and the rest."""
    text, compared = view.text, view.compared
    facts = {"unit": text(f"unit_{view.unit}"), "confidence": view.confidence_text}
    note = text("pairs_note_one", **facts) if len(compared) == 1 else text("pairs_note", n=len(compared), **facts)
    return {
        "nav": [("pairs", text("nav_pairs"))],
        "first": [_row(view, row) for row in compared if row["a"] == view.judged[0]["id"]],
        "rest": [_row(view, row) for row in compared if row["a"] != view.judged[0]["id"]],
        "note": note,
        "holm": len(compared) > 1,
        "metric": text.metric(view.primary),
    }


def _row(view: View, row: dict[str, Any]) -> dict[str, Any]:
    text, superior, verdict = view.text, row.get("p_superior"), view.verdict(row)
    return {
        "a": view.names[row["a"]],
        "b": view.names[row["b"]],
        "difference": view.interval(row.get("difference"), row.get("low"), row.get("high"), view.primary),
        "p": text.p(row.get("p")),
        "p_adjusted": text.p(row.get("p_adjusted")),
        "superior": _confidence(superior, text),
        "method": method_name(row.get("method"), text),
        "verdict": text(f"verdict_{verdict}"),
        "shown": verdict != "not_shown",
    }


def _confidence(share: Any, text: Text) -> str:
    """A one-sided confidence in per cent, which is never 0 or 100."""
    if not finite(share):
        return text("undefined")
    return (
        text("superior_most" if share > 0.99 else "superior_least")
        if not 0.01 <= share <= 0.99
        else text.percent(share)
    )


def method_name(method: Any, text: Text) -> str:
    """A comparison method as printed."""
    key = f"method_{re.sub(r'[^a-z]+', '_', str(method).lower()).strip('_')}"
    return text(key) if text.has(key) else clean(method, 60) if method else text("unknown")
