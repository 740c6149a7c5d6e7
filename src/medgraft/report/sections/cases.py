"""The cases to look at first: those that every model misses, or on which all do worst."""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

from collections import Counter
from typing import Any

from medgraft.report.drawn import MISSED, Drawn
from medgraft.report.gallery import Gallery
from medgraft.report.text import clean, finite, take
from medgraft.report.view import View, listed

STRINGS = take(
    {
        "nav_missed": ("Missed cases", "漏判病例"),
        "nav_worst": ("Worst cases", "最差病例"),
        "missed_title": ("Cases that every model misses", "所有模型都漏判的病例"),
        "missed_targets": ("Wrong on", "判错目标"),
        "worst_note": (
            "The cases to look at first: a wrong reference, a poor image or unusual anatomy. Numbers are each model's {quantity}.",
            "最值得先看的病例：可能是参考标注有误、图像质量差或解剖不典型。数字为各模型的{quantity}。",
        ),
        "missed_note": (
            "The cases to look at first: a wrong label, a poor image or a hard disease. Numbers are each model's {quantity}.",
            "最值得先看的病例：可能是标签有误、图像质量差或病情疑难。数字为各模型的{quantity}。",
        ),
        "worst_title": ("Cases on which the models do worst", "各模型表现最差的病例"),
        "worst_none": ("No case was judged.", "没有受评病例。"),
        "missed_none": ("No case was missed by every model.", "没有病例被所有模型漏判。"),
        "missed_shown": (
            "The first {n} of {total} are shown; summary.json lists all.",
            "此处显示 {total} 例中的前 {n} 例；summary.json 列出全部。",
        ),
        "missed_alt_image": ("Image of case {case}.", "病例 {case} 的图像。"),
        "missed_alt_strip": ("Frames or slices of case {case}.", "病例 {case} 的数帧或数层。"),
        "missed_no_image": ("image not at hand", "图像不可用"),
        "missed_masked": (
            "not shown: its pixels were not cleared of text (scan with text=black)",
            "未显示：像素中的文字尚未核查（扫描时用 text=black）",
        ),
        "missed_patient": ("Patient", "患者"),
        "missed_contour": ("Outlines are the reference contours.", "轮廓线为参考勾画。"),
    }
)


def make(view: View, drawn: Drawn) -> dict[str, Any]:
    """The gallery of the cases with each model's value."""
    text, rows = view.text, list(view.summary.get("missed") or [])
    word = "missed" if view.asked.classes else "worst"  # only classes can be missed
    ids = [str(r.get("case_id")) for r in rows[:MISSED]]
    gallery = Gallery(view.dataset, contours=view.asked.contours)
    gallery.prepare(ids)
    often, short = Counter(ids), _names(view)
    items = [_item(view, gallery, short, row, case, often[case] == 1) for row, case in zip(rows, ids)]
    quantity = view.quantity
    if view.asked.quantity:  # a sentence; the name of a measure keeps its capital
        quantity = quantity[0].lower() + quantity[1:]
    return {
        "nav": [("missed", text(f"nav_{word}"))],
        "rows": items,
        "title": text(f"{word}_title"),
        "empty": text(f"{word}_none"),
        "bars": view.asked.share,
        "label_word": text(view.case_word),
        "note": text(f"{word}_note", quantity=quantity),
        "more": text("missed_shown", n=len(items), total=len(rows)) if len(rows) > len(items) else "",
        "contours": bool(gallery.traced),
    }


def _names(view: View) -> dict[str, str]:
    """Names of models; where all are one network, what tells them apart is how they were begun and trained."""
    told = {m["id"]: view.detail(m) for m in view.judged}
    same = (
        len({m.get("model") for m in view.judged}) == 1 and all(told.values()) and len(set(told.values())) == len(told)
    )
    return {k: v[:1].upper() + v[1:] for k, v in told.items()} if same else view.names


def _item(
    view: View, gallery: Gallery, short: dict[str, str], row: dict[str, Any], case: str, single: bool
) -> dict[str, Any]:
    text, values = view.text, row.get("values") or {}
    picture = gallery.picture(case) if single else None
    label = view.label(row.get("label"))
    unit = f"\u00a0{view.case_unit}" if view.case_unit else ""
    alt = text("missed_alt_strip" if picture and picture["strip"] else "missed_alt_image", case=clean(case, 80))
    alt += f" {text('missed_label')}: {label}" if label else ""
    hidden = view.patients_unknown or row.get("patient_id") is None
    return {
        "case": clean(case, 80),
        "label": label,
        "wrong": ", ".join(clean(t, 40) for t in listed(row.get("targets"))),
        "patient": "" if hidden else clean(row["patient_id"], 80),
        "picture": picture,
        "masked": gallery.masked(case),
        "alt": alt,
        "scores": [
            {
                "name": short[k],
                "value": view.text.number(values[k], view.case_measure) + unit,
                "share": round(100 * min(max(values[k], 0), 1), 1),
            }
            for k in view.order(list(values))
            if finite(values[k])
        ],
    }
