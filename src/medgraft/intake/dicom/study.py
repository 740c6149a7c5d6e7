"""DICOM by pydicom: single pictures, cines, videos kept as MPEG inside, and slices that form a volume.

What names a person or a place goes to ``Study.facts`` and no further: the scan turns it into keyed codes at once
(``medgraft.intake.private.keys``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames

from medgraft.intake import video
from medgraft.intake.dicom.header import (
    WHOLE,
    check_frames,
    check_size,
    declared_frames,
    numbers,
    open_dataset,
    syntax_of,
)
from medgraft.intake.dicom.pixels import VIDEO_SYNTAXES, Values, decoded_frames
from medgraft.intake.dicom.space import (
    frame_positions,
    orientation,
    pixel_spacing,
    region_around,
    region_boxes,
    volume_of,
    without_repeats,
)
from medgraft.intake.dicom.times import frame_times
from medgraft.intake.private.names import day_of, identity_words
from medgraft.intake.read import Limits, Study, Unreadable


def read_dicom(path: Path, limits: Limits) -> Study:
    """One DICOM file: a picture, a cine (video), or a volume (enhanced multi-frame, dose grid)."""
    data = open_dataset(path, limits)
    notes, facts, boxes = _notes(data), _facts(data), region_boxes(data)
    values = Values(data, limits, notes)
    if syntax_of(data) in VIDEO_SYNTAXES:
        return _coded_video(data, limits, notes, facts, boxes)
    frames = check_frames(data, path, limits, notes)
    positions = frame_positions(data, frames)
    if positions is not None:
        stack = [values(frame, index) for index, frame in enumerate(decoded_frames(data, path, limits))]
        return volume_of(stack, positions, data, values.unit, notes, facts)
    spacing = pixel_spacing(data, notes)
    decoded = (values(frame, index) for index, frame in enumerate(decoded_frames(data, path, limits)))
    if frames == 1:
        first = itertools.islice(decoded, 1)
        return Study(
            "image", first, [None, *spacing], values.unit, time_source=["none"], facts=facts, notes=notes, boxes=boxes
        )
    times, source = frame_times(data, frames, notes)
    if not times:
        notes.append("several frames without positions or times: taken as a video")
    step = float(np.median(np.diff(times))) if len(times) > 1 else None
    return Study(
        "video", decoded, [step, *spacing], values.unit, times, [source], facts=facts, notes=notes, boxes=boxes
    )


def read_series(paths: list[Path], limits: Limits) -> Study:
    """Single-frame files of one series as a volume, sorted along the slice normal."""
    first: Dataset | None = None
    stack: list[np.ndarray] = []
    positions, unit = [], "raw"
    for number, path in enumerate(paths, start=1):
        try:
            data = open_dataset(path, limits)
            turn = orientation(data)
            if first is None:
                first, notes, facts, first_turn = data, _notes(data), _facts(data), turn
                check_size(data, len(paths), limits)
            if (data.Rows, data.Columns) != (first.Rows, first.Columns):
                raise Unreadable(
                    "slices of one series differ in size",
                    fix="keep only the slices of one reconstruction in the folder",
                )
            if not np.allclose(turn, first_turn, atol=2e-3):
                raise Unreadable("slices of one series differ in orientation", fix="leave the localiser out")
            check_frames(data, path, limits, [])
            values = Values(data, limits, [])
            stack.append(next(values(frame, 0) for frame in decoded_frames(data, path, limits)))
        except Unreadable as error:
            raise Unreadable(f"slice {number} of {len(paths)} (by name): {error.cause}", fix=error.fix) from error
        positions.append((numbers(data.ImagePositionPatient), turn))
        unit = values.unit
        if "PixelData" in data:
            del data.PixelData
    assert first is not None
    kept = without_repeats(stack, positions)
    if len(kept) < len(stack):
        notes.append(f"{len(stack) - len(kept)} repeated slices dropped")
        stack, positions = [stack[i] for i in kept], [positions[i] for i in kept]
    if len(stack) == 1:
        spacing = pixel_spacing(first, notes)
        return Study("image", iter(stack), [None, *spacing], unit, time_source=["none"], facts=facts, notes=notes)
    return volume_of(stack, positions, first, unit, notes, facts)


def _coded_video(
    data: Dataset, limits: Limits, notes: list[str], facts: dict[str, Any], boxes: list[dict[str, Any]]
) -> Study:
    """MPEG-2, H.264 or HEVC inside a DICOM file; frames are counted by decoding, times are the header's where it has
    them.
    """
    if "PixelData" not in data:
        raise Unreadable(f"holds a coded video of more than {WHOLE >> 20} MiB", fix="export the video as MP4")
    stream = next(generate_frames(data.PixelData, number_of_frames=1), b"")
    study = Study("video", iter(()), [None, *pixel_spacing(data, notes)], facts=facts, notes=notes, boxes=boxes)
    decoded = video.decode_stream(stream, VIDEO_SYNTAXES[syntax_of(data)], limits, study)

    def frames() -> Iterator[np.ndarray]:
        count = 0
        for frame in decoded:
            yield frame
            count += 1
        declared = declared_frames(data, notes)
        if declared != count:
            notes.append(f"header declares {declared} frames, {count} decode")
        times, source = frame_times(data, count, notes)
        if times:
            study.times[:], study.time_source[:] = times, [source]
            study.spacing[0] = float(np.median(np.diff(times))) if count > 1 else None

    object.__setattr__(study, "frames", frames())
    return study


def _notes(data: Dataset) -> list[str]:
    notes = []
    if data.get("WindowCenter") is not None and data.get("WindowWidth") is not None:
        centre, width = np.atleast_1d(data.WindowCenter)[0], np.atleast_1d(data.WindowWidth)[0]
        notes.append(f"window centre {centre} width {width} noted, not applied")
    for name, what in (("ModalityLUTSequence", "modality"), ("VOILUTSequence", "VOI")):
        if data.get(name):
            notes.append(f"{what} look-up table noted, not applied")
    if float(data.get("DoseGridScaling") or 1) != 1:
        notes.append(f"dose grid scaling {float(data.DoseGridScaling):g} noted, not applied")
    if any((0x6000 + 2 * plane, 0x0010) in data for plane in range(16)):
        notes.append("overlays ignored")
    stage, stages = data.get("StageNumber"), data.get("NumberOfStages")
    if stage is not None and stages is not None and int(stages) > 1:
        notes.append(f"stage {int(stage)} of {int(stages)}")
    return notes


def _facts(header: Dataset) -> dict[str, Any]:
    """Patient, site and day in the clear, for the scan to code at once; the device as maker and model; words that name
    people or places.
    """
    device = " ".join(str(header.get(name) or "").strip() for name in ("Manufacturer", "ManufacturerModelName")).strip()
    return {
        "patient": str(header.get("PatientID") or "").strip(),
        "study": str(header.get("StudyInstanceUID") or "").strip(),
        "site": str(header.get("InstitutionName") or "").strip(),
        "device": device[:64],
        "day": day_of(header),
        "names": identity_words(header),
        "region": region_around(header),
    }
