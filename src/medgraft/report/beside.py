"""What stands beside the leaderboard: sentences of the sources with their verdicts, kinds of negatives, the result
without test-time augmentation, ways of transfer network by network, and where the networks look. Rows and pictures, no
HTML."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from medgraft import tables
from medgraft.datasets import Box, Dataset, drawn_boxes
from medgraft.report import figures
from medgraft.report.gallery import Gallery
from medgraft.report.text import clean, finite, split_metric
from medgraft.report.view import View, listed

PICTURES = 6
#: Strategies by what they mean for a network: the bars of ``ways`` stand in this order.
WAYS = ("finetune", "gradual", "frozen", "frozen_logistic")
_VERDICTS = ("supported", "partly", "mixed", "contradicted", "not shown", "not run")


def claims(view: View) -> list[dict[str, Any]]:
    """One row a sentence: text, source, verdict word, why, and the comparisons behind it."""
    text, rows = view.text, []
    for claim in view.summary.get("claims") or []:
        verdict = str(claim.get("verdict"))
        compared = [
            {
                "what": text(
                    "claim_pair",
                    a=view.names.get(str(c["a"]), clean(c["a"], 80)),
                    b=view.names.get(str(c["b"]), clean(c["b"], 80)),
                ),
                "metric": text.metric(str(c["metric"])),
                "difference": view.interval(c.get("difference"), c.get("low"), c.get("high"), f"case.{c['metric']}"),
                "p": text.p(c.get("p_holm")),
            }
            for c in claim.get("comparisons") or []
        ]
        said = [text.say(part, view.names) for part in listed(claim.get("reason")) if part]
        reason = ("；" if text.language == "zh" else "; ").join(said)
        rows.append(
            {
                "text": clean(claim.get("text"), 400),
                "source": clean(claim.get("source"), 200),
                "published": text("claim_published", value=clean(claim["published"], 200))
                if claim.get("published")
                else text("claim_unpublished"),
                "verdict": text(f"claim_{verdict.replace(' ', '_')}") if verdict in _VERDICTS else clean(verdict, 40),
                "shown": verdict in ("supported", "mixed", "contradicted"),
                "reason": reason,
                "comparisons": compared,
            }
        )
    return rows


def kinds(view: View) -> dict[str, Any]:
    """Rows a model, columns a kind of negative: AUC with interval, and specificity at the model's threshold."""
    text = view.text
    models = [m for m in view.judged if m.get("against")]
    names = list(dict.fromkeys(k for m in models for k in m["against"]))
    rows = []
    for model in models:
        cells = []
        for kind in names:
            entry = model["against"].get(kind) or {}
            auc, specificity = entry.get("auc") or {}, entry.get("specificity") or {}
            shown = view.interval(auc.get("value"), auc.get("low"), auc.get("high"), "case.auc")
            cleared = view.interval(
                specificity.get("value"), specificity.get("low"), specificity.get("high"), "case.specificity"
            )
            cells.append({"auc": shown, "specificity": text("kinds_specificity", value=cleared)})
        rows.append({"name": view.names[model["id"]], "cells": cells})
    counts = {
        k: next((m["against"][k]["auc"].get("negatives") for m in models if k in m["against"]), None) for k in names
    }
    heads = [{"name": clean(k, 60), "n": text.count("cases", counts[k]) if finite(counts[k]) else ""} for k in names]
    column = clean((view.run.get("negatives") or {}).get("column") or "", 60)
    return {
        "heads": heads,
        "rows": rows,
        "note": text("kinds_note", column=column, confidence=view.confidence_text) if rows else "",
    }


def without_views(view: View) -> list[dict[str, str]]:
    """The primary measure with and without test-time augmentation, and the paired change."""
    base = split_metric(view.primary)[1]
    rows = []
    for model in view.judged:
        clean_side = model.get("clean")
        if not clean_side:
            continue
        entry = (clean_side.get("metrics") or {}).get(base) or {}
        change = view.interval(
            clean_side.get("difference"), clean_side.get("low"), clean_side.get("high"), view.primary
        )
        rows.append(
            {
                "name": view.names[model["id"]],
                "with": view.shown(model, view.primary),
                "without": view.interval(entry.get("value"), entry.get("low"), entry.get("high"), view.primary),
                "change": change,
                "p": view.text.p(clean_side.get("p")),
            }
        )
    return rows


def ways(view: View) -> list[tuple[str, list[tuple[str, float, float, float]]]]:
    """Networks that were used in several ways from one start: (network, [(way, value, low, high)]), for bars."""
    found: dict[str, list[tuple[str, float, float, float]]] = {}
    order = sorted(
        view.judged,
        key=lambda m: next((i for i, w in enumerate(WAYS) if str(m.get("strategy")).startswith(w)), len(WAYS)),
    )
    for model in order:
        entry = view.estimate(model, view.primary)
        if not all(finite(entry.get(k)) for k in ("value", "low", "high")):
            continue
        way = view.join([view.text.start_short(model.get("start")), view.text.strategy_short(model.get("strategy"))])
        found.setdefault(view.text.model_name(model.get("model") or model["id"]), []).append(
            (way, entry["value"], entry["low"], entry["high"])
        )
    plain = {
        name: rows
        for name, rows in found.items()
        if len(
            {
                str(m.get("strategy")).split("+")[0]
                for m in order
                if view.text.model_name(m.get("model") or m["id"]) == name
            }
        )
        > 1
    }
    return list(plain.items())


def looks(view: View, run_dir: Path, dataset: Dataset | None) -> dict[str, Any]:
    """Hits of Grad-CAM in the boxes people drew, with the chance of a blind hit, and pictures of the best model that
    has maps.
    """
    text, rows = view.text, []
    for model in view.judged:
        found = model.get("looks_at")
        if not found:
            continue
        hit = found["hit"]
        rows.append(
            {
                "name": view.names[model["id"]],
                "hit": view.interval(hit.get("value"), hit.get("low"), hit.get("high"), "case.sensitivity"),
                "chance": text.number(found.get("chance"), "case.sensitivity"),
                "n": text.count("cases", hit.get("n")),
            }
        )
    first = next((m for m in view.judged if m.get("looks_at")), None)
    pictures, masked = (
        _pictures(first["id"], run_dir, dataset) if first is not None and dataset is not None else ([], False)
    )
    for picture in pictures:
        picture["alt"] = text("looks_alt", case=picture["case"])
    note = text("looks_at_note", confidence=view.confidence_text) if rows else ""
    whose = text("looks_at_whose", model=view.names[first["id"]]) if first is not None and pictures else ""
    if masked and not pictures:
        whose = text("looks_at_masked")
    return {"rows": rows, "pictures": pictures, "note": note, "whose": whose}


def _pictures(model: str, run_dir: Path, dataset: Dataset) -> tuple[list[dict[str, Any]], bool]:
    """The first maps of a model's cells over their pictures, boxes drawn: JPEG in base64; and whether pictures were
    masked.
    """
    cells = (
        tables.read(run_dir / "cells.parquet", "cells")
        if (run_dir / "cells.parquet").is_file()
        else tables.empty("cells")
    )
    maps: dict[str, np.ndarray] = {}
    for cell in cells.filter(pl.col("inner") == -1).iter_rows(named=True):
        path = run_dir / "cells" / cell["hash"] / "explain.npz"
        if " · ".join((cell["model"], cell["start"], cell["strategy"])) == model and path.is_file():
            with np.load(path, allow_pickle=False) as stored:
                for case, cam in zip(stored["case"].tolist(), stored["cam"]):
                    maps.setdefault(case, cam)
    boxes = drawn_boxes(dataset.root)
    gallery = Gallery(dataset)
    gallery.prepare(list(maps))
    found: list[dict[str, Any]] = []
    for case, cam in maps.items():
        if len(found) == PICTURES or case not in gallery.rows:
            continue
        sides = gallery.rows[case]["shape"][2:]
        picture = gallery.picture(
            case, frame=0, over=partial(_overlay, cam=cam, boxes=boxes.get(case, []), sides=sides)
        )
        if picture is not None:
            found.append({"case": clean(case, 80), **picture})
    return found, any(gallery.masked(case) for case in maps)


def _overlay(tile: np.ndarray, *, cam: np.ndarray, boxes: list[Box], sides: tuple[int, int]) -> np.ndarray:
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


def majority(view: View) -> str:
    """Accuracy of always naming the larger class, as it is printed; empty where there is none."""
    value = view.run.get("majority")
    return view.text.number(value, "case.accuracy") if finite(value) else ""


def draw_ways(view: View, rows: list[tuple[str, list[tuple[str, float, float, float]]]]) -> str:
    """The bar chart of ``ways``."""
    chance = 0.5 if split_metric(view.primary)[1] in ("auc", "macro_auc", "balanced_accuracy") else None
    return figures.bars(rows, view.metric_label(view.primary), chance)
