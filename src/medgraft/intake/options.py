"""The knobs of ``medgraft scan``: every other part of intake reads them, and they read nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class ScanOptions(BaseModel):
    """The knobs of ``medgraft scan``, each as ``key=value``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: Path | None = Field(None, description="data set folder to write; default datasets/<name of the source>")
    labels: str | None = Field(
        None,
        description="CSV or Excel file (looked up in SOURCE, then here), or `folders`: the first folder level is the "
        "class",
    )
    id: str | None = Field(None, description="column that names the files; default: the column with most matches")
    patient: str | None = Field(
        None,
        description="column of patients; `header` (DICOM, as a keyed code), `folder`, or `none` (said explicitly; "
        "every report then warns)",
    )
    target: list[str] = Field([], description="label columns; default: the one called label, target, class, ...")
    positive: str | None = Field(
        None, description="positive class of a two-class target; default: the last in sorted order"
    )
    type: Literal["classify", "regress"] | None = Field(
        None, description="what the targets are; default: told from their values"
    )
    target_unit: str | None = Field(None, description="unit of a quantity, for the report (e.g. %, ml)")
    split: list[str] = Field([], description="columns with predefined parts (train, val, test), kept as split.<column>")
    facts: list[str] = Field(
        [],
        description="columns kept as fact.<column>, for the audit (e.g. view, age, probe); nothing that names a person",
    )
    study: str | None = Field(None, description="column of studies")
    site: str | None = Field(None, description="column of sites")
    device: str | None = Field(None, description="column of devices")
    masks: str | None = Field(None, description="column with mask files, or a folder of masks with the images' names")
    structures: dict[int, str] = Field(
        {}, description="names of mask values, e.g. {1: anterior, 2: posterior}; default: the values found"
    )
    colour: bool = Field(False, description="keep three channels (only where colour carries information)")
    frames: Literal["folder", "files"] | None = Field(
        None,
        description="`folder`: numbered pictures of one folder are the frames of one video; `files`: never; default: "
        "where names leave no doubt",
    )
    export: Path | None = Field(
        None, description="also write every frame of images and videos below this folder, <tumour>_<video>_<index>.bmp"
    )
    export_as: Literal["bmp", "png"] = Field("bmp", description="format of exported frames")
    unit: Literal["display", "HU", "raw"] | None = Field(None, description="value unit, where the files do not say it")
    label_level: Literal["case", "study", "patient"] = Field("case", description="the level at which labels live")
    layout: str | None = Field(
        None, description="rsna, medmnist or folder; default: told from the source, folder where labels=FILE is given"
    )
    name: str | None = Field(None, description="name of the data set; default: name of its folder")
    identity: Literal["code", "keep"] = Field(
        "code",
        description="patients, studies, cases and sites as keyed codes, or as they are called (public data only; said "
        "in every report)",
    )
    text: Literal["none", "list", "black", "black_all"] = Field(
        "none",
        description="search pixels for burnt-in text (1 to 3 s a frame looked at) and list it, black out what may "
        "name someone, or all of it",
    )
    deidentified: Path | None = Field(
        None, description="folder for de-identified copies of the DICOM files (PS3.15); needs text=list or black"
    )
    dates: Literal["shift", "drop"] = Field(
        "shift", description="days of acquisition: shifted by a keyed offset a patient, or left out"
    )
    workers: int | None = Field(None, ge=1, description="processes; default: the cores, or one for little data")
    max_pixels: int = Field(120_000_000, ge=1, description="most pixels of one frame")
    max_mib: int = Field(8192, ge=1, description="most decoded MiB of one study")
    follow_links: bool = Field(False, description="follow links that leave the source folder")
    progress: bool | None = Field(None, description="show progress; default: on a terminal")

    @field_validator("labels", "id", "patient", "positive", "study", "site", "device", "masks", "name", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value

    @field_validator("target", "split", "facts", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return [] if value is None else [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]


class QuickOptions(ScanOptions):
    """The knobs of ``medgraft quick``: those of a scan, and a few of a run."""

    out: Path = Field(Path("runs"), description="folder that holds runs")  # type: ignore[assignment]
    data: Path | None = Field(
        None, description="data set folder to write, where SOURCE is raw; default datasets/<name of the source>"
    )
    run: str | None = Field(None, description="name of the run folder; default: name of the data set's folder")
    task: str = Field("auto", description="classify, regress or segment; default: told from labels and masks")
    classes: list[str] | None = Field(None, description="classes that take part")
    weights: list[Path] = Field([], description="folders with weight files")
    threads: int = Field(0, ge=0, description="CPU threads; 0 = all cores")
    lang: Literal["en", "zh"] = Field("en", description="language of the report")

    @field_validator("weights", mode="before")
    @classmethod
    def _folders(cls, value: Any) -> Any:
        return value if isinstance(value, (list, tuple)) else [value]


#: Options that change which values are stored or what they mean. Two studies are alike only where these agree.
CHANGE_VALUES = ("unit", "frames", "colour", "text", "max_pixels", "max_mib")


def changes_values(options: ScanOptions) -> dict[str, Any]:
    """The options of ``CHANGE_VALUES`` and what they were: ``stored_with`` in ``dataset.json``. New studies that are
    read with them give the arrays that they would have given in this scan.
    """
    return {name: getattr(options, name) for name in CHANGE_VALUES}
