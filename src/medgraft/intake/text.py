"""Text burnt into pixels: found, sorted into kinds, blacked out; and the reading of a burnt-in clock.

The networks are those that the rapidocr package ships (detection and recognition, ONNX on the CPU), so nothing
is downloaded. The pass looks at the first, the middle and the last frame of an array, and at the brightest value
of each pixel over all frames, where text that appears only for a while stands too. What was read is identity until
proven otherwise: tables hold boxes and kinds, never words.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medgraft import store
from medgraft.errors import UserError
from medgraft.intake.jobs import Job

VERSION = 1  # raise when the pass would find other boxes or kinds than before
#: Kinds that name nobody. A date or an id may, and a name is any word that is not one of ``WORDS``.
HARMLESS = ("clock", "number", "word")
NAMING = ("date", "id", "name")
KINDS = HARMLESS + NAMING
OVERLAID = -1  # frame number of what was found in the brightest values over all frames
SMALLEST = 80  # pixels of the shorter side below which no writing is legible
CONFIDENT = 0.5  # readings below this, of fewer than three characters, are speckle
_BLOCK = 64 << 20  # bytes of frames looked at together

#: Words of scanners and radiographs that name nobody: indices, settings, units, sides, views, organs.
_WORDS = """
mi ti tis tib tic ao dr dva dua gn gain dyn rng map persist pwr power freq frq pen res gen thi crd sec sector secto
linear on off page cine loop live frz freeze zoom depth fr fps hz khz mhz db cm mm ms sec min bpm hr ml mpa kpa mmhg deg
pct fov tgc agc sri xres xbeam cri cross harm harmonic color colour cf cfm cpa pd pw cw mmode bmode dual split left
right lt rt l r re ap pa lat lateral sup inf ant post supine prone erect upright portable decubitus sitting inspiration
expiration view plane im image img frame ser series acq se te tr ti fa nex slice thk kv kvp mas wl ww level window width
sag cor axial trans transverse long longitudinal pelvis abdomen abd liver kidney renal spleen pancreas gallbladder gb
aorta ivc thyroid breast chest lung lungs heart cardiac lymph node nodes uterus ovary bladder prostate testis carotid
vein artery neck head brain neuro neonatal adult child fetal ob gyn small parts msk mscskel musculoskeletal vascular
arterial venous nerve general hgen gen default preset cist mag cyst calc dist area vol circ ellipse trace caliper
ultrasound echo doppler spectral tissue ge philips siemens toshiba canon aloka hitachi samsung mindray sonosite esaote
fujifilm acuson logiq voluson epiq iu22 affiniti vivid aplio healthcare systems hospital probe transducer curved convex
phased array pla c p s x y z a b d m v
"""
WORDS = frozenset(_WORDS.split())
_CLOCK = re.compile(
    r"(?<![\d:.])([+-]?)(\d{1,2})[:;](\d{2})(?:[:;](\d{2})(?:\.(\d{1,3}))?)?(?!\d|[:;]\d)(?:\s*([AP])\.?M\b\.?)?", re.I
)
_DATE = re.compile(r"(?<!\d)(\d{1,4}[-/.](?:\d{1,2}|[a-z]{3,9})[-/.]\d{2,4}|(?:19|20)\d{6})(?!\d)", re.I)
_NUMBER = re.compile(r"[<>=~+-]?\d{1,4}(?:[.,]\d{1,3})?(?:[a-z%°]{0,4})?|[a-z]{1,2}\d{1,3}", re.I)


Box = tuple[int, int, int, int]  # top, left, bottom, right in pixels; bottom and right lie outside


@dataclass(frozen=True)
class Clock:
    """A burnt-in time: seconds of the day, or since a timer began; its kind, and how sure the reading is (0 to 1)."""

    text: str
    seconds: float
    kind: Literal["time of day 24h", "time of day 12h", "elapsed timer"]
    confidence: float


@dataclass(frozen=True)
class Found:
    """Text in a frame: its box in pixels (bottom and right lie outside), what it says, its kind, and how sure the
    reading is.
    """

    frame: int
    top: int
    left: int
    bottom: int
    right: int
    text: str
    kind: str
    confidence: float

    @property
    def box(self) -> Box:
        return self.top, self.left, self.bottom, self.right


# ------------------------------------------------------------------------------------------ reading


@lru_cache(1)
def _engine() -> Any:
    """The networks, loaded once a process, on one thread: the scan's workers are the parallel part."""
    from rapidocr import RapidOCR

    threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    return RapidOCR(params={"Global.log_level": "critical", **threads})


def read_frame(picture: np.ndarray, frame: int = 0) -> list[Found]:
    """All text in a picture (H, W) or (H, W, 3) uint8, from top to bottom.

    Nothing in pictures too small to carry any.
    """
    if min(picture.shape[:2]) < SMALLEST:
        return []
    answer = _engine()(_three(picture), use_det=True, use_cls=False, use_rec=True, text_score=0.0)
    if getattr(answer, "boxes", None) is None:
        return []
    found = []
    for corners, text, score in zip(answer.boxes, answer.txts, answer.scores):
        if not re.search(r"\w", text) or (score < CONFIDENT and len(text.strip()) < 3):
            continue
        low, high = np.floor(np.min(corners, axis=0)).astype(int), np.ceil(np.max(corners, axis=0)).astype(int)
        box = (
            max(0, int(low[1])),
            max(0, int(low[0])),
            min(picture.shape[0], int(high[1])),
            min(picture.shape[1], int(high[0])),
        )
        found.append(Found(frame, *box, text.strip(), kind_of(text), round(float(score), 3)))
    return sorted(found, key=lambda f: f.box)


def _three(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.repeat(picture[..., None], 3, axis=-1) if picture.ndim == 2 else picture[..., :3])


def read_clock(crop: np.ndarray) -> Clock | None:
    """The clock in a crop (h, w) or (h, w, 3) uint8 that holds one line; ``None`` where no time can be read.

    The crop is read as it is and, where that gives no time, stretched to full contrast and from its brightest channel.
    """
    tried = [crop]
    flat = crop.max(axis=-1) if crop.ndim == 3 else crop
    low, high = float(flat.min()), float(flat.max())
    if high > low:
        stretched = ((flat - low) * (255 / (high - low))).astype(np.uint8)
        tried += [stretched, 255 - stretched]
    for picture in tried:
        answer = _engine()(_three(picture), use_det=False, use_cls=False, use_rec=True, text_score=0.0)
        for text, score in zip(getattr(answer, "txts", None) or (), getattr(answer, "scores", None) or ()):
            clock = parse_clock(text, float(score))
            if clock is not None:
                return clock
    return None


def parse_clock(text: str, confidence: float = 1.0) -> Clock | None:
    """The time that a text states: ``11:24:20``, ``2:56:22 PM``, ``+2:09:04`` (a running timer), ``00:12`` (minutes,
    seconds).

    Without hours it counts as a timer. ``None`` when there is no time, or more than one.
    """
    matches = list(_CLOCK.finditer(text))
    if len(matches) != 1:
        return None
    sign, first, second, third, fraction, half = matches[0].groups()
    parts = [int(first), int(second), *([int(third)] if third else [])]
    if any(p > 59 for p in parts[1:]) or (half and not 1 <= parts[0] <= 12) or (third and not sign and parts[0] > 23):
        return None
    hours = parts[0] % 12 + (12 if half.upper() == "P" else 0) if half else parts[0]
    whole = hours * 3600 + parts[1] * 60 + (parts[2] if third else 0) if third or half else parts[0] * 60 + parts[1]
    seconds = whole + (float(f"0.{fraction}") if fraction else 0.0)
    kind: Any = "elapsed timer" if sign or not (third or half) else "time of day 12h" if half else "time of day 24h"
    said = re.sub(r"\s+", " ", matches[0].group(0)).strip().replace(";", ":")
    return Clock(said, -seconds if sign == "-" else seconds, kind, round(confidence, 3))


def kind_of(text: str) -> str:
    """``clock``, ``date``, ``id``, ``number``, ``word`` or ``name``: what a text is taken for.

    ``name`` is whatever is nothing else.
    """
    clock = parse_clock(text)
    rest = _CLOCK.sub(" ", text) if clock else text
    if _DATE.search(rest):
        return "date"
    tokens = [t.strip(".,=<>+-_") for t in re.split(r"[^\w.,%°<>=+-]+|[=<>]", rest) if re.search(r"\w", t)]
    bare = [
        re.sub(r"\D", "", t)
        for t in tokens
        if "." not in t and "%" not in t and not re.fullmatch(r"\d+[a-z]{1,3}", t, re.I)
    ]
    mixed = [t for t in tokens if re.search(r"[^\W\d]", t) and sum(c.isdigit() for c in t) > 3]
    if sum(map(len, bare)) > 6 or any(len(b) > 4 for b in bare) or mixed:
        return "id"
    unknown = [
        t for t in tokens if len(t) > 1 and t.lower() not in WORDS and not _NUMBER.fullmatch(t) and not _technical(t)
    ]
    if unknown:
        return "id" if all(any(c.isdigit() for c in t) for t in unknown) else "name"
    if clock:
        return "clock"
    return "word" if any(t.lower() in WORDS for t in tokens) else "number"


def _technical(token: str) -> bool:
    """Known words with their numbers or among themselves: ``TIS0.7``, ``3cm3cm``, ``IM2``, ``C5-1``."""
    parts = re.findall(r"[^\W\d]+|\d+(?:\.\d+)?", token.lower())
    return 0 < len(parts) < 5 and all(p in WORDS or (p[0].isdigit() and len(p) < 4) for p in parts)


# ------------------------------------------------------------------------------------------ the pass


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
            return {
                "key": self.key,
                "reject": {"reason": f"its pixels could not be searched ({type(error).__name__})", "fix": "scan again"},
            }

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
        if k[1] < wide[3] and wide[1] < k[3] and k[0] < wide[2] and wide[0] < k[2]:
            if k[0] + k[2] > top + bottom:
                wide[2] = max(bottom, min(wide[2], k[0]))
            else:
                wide[0] = min(top, max(wide[0], k[2]))
    return wide[0], wide[1], wide[2], wide[3]
