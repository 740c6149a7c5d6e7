"""Text burnt into pixels: the pass that finds it in stored arrays and blacks it out.

The pass looks at the first, the middle and the last frame of an array, and at the brightest value of each pixel over
all frames, where text that appears only for a while stands too. What was read is identity until proven otherwise:
tables hold boxes and kinds, never words.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgraft import store
from medgraft.datasets import Box
from medgraft.errors import UserError
from medgraft.intake.jobs import Job
from medgraft.intake.private.ocr import Found, read_frame

VERSION = 1  # raise when the pass would find other boxes or kinds than before
#: Kinds that name nobody. A date or an id may, and a name is any word that is not one of ``WORDS``.
HARMLESS = ("clock", "number", "word")
NAMING = ("date", "id", "name")
KINDS = HARMLESS + NAMING
OVERLAID = -1  # frame number of what was found in the brightest values over all frames
_BLOCK = 64 << 20  # bytes of frames looked at together


@dataclass(frozen=True)
class TextJob(Job):
    """Search one stored array.

    ``show`` are the values shown as black and white; ``black`` lists the kinds to black out.
    """

    out: Path
    array_id: str
    kind: str
    show: tuple[float, float]
    black: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """``{"key", "text": {state, array_id, found}}``; ``words`` is for the map outside the data set and never for
        the journal.

        A fault of the networks leaves the array unchecked; only faults of the disk are raised: they concern every
        study.
        """
        try:
            return self._searched()
        except UserError:
            raise
        except Exception as error:
            return self.refused(f"its pixels could not be searched ({type(error).__name__})", "scan again")

    def _searched(self) -> dict[str, Any]:
        array = store.open_array(self.out, self.array_id)
        found = find(array, self.kind, self.show)
        final, p005, p995, blacked = self.array_id, None, None, [f for f in found if f.kind in self.black]
        if blacked:
            kept = [f.box for f in found if f.kind == "clock" and "clock" not in self.black]
            stored, again = _blacked(self.out, array, self.kind, self.show, blacked, self.black, kept)
            final, p005, p995 = stored.array_id, stored.p005, stored.p995
            found += [f for f in again if f.box not in {g.box for g in found}]
            blacked += again
        left = [f for f in found if f.kind not in HARMLESS and f not in blacked]
        state = "found" if left else "blacked" if blacked else "clear"
        rows = [[f.frame, *f.box, f.kind, f.confidence, f in blacked] for f in found]
        text = {"state": state, "array_id": final, "p005": p005, "p995": p995, "found": rows}
        return {"key": self.key, "text": text, "words": [f.text for f in found]}


def find(array: np.ndarray, kind: str, show: tuple[float, float], only: Collection[int] | None = None) -> list[Found]:
    """Text of an array (C, D, H, W); what stands at one place in several frames is told once.

    ``only`` names the pictures to look at.
    """
    found: list[Found] = []
    for frame, picture in _pictures(array, kind, show, only):
        for new in read_frame(picture, frame):
            if not any(_same(new, old) for old in found):
                found.append(new)
    return found


def _pictures(
    array: np.ndarray, kind: str, show: tuple[float, float], only: Collection[int] | None
) -> Iterator[tuple[int, np.ndarray]]:
    """(frame number, picture) of what the pass looks at; pictures that differ nowhere are looked at once."""
    depth, seen = array.shape[1], set()
    for frame in sorted(f for f in {0, depth // 2, depth - 1} if only is None or f in only):
        picture = _shown(np.asarray(array[:, frame]), show)
        if (mark := hash(picture.tobytes())) not in seen:
            seen.add(mark)
            yield frame, picture
    if kind == "video" and depth > 3 and (only is None or OVERLAID in only):
        step = max(1, _BLOCK // max(1, array[:, 0].nbytes))
        brightest = np.asarray(array[:, 0])
        for start in range(0, depth, step):
            brightest = np.maximum(brightest, np.asarray(array[:, start : start + step]).max(axis=1))
        picture = _shown(brightest, show)
        if hash(picture.tobytes()) not in seen:
            yield OVERLAID, picture


def _shown(frame: np.ndarray, show: tuple[float, float]) -> np.ndarray:
    """A frame (C, H, W) as (H, W) or (H, W, 3) uint8."""
    if frame.dtype != np.uint8 or show != (0.0, 255.0):
        low, high = show
        frame = (np.clip((np.nan_to_num(frame.astype(np.float32)) - low) / max(high - low, 1e-6), 0, 1) * 255).astype(
            np.uint8
        )
    return frame[0] if frame.shape[0] < 3 else np.moveaxis(frame[:3], 0, -1)


def _same(a: Found, b: Found) -> bool:
    """Whether two findings are one: the same kind, and boxes of which each covers most of the other."""
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    width = min(a.right, b.right) - max(a.left, b.left)
    if a.kind != b.kind or height <= 0 or width <= 0:
        return False
    return height * width > 0.7 * max((f.bottom - f.top) * (f.right - f.left) for f in (a, b))


def _blacked(
    out: Path,
    array: np.ndarray,
    kind: str,
    show: tuple[float, float],
    boxes: list[Found],
    black: tuple[str, ...],
    kept: list[Box],
) -> tuple[store.Stored, list[Found]]:
    """A copy of the array with boxes set to the darkest value; looked at again, twice at most, until nothing is
    left in it.
    """
    mask = np.zeros(array.shape[2:], bool)
    again: list[Found] = []
    new = boxes
    for _ in range(2):
        for f in new:
            top, left, bottom, right = margin(f.box, mask.shape, kept)
            mask[top:bottom, left:right] = True
        seen = {f.frame for f in new}
        masked: Any = _Masked(array, mask, show[0])
        new = [f for f in find(masked, kind, show, seen) if f.kind in black]
        if not new:
            break
        again += new
    for f in new:
        top, left, bottom, right = margin(f.box, mask.shape, kept)
        mask[top:bottom, left:right] = True
    masked = _Masked(array, mask, show[0])
    with store.ArrayWriter(out) as writer:
        for frame in range(array.shape[1]):
            writer.append(masked[:, frame])
    return writer.close(), again


@dataclass(frozen=True)
class _Masked:
    """An array (C, D, H, W) seen through a mask, frame by frame, so that a long cine is never in memory as a whole."""

    array: np.ndarray
    mask: np.ndarray
    value: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def __getitem__(self, at: Any) -> np.ndarray:
        part = np.array(self.array[at])
        part[..., self.mask] = self.value if part.dtype.kind == "f" else int(self.value)
        return part


def margin(box: Box, shape: tuple[int, ...], kept: Collection[Box] = ()) -> Box:
    """What is blacked out for a box: its own pixels and a margin, for the edges of letters lie outside.

    The margin, never the box, gives way to ``kept`` boxes above and below: a clock stays legible.
    """
    top, left, bottom, right = box
    more = 2 + round(0.15 * (bottom - top))
    wide = [max(0, top - more), max(0, left - more), min(shape[0], bottom + more), min(shape[1], right + more)]
    for k in kept:
        if k.left < wide[3] and wide[1] < k.right and k.top < wide[2] and wide[0] < k.bottom:
            if k.top + k.bottom > top + bottom:
                wide[2] = max(bottom, min(wide[2], k.top))
            else:
                wide[0] = min(top, max(wide[0], k.bottom))
    return Box(*wide)
