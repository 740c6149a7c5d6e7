"""Testing on another hospital's data set: two data sets seen as one, with a split column that keeps them apart."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import polars as pl

from medgraft import store, tables
from medgraft.errors import UserError
from medgraft.tables import Dataset, load_dataset

COLUMN = "external"


def join(home: Dataset, other: Path | None, folder: Path) -> Dataset:
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
    name = f"split.{COLUMN}"
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
    warnings = list(dict.fromkeys([*home.warnings, *away.warnings]))
    patient = "none" if "none" in (home.info.get("patient"), away.info.get("patient")) else home.info.get("patient")
    identity = {d.info.get("identity") for d in (home, away)}
    info = {
        **home.info,
        "identity": identity.pop() if len(identity) == 1 else "code",
        "targets": targets,
        "warnings": warnings,
        "patient": patient,
        "external": away.info.get("name", str(other)),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for dataset in (home, away):
            for column in ("array_id", "mask_id"):
                for array_id in dataset.manifest[column].drop_nulls().unique().to_list():
                    _link(store.path_of(dataset.root, array_id), store.path_of(folder, array_id))
    except OSError as error:
        raise tables.disk_error(error, folder) from error
    frames = pl.concat([home.frames, away.frames]).unique(["array_id", "frame"], keep="first", maintain_order=True)
    tables.write(both, folder / "manifest.parquet", "manifest")
    tables.write(frames, folder / "frames.parquet", "frames")
    tables.write_json(folder / "dataset.json", info)
    return load_dataset(folder)


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        os.link(source, temporary)
    except OSError:  # another disk, or a system without hard links
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
