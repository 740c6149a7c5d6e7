"""The joints between intake, learning and judging: columns, dtypes and units of every table.

All tables are parquet files that any notebook can open. ``read`` and ``write`` check columns and
dtypes; ``write`` goes through a temporary file, so a table on disk is always whole.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import polars as pl

from medgraft.errors import UserError
from medgraft.files import write_bytes

TEXT, INT, REAL = pl.String(), pl.Int64(), pl.Float64()

#: Columns that every table has, with their dtypes. ``manifest`` may add ``label.*``, ``split.*`` and ``fact.*``.
SCHEMAS: dict[str, dict[str, pl.DataType]] = {
    "manifest": {
        "patient_id": TEXT,
        "study_id": TEXT,
        "case_id": TEXT,
        "array_id": TEXT,
        "mask_id": TEXT,
        "view_center": pl.List(REAL),  # d, h, w in array voxels
        "view_size": pl.List(REAL),  # d, h, w in array voxels
        "view_direction": pl.List(REAL),  # 3x3, row-major
        "kind": TEXT,  # image, video, volume
        "shape": pl.List(INT),  # C, D, H, W
        "spacing": pl.List(REAL),  # d, h, w: mm, seconds for d of a video; null = unknown
        "value_unit": TEXT,  # display, HU, raw
        "p005": REAL,  # 0.5th percentile of the stored values
        "p995": REAL,  # 99.5th percentile
        "to_source": pl.List(REAL),  # 4x4, row-major: (d, h, w, 1) -> source coordinates
        "site": TEXT,
        "device": TEXT,
        "day": INT,  # of the acquisition, since 1970-01-01, shifted by a keyed offset; null = unknown
        "region": pl.List(INT),  # top, left, bottom, right of the image within the frame; null = unknown
        "pixel_text": TEXT,  # unchecked, clear, found, blacked; null = unchecked
    },
    "text": {
        "array_id": TEXT,
        "frame": INT,  # -1 = seen where the brightest values over all frames are laid together
        "top": INT,
        "left": INT,
        "bottom": INT,
        "right": INT,
        "kind": TEXT,  # clock, date, number, word, id, name
        "confidence": REAL,
        "blacked": pl.Boolean(),
    },
    "frames": {
        "array_id": TEXT,
        "frame": INT,
        "time_s": REAL,
        "time_source": TEXT,  # header, clock, naive, none
        "mask_index": INT,  # row of the mask array; -1 = not traced
        "phase": TEXT,
    },
    "annotations": {
        "case_id": TEXT,
        "frame": INT,  # -1 = every frame
        "kind": TEXT,  # box, line, point, polygon, time
        "geometry": TEXT,  # JSON, source pixels
        "author": TEXT,  # labels, header: a scan makes these rows anew; all others are kept
        "what": TEXT,  # finding, region, clock, key, enhancement_start, wash_out, peak, structure; null = finding
        "time_s": REAL,  # seconds from the first frame, where a time is meant; null = none
    },
    "predictions": {
        "cell": TEXT,
        "split": TEXT,
        "inner": INT,
        "patient_id": TEXT,
        "case_id": TEXT,
        "window": INT,  # -1 = the whole case
        "window_start": INT,
        "view": INT,
        "target": TEXT,
        "class": TEXT,
        "y_true": REAL,
        "y_pred": REAL,
    },
    "measures": {
        "cell": TEXT,
        "case_id": TEXT,
        "frame": INT,  # -1 = the whole case
        "name": TEXT,
        "value": REAL,
    },
    "cells": {
        "hash": TEXT,
        "model": TEXT,
        "start": TEXT,
        "strategy": TEXT,
        "setting": TEXT,  # JSON
        "outer": INT,
        "inner": INT,  # -1 = refit on the whole training part
        "seed": INT,
        "data_hash": TEXT,
        "state": TEXT,  # done, running, failed, not run: <reason>, waiting
    },
    "rejects": {"source": TEXT, "reason": TEXT, "fix": TEXT},
}


#: Columns that older tables lack; they are read as null.
LATER = {"manifest": ("day", "region", "pixel_text"), "annotations": ("what", "time_s")}


def empty(name: str) -> pl.DataFrame:
    """An empty table of the given kind."""
    return pl.DataFrame(schema=SCHEMAS[name])


def validate(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return ``frame`` with its columns in order and cast to the schema.

    Raises ``UserError`` naming the column when one is missing, unknown or of the wrong kind, and
    when a case id stands twice in a manifest.
    """
    schema = SCHEMAS[name]
    frame = frame.with_columns(
        pl.lit(None, dtype=schema[c]).alias(c) for c in LATER.get(name, ()) if c not in frame.columns
    )
    extra = [c for c in frame.columns if c not in schema]
    unknown = [c for c in extra if name != "manifest" or not c.startswith(("label.", "split.", "fact."))]
    missing = [c for c in schema if c not in frame.columns]
    if unknown or missing:
        raise UserError(
            f"table {name} lacks {missing} and has unknown {unknown}", fix="write it with medgraft.tables.write"
        )
    try:
        frame = frame.select([pl.col(c).cast(t) for c, t in schema.items()] + [pl.col(c) for c in extra])
    except pl.exceptions.PolarsError as error:
        raise UserError(f"table {name} has a column of the wrong kind: {error}") from error
    if name == "manifest":
        for column in ("case_id", "patient_id", "array_id"):
            if frame[column].null_count():
                raise UserError(f"manifest has rows without {column}")
        twice = frame.filter(pl.col("case_id").is_duplicated())["case_id"].to_list()
        if twice:
            raise UserError("case id stands twice in the manifest", case=str(twice[0]))
    return frame


def write(frame: pl.DataFrame, path: str | os.PathLike[str], name: str) -> Path:
    """Check and write a table; the file appears whole or not at all."""
    buffer = io.BytesIO()  # the library hides a full disk in an error of its own
    validate(frame, name).write_parquet(buffer)
    return write_bytes(path, buffer.getbuffer())


def read(path: str | os.PathLike[str], name: str) -> pl.DataFrame:
    """Read and check a table."""
    path = Path(path)
    if not path.is_file():
        raise UserError(
            "no such table", case=str(path), fix="run `medgraft scan` first" if name in ("manifest", "frames") else ""
        )
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(
            f"not a readable table ({type(error).__name__})", case=str(path), fix="write it again"
        ) from error
    return validate(frame, name)
