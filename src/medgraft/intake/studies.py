"""New studies, read as those of a data set were: for a network that learnt from it."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medgraft import config
from medgraft.datasets import Dataset, load_dataset
from medgraft.errors import UserError
from medgraft.intake.options import CHANGE_VALUES, ScanOptions
from medgraft.intake.scan import scan


def read_like(
    files: Sequence[Path], scratch: Path, stored_with: Mapping[str, Any]
) -> tuple[Dataset, list[dict[str, str]]]:
    """Scan files and folders into a data set in ``scratch``, with the options that a data set was ``stored_with``.

    ``stored_with`` is that of its ``dataset.json``; what it lacks has its default. Names stay as they are, for the
    scratch folder lives no longer than whoever reads it: put them into codes where they leave it. Returns the data
    set and the lines of ``rejects.csv`` (source, reason, fix). Raises ``UserError`` where no study could be read, or
    where an option is none of this version.
    """
    unknown = [name for name in stored_with if name not in CHANGE_VALUES]
    if unknown:
        raise UserError(
            f"the training data were scanned with {unknown[0]}=, which this version does not know",
            fix="use the version of medgraft that made the run, or a newer one",
        )
    alike = dict(stored_with)
    if alike.get("text") == "list":  # a search that changes no pixel
        alike["text"] = "none"
    values = {"out": scratch / "data", "patient": "none", "identity": "keep", "workers": 1, "follow_links": True}
    options = config.build(ScanOptions, {**alike, **values})
    source = _together(files, scratch / "studies")
    try:
        report = scan(source, options)
    except UserError as error:
        if error.case != str(source):
            raise
        raise UserError(
            error.cause, case=str(files[0]), fix=error.fix
        ) from error  # the scratch folder means nothing to anybody
    with open(scratch / "data" / "rejects.csv", newline="", encoding="utf-8") as stream:
        rejects = list(csv.DictReader(stream))
    if not report.cases:
        raise UserError(
            rejects[0]["reason"] if rejects else "no study was found",
            case=str(files[0]),
            fix="see `medgraft scan --help` for the formats",
        )
    return load_dataset(scratch / "data"), rejects


def _together(files: Sequence[Path], source: Path) -> Path:
    """One source of several files and folders: links in a folder. One archive is a source by itself."""
    if len(files) == 1 and files[0].is_file() and files[0].suffix.lower() == ".npz":
        return files[0]
    source.mkdir()
    for index, file in enumerate(files):
        target = source / (file.name if not (source / file.name).exists() else f"{index}_{file.name}")
        try:
            os.symlink(file.resolve(), target)
        except OSError:  # no links on this system
            (shutil.copytree if file.is_dir() else shutil.copyfile)(file, target)
    return source
