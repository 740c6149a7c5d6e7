"""Tiny data sets with a learnable signal, written through the real store and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medgraft import store, tables
from medgraft.datasets import Dataset, load_dataset
from medgraft.files import write_json

_SHAPES = {"image": (1, 1, 32, 32), "video": (1, 12, 32, 32), "volume": (1, 12, 16, 16)}


def make_dataset(
    root: Path,
    kind: str = "image",
    *,
    cases: int = 24,
    classes: int = 2,
    patients: int | None = None,
    masks: bool = False,
    structures: int = 1,
    traced: str = "all",
    missing: float = 0.0,
    regress: bool = False,
    multilabel: bool = False,
    shape: tuple[int, int, int, int] | None = None,
    vary_length: bool = False,
    unit: str = "display",
    signal: float = 1.0,
    seed: int = 0,
) -> Dataset:
    """Write a data set below ``root`` and open it.

    Every case shows a bright blob on noise. Class c is carried by the blob's size and brightness
    (``signal`` = 0 removes it), so a small network learns it in a few steps. Targets: ``finding``
    (text ``class0`` ..; class ``class1`` is positive when there are two), plus ``size`` (float, blob
    radius in pixels) with ``regress`` and ``a``, ``b`` (text 0/1) with ``multilabel``.

    ``masks`` stores the blob as a mask with ``structures`` channels (a centred core for each further
    one). ``traced`` is ``all`` (every frame) or ``ends`` (first and last frame only, as clinicians trace
    end-diastole and end-systole). ``missing`` nulls that share of the ``finding`` labels. ``patients``
    below ``cases`` gives some patients several cases, all of one class. ``unit`` is ``display`` (uint8),
    ``raw`` (uint16) or ``HU`` (int16).
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    patients = patients or cases
    base = shape or _SHAPES[kind]
    rows: list[dict[str, Any]] = []
    frames: list[dict[str, Any]] = []
    for index in range(cases):
        patient = index % patients
        label = patient % classes
        channels, depth, height, width = base
        if vary_length and depth > 1:
            depth = max(2, depth - 3 + index % 7)
        array, blob, radius = _blob(rng, (channels, depth, height, width), label / max(1, classes - 1) * signal, kind)
        stored = store.write_array(root, _as_unit(array, unit))
        traced_frames = _traced(depth, traced) if masks else []
        mask_id = None
        if traced_frames:
            grid = np.stack([_structures(blob[frame], structures) for frame in traced_frames])
            mask_id = store.write_mask(root, grid).array_id
        rows.append(
            {
                "patient_id": f"p{patient:03d}",
                "study_id": f"s{index:03d}",
                "case_id": f"c{index:03d}",
                "array_id": stored.array_id,
                "mask_id": mask_id,
                "view_center": None,
                "view_size": None,
                "view_direction": None,
                "kind": kind,
                "shape": list(stored.shape),
                "spacing": [0.04, 0.5, 0.5]
                if kind == "video"
                else [1.0, 1.0, 1.0]
                if kind == "volume"
                else [None, None, None],
                "value_unit": unit,
                "p005": stored.p005,
                "p995": stored.p995,
                "to_source": [float(v) for v in np.eye(4).reshape(-1)],
                "site": f"site{patient % 3}",
                "device": None,
                "pixel_text": "public",
                "label.finding": None if rng.random() < missing else f"class{label}",
                **({"label.size": float(radius)} if regress else {}),
                **(
                    {"label.a": str(int(label == classes - 1)), "label.b": str(int(index % 3 == 0))}
                    if multilabel
                    else {}
                ),
            }
        )
        where = {frame: row for row, frame in enumerate(traced_frames)}
        for frame in range(depth):
            frames.append(
                {
                    "array_id": stored.array_id,
                    "frame": frame,
                    "time_s": frame * 0.04 if kind == "video" else None,
                    "time_source": "header" if kind == "video" else "none",
                    "mask_index": where.get(frame, -1),
                    "phase": None,
                }
            )
    names = [f"class{c}" for c in range(classes)]
    targets: dict[str, Any] = {
        "finding": {"type": "classify", "classes": names, "positive": "class1" if classes == 2 else None, "unit": None}
    }
    if regress:
        targets["size"] = {"type": "regress", "classes": [], "positive": None, "unit": "px"}
    if multilabel:
        targets |= {t: {"type": "classify", "classes": ["0", "1"], "positive": "1", "unit": None} for t in ("a", "b")}
    info = {
        "name": f"factory-{kind}",
        "channels": base[0],
        "targets": targets,
        "structures": [f"structure{k}" for k in range(structures)] if masks else [],
        "level": "case",
        "patient": "column",
        "warnings": [],
    }
    manifest = pl.DataFrame(
        rows, schema_overrides={"mask_id": pl.String, "device": pl.String, "label.finding": pl.String}
    )
    tables.write(manifest, root / "manifest.parquet", "manifest")
    tables.write(
        pl.DataFrame(frames, schema_overrides={"phase": pl.String, "time_s": pl.Float64}),
        root / "frames.parquet",
        "frames",
    )
    write_json(root / "dataset.json", info)
    return load_dataset(root)


def _blob(
    rng: np.random.Generator, shape: tuple[int, int, int, int], strength: float, kind: str
) -> tuple[np.ndarray, np.ndarray, float]:
    """Noise with one blob: values 0..1 (C, D, H, W), the blob (D, H, W) and its radius in pixels."""
    channels, depth, height, width = shape
    radius = min(height, width) * (0.15 + 0.15 * strength)
    cy, cx = (side / 2 + rng.uniform(-0.1, 0.1) * side for side in (height, width))
    rows, columns = np.mgrid[:height, :width]
    blob = np.empty((depth, height, width), bool)
    for frame in range(depth):
        beat = 1 + 0.2 * np.sin(2 * np.pi * frame / 8) if kind == "video" else 1.0
        taper = np.sqrt(max(0.0, 1 - ((frame - (depth - 1) / 2) / (depth / 2)) ** 2)) if kind == "volume" else 1.0
        blob[frame] = (rows - cy) ** 2 + (columns - cx) ** 2 <= (radius * beat * taper) ** 2
    values = rng.uniform(0.0, 0.3, (channels, depth, height, width)) + (0.35 + 0.3 * strength) * blob
    return values, blob, radius


def _as_unit(values: np.ndarray, unit: str) -> np.ndarray:
    if unit == "display":
        return np.round(values * 255).astype(np.uint8)
    if unit == "HU":
        return np.round(values * 1400 - 1000).astype(np.int16)
    return np.round(values * 4000).astype(np.uint16)


def _traced(depth: int, traced: str) -> list[int]:
    if traced == "all":
        return list(range(depth))
    if traced == "ends":
        return sorted({0, depth - 1})
    raise ValueError(f"traced is 'all' or 'ends', not {traced!r}")


def _structures(blob: np.ndarray, count: int) -> np.ndarray:
    """(K, H, W) uint8: the blob, then ever smaller cores of it."""
    out = np.zeros((count, *blob.shape), np.uint8)
    rows, columns = np.nonzero(blob)
    for k in range(count):
        if not len(rows):
            break
        distance = np.hypot(rows - rows.mean(), columns - columns.mean())
        keep = distance <= distance.max() / (k + 1)
        out[k, rows[keep], columns[keep]] = 1
    return out
