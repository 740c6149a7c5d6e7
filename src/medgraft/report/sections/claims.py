"""Sentences of the sources, put to the test."""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

from typing import Any

from medgraft.report.drawn import Drawn
from medgraft.report.text import clean, take
from medgraft.report.view import View, listed

STRINGS = take(
    {
        "nav_claims": ("Claims", "论断"),
        "claims_title": ("Sentences of the sources, put to the test", "对来源论断的检验"),
        "claims_note": (
            "Each sentence names networks that should do better than others. Every such pair is tested on the same cases, as on the leaderboard, "
            "and p values are corrected within the sentence. Not shown is not the same as wrong.",
            "每条论断都指明哪些网络应优于其他网络。每一对均在相同病例上检验（方法同排行榜），p 值在该论断内校正。“未证实”不等于“错误”。",
        ),
        "claim_quoted": ("“{text}”", "“{text}”"),
        "claim_published": ("published value: {value}", "发表数值：{value}"),
        "claim_unpublished": ("no published value", "无发表数值"),
        "claim_pair": ("{a} against {b}", "{a} 对比 {b}"),
        "claim_difference": ("Difference (positive: in its favour)", "差值（正值支持论断）"),
        "claim_supported": ("Supported: shown in every pair.", "得到支持：每一对均已证实。"),
        "claim_partly": (
            "Partly supported: shown in some pairs, against it in none.",
            "部分支持：部分对已证实，无相反结果。",
        ),
        "claim_mixed": (
            "Mixed: shown in some pairs, and the opposite in others.",
            "结果不一：部分对已证实，另一部分证实了相反结果。",
        ),
        "claim_contradicted": (
            "Contradicted: the opposite is shown, and nothing in its favour.",
            "被反驳：证实了相反结果，且无支持证据。",
        ),
        "claim_not_shown": ("Not shown: the data cannot tell.", "未证实：数据无法判断。"),
        "claim_not_run": ("Not tested:", "未检验："),
    }
)


_VERDICTS = ("supported", "partly", "mixed", "contradicted", "not shown", "not run")


def make(view: View, drawn: Drawn) -> dict[str, Any] | None:
    """One row a sentence: text, source, verdict word, why, and the comparisons behind it."""
    rows = [_row(view, claim) for claim in view.summary.get("claims") or []]
    return {"nav": [("claims", view.text("nav_claims"))], "rows": rows} if rows else None


def _row(view: View, claim: dict[str, Any]) -> dict[str, Any]:
    text, verdict = view.text, str(claim.get("verdict"))
    said = [text.say(part, view.names) for part in listed(claim.get("reason")) if part]
    return {
        "text": clean(claim.get("text"), 400),
        "source": clean(claim.get("source"), 200),
        "published": text("claim_published", value=clean(claim["published"], 200))
        if claim.get("published")
        else text("claim_unpublished"),
        "verdict": text(f"claim_{verdict.replace(' ', '_')}") if verdict in _VERDICTS else clean(verdict, 40),
        "shown": verdict in ("supported", "mixed", "contradicted"),
        "reason": ("；" if text.language == "zh" else "; ").join(said),
        "comparisons": [_comparison(view, compared) for compared in claim.get("comparisons") or []],
    }


def _comparison(view: View, compared: dict[str, Any]) -> dict[str, str]:
    text = view.text
    a, b = (view.names.get(str(compared[k]), clean(compared[k], 80)) for k in ("a", "b"))
    return {
        "what": text("claim_pair", a=a, b=b),
        "metric": text.metric(str(compared["metric"])),
        "difference": view.interval(
            compared.get("difference"), compared.get("low"), compared.get("high"), f"case.{compared['metric']}"
        ),
        "p": text.p(compared.get("p_adjusted")),
    }
