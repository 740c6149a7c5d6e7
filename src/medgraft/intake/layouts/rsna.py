"""RSNA Pneumonia Detection Challenge, stage 2.

``stage_2_train_images/<patientId>.dcm``, ``stage_2_train_labels.csv`` (patientId, x, y, width, height,
Target; one row a box) and ``stage_2_detailed_class_info.csv`` (patientId, class; repeated a box). Rows are
collapsed to one an image: the label is the greatest Target, boxes become annotations. ``patientId`` names
an image, not a person; a file ``patient_mapping.csv`` (patientId, patient) tells the person where it is there.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from medgraft.errors import UserError
from medgraft.intake import labels
from medgraft.intake.options import ScanOptions
from medgraft.intake.plan import Item, Plan, walk
from medgraft.notices import notice

IMAGES, LABELS, CLASSES = "stage_2_train_images", "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"
MAPPING = "patient_mapping.csv"


def detect(source: Path) -> bool:
    """The image folder and the label table are there."""
    return (source / IMAGES).is_dir() and (source / LABELS).is_file()


def plan(source: Path, options: ScanOptions) -> Plan:
    """Items and a label table with columns image, pneumonia, class_info, patient_id and the boxes."""
    if not detect(source):
        raise UserError(f"lacks {IMAGES}/ or {LABELS}", case=str(source), fix="use layout=folder or add them")
    files, rejects = walk(source / IMAGES, set(), options.follow_links)
    ignored = [f for f in files if not f.lower().endswith((".dcm", ".dicom"))]
    kept = [f for f in files if f not in set(ignored)]
    items = [
        Item(f"{IMAGES}/{f}", (str(source / IMAGES / f),), "dicom", Path(f).stem, (f"{IMAGES}/{f}",)) for f in kept
    ]
    table = _read(source / LABELS, ["patientId", "x", "y", "width", "height", "Target"])
    greatest = table.group_by("patientId").agg(pl.col("Target").cast(pl.Float64, strict=False).max().alias("_target"))
    named = (
        pl.when(pl.col("_target") >= 1)
        .then(pl.lit("pneumonia"))
        .when(pl.col("_target") < 1)
        .then(pl.lit("no pneumonia"))
        .alias("pneumonia")
    )
    table = (
        table.join(greatest, on="patientId", how="left", maintain_order="left")
        .with_columns(named)
        .drop("_target", "Target")
    )
    targets = ["pneumonia"]
    if (source / CLASSES).is_file():
        info = (
            _read(source / CLASSES, ["patientId", "class"])
            .unique("patientId", keep="first", maintain_order=True)
            .rename({"class": "class_info"})
        )
        table = table.join(info, on="patientId", how="left", maintain_order="left")
        targets.append("class_info")
    fixed = {"id": "image", "target": targets}
    mapping = source / MAPPING
    warnings = []
    if mapping.is_file():
        people = (
            _read(mapping, ["patientId", "patient"])
            .unique("patientId", keep="first", maintain_order=True)
            .rename({"patient": "patient_id"})
        )
        table = table.join(people, on="patientId", how="left", maintain_order="left")
        fixed["patient"] = "patient_id"
    else:
        warnings.append(notice("image_not_person"))
    return Plan(items, table.rename({"patientId": "image"}), fixed, rejects, ignored, warnings)


def _read(path: Path, columns: list[str]) -> pl.DataFrame:
    table = labels.read_table(path)
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise UserError(
            f"lacks the column {missing[0]}", case=path.name, fix=f"columns should be: {', '.join(columns)}"
        )
    return table.select(columns)
