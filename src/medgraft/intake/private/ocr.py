"""Reading what is written in a picture: boxes of text, the kind of each, and burnt-in clocks.

The networks are those that the rapidocr package ships (detection and recognition, ONNX on the CPU), so nothing
is downloaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from medgraft.datasets import Box

SMALLEST = 80  # pixels of the shorter side below which no writing is legible
CONFIDENT = 0.5  # readings below this, of fewer than three characters, are speckle

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
        return Box(self.top, self.left, self.bottom, self.right)


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
