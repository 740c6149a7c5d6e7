"""What a worker does with one study: read, check, store, tell. Runs in the scan's process or in others."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgraft import store
from medgraft.errors import UserError
from medgraft.intake.jobs import Job
from medgraft.intake.masks import read_mask
from medgraft.intake.plan import Item
from medgraft.intake.private.keys import code, coded
from medgraft.intake.read import Limits, Study, Unreadable, guarded
from medgraft.intake.readers import open_as
from medgraft.store import IGNORE


@dataclass(frozen=True)
class Task(Job):
    """One study and all that is needed to store it. ``structures`` are (label value, channel) pairs of the masks."""

    item: Item
    out: Path
    limits: Limits
    secret: bytes
    mask: str | None = None
    structures: tuple[int, ...] = ()

    @property
    def fragile(self) -> bool:
        return self.item.fragile

    def record(self) -> dict[str, Any]:
        return read_item(self)


def read_item(task: Task) -> dict[str, Any]:
    """Store one study; return its journal record: ``{"key", "study": {...}}`` or ``{"key", "reject": {...}}``.

    Only faults of the disk are raised: they concern every study.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            study = _store(task)
        except Unreadable as error:
            return task.refused(error.cause, error.fix)
    if caught:  # kinds only: messages of decoders can quote the header
        kinds = sorted({c.category.__name__ for c in caught})
        study["notes"].append(f"{len(caught)} warnings while decoding ({', '.join(kinds)})")
    return {"key": task.key, "study": study}


def open_item(item: Item, limits: Limits) -> Study:
    """The study of an item. Raises ``Unreadable``."""
    path = Path(item.files[0])
    if item.reader == "npz":
        return _archive_row(item, limits)
    if item.reader == "frames":
        from medgraft.intake import picture

        try:
            study = picture.read_frames([Path(f) for f in item.files], limits)
        except Unreadable:
            raise
        except Exception as error:
            raise Unreadable(
                f"a frame cannot be read ({type(error).__name__})", fix="copy the folder again from its source"
            ) from error
        study.notes.extend(item.notes)
        return study
    if item.reader == "series":
        from medgraft.intake.dicom import study as dicom

        try:
            return dicom.read_series([Path(f) for f in item.files], limits)
        except Unreadable:
            raise
        except Exception as error:
            raise Unreadable(
                f"a slice of the series cannot be read ({type(error).__name__})",
                fix="copy the series again from its source",
            ) from error
    return open_as(item.reader, path, limits)


def _archive_row(item: Item, limits: Limits) -> Study:
    from medgraft.intake import npz, picture

    pixels = npz.read_row(Path(item.files[0]), item.member, item.row, limits)
    unit = "display" if pixels.dtype == np.uint8 else "raw"
    if pixels.ndim == 2 or pixels.shape[-1] == 3:
        return Study(
            "image", iter([picture.channels_first(pixels, limits.colour)]), value_unit=unit, time_source=["none"]
        )
    return Study(
        "volume",
        (s[None] for s in pixels),
        value_unit="raw",
        time_source=["none"],
        notes=["no spacing or orientation in the archive"],
    )


def _store(task: Task) -> dict[str, Any]:
    study = open_item(task.item, task.limits)
    writer = store.ArrayWriter(task.out)
    try:
        for frame in guarded(study, task.limits):
            writer.append(frame)
        stored = writer.close()
    except Unreadable:
        writer.abort()
        raise
    except UserError as error:
        writer.abort()
        if isinstance(error.__cause__, OSError):
            raise  # the disk: it concerns every study
        raise Unreadable(error.cause, fix=error.fix or "convert it to 8 or 16 bit grey") from error
    except BaseException:
        writer.abort()
        raise
    mask_id = None
    if task.mask is not None:
        mask_id = store.write_mask(task.out, _channels(task, stored.shape, study)).array_id
    facts = study.facts
    return {
        "array_id": stored.array_id,
        "mask_id": mask_id,
        "kind": study.kind,
        "shape": list(stored.shape),
        "spacing": study.spacing,
        "value_unit": study.value_unit,
        "p005": stored.p005,
        "p995": stored.p995,
        "to_source": list(study.to_source),
        "times": [round(t, 6) for t in study.times],
        "time_source": study.time_source[0] if study.time_source else "none",
        "patient": code(task.secret, "patient", facts["patient"]) if facts.get("patient") else None,
        "study": code(task.secret, "study", facts["study"]) if facts.get("study") else None,
        "site": coded(task.secret, "site", facts["site"]) if facts.get("site") else None,
        "device": _device(facts, task.secret),
        "day": None if facts.get("day") is None else facts["day"] + day_pad(task.secret, task.key),
        "region": facts.get("region"),
        "notes": study.notes,
        "boxes": study.boxes,
    }


def day_pad(secret: bytes, key: str) -> int:
    """What is added to a day in the journal, a keyed number for each record: the journal shows no date."""
    return int(code(secret, "day pad", key, 8), 16)


def _device(facts: dict[str, Any], secret: bytes) -> str | None:
    """Maker and model; a code where the field holds what looks like a number of a device or a name of the header."""
    device = facts.get("device")
    if not device:
        return None
    words = {w for w in re.split(r"\W+", device.lower()) if w}
    private = words & set(facts.get("names", ())) or any(re.search(r"\d{5}", w) for w in words)
    return coded(secret, "device", device) if private else device


def _channels(task: Task, shape: tuple[int, ...], study: Study) -> np.ndarray:
    """The mask as (D, K, H, W): a 0/1 channel for each structure. Raises when it does not fit the image."""
    assert task.mask is not None
    labels, affine = read_mask(Path(task.mask), task.limits)
    if labels.shape != shape[1:]:
        raise Unreadable(
            f"the image is {_size(shape[1:])}, its mask {_size(labels.shape)}", fix="give a mask of the image's shape"
        )
    if study.kind == "volume" and affine is not None and study.spacing[0] is not None:
        corner = np.array([*shape[1:], 1.0])
        away = np.abs(np.array(affine).reshape(4, 4) @ corner - np.array(study.to_source).reshape(4, 4) @ corner).max()
        start = np.abs(np.array(affine)[3::4] - np.array(study.to_source)[3::4]).max()
        if max(away, start) > 0.5 * min(s for s in study.spacing if s is not None):
            raise Unreadable(
                f"image and mask lie {max(away, start):.3g} mm apart", fix="resample the mask onto the image"
            )
    values = [int(v) for v in np.unique(labels)]
    unknown = [v for v in values if v not in (0, IGNORE, *task.structures)]
    if unknown:
        raise Unreadable(
            f"the mask holds value {unknown[0]}, which is no structure",
            fix="name it with structures={VALUE: NAME} or set it to 0",
        )
    mask = np.stack([(labels == value).astype(np.uint8) for value in task.structures], axis=1)
    if IGNORE not in task.structures:
        mask[np.broadcast_to((labels == IGNORE)[:, None], mask.shape)] = IGNORE
    return mask


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
