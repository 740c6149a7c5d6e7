"""The planted-leak kit: pictures, clips and volumes with known copies, each altered in one way, among many that are no
copies.

Every case is anatomy-like (smooth shapes that all cases share, and shapes of its own), so that two people look alike as
two chest X-rays do.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from medgraft import store, tables
from medgraft.datasets import Dataset, load_dataset
from medgraft.files import write_json


def body(seed: int, side: int = 160) -> np.ndarray:
    """One picture (side, side) uint8: two dark lungs on a bright body as in all, ribs, heart and spots as in this one
    only.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    lungs = sum(
        np.exp(-((((x - c - rng.normal(0, 0.015)) / 0.13) ** 2 + ((y - 0.45 - rng.normal(0, 0.02)) / 0.27) ** 2) ** 2))
        for c in (0.3, 0.7)
    )
    ribs = 0.05 * np.cos(2 * np.pi * (rng.uniform(6, 9) * y + rng.uniform(0.5, 1.5) * np.abs(x - 0.5) + rng.uniform()))
    picture = (
        0.75
        - 0.5 * lungs
        + ribs * lungs
        + 0.1 * np.exp(-(((x - 0.56) / rng.uniform(0.1, 0.16)) ** 2 + ((y - 0.62) / 0.12) ** 2))
    )
    for _ in range(14):
        cx, cy, r, a = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.03, 0.09), rng.normal(0, 0.09)
        picture += a * np.exp(-(((x - cx) / r) ** 2 + ((y - cy) / r) ** 2))
    picture += rng.normal(0, 0.01, picture.shape)
    return np.asarray(np.clip(picture * 230 + rng.normal(0, 8), 0, 255), np.uint8)


def jpeg(picture: np.ndarray, quality: int = 30) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def resized(picture: np.ndarray, share: float = 0.6) -> np.ndarray:
    side = round(len(picture) * share)
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))


def brighter(picture: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(picture * 0.8 + 45, 0, 255), np.uint8)


def gamma(picture: np.ndarray) -> np.ndarray:
    return np.asarray(255 * (picture / 255.0) ** 1.3, np.uint8)


def cropped(picture: np.ndarray) -> np.ndarray:
    n = len(picture)
    return picture[round(0.05 * n) : n - round(0.01 * n), round(0.02 * n) : n - round(0.04 * n)]


def mirrored(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[:, ::-1])


#: How a copy was made -> what the audit must call it.
ALTERED: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "same bytes": (lambda p: p, "identical"),
    "wider type": (lambda p: p.astype(np.uint16) * 16 + 1000, "rescaled"),
    "re-encoded": (jpeg, "copy"),
    "resized": (resized, "copy"),
    "brighter": (brighter, "copy"),
    "other gamma": (gamma, "copy"),
    "cropped": (cropped, "cropped"),
    "mirrored": (mirrored, "copy"),
}


class Planted:
    """Collects cases and writes them as a data set."""

    def __init__(self, root: Path, kind: str = "image") -> None:
        self.root, self.kind, self.rows = Path(root), kind, []
        self.root.mkdir(parents=True, exist_ok=True)

    def add(self, case: str, patient: str, array: np.ndarray, label: str | None = None, **more: Any) -> None:
        """One case; ``array`` is (H, W) or (D, H, W)."""
        array = array[None] if array.ndim == 2 else array
        stored = store.write_array(self.root, array[None])
        display = array.dtype == np.uint8
        row = dict.fromkeys(tables.SCHEMAS["manifest"]) | {
            "patient_id": patient,
            "study_id": f"s-{case}",
            "case_id": case,
            "array_id": stored.array_id,
            "kind": self.kind,
            "shape": list(stored.shape),
            "spacing": [None, None, None],
            "value_unit": "display" if display else "raw",
            "p005": stored.p005,
            "p995": stored.p995,
            "label.finding": label,
        }
        self.rows.append({**row, "pixel_text": "public", **more})

    def write(self, **info: Any) -> Dataset:
        manifest = pl.DataFrame(self.rows, infer_schema_length=None)
        text = [c for c in manifest.columns if manifest[c].dtype == pl.Null]
        schema = tables.SCHEMAS["manifest"]
        manifest = manifest.with_columns(pl.col(c).cast(schema.get(c, pl.String)) for c in text)
        tables.write(manifest, self.root / "manifest.parquet", "manifest")
        tables.write(tables.empty("frames"), self.root / "frames.parquet", "frames")
        classes = sorted({r["label.finding"] for r in self.rows if r["label.finding"]})
        facts = {
            "name": "planted",
            "channels": 1,
            "targets": {"finding": {"type": "classify", "classes": classes, "positive": None, "unit": None}},
            "structures": [],
            "label_level": "case",
            "patient": "column",
            "warnings": [],
            **info,
        }
        write_json(self.root / "dataset.json", facts)
        return load_dataset(self.root)
