"""Every measure that the page names, and the other terms."""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

from typing import Any

from medgraft.report.drawn import Drawn
from medgraft.report.text import split_metric, take
from medgraft.report.view import View
from medgraft.stats.metrics import METRICS

STRINGS = take(
    {
        "nav_glossary": ("Glossary", "术语表"),
        "glossary_title": ("Glossary", "术语表"),
        "term_interval": ("Interval", "置信区间"),
        "about_interval": (
            "The range of values that agree with these data at the stated confidence, found from how much the judged patients differ.",
            "在给定置信水平下与数据相容的取值范围，由受评患者之间的差异得出。",
        ),
        "term_corrected": ("Corrected p", "校正后的 p 值"),
        "term_macro": ("Macro", "宏平均"),
        "about_macro": (
            "The mean over the classes or targets, each of which counts the same.",
            "对各类别（或目标）取平均，权重相同。",
        ),
        "term_threshold": ("Threshold", "阈值"),
        "about_threshold": (
            "The score from which a case is called positive. Youden's index takes the one with the largest sum of sensitivity and specificity, here on inner "
            "parts alone, so that the tested cases have no say in it.",
            "得分达到该值即判为阳性。约登指数取灵敏度与特异度之和最大的阈值，此处仅在内层部分上选定，与受测病例无关。",
        ),
        "about_corrected": (
            "Comparing many models finds some difference by luck alone. Each p value is raised, knowing how the comparisons hang together, so that one false finding in the whole family stays unlikely (step-down, never above Holm's method).",
            "比较许多模型时，仅凭运气也会出现差异。考虑各比较之间的关联后提高每个 p 值，使整组比较中出现任何一个假发现的可能性保持很低（逐步法，不高于 Holm 校正）。",
        ),
        "term_seed": ("Seed spread", "种子离散度"),
        "about_seed": (
            "How far the result moves when the same training is repeated with other random numbers.",
            "以不同随机数重复同一训练时，结果变动的幅度。",
        ),
        "term_fold": ("Outer fold", "外层折"),
        "about_fold": (
            "The patients are divided into parts; each part is once the test part of models trained on the others.",
            "将患者分为若干部分；每一部分轮流作为测试部分，由在其余部分上训练的模型预测。",
        ),
    }
)


def make(view: View, drawn: Drawn) -> dict[str, Any]:
    """The list of terms."""
    return {"nav": [("glossary", view.text("nav_glossary"))], "rows": glossary(view)}


def glossary(view: View) -> list[tuple[str, str]]:
    """(term, description) of each measure that the page names, then of the other terms."""
    text, names = view.text, view.metric_names()
    registry = {name: str(getattr(entry, "description", entry)) for name, entry in METRICS.items()}
    first = {split_metric(name)[1]: name for name in reversed(names)}
    measures = {split_metric(name)[1]: None for name in names}
    rows = [(text.metric(base), text.describe(first[base], registry)) for base in measures]
    terms = {
        "interval": True,
        "seed": True,
        "fold": not view.one_part,
        "corrected": len(view.summary.get("pairs") or []) > 1,
        "macro": any(split_metric(name)[1].startswith("macro_") for name in names),
        "threshold": any(map(view.rule, view.judged)),
    }
    return rows + [(text(f"term_{k}"), text(f"about_{k}")) for k, there in terms.items() if there]
