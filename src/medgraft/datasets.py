"""A scanned data set as a thing: its tables and folder, two of them joined, its arrays staged, boxes drawn on it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from medgraft import notices, store, tables
from medgraft.errors import UserError
from medgraft.files import read_json, write_json
from medgraft.notices import Notice

#: The number of the schema of a data set, ``format`` in its ``dataset.json``. Raise it when tables or fields are added.
FORMAT = 2


CLASSES, QUANTITY = "classify", "regress"  # types of a label column, as dataset.json has them


class Box(NamedTuple):
    """A box in pixels; bottom and right lie outside. What comes as x, y, width, height is turned into this here."""

    top: float
    left: float
    bottom: float
    right: float

    @classmethod
    def from_xywh(cls, x: float, y: float, width: float, height: float) -> Box:
        """From the left upper corner and the sides, as label tables and JSON have it."""
        return cls(y, x, y + height, x + width)

    def xywh(self) -> tuple[float, float, float, float]:
        """Back to the left upper corner and the sides, for the JSON of ``annotations``; to the 1e-9th of a pixel."""
        return self.left, self.top, round(self.right - self.left, 9), round(self.bottom - self.top, 9)

    def grown(self, margin: float) -> Box:
        """The box with a margin on every side; it may reach beyond the picture."""
        return Box(self.top - margin, self.left - margin, self.bottom + margin, self.right + margin)

    def union(self, other: Box) -> Box:
        """The smallest box that holds both."""
        low, high = (min(a, b) for a, b in zip(self[:2], other[:2])), (max(a, b) for a, b in zip(self[2:], other[2:]))
        return Box(*low, *high)

    def holds(self, y: float, x: float) -> bool:
        """Whether a place lies in the box or on its edge."""
        return self.top <= y <= self.bottom and self.left <= x <= self.right


@dataclass(frozen=True)
class Dataset:
    """A scanned data set: its facts, tables and folder. Arrays are opened through ``store``."""

    root: Path
    info: dict[str, Any]
    manifest: pl.DataFrame
    frames: pl.DataFrame
    warnings: list[Notice] = field(default_factory=list)

    @property
    def targets(self) -> list[str]:
        """Names of the label columns."""
        return [c.removeprefix("label.") for c in self.manifest.columns if c.startswith("label.")]

    @property
    def stored(self) -> list[str]:
        """Ids of all its arrays and masks."""
        columns = (self.manifest[name].drop_nulls().to_list() for name in ("array_id", "mask_id"))
        return sorted({array_id for column in columns for array_id in column})

    @property
    def patients_known(self) -> bool:
        return self.info.get("patient") != "none"


def load_dataset(root: str | os.PathLike[str]) -> Dataset:
    """Open a data set folder written by ``medgraft scan``.

    Raises ``UserError`` where it is none, where a newer medgraft wrote it, or where a table lacks what is needed.
    """
    root = Path(root)
    if not (root / "dataset.json").is_file():
        raise UserError(
            "not a medgraft data set (no dataset.json)",
            case=str(root),
            fix="make one with `medgraft scan SOURCE out=DIR`",
        )
    info = read_json(root / "dataset.json")
    _check_format(info, root)
    manifest = tables.read(root / "manifest.parquet", "manifest")
    frames = tables.read(root / "frames.parquet", "frames")
    return Dataset(root, info, manifest, frames, [notices.from_json(w) for w in info.get("warnings", [])])


def _check_format(info: Any, root: Path) -> None:
    """Refuse what no version up to this one wrote; data sets without a number are older than it."""
    if not isinstance(info, dict):
        raise UserError("dataset.json is not that of a data set", case=str(root), fix="scan again")
    number = info.get("format", 1)
    if type(number) is not int or not 1 <= number <= FORMAT:
        raise UserError(
            f"its format is {number!r}, this version reads 1 to {FORMAT}",
            case=str(root),
            fix="update medgraft, or scan the studies with this version",
        )


def drawn_boxes(root: str | os.PathLike[str]) -> dict[str, list[Box]]:
    """case_id -> boxes around findings on its first frame (``annotations.parquet``); empty where the table is absent.

    Boxes around something else (a region of the screen, a clock, a structure) are left out. Older tables do not say
    what a box is: there all are findings but those of a header.
    """
    path = Path(root) / "annotations.parquet"
    if not path.is_file():
        return {}
    unsaid = pl.when(pl.col("author") == "header").then(pl.lit("region")).otherwise(pl.lit("finding"))
    rows = tables.read(path, "annotations").filter(
        (pl.col("kind") == "box") & (pl.col("frame") == 0) & (pl.col("what").fill_null(unsaid) == "finding")
    )
    found: dict[str, list[Box]] = {}
    for case, geometry in rows.select("case_id", "geometry").iter_rows():
        box = json.loads(geometry)
        x, y, width, height = (float(box[key]) for key in ("x", "y", "width", "height"))
        found.setdefault(case, []).append(Box.from_xywh(x, y, width, height))
    return found


def staged(dataset: Dataset, folder: Path | None) -> Path | None:
    """Copy all arrays and masks to a fast local folder, if one is given."""
    if folder is None:
        return None
    return store.stage(dataset.root, dataset.stored, folder)


EXTERNAL = "external"  # the split column that keeps two joined data sets apart


def joined(home: Dataset, other: Path | None, folder: Path) -> Dataset:
    """Training data set plus external test set as one data set in ``folder`` (arrays are linked, or copied where links
    fail).

    Raises ``UserError`` when patients or cases are shared, or kind, channels, classes or structures differ.
    """
    if other is None:
        raise UserError("an external split needs its data set", fix="set split.test=DIR")
    away = load_dataset(other)
    shared = sorted(set(home.manifest["patient_id"].to_list()) & set(away.manifest["patient_id"].to_list()))
    if shared:
        raise UserError(
            f"{len(shared)} patients stand in both data sets (first {shared[0]})",
            case=str(other),
            fix="remove them from one, or give them other ids if they are other people",
        )
    for key in ("channels", "structures"):
        if home.info.get(key) != away.info.get(key):
            raise UserError(
                f"{key} differ: {home.info.get(key)} at home, {away.info.get(key)} in the external set",
                case=str(other),
                fix="scan both alike",
            )
    for target in home.targets:
        at_home, abroad = (d.info.get("targets", {}).get(target, {}) for d in (home, away))
        if target in away.targets and at_home.get("positive") != abroad.get("positive"):
            raise UserError(
                f"the positive class of {target} differs", case=str(other), fix="scan both with the same positive=CLASS"
            )
    name = f"split.{EXTERNAL}"
    parts = [d.manifest.with_columns(pl.lit(role).alias(name)) for d, role in ((home, "train"), (away, "test"))]
    both = pl.concat(parts, how="diagonal_relaxed")
    twice = both.filter(pl.col("case_id").is_duplicated())["case_id"].to_list()
    if twice:
        raise UserError("case id stands in both data sets", case=twice[0], fix="rename the files of one of them")
    targets = {
        name: {
            **facts,
            "classes": sorted(
                {*(facts.get("classes") or []), *(away.info.get("targets", {}).get(name, {}).get("classes") or [])}
            ),
        }
        for name, facts in home.info.get("targets", {}).items()
    }
    warnings = notices.to_json([*home.warnings, *away.warnings])
    patient = "none" if "none" in (home.info.get("patient"), away.info.get("patient")) else home.info.get("patient")
    identity = {d.info.get("identity") for d in (home, away)}
    exclusive = {d.info.get("exclusive") for d in (home, away)}
    info = {
        **{k: v for k, v in home.info.items() if k not in ("exclusive", "found")},
        **({"exclusive": False not in exclusive} if None not in exclusive else {}),  # else the masks are asked
        "identity": identity.pop() if len(identity) == 1 else "code",
        "targets": targets,
        "warnings": warnings,
        "patient": patient,
        "external": away.info.get("name", str(other)),
        "joined": [
            {"role": role, "name": d.info.get("name"), "found": d.info.get("found")}
            for d, role in ((home, "train"), (away, "test"))
        ],
    }
    for dataset in (home, away):
        store.stage(dataset.root, dataset.stored, folder, link=True)
    frames = pl.concat([home.frames, away.frames]).unique(["array_id", "frame"], keep="first", maintain_order=True)
    tables.write(both, folder / "manifest.parquet", "manifest")
    tables.write(frames, folder / "frames.parquet", "frames")
    write_json(folder / "dataset.json", info)
    return load_dataset(folder)
