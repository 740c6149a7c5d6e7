"""When the frames of a DICOM file were taken: PS3.3 C.7.6.5, C.7.6.6 and the functional groups of C.7.6.16."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DT

from medgraft.intake.dicom.header import functional, numbers

_DISPLAY_RATES = ("CineRate", "RecommendedDisplayFrameRate")


def frame_times(data: Dataset, frames: int, notes: list[str]) -> tuple[list[float], str]:
    """Seconds of every frame from 0, and where they come from. The most exact statement wins; which one is noted."""
    for name, times in _time_statements(data, frames):
        if len(times) == frames and frames > 1 and np.isfinite(times).all() and (np.diff(times) > 0).all():
            display = ", a rate of display" if name in _DISPLAY_RATES else ""
            notes.append(f"times from {name}{display}")
            return [float(t) for t in times - times[0]], "header"
    return [], "none"


def _time_statements(data: Dataset, frames: int) -> Iterator[tuple[str, np.ndarray]]:
    """All that a header says of frame times, in seconds, the most exact first; checked by the caller."""
    vector = data.get("FrameTimeVector")
    if vector is not None:
        steps = numbers(np.atleast_1d(vector)) / 1000
        # The first increment belongs to the first frame and is 0; some writers leave it out.
        yield "FrameTimeVector", np.cumsum(steps if len(steps) == frames else [0.0, *steps])
    for name in ("FrameReferenceDateTime", "FrameAcquisitionDateTime"):
        yield name, _moments(functional(data, "FrameContentSequence"), name)
    for sequence, name, unit in (
        ("TemporalPositionSequence", "TemporalPositionTimeOffset", 1.0),
        ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", 1e-3),
    ):
        found = [group.get(name) for group in functional(data, sequence)]
        if found and None not in found:
            yield name, numbers(found) * unit
    step = float(data.get("FrameTime") or 0) / 1000
    if step > 0:
        yield "FrameTime", np.arange(frames) * step
    durations = [group.get("FrameAcquisitionDuration") for group in functional(data, "FrameContentSequence")]
    if durations and None not in durations:
        yield "FrameAcquisitionDuration", np.cumsum([0.0, *numbers(durations)[:-1]]) / 1000
    for name in _DISPLAY_RATES:
        rate = float(data.get(name) or 0)
        if rate > 0 and name == "CineRate":
            yield name, np.arange(frames) / rate
    duration = float(data.get("ActualFrameDuration") or 0) / 1000
    for sequence in ("RotationInformationSequence", "PhaseInformationSequence"):
        for item in data.get(sequence) or []:
            duration = duration or float(item.get("ActualFrameDuration") or 0) / 1000
    if duration > 0:
        yield "ActualFrameDuration", np.arange(frames) * duration
    rate = float(data.get("RecommendedDisplayFrameRate") or 0)
    if rate > 0:
        yield "RecommendedDisplayFrameRate", np.arange(frames) / rate


def _moments(groups: list[Dataset], name: str) -> np.ndarray:
    """Seconds of date-times; empty where one is absent or no date-time."""
    moments = []
    for group in groups:
        value = str(group.get(name) or "")
        try:
            moment = DT(value) if value else None
        except ValueError:
            moment = None
        if moment is None:
            return np.empty(0)
        moments.append(moment)
    return (
        np.array([(m - moments[0]).total_seconds() for m in moments])
        if len({m.tzinfo is None for m in moments}) == 1
        else np.empty(0)
    )
