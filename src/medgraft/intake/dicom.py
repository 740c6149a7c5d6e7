"""DICOM by pydicom: single pictures, cines, videos kept as MPEG inside, and slices that form a volume.

Nothing identifying leaves this file: the patient id and the institution appear only as keyed codes
(``medgraft.intake.keys``). Colour follows PS3.3 C.7.6.3.1.2, palettes C.7.9, frame times C.7.6.5, C.7.6.6 and the
functional groups of C.7.6.16, positions and spacing C.7.6.2, ultrasound regions C.8.5.5. A file of up to
``_WHOLE`` bytes is parsed once and decoded from memory; a greater one is decoded frame by frame from the disk
unless it is compressed.
"""

from __future__ import annotations

import io
import itertools
import math
import mmap
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
import SimpleITK as sitk
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.pixels import apply_color_lut, iter_pixels, pixel_array
from pydicom.valuerep import DT

from medgraft.intake import deidentify, video
from medgraft.intake.picture import channels_first
from medgraft.intake.read import Limits, Study, Unreadable
from medgraft.intake.volume import oriented

GROUP_TAGS = [
    "SOPClassUID",
    "SeriesInstanceUID",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "Rows",
    "Columns",
    "Modality",
]
pydicom.config.settings.reading_validation_mode = (
    pydicom.config.IGNORE
)  # odd header values are the norm, not a fault to print

_WHOLE = 128 << 20  # bytes of a file that is read into memory at once
_MOST_COMPRESSED = 2 << 30
_MOST_INFLATED = 1 << 30  # bytes of a deflated data set; its pixels cannot be streamed
_MOST_LUT = 1 << 16  # entries of a palette
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"
_IMPLICIT = "1.2.840.10008.1.2"
_EXPLICIT = "1.2.840.10008.1.2.1"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_JPEG_8_BIT = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
#: Who decodes what. GDCM alone reads lossless JPEG; elsewhere it is passed over, since damaged data bring its process
# down.
_DECODERS = {
    **dict.fromkeys(("50", "51"), "pillow"),
    **dict.fromkeys(("57", "70"), "gdcm"),
    **dict.fromkeys(("80", "81"), "pyjpegls"),
    **dict.fromkeys(("90", "91", "201", "202", "203"), "pylibjpeg"),
}
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_FRAGILE = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
#: Transfer syntaxes that hold one coded video (PS3.5 8.2.5 to 8.2.8), fragmentable ones too: their elementary stream.
_CODECS = {100: "mpegvideo", 101: "mpegvideo", **dict.fromkeys(range(102, 107), "h264"), 107: "hevc", 108: "hevc"}
_VIDEO = {f"1.2.840.10008.1.2.4.{number}{part}": name for number, name in _CODECS.items() for part in ("", ".1")}
#: Objects with pixels that are no study, by SOP class: what to say of them.
_NO_STUDY = {
    "1.2.840.10008.5.1.4.1.1.66.4": (
        "a DICOM segmentation: a mask, not an image",
        "convert it to NIfTI and give it as masks=",
    ),
    "1.2.840.10008.5.1.4.1.1.66.7": (
        "a DICOM segmentation: a mask, not an image",
        "convert it to NIfTI and give it as masks=",
    ),
    "1.2.840.10008.5.1.4.1.1.77.1.6": ("a whole-slide image", "export the regions of interest as pictures"),
}
_DISPLAY_RATES = ("CineRate", "RecommendedDisplayFrameRate")
_UNITS = dict(
    enumerate(("none", "percent", "dB", "cm", "s", "Hz", "dB/s", "cm/s", "cm2", "cm2/s", "cm3", "cm3/s", "degrees"))
)
_REGION_FORMATS = {0: "none", 1: "2D", 2: "M-mode", 3: "spectral", 4: "wave form", 5: "graphics"}


def read_dicom(path: Path, limits: Limits) -> Study:
    """One DICOM file: a picture, a cine (video), or a volume (enhanced multi-frame, dose grid)."""
    data = _open(path, limits)
    notes, facts, boxes = _notes(data), _facts(data), _regions(data)
    values = _Values(data, limits, notes)
    if _syntax(data) in _VIDEO:
        return _coded_video(data, limits, notes, facts, boxes)
    frames = _check_frames(data, path, limits, notes)
    positions = _frame_positions(data, frames)
    if positions is not None:
        stack = [values(frame, index) for index, frame in enumerate(_decoded(data, path, limits))]
        return _volume(stack, positions, data, values.unit, notes, facts)
    spacing = _pixel_spacing(data, notes)
    decoded = (values(frame, index) for index, frame in enumerate(_decoded(data, path, limits)))
    if frames == 1:
        first = itertools.islice(decoded, 1)
        return Study(
            "image", first, [None, *spacing], values.unit, time_source=["none"], facts=facts, notes=notes, boxes=boxes
        )
    times, source = _times(data, frames, notes)
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
            data = _open(path, limits)
            turn = _orientation(data)
            if first is None:
                first, notes, facts, first_turn = data, _notes(data), _facts(data), turn
                _check_size(data, len(paths), limits)
            if (data.Rows, data.Columns) != (first.Rows, first.Columns):
                raise Unreadable(
                    "slices of one series differ in size",
                    fix="keep only the slices of one reconstruction in the folder",
                )
            if not np.allclose(turn, first_turn, atol=2e-3):
                raise Unreadable("slices of one series differ in orientation", fix="leave the localiser out")
            _check_frames(data, path, limits, [])
            values = _Values(data, limits, [])
            stack.append(next(values(frame, 0) for frame in _decoded(data, path, limits)))
        except Unreadable as error:
            raise Unreadable(f"slice {number} of {len(paths)} (by name): {error.cause}", fix=error.fix) from error
        positions.append((_vector(data.ImagePositionPatient), turn))
        unit = values.unit
        if "PixelData" in data:
            del data.PixelData
    assert first is not None
    kept = _without_repeats(stack, positions)
    if len(kept) < len(stack):
        notes.append(f"{len(stack) - len(kept)} repeated slices dropped")
        stack, positions = [stack[i] for i in kept], [positions[i] for i in kept]
    if len(stack) == 1:
        spacing = _pixel_spacing(first, notes)
        return Study("image", iter(stack), [None, *spacing], unit, time_source=["none"], facts=facts, notes=notes)
    return _volume(stack, positions, first, unit, notes, facts)


def _without_repeats(stack: list[np.ndarray], positions: list[tuple[np.ndarray, np.ndarray]]) -> list[int]:
    """Which slices to keep: a copy of another (one place, equal pixels) says nothing new."""
    kept: list[int] = []
    at: dict[tuple[float, ...], list[int]] = {}
    for index, (position, _) in enumerate(positions):
        same = at.setdefault(tuple(np.round(position, 3)), [])
        if not any(np.array_equal(stack[other], stack[index]) for other in same):
            kept.append(index)
            same.append(index)
    return kept


class Group(NamedTuple):
    """What decides with which other files a file is read, and where."""

    series: str
    part: str  # slices of one orientation and size: a localiser that shares the series is a part of its own
    slice_like: bool  # whether it may belong to a stack
    fragile: bool  # its decoder may crash on damaged data: read in a process of its own


def group_key(path: Path) -> Group:
    """Series, part of the series, whether the file may belong to a stack, and whether its decoder needs a process of
    its own.
    """
    with warnings.catch_warnings():  # the header is read again, with its warnings noted, when the study is stored
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=GROUP_TAGS, force=True)
        series = str(header.get("SeriesInstanceUID") or "")
        slice_like = (
            bool(series) and _declared_frames(header, []) == 1 and header.get("ImagePositionPatient") is not None
        )
        turn = [round(float(v), 2) + 0.0 for v in header.get("ImageOrientationPatient") or ()]
        fragile = str(header.file_meta.get("TransferSyntaxUID", "")) in _FRAGILE
        return Group(series, f"{series} {turn} {header.get('Rows')}x{header.get('Columns')}", slice_like, fragile)


def _open(path: Path, limits: Limits) -> Dataset:
    """The data set, with its pixels where the file is not large.

    Raises where it holds no picture or too much of one.
    """
    size = path.stat().st_size
    if size <= _WHOLE:
        raw = path.read_bytes()
        if _DEFLATED in raw:
            _check_inflated(io.BytesIO(raw), limits)
        data = pydicom.dcmread(io.BytesIO(raw), force=True)
        if not _has_pixels(data) and (
            "Rows" in data or not len(data)
        ):  # pixels that end with the file, without a delimiter
            data = pydicom.dcmread(io.BytesIO(raw + _DELIMITER), force=True)
    else:
        with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            if mapped.find(_DEFLATED) >= 0:
                _check_inflated(stream, limits)
        data = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if data.file_meta.get("TransferSyntaxUID", pydicom.uid.UID(_EXPLICIT)).is_encapsulated:
            if size > _MOST_COMPRESSED:
                raise Unreadable(
                    f"holds more than {_MOST_COMPRESSED >> 30} GiB of compressed pixels",
                    fix="cut it into shorter files",
                )
            data = pydicom.dcmread(path, force=True)  # compressed frames are looked at before they are decoded
    kind = str(data.get("SOPClassUID") or data.file_meta.get("MediaStorageSOPClassUID") or "")
    if kind in _NO_STUDY:
        cause, fix = _NO_STUDY[kind]
        raise Unreadable(cause, fix=fix)
    if "Rows" not in data or "Columns" not in data or not (_has_pixels(data) or size > _WHOLE):
        known = pydicom.uid.UID(kind).name if kind else ""
        what = f" ({known})" if known and known != kind else ""
        raise Unreadable(f"a DICOM object without pixels{what}", fix="leave it out")
    if "TransferSyntaxUID" not in data.file_meta:
        data.file_meta.TransferSyntaxUID = pydicom.uid.UID(_guessed_syntax(data))
    _check_size(data, 1, limits)
    return data


def _has_pixels(data: Dataset) -> bool:
    return any(name in data for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))


def _guessed_syntax(data: Dataset) -> str:
    """How a data set without file meta information was read; it can only be uncompressed."""
    implicit, little = data.original_encoding
    return _IMPLICIT if implicit or implicit is None else _EXPLICIT if little else _BIG_ENDIAN


def _syntax(data: Dataset) -> str:
    return str(data.file_meta.TransferSyntaxUID)


def _check_inflated(stream: io.BytesIO | io.BufferedReader, limits: Limits) -> None:
    """Count what a deflated data set inflates to, without keeping it, before pydicom inflates it as a whole."""
    stream.seek(0)
    read_preamble(stream, force=True)
    if str(_read_file_meta_info(stream).get("TransferSyntaxUID", "")).encode() != _DEFLATED:
        return
    most = min(limits.bytes, _MOST_INFLATED)
    inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while block := stream.read(1 << 16):
        while block:
            total += len(inflater.decompress(block, 1 << 20))
            if total > most:
                raise Unreadable(
                    f"inflates to more than {most >> 20} MiB (decompression bomb?)",
                    fix="decompress the file if it is trusted",
                )
            block = inflater.unconsumed_tail


def _check_size(data: Dataset, frames: int, limits: Limits) -> None:
    rows, columns = int(data.Rows or 0), int(data.Columns or 0)
    if rows * columns > limits.pixels:
        raise Unreadable(
            f"declares {columns}x{rows} pixels, more than {limits.pixels}",
            fix="allow more with max_pixels=N if the file is trusted",
        )
    if rows < 1 or columns < 1:
        raise Unreadable("declares no pixels (0 rows or columns)", fix="leave it out")
    if (
        rows * columns * frames * int(data.get("SamplesPerPixel") or 1) * int(data.get("BitsAllocated") or 8) // 8
        > limits.bytes
    ):
        raise Unreadable(
            f"declares more than {limits.bytes >> 20} MiB of pixels",
            fix="allow more with max_mib=N if the file is trusted",
        )


def _check_frames(data: Dataset, path: Path, limits: Limits, notes: list[str]) -> int:
    """The number of frames that are there; a wrong count in the header is noted, one that the file cannot hold
    refused.
    """
    declared = _declared_frames(data, notes)
    _check_size(data, declared, limits)
    if data.file_meta.TransferSyntaxUID.is_encapsulated:
        if declared * 8 > path.stat().st_size:  # an item of a fragment has 8 bytes before its data
            raise Unreadable(
                f"truncated: declares {declared} frames in {path.stat().st_size} bytes",
                fix="copy the file again from its source",
            )
        return declared
    pixels = int(data.Rows) * int(data.Columns) * int(data.get("SamplesPerPixel") or 1)
    bits = pixels * int(data.get("BitsAllocated") or 8)
    if str(data.get("PhotometricInterpretation", "")).endswith("_422"):
        bits = bits * 2 // 3
    if "PixelData" in data:
        held = len(data.PixelData) * 8
    elif "FloatPixelData" in data or "DoubleFloatPixelData" in data:
        held = bits * declared
    else:
        held = path.stat().st_size * 8
    if bits * declared > held:
        wanted = -(-bits * declared // 8)
        raise Unreadable(
            f"truncated: {held // 8} of {wanted} bytes of pixels are in the file",
            fix="copy the file again from its source",
        )
    there = held // bits
    if "PixelData" in data and there > declared:
        notes.append(f"header declares {declared} frames, {there} are in the file")
        data.NumberOfFrames = there
        _check_size(data, there, limits)
        return there
    return declared


def _declared_frames(data: Dataset, notes: list[str]) -> int:
    """NumberOfFrames; a value that is no number counts as unknown and is then told from the pixels."""
    value = data.get("NumberOfFrames")
    try:
        return max(1, int(value or 1))
    except (ValueError, TypeError):
        notes.append("NumberOfFrames is no number")
        data.NumberOfFrames = 1
        return 1


class _Values:
    """From decoded DICOM samples to stored values ``(C, H, W)``: colour, palette, inversion, HU.

    ``unit`` says what they are.
    """

    def __init__(self, data: Dataset, limits: Limits, notes: list[str]) -> None:
        self.data, self.colour = data, limits.colour
        self.interpretation = str(data.get("PhotometricInterpretation") or "MONOCHROME2").strip()
        self.bits = int(data.get("BitsStored") or data.get("BitsAllocated") or 8)
        self.samples = int(data.get("SamplesPerPixel") or 1)
        modality = str(data.get("Modality") or "")
        self.scales, kind = _scales(data)
        self.single = str(data.get("NumberOfFrames") or 1).strip() == "1" or bool(
            _functional(data, "PlanePositionSequence")
        )
        self.rescale = modality in ("CT", "PT", "NM") or kind == "HU"
        self.floats = "FloatPixelData" in data or "DoubleFloatPixelData" in data
        if self.samples not in (1, 3) or self.interpretation in ("HSV", "ARGB", "CMYK"):
            raise Unreadable(
                f"{self.samples} samples a pixel as {self.interpretation[:16]}", fix="convert it to RGB or grey"
            )
        if self.samples == 3 or self.interpretation == "PALETTE COLOR":
            self.unit = "display"
        elif modality == "CT" or kind == "HU":
            self.unit = "HU"
        else:
            self.unit = "display" if self.bits in (1, 8) and not self.rescale and not self.floats else "raw"
        self.table = _palette(data) if self.interpretation == "PALETTE COLOR" else None
        if self.samples == 1 and not self.rescale and self.scales != [(1.0, 0.0)]:
            slope, intercept = self.scales[0]
            notes.append(f"rescale {slope:g} x + {intercept:g} noted, not applied")
        if self.interpretation == "MONOCHROME1" and not self.rescale:
            notes.append("MONOCHROME1 inverted")

    def __call__(self, pixels: np.ndarray, index: int) -> np.ndarray:
        if self.table is not None:
            entries = pixels.astype(np.int64) & (len(self.table) - 1)
            return channels_first(self.table[entries], self.colour)
        if self.samples == 3:
            if pixels.dtype != np.uint8:
                pixels = (pixels >> max(0, self.bits - 8)).astype(np.uint8)
            return channels_first(pixels, self.colour)
        if self.floats:
            return channels_first(pixels.astype(np.float32), self.colour)
        if self.rescale:
            return channels_first(
                self._rescaled(pixels, *self.scales[index if len(self.scales) > 1 else 0]), self.colour
            )
        if self.interpretation == "MONOCHROME1":
            signed = pixels.dtype.kind == "i"
            pixels = (-1 - pixels if signed else ((1 << self.bits) - 1) - pixels).astype(pixels.dtype)
        if self.bits == 1:
            pixels = pixels.astype(np.uint8) * 255
        return channels_first(pixels, self.colour)

    def _rescaled(self, pixels: np.ndarray, slope: float, intercept: float) -> np.ndarray:
        if len(self.scales) == 1 and slope == 1 and intercept == int(intercept):
            wide = pixels.astype(np.int32) + int(intercept)
            low, high = (int(wide.min()), int(wide.max())) if self.single else self._reach(int(intercept))
            return wide.astype(np.int16) if low >= -32768 and high <= 32767 else wide
        return pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)

    def _reach(self, intercept: int) -> tuple[int, int]:
        """The least and the greatest value that the header allows: frames of one video must agree on a type."""
        low = -(1 << (self.bits - 1)) if int(self.data.get("PixelRepresentation") or 0) else 0
        return low + intercept, low + (1 << self.bits) - 1 + intercept


def _scales(data: Dataset) -> tuple[list[tuple[float, float]], str]:
    """(slope, intercept) of all frames, one entry where they agree, and the rescale type."""

    def pair(holder: Dataset) -> tuple[float, float]:
        slope, intercept = holder.get("RescaleSlope"), holder.get("RescaleIntercept")
        return float(1 if slope is None else slope), float(0 if intercept is None else intercept)

    found = _functional(data, "PixelValueTransformationSequence")
    if found:
        scales = [pair(group) for group in found]
        return scales[:1] if len(set(scales)) == 1 else scales, str(found[0].get("RescaleType") or "")
    return [pair(data)], str(data.get("RescaleType") or "")


def _functional(data: Dataset, name: str) -> list[Dataset]:
    """The item of a functional group for each frame (PS3.3 C.7.6.16), or once when shared; empty where it is absent."""
    shared = data.get("SharedFunctionalGroupsSequence")
    if shared and shared[0].get(name):
        return [shared[0][name][0]]
    groups = data.get("PerFrameFunctionalGroupsSequence") or []
    found = [group[name][0] for group in groups if group.get(name)]
    return found if len(found) == len(groups) else []


def _palette(data: Dataset) -> np.ndarray:
    """RGB (2^n, 3) uint8 for every stored value, so that all frames are coloured alike. Raises on absurd tables."""
    for colour in ("Red", "Green", "Blue"):
        segments = data.get(f"Segmented{colour}PaletteColorLookupTableData")
        if segments and _expanded(bytes(segments), _syntax(data) == _BIG_ENDIAN) > _MOST_LUT:
            raise Unreadable("its palette unfolds to more than 65536 entries (decompression bomb?)", fix="leave it out")
    bits = 16 if int(data.get("BitsAllocated") or 8) > 8 else 8
    values = np.arange(1 << bits, dtype=f"u{bits // 8}")
    table = apply_color_lut(values[None], data)[0, :, :3]
    # Some writers put 8-bit colours into tables that call themselves 16 bit deep.
    return (table >> 8 if table.dtype == np.uint16 and table.max() > 255 else table).astype(np.uint8)


def _expanded(data: bytes, big: bool) -> int:
    """How many entries a segmented palette unfolds to (PS3.3 C.7.9.2); counted, not made."""
    words = np.frombuffer(data[: len(data) // 2 * 2], ">u2" if big else "<u2").tolist()

    def walk(at: int, segments: int, nested: bool) -> int:
        total = 0
        while at + 1 < len(words) and segments and total <= _MOST_LUT:
            opcode, count = words[at], words[at + 1]
            if opcode == 2 and not nested:
                offset = (words[at + 2] | words[at + 3] << 16) // 2 if at + 3 < len(words) else len(words)
                total += walk(offset, count, True)
                at += 4
            else:
                total += count
                at += 2 + (count if opcode == 0 else 1)
            segments -= 1
        return total

    return walk(0, len(words), False)


def _partial_to_rgb(pixels: np.ndarray) -> np.ndarray:
    """YBR_PARTIAL (PS3.3 C.7.6.3.1.2: luma 16 to 235, chroma 16 to 240) to RGB, uint8."""
    y, blue, red = ((pixels[..., i].astype(np.float32) - (16, 128, 128)[i]) for i in range(3))
    y *= 255 / 219
    rgb = np.stack([y + 1.596027 * red, y - 0.391762 * blue - 0.812968 * red, y + 2.017232 * blue], axis=-1)
    return np.clip(np.round(rgb), 0, 255).astype(np.uint8)


def _decoded(data: Dataset, path: Path, limits: Limits) -> Iterator[np.ndarray]:
    """Frames as pydicom decodes them, one by one, colours as RGB; a compression that cannot be read is named."""
    whole = _has_pixels(data)
    interpretation = str(data.get("PhotometricInterpretation") or "MONOCHROME2").strip()
    encapsulated = data.file_meta.TransferSyntaxUID.is_encapsulated
    decoder = _DECODERS.get(_syntax(data).removeprefix("1.2.840.10008.1.2.4."), "")
    try:
        if encapsulated and whole:
            frames = _checked_frames(data)
            if (quick := _quick_jpeg(data, interpretation)) is not None:
                for frame in frames:
                    yield quick(frame, limits.colour)
                return
            for _ in frames:
                pass
        if interpretation.startswith("YBR_PARTIAL") and whole:
            data.PhotometricInterpretation = "YBR_FULL_422" if interpretation.endswith("422") else "YBR_FULL"
            yield from map(_partial_to_rgb, iter_pixels(data, raw=True, decoding_plugin=decoder))
            return
        if not interpretation.startswith(("MONOCHROME", "PALETTE", "RGB", "YBR")):
            data.PhotometricInterpretation = "MONOCHROME2" if int(data.get("SamplesPerPixel") or 1) == 1 else "RGB"
        count = 0
        try:
            for pixels in iter_pixels(data if whole else path, decoding_plugin=decoder):
                yield pixels
                count += 1
        except (ValueError, AttributeError):
            # The streaming decoder fails on some sound files (signed JPEG 2000 under an unsigned header).
            if count:
                raise
            decoded = pixel_array(data if whole else pydicom.dcmread(path, force=True), decoding_plugin=decoder)
            yield from decoded if int(data.get("NumberOfFrames") or 1) > 1 else [decoded]
    except RuntimeError as error:
        kind = getattr(data.file_meta.TransferSyntaxUID, "name", "unknown")
        if "12-bit" in str(error):
            raise Unreadable(
                f"12-bit pixels in {kind} cannot be decoded", fix="decompress the file with the archive's own software"
            ) from error
        raise Unreadable(
            f"its pixels ({kind}) cannot be decoded: damaged or truncated", fix="copy the file again from its source"
        ) from error
    except NotImplementedError as error:
        kind = getattr(data.file_meta.TransferSyntaxUID, "name", "unknown")
        raise Unreadable(
            f"its compression ({kind}) is not supported", fix="decompress the file with the archive's own software"
        ) from error


class _Codestream(NamedTuple):
    """What the header of one compressed frame says: size, components, bits, and how JPEG coded its colours."""

    rows: int
    columns: int
    components: int
    bits: int
    colours: str  # grey, ybr, rgb or "" where only the data set knows
    baseline: bool


def _checked_frames(data: Dataset) -> Iterator[bytes]:
    """The compressed frames of a data set, each checked against the header before a decoder allocates what it
    claims.
    """
    offsets = None
    if "ExtendedOffsetTable" in data and "ExtendedOffsetTableLengths" in data:
        offsets = (data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths)
    expected = int(data.Rows), int(data.Columns)
    for frame in generate_frames(
        data.PixelData, number_of_frames=int(data.get("NumberOfFrames") or 1), extended_offsets=offsets
    ):
        found = _codestream(frame)
        if found is not None and (found.rows, found.columns) != expected:
            sizes = f"{found.columns}x{found.rows}", f"{expected[1]}x{expected[0]}"
            raise Unreadable(
                f"its compressed picture has {sizes[0]} pixels, its header says {sizes[1]}",
                fix="copy the file again from its source",
            )
        if _syntax(data) in _JPEG_LS and not frame.rstrip(b"\0").endswith(
            b"\xff\xd9"
        ):  # its decoder would wait for the end for ever
            raise Unreadable("its compressed picture ends early: truncated", fix="copy the file again from its source")
        yield frame


def _codestream(frame: bytes) -> _Codestream | None:
    """The header of a JPEG, JPEG-LS or JPEG 2000 frame; ``None`` for what is neither (RLE) or ends early."""
    start = frame.find(b"\xff\x4f\xff\x51", 0, 1 << 16)
    if start >= 0 and not frame.startswith(b"\xff\xd8"):
        numbers = [int.from_bytes(frame[start + 8 + 4 * i : start + 12 + 4 * i], "big") for i in range(4)]
        return _Codestream(numbers[1] - numbers[3], numbers[0] - numbers[2], 0, 0, "", False)
    if not frame.startswith(b"\xff\xd8"):
        return None
    at, jfif, transform = 2, False, None
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        body = frame[at + 4 : at + 2 + length]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0xE0 and body.startswith(b"JFIF"):
            jfif = True
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) > 11:
            transform = body[11]
        elif marker in _FRAME_MARKERS and len(body) >= 6:
            ids = body[6::3][: body[5]]
            ybr = transform == 1 or (transform is None and jfif and ids not in (b"RGB", b"rgb"))
            colours = "grey" if body[5] == 1 else "ybr" if ybr else "rgb" if transform == 0 else ""
            rows, columns = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            if transform is None and not jfif and ids == b"\1\2\3":
                colours = "either"
            return _Codestream(rows, columns, body[5], body[0], colours, marker in (0xC0, 0xC1))
        at += 2 + length
    return None


_FRAME_MARKERS = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7})


def _quick_jpeg(data: Dataset, interpretation: str) -> Callable[[bytes, bool], np.ndarray] | None:
    """A decoder of 8-bit JPEG frames by Pillow (libjpeg-turbo), where their colours are beyond doubt; else ``None``.

    Grey is read from the luma alone, which leaves out most of the work for a colour cine.
    """
    samples = int(data.get("SamplesPerPixel") or 1)
    if (
        _syntax(data) not in _JPEG_8_BIT
        or int(data.get("BitsAllocated") or 8) != 8
        or int(data.get("PixelRepresentation") or 0)
    ):
        return None
    first = _codestream(
        next(generate_frames(data.PixelData, number_of_frames=int(data.get("NumberOfFrames") or 1)), b"")
    )
    if first is None or not first.baseline or first.bits != 8 or first.components != samples:
        return None
    sure = first.colours == "grey" or (interpretation.startswith("YBR_FULL") and first.colours in ("ybr", "either"))
    if not sure:
        return None

    def decode(frame: bytes, colour: bool) -> np.ndarray:
        found = _codestream(frame)
        if found is None or (found.components, found.bits, found.baseline, found.colours) != (
            first.components,
            8,
            True,
            first.colours,
        ):
            raise Unreadable("its frames are not compressed alike", fix="copy the file again from its source")
        with warnings.catch_warnings():  # the size was checked against our own limit
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(frame), formats=("JPEG",))
            if samples == 3 and not colour:
                picture.draft("L", None)
            return np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"))

    return decode


def _coded_video(
    data: Dataset, limits: Limits, notes: list[str], facts: dict[str, Any], boxes: list[dict[str, Any]]
) -> Study:
    """MPEG-2, H.264 or HEVC inside a DICOM file; frames are counted by decoding, times are the header's where it has
    them.
    """
    if "PixelData" not in data:
        raise Unreadable(f"holds a coded video of more than {_WHOLE >> 20} MiB", fix="export the video as MP4")
    stream = next(generate_frames(data.PixelData, number_of_frames=1), b"")
    study = Study("video", iter(()), [None, *_pixel_spacing(data, notes)], facts=facts, notes=notes, boxes=boxes)
    decoded = video.decode_stream(stream, _VIDEO[_syntax(data)], limits, study)

    def frames() -> Iterator[np.ndarray]:
        count = 0
        for frame in decoded:
            yield frame
            count += 1
        declared = _declared_frames(data, notes)
        if declared != count:
            notes.append(f"header declares {declared} frames, {count} decode")
        times, source = _times(data, count, notes)
        if times:
            study.times[:], study.time_source[:] = times, [source]
            study.spacing[0] = float(np.median(np.diff(times))) if count > 1 else None

    object.__setattr__(study, "frames", frames())
    return study


def _vector(value: Any) -> np.ndarray:
    return np.array([float(v) for v in value])


def _orientation(data: Dataset) -> np.ndarray:
    """Row and column direction (6,); those of an axial slice where the header has none."""
    value = data.get("ImageOrientationPatient")
    found = _vector(value) if value else np.array([1.0, 0, 0, 0, 1, 0])
    if len(found) != 6 or not np.isfinite(found).all():
        raise Unreadable("its orientation is no pair of directions", fix="leave it out")
    return found


def _frame_positions(data: Dataset, frames: int) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """(position, orientation) of every frame of an enhanced object or dose grid, or ``None`` where frames are not
    slices.
    """
    offsets, origin = data.get("GridFrameOffsetVector"), data.get("ImagePositionPatient")
    if offsets is not None and origin is not None and frames > 1 and len(np.atleast_1d(offsets)) == frames:
        turn = _orientation(data)
        normal = np.cross(turn[:3], turn[3:])
        # Relative offsets begin with 0 (PS3.3 C.8.8.3.2); otherwise they are z coordinates themselves.
        steps = _vector(offsets) - float(offsets[0])
        return [(_vector(origin) + normal * step, turn) for step in steps]
    groups = data.get("PerFrameFunctionalGroupsSequence")
    if not groups or len(groups) != frames or frames < 2:
        return None
    planes, turns = _functional(data, "PlanePositionSequence"), _functional(data, "PlaneOrientationSequence")
    if len(planes) != frames or not turns or any("ImagePositionPatient" not in plane for plane in planes):
        return None
    turns = turns * frames if len(turns) == 1 else turns
    found = [(_vector(plane.ImagePositionPatient), _orientation(turn)) for plane, turn in zip(planes, turns)]
    return found if np.ptp(np.stack([p for p, _ in found]), axis=0).max() > 1e-6 else None


def _volume(
    stack: list[np.ndarray],
    positions: list[tuple[np.ndarray, np.ndarray]],
    header: Dataset,
    unit: str,
    notes: list[str],
    facts: dict[str, Any],
) -> Study:
    """Slices with positions as a volume in canonical orientation. Raises when two slices lie at one place."""
    row, column = positions[0][1][:3], positions[0][1][3:]
    normal = np.cross(row, column)
    along = np.array([position @ normal for position, _ in positions])
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    if len(gaps) and gaps.min() < 1e-3:
        raise Unreadable("two slices lie at one position", fix="give phases or repeats as separate series")
    gap = float(np.median(gaps)) if len(gaps) else float(header.get("SliceThickness") or 1.0)
    if len(gaps) and gaps.max() > gap * 1.01 + 1e-3:
        notes.append(f"slice gaps vary ({gaps.min():.3g} to {gaps.max():.3g} mm): missing slices?")
    spacing = _pixel_spacing(header, notes)
    common = np.result_type(*{frame.dtype for frame in stack})
    channels = []
    for channel in range(len(stack[0])):
        image = sitk.GetImageFromArray(np.stack([stack[i][channel].astype(common) for i in order]))
        image.SetSpacing([spacing[1] or 1.0, spacing[0] or 1.0, gap])
        image.SetOrigin([float(v) for v in positions[order[0]][0]])
        image.SetDirection([float(v) for v in np.stack([row, column, normal], axis=1).reshape(-1)])
        array, found, to_source = oriented(image)
        channels.append(array)
    known: list[float | None] = list(found) if spacing[0] else [None, None, None]
    slices = (np.stack(planes) for planes in zip(*channels))
    return Study("volume", slices, known, unit, time_source=["none"], to_source=to_source, facts=facts, notes=notes)


def _pixel_spacing(header: Dataset, notes: list[str]) -> list[float | None]:
    """(h, w) in mm from PixelSpacing, functional groups, ultrasound regions or the detector."""
    value = header.get("PixelSpacing")
    if not value:
        measures = _functional(header, "PixelMeasuresSequence")
        value = measures[0].get("PixelSpacing") if measures else None
    if not value:
        regions = [r for r in header.get("SequenceOfUltrasoundRegions") or [] if r.get("RegionSpatialFormat") == 1]
        steps = {
            (abs(float(r.PhysicalDeltaY)), abs(float(r.PhysicalDeltaX)))
            for r in regions
            if r.get("PhysicalUnitsXDirection") == 3
        }
        if len(steps) == 1:
            notes.append("spacing from the ultrasound region")
            value = [10 * v for v in steps.pop()]  # cm to mm
    if not value and header.get("ImagerPixelSpacing"):
        value = header.ImagerPixelSpacing
        notes.append("spacing at the detector, not in the patient")
    if not value or len(value) != 2:
        return [None, None]
    found = [float(v) for v in value]
    return [*found] if all(math.isfinite(v) and v > 0 for v in found) else [None, None]


def _times(data: Dataset, frames: int, notes: list[str]) -> tuple[list[float], str]:
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
        steps = _vector(np.atleast_1d(vector)) / 1000
        # The first increment belongs to the first frame and is 0; some writers leave it out.
        yield "FrameTimeVector", np.cumsum(steps if len(steps) == frames else [0.0, *steps])
    for name in ("FrameReferenceDateTime", "FrameAcquisitionDateTime"):
        yield name, _moments(_functional(data, "FrameContentSequence"), name)
    for sequence, name, unit in (
        ("TemporalPositionSequence", "TemporalPositionTimeOffset", 1.0),
        ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", 1e-3),
    ):
        found = [group.get(name) for group in _functional(data, sequence)]
        if found and None not in found:
            yield name, _vector(found) * unit
    step = float(data.get("FrameTime") or 0) / 1000
    if step > 0:
        yield "FrameTime", np.arange(frames) * step
    durations = [group.get("FrameAcquisitionDuration") for group in _functional(data, "FrameContentSequence")]
    if durations and None not in durations:
        yield "FrameAcquisitionDuration", np.cumsum([0.0, *_vector(durations)[:-1]]) / 1000
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


def _regions(data: Dataset) -> list[dict[str, Any]]:
    """The calibrated regions of an ultrasound frame: box in pixels, what it shows, and its steps in physical units."""
    found = []
    for region in data.get("SequenceOfUltrasoundRegions") or []:
        corners = [region.get(f"RegionLocation{name}") for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        if None in corners:
            continue
        left, top, right, bottom = (int(v) for v in corners)
        right, bottom = min(right, int(data.Columns) - 1), min(bottom, int(data.Rows) - 1)
        if not (0 <= left < right and 0 <= top < bottom):
            continue
        box: dict[str, Any] = {"x": left, "y": top, "width": right - left + 1, "height": bottom - top + 1}
        box["format"] = _REGION_FORMATS.get(int(region.get("RegionSpatialFormat") or 0), "other")
        for axis in "XY":
            delta = region.get(f"PhysicalDelta{axis}")
            if delta is not None and math.isfinite(float(delta)):
                box[f"delta_{axis.lower()}"] = float(delta)
                box[f"unit_{axis.lower()}"] = _UNITS.get(int(region.get(f"PhysicalUnits{axis}Direction") or 0), "other")
        found.append(box)
    return found


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
        "day": deidentify.day_of(header),
        "names": deidentify.identity_words(header),
        "region": _region(header),
    }


def _region(header: Dataset) -> list[int] | None:
    """Top, left, bottom, right of the box around all ultrasound regions (PS3.3 C.8.5.5), or ``None``."""
    try:
        found = [
            (
                int(r.RegionLocationMinY0),
                int(r.RegionLocationMinX0),
                int(r.RegionLocationMaxY1) + 1,
                int(r.RegionLocationMaxX1) + 1,
            )
            for r in header.get("SequenceOfUltrasoundRegions") or []
            if r.get("RegionSpatialFormat") in (1, 2, 3)
        ]
    except (AttributeError, TypeError, ValueError):
        return None
    box = [f(side) for f, side in zip((min, min, max, max), zip(*found))] if found else [0, 0, 0, 0]
    inside = 0 <= box[0] < box[2] <= int(header.Rows) and 0 <= box[1] < box[3] <= int(header.Columns)
    return box if inside else None
