"""The pixels of a DICOM file: decoded frame by frame, and what their samples mean.

Colour follows PS3.3 C.7.6.3.1.2, palettes C.7.9. Every compressed frame is checked against the header before a
decoder allocates what it claims.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, iter_pixels, pixel_array

from medgraft.intake.dicom.header import BIG_ENDIAN, functional, has_pixels, syntax_of
from medgraft.intake.picture import channels_first
from medgraft.intake.read import Limits, Unreadable

_MOST_LUT = 1 << 16  # entries of a palette
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
#: Transfer syntaxes that hold one coded video (PS3.5 8.2.5 to 8.2.8), fragmentable ones too: their elementary stream.
_CODECS = {100: "mpegvideo", 101: "mpegvideo", **dict.fromkeys(range(102, 107), "h264"), 107: "hevc", 108: "hevc"}
VIDEO_SYNTAXES = {
    f"1.2.840.10008.1.2.4.{number}{part}": name for number, name in _CODECS.items() for part in ("", ".1")
}
_FRAME_MARKERS = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7})


class Values:
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
            functional(data, "PlanePositionSequence")
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

    found = functional(data, "PixelValueTransformationSequence")
    if found:
        scales = [pair(group) for group in found]
        return scales[:1] if len(set(scales)) == 1 else scales, str(found[0].get("RescaleType") or "")
    return [pair(data)], str(data.get("RescaleType") or "")


def _palette(data: Dataset) -> np.ndarray:
    """RGB (2^n, 3) uint8 for every stored value, so that all frames are coloured alike. Raises on absurd tables."""
    for colour in ("Red", "Green", "Blue"):
        segments = data.get(f"Segmented{colour}PaletteColorLookupTableData")
        if segments and _expanded(bytes(segments), syntax_of(data) == BIG_ENDIAN) > _MOST_LUT:
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


def decoded_frames(data: Dataset, path: Path, limits: Limits) -> Iterator[np.ndarray]:
    """Frames as pydicom decodes them, one by one, colours as RGB; a compression that cannot be read is named."""
    whole = has_pixels(data)
    interpretation = str(data.get("PhotometricInterpretation") or "MONOCHROME2").strip()
    encapsulated = data.file_meta.TransferSyntaxUID.is_encapsulated
    decoder = _DECODERS.get(syntax_of(data).removeprefix("1.2.840.10008.1.2.4."), "")
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
        if syntax_of(data) in _JPEG_LS and not frame.rstrip(b"\0").endswith(
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


def _quick_jpeg(data: Dataset, interpretation: str) -> Callable[[bytes, bool], np.ndarray] | None:
    """A decoder of 8-bit JPEG frames by Pillow (libjpeg-turbo), where their colours are beyond doubt; else ``None``.

    Grey is read from the luma alone, which leaves out most of the work for a colour cine.
    """
    samples = int(data.get("SamplesPerPixel") or 1)
    if (
        syntax_of(data) not in _JPEG_8_BIT
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
