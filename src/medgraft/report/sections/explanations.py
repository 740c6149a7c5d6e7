"""Where the networks look: hits of Grad-CAM in the boxes that people drew, and pictures."""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from medgraft import tables
from medgraft.datasets import Box, drawn_boxes
from medgraft.report.drawn import Drawn
from medgraft.report.gallery import Gallery
from medgraft.report.text import clean, take
from medgraft.report.view import View

STRINGS = take(
    {
        "nav_looks_at": ("Where it looks", "关注区域"),
        "looks_at_title": ("Where the network looks", "网络关注何处"),
        "looks_at_note": (
            "Positive test cases with boxes that people drew: how often the brightest place of the network's map (Grad-CAM) lies in a box, with {confidence} "
            "interval, and how often a blindly chosen place would. A map shows what moved the score, not what is ill.",
            "对带有人工标注框的阳性测试病例：网络热图（Grad-CAM）最亮处落在框内的比例及 {confidence} 置信区间，并列出盲选位置的命中率。热图显示影响得分之处，而非病变本身。",
        ),
        "looks_at_hit": ("In a box", "落在框内"),
        "looks_at_chance": ("Blindly", "盲选"),
        "looks_at_whose": (
            "Maps of {model}: warm where the score rises, blue outlines are the boxes.",
            "{model} 的热图：暖色处提高得分，蓝框为标注框。",
        ),
        "looks_at_masked": (
            "The maps are not shown over their pictures: the pixels were not cleared of text (scan with text=black).",
            "未显示热图叠加图像：像素中的文字尚未核查（扫描时用 text=black）。",
        ),
        "looks_alt": ("Picture of {case} with the network's map and the boxes", "{case} 的图像，含网络热图与标注框"),
    }
)


PICTURES = 6


def make(view: View, drawn: Drawn) -> dict[str, Any] | None:
    """Hits of Grad-CAM in the boxes people drew, with the chance of a blind hit, and pictures of the best model that
    has maps.
    """
    text, looking = view.text, [m for m in view.judged if m.get("looks_at")]
    if not looking:
        return None
    found, masked = pictures(view, looking[0]["id"])
    for picture in found:
        picture["alt"] = text("looks_alt", case=picture["case"])
    whose = text("looks_at_whose", model=view.names[looking[0]["id"]]) if found else ""
    return {
        "nav": [("looks-at", text("nav_looks_at"))],
        "rows": [_row(view, model) for model in looking],
        "pictures": found,
        "note": text("looks_at_note", confidence=view.confidence_text),
        "whose": text("looks_at_masked") if masked and not found else whose,
    }


def _row(view: View, model: dict[str, Any]) -> dict[str, str]:
    text, found = view.text, model["looks_at"]
    hit = found["hit"]
    return {
        "name": view.names[model["id"]],
        "hit": view.interval(hit.get("value"), hit.get("low"), hit.get("high"), "case.sensitivity"),
        "chance": text.number(found.get("chance"), "case.sensitivity"),
        "n": text.count("cases", hit.get("n")),
    }


def pictures(view: View, model: str) -> tuple[list[dict[str, Any]], bool]:
    """The first maps of a model's cells over their pictures, boxes drawn: JPEG in base64; and whether pictures were
    masked.
    """
    if view.dataset is None or view.folder is None:
        return [], False
    path = view.folder / "cells.parquet"
    cells = tables.read(path, "cells") if path.is_file() else tables.empty("cells")
    maps: dict[str, np.ndarray] = {}
    for cell in cells.filter(pl.col("inner") == -1).iter_rows(named=True):
        path = view.folder / "cells" / cell["hash"] / "explain.npz"
        if " · ".join((cell["model"], cell["start"], cell["strategy"])) == model and path.is_file():
            with np.load(path, allow_pickle=False) as stored:
                for case, cam in zip(stored["case"].tolist(), stored["cam"]):
                    maps.setdefault(case, cam)
    boxes = drawn_boxes(view.dataset.root)
    gallery = Gallery(view.dataset)
    gallery.prepare(list(maps))
    found: list[dict[str, Any]] = []
    for case, cam in maps.items():
        if len(found) == PICTURES or case not in gallery.rows:
            continue
        sides = gallery.rows[case]["shape"][2:]
        over = partial(overlay, cam=cam, boxes=boxes.get(case, []), sides=sides)
        picture = gallery.picture(case, frame=0, over=over)
        if picture is not None:
            found.append({"case": clean(case, 80), **picture})
    return found, any(gallery.masked(case) for case in maps)


def overlay(tile: np.ndarray, *, cam: np.ndarray, boxes: list[Box], sides: tuple[int, int]) -> np.ndarray:
    """A frame (h, w, 3) uint8 with the map as a warm glow and the boxes, in pixels of an array with ``sides``, as
    outlines.
    """
    height, width = tile.shape[:2]
    heat = (
        np.asarray(Image.fromarray(cam).resize((width, height), Image.Resampling.BILINEAR), np.float32)[..., None] / 255
    )
    mixed = tile.astype(np.float32) * (1 - 0.55 * heat) + np.array([245, 140, 26], np.float32) * 0.55 * heat
    picture = np.clip(mixed, 0, 255).astype(np.uint8)
    for box in boxes:
        left, right = (int(np.clip(round(v * width / sides[1]), 0, width - 1)) for v in (box.left, box.right))
        top, bottom = (int(np.clip(round(v * height / sides[0]), 0, height - 1)) for v in (box.top, box.bottom))
        for edge in (
            np.s_[top, left : right + 1],
            np.s_[bottom, left : right + 1],
            np.s_[top : bottom + 1, left],
            np.s_[top : bottom + 1, right],
        ):
            picture[edge] = (86, 180, 233)
    return picture
