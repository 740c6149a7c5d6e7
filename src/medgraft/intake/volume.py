"""Volumes (NIfTI, MetaImage, NRRD) by SimpleITK, brought to one orientation.

A header whose voxels lie in another file (``.mhd``, ``.nhdr``, ``.hdr``) may name a plain file in its own folder
and nothing else: no path, no link, no device. ITK then sees a copy of the header that names a link of our own
choice, so nothing in a stranger's header decides what is opened. Declared sizes are compared with the bytes that
are there, compressed ones by inflating them in a stream, before ITK allocates.

The array is (1, D, H, W) with axes (z, y, x) of RAS: d grows to superior, h to anterior, w to the
patient's right-to-left axis in the RAS sense (towards right). ``to_source`` maps (d, h, w, 1) to
DICOM's patient coordinates (LPS, mm), the coordinates SimpleITK uses for every format.
"""

from __future__ import annotations

import bz2
import gzip
import math
import os
import re
import stat
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import SimpleITK as sitk

from medgraft.intake.read import HEAD_BYTES, Limits, Study, Unreadable, plain_head, sniff, suffix_of

_IO = {"nifti": "NiftiImageIO", "metaimage": "MetaImageIO", "nrrd": "NrrdImageIO"}
sitk.ProcessObject.SetGlobalWarningDisplay(False)  # faults are raised; ITK's console chatter holds paths


def read_volume(path: Path, limits: Limits) -> Study:
    """One volume, loaded whole after its declared size was checked. 4D files with one time step are 3D."""
    image, spacing_known, notes = load_image(path, limits)
    array, spacing, to_source = oriented(image)
    if not spacing_known:
        spacing = [None, None, None]
        notes.append("no spacing in the header")
    return Study(
        "volume",
        _slices(array),
        spacing=spacing,
        value_unit="raw",
        time_source=["none"],
        to_source=to_source,
        notes=notes,
    )


def load_image(path: Path, limits: Limits) -> tuple[sitk.Image, bool, list[str]]:
    """A scalar 3D SimpleITK image, whether its spacing is known, and notes."""
    reader_line = sniff(path)
    assert reader_line is not None
    notes: list[str] = []
    voxels = voxel_file(path, reader_line.name)
    known = _inspect_header(path, voxels, reader_line.name, limits, notes)
    with tempfile.TemporaryDirectory(prefix="medgraft-") as folder:
        named = _for_itk(path, voxels, reader_line.name, reader_line.suffixes, Path(folder))
        reader = sitk.ImageFileReader()
        reader.SetImageIO(_IO[reader_line.name])
        reader.SetFileName(str(named))
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise Unreadable(
                f"not a whole {reader_line.name} header", fix="copy the file again from its source"
            ) from error
        size = list(reader.GetSize())
        bytes_declared = math.prod(size) * reader.GetNumberOfComponents() * 8
        if bytes_declared > limits.bytes:
            raise Unreadable(
                f"declares {'x'.join(map(str, size))} voxels, more than {limits.bytes >> 20} MiB",
                fix="allow more with max_mib=N or crop it",
            )
        if reader.GetNumberOfComponents() != 1:
            raise Unreadable(
                f"{reader.GetNumberOfComponents()} values a voxel (colour or vector)",
                fix="store one scalar volume a file",
            )
        if len(size) == 4 and size[3] > 1:
            raise Unreadable(f"holds {size[3]} time steps", fix="store one volume a file")
        if len(size) not in (2, 3, 4):
            raise Unreadable(f"has {len(size)} dimensions", fix="store one 3D volume a file")
        try:
            image = reader.Execute()
        except RuntimeError as error:
            raise Unreadable(
                "the voxels are fewer than the header declares: truncated or damaged",
                fix="copy the file again from its source",
            ) from error
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    return image, known, notes


def oriented(image: sitk.Image) -> tuple[np.ndarray, list[float | None], tuple[float, ...]]:
    """Array (D, H, W) in RAS order reversed to (z, y, x), spacing (d, h, w) and the affine to LPS."""
    image = sitk.DICOMOrient(image, "RAS")
    array = sitk.GetArrayFromImage(image)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    spacing_xyz = np.array(image.GetSpacing())
    columns = direction * spacing_xyz  # columns: steps along x, y, z
    affine = np.eye(4)
    affine[:3, :3] = columns[:, ::-1]  # our index order is (d, h, w) = (z, y, x)
    affine[:3, 3] = image.GetOrigin()
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    elif array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        low, high = int(array.min()), int(array.max())
        if low < -(2**31) or high >= 2**31:
            raise Unreadable("integers beyond 32 bit", fix="store 16 or 32 bit values")
        array = array.astype(np.int32)
    return array, [float(s) for s in spacing_xyz[::-1]], tuple(float(v) for v in affine.reshape(-1))


def _slices(array: np.ndarray) -> Iterator[np.ndarray]:
    for index in range(array.shape[0]):
        yield array[index][None]


_MOST_OFFSET = 64 << 20  # bytes before the voxels of a NIfTI file
_ELEMENT_DATA = re.compile(rb"^ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*\r?$", re.MULTILINE)
_DATA_FILE = re.compile(rb"^[ \t]*data ?file[ \t]*:[ \t]*=?[ \t]*([^\r\n]*?)[ \t]*\r?$", re.MULTILINE | re.IGNORECASE)
_METAIMAGE_BYTES = {
    b"CHAR": 1,
    b"UCHAR": 1,
    b"SHORT": 2,
    b"USHORT": 2,
    b"INT": 4,
    b"UINT": 4,
    b"FLOAT": 4,
    b"DOUBLE": 8,
}
_METAIMAGE_BYTES |= {b"LONG": 4, b"ULONG": 4, b"LONG_LONG": 8, b"ULONG_LONG": 8}  # MetaIO's long has 4 bytes in a file
_NRRD_BYTES = {
    size: names.split()
    for size, names in {
        1: b"signed_char int8 int8_t uchar unsigned_char uint8 uint8_t",
        2: b"short short_int signed_short signed_short_int int16 int16_t ushort unsigned_short unsigned_short_int "
        b"uint16 uint16_t",
        4: b"int signed_int int32 int32_t uint unsigned_int uint32 uint32_t float",
        8: b"longlong long_long long_long_int signed_long_long signed_long_long_int int64 int64_t ulonglong "
        b"unsigned_long_long "
        b"unsigned_long_long_int uint64 uint64_t double",
    }.items()
}


def voxel_file(path: Path, kind: str) -> Path | None:
    """The file that holds the voxels of a detached header, ``None`` where they follow in the same file.

    Raises ``Unreadable`` where the header names anything but a plain file beside itself.
    """
    if kind == "nifti":
        with open(path, "rb") as stream:
            head = plain_head(stream.read(HEAD_BYTES))
        if head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0":
            return None
        stem = path.name[:-7] if path.name.lower().endswith(".hdr.gz") else path.stem
        for name in (f"{stem}.img", f"{stem}.img.gz", f"{stem}.IMG"):
            if os.path.lexists(path.with_name(name)):
                return _plain_neighbour(path, name)
        raise Unreadable(
            "its voxels lie in another file (.img), which is absent",
            fix="put the .img file beside it or convert both to .nii",
        )
    header = _header_text(path, kind)
    found = (_ELEMENT_DATA if kind == "metaimage" else _DATA_FILE).search(header)
    if found is None:
        if kind == "metaimage":
            raise Unreadable("names no file of voxels (ElementDataFile)", fix="copy the file again from its source")
        return None
    if kind == "metaimage" and found.start() != header.lower().index(b"elementdatafile"):
        raise Unreadable("names its voxels twice", fix="convert it to .mha, one file")
    name = found.group(1).decode("utf-8", errors="replace")
    if kind == "metaimage" and name == "LOCAL":
        return None
    return _plain_neighbour(path, name[2:] if name.startswith("./") else name)


def _plain_neighbour(path: Path, name: str) -> Path:
    """A file beside ``path``: by its bare name, itself and no link, device or pipe."""
    bare = (
        name not in ("", ".", "..")
        and not any(c in name for c in "/\\:%\0")
        and name.split()[0] not in ("LIST", "LOCAL")
    )
    neighbour = path.with_name(name) if bare else path
    if not bare or neighbour == path:
        raise Unreadable(
            "its voxels lie outside its folder or in several files (detached header)",
            fix="convert it to one file (.mha, .nrrd, .nii)",
        )
    try:
        mode = neighbour.lstat().st_mode
    except (OSError, ValueError) as error:
        raise Unreadable(
            "the file with its voxels is absent (detached header)", fix="put the file beside its header"
        ) from error
    if not stat.S_ISREG(mode):
        raise Unreadable(
            "its voxels are a link or a device, not a plain file (detached header)",
            fix="put the file itself beside its header",
        )
    return neighbour


def _header_text(path: Path, kind: str) -> bytes:
    """The text part of a MetaImage or NRRD header; at most 64 KiB."""
    with open(path, "rb") as stream:
        text = stream.read(65536)
    if kind == "metaimage":
        end = _ELEMENT_DATA.search(text)
        return text[: end.end()] if end else text
    end = re.search(rb"\r?\n\r?\n", text)
    return text[: end.start()] if end else text


def _for_itk(path: Path, voxels: Path | None, kind: str, suffixes: tuple[str, ...], folder: Path) -> Path:
    """The name under which ITK reads a study: ITK insists on suffixes, and follows what a detached header names."""
    if voxels is not None:
        if kind == "nifti":
            zipped = voxels.name.lower().endswith(".gz")
            _link(voxels, folder / f"study.img{'.gz' if zipped else ''}")
            header = folder / f"study.hdr{'.gz' if zipped else ''}"
            with open(path, "rb") as stream:
                plain = plain_head(stream.read(HEAD_BYTES))[:540]
            header.write_bytes(gzip.compress(plain) if zipped else plain)
            return header
        pattern = _ELEMENT_DATA if kind == "metaimage" else _DATA_FILE
        word = b"ElementDataFile = voxels" if kind == "metaimage" else b"data file: voxels"
        header = folder / ("study.mhd" if kind == "metaimage" else "study.nhdr")
        header.write_bytes(pattern.sub(word, _header_text(path, kind), count=1) + b"\n")
        _link(voxels, folder / "voxels")
        return header
    with open(path, "rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    right = {"nifti": ".nii.gz" if zipped else ".nii", "metaimage": ".mha", "nrrd": ".nrrd"}[kind]
    if suffix_of(path) == right:
        return path
    link = folder / f"study{right}"
    _link(path, link)
    return link


def _link(path: Path, link: Path) -> None:
    try:
        os.symlink(path.resolve(), link)
    except OSError:  # Windows without the right to make links
        import shutil

        shutil.copyfile(path, link)


def _inspect_header(path: Path, voxels: Path | None, kind: str, limits: Limits, notes: list[str]) -> bool:
    """Compare what a header declares with the bytes that are there; say whether it states its spacing (ITK would invent
    1 mm).
    """
    if kind == "nifti":
        return _inspect_nifti(path, voxels, limits, notes)
    header = _header_text(path, kind)
    if kind == "metaimage":
        _inspect_metaimage(header, path, voxels, limits)
        return re.search(rb"^Element(Spacing|Size)[ \t]*=", header, re.MULTILINE) is not None
    _inspect_nrrd(header, path, voxels, limits)
    return re.search(rb"^(spacings|space directions):", header, re.MULTILINE) is not None


def _inspect_metaimage(header: bytes, path: Path, voxels: Path | None, limits: Limits) -> None:
    """ITK's parser of this format trusts what it reads; every field that says a number or a length is checked here
    first.
    """
    pairs = [
        (key.strip().lower(), value.strip())
        for key, _, value in (line.partition(b"=") for line in header.splitlines() if line.strip())
    ]
    says = dict(pairs)
    broken = Unreadable("not a whole metaimage header", fix="copy the file again from its source")
    try:
        sides = [int(v) for v in says[b"dimsize"].split()]
        count = len(sides)
        wanted = {
            b"offset": count,
            b"position": count,
            b"origin": count,
            b"elementspacing": count,
            b"elementsize": count,
            b"centerofrotation": count,
        }
        wanted |= dict.fromkeys((b"transformmatrix", b"rotation", b"orientation"), count * count)
        wanted |= dict.fromkeys(
            (b"elementnumberofchannels", b"headersize", b"compresseddatasize", b"id", b"parentid"), 1
        )
        lengths = {key: len(_finite(says[key])) for key in wanted if key in says}
        sound = (
            int(says[b"ndims"]) == count
            and 1 <= count <= 4
            and min(sides) > 0
            and all(lengths[key] == wanted[key] for key in lengths)
        )
    except (KeyError, ValueError) as error:
        raise broken from error
    width = _METAIMAGE_BYTES.get(says.get(b"elementtype", b"").removeprefix(b"MET_").removesuffix(b"_ARRAY"))
    if not sound or width is None or len(says) != len(pairs) or max(map(len, header.splitlines())) > 1000:
        raise broken
    if (
        not 1 <= int(says.get(b"elementnumberofchannels", b"1")) <= 64
        or int(says.get(b"compresseddatasize", b"0")) > (voxels or path).stat().st_size
    ):
        raise broken
    declared = math.prod(sides) * width * int(says.get(b"elementnumberofchannels", b"1"))
    if says.get(b"binarydata", b"True").lower() == b"false":
        declared = math.prod(sides) * 2  # numbers as text: a digit and a space at least
    start = max(0, int(says.get(b"headersize", b"0"))) if voxels is not None else len(header) + 1
    zipped = says.get(b"compresseddata", b"False").lower() == b"true"
    _check_bytes(
        voxels or path, start, declared, zlib.decompressobj(zlib.MAX_WBITS | 32) if zipped else None, sides, limits
    )


def _finite(text: bytes) -> list[float]:
    """The numbers of a field. Raises ``ValueError`` where one is none."""
    values = [float(v) for v in text.split()]
    if not all(map(math.isfinite, values)):
        raise ValueError("not finite")
    return values


def _inspect_nrrd(header: bytes, path: Path, voxels: Path | None, limits: Limits) -> None:
    fields = (line.partition(b":") for line in header.splitlines() if not line.startswith(b"#"))
    says = {key.strip().lower(): value.strip() for key, _, value in fields}
    sides = [int(v) for v in says.get(b"sizes", b"").split()]
    named = says.get(b"type", b"").lower().replace(b" ", b"_")
    width = next((size for size, names in _NRRD_BYTES.items() if named in names), None)
    if not sides or width is None or min(sides) < 1:
        raise Unreadable("not a whole nrrd header", fix="copy the file again from its source")
    encoding = says.get(b"encoding", b"raw").lower()
    skip = int(says.get(b"byte skip", says.get(b"byteskip", b"0")))
    if (
        (skip > 0 and encoding not in (b"raw",))
        or int(says.get(b"line skip", says.get(b"lineskip", b"0")))
        or skip < -1
    ):
        raise Unreadable("skips lines or bytes before its voxels", fix="convert it to a plain .nrrd")
    start = skip if voxels is not None and skip > 0 else 0
    if voxels is None:
        with open(path, "rb") as stream:
            text = stream.read(65536 + 4)
        gap = re.match(rb"\r?\n\r?\n", text[len(header) :] + b"\n\n")
        assert gap is not None  # the header ends before an empty line
        start = len(header) + len(gap.group()) + max(0, skip)
    declared = math.prod(sides) * width
    inflater: Any = None
    if encoding in (b"gzip", b"gz"):
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
    elif encoding in (b"bzip2", b"bz2"):
        inflater = bz2.BZ2Decompressor()
    elif encoding in (b"hex", b"txt", b"text", b"ascii"):
        declared = math.prod(sides) * 2
    _check_bytes(voxels or path, start, declared, inflater, sides, limits)


def _check_bytes(path: Path, start: int, declared: int, inflater: Any, sides: list[int], limits: Limits) -> None:
    """Refuse voxels beyond the limit, or fewer than declared: ITK would allocate first and ask later."""
    if declared > limits.bytes:
        raise Unreadable(
            f"declares {'x'.join(map(str, sides))} voxels, more than {limits.bytes >> 20} MiB",
            fix="allow more with max_mib=N or crop it",
        )
    there = path.stat().st_size - start
    if inflater is not None:
        with open(path, "rb") as stream:
            stream.seek(start)
            there = _inflated(stream, inflater, declared)
    if there < declared:
        raise Unreadable(
            f"truncated: {declared - there} of {declared} bytes of voxels are missing",
            fix="copy the file again from its source",
        )


def _inflated(stream: IO[bytes], inflater: Any, enough: int) -> int:
    """How many bytes a compressed stream holds, counted up to ``enough`` and not kept."""
    total = 0
    try:
        while total < enough and (block := stream.read(1 << 16)):
            while block and total < enough and not inflater.eof:
                total += len(inflater.decompress(block, 1 << 20))
                block = inflater.unconsumed_tail if hasattr(inflater, "unconsumed_tail") else b""
                while not block and not getattr(inflater, "needs_input", True) and not inflater.eof and total < enough:
                    total += len(inflater.decompress(b"", 1 << 20))
    except (zlib.error, OSError, EOFError) as error:
        raise Unreadable(
            "the compressed stream is damaged or truncated", fix="copy the file again from its source"
        ) from error
    return total


def _inspect_nifti(path: Path, voxels: Path | None, limits: Limits, notes: list[str]) -> bool:
    """Whether the spacing is stated. ITK fills a truncated file with zeros and turns NaN into 0, both without
    a word, so bytes and non-finite values are counted here, in a stream."""
    with open(path, "rb") as plain:
        header = _NiftiHeader.parse(plain_head(plain.read(HEAD_BYTES))[:540])
    with open(voxels or path, "rb") as plain:
        zipped = plain.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(voxels or path, "rb") if zipped else open(voxels or path, "rb") as stream:
            if header.size > limits.bytes:
                sides = "x".join(map(str, header.extent))
                raise Unreadable(
                    f"declares {sides} voxels, more than {limits.bytes >> 20} MiB",
                    fix="allow more with max_mib=N or crop it",
                )
            if header.size < 1 or header.start > _MOST_OFFSET:
                raise Unreadable("not a whole nifti header", fix="copy the file again from its source")
            stream.seek(header.start)
            left, bad = header.size, 0
            while left and (block := stream.read(min(left, 1 << 20))):
                left -= len(block)
                if header.floats is not None:
                    whole = len(block) - len(block) % header.floats.itemsize
                    bad += int((~np.isfinite(np.frombuffer(block[:whole], header.floats))).sum())
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(
            "the compressed stream is damaged or truncated", fix="copy the file again from its source"
        ) from error
    if left:
        raise Unreadable(
            f"truncated: {left} of {header.size} bytes of voxels are missing", fix="copy the file again from its source"
        )
    if bad:
        raise Unreadable(
            f"holds {bad} NaN or infinite values", fix="replace them by the background value and scan again"
        )
    if not header.oriented:
        notes.append("no orientation in the header; axes taken as stored")
    return header.spaced


@dataclass(frozen=True)
class _NiftiHeader:
    """What of a NIfTI-1 or -2 header is checked before ITK sees the file; ``size`` is the bytes of its voxels."""

    extent: list[int]
    start: int
    size: int
    floats: np.dtype[Any] | None
    spaced: bool
    oriented: bool

    @classmethod
    def parse(cls, head: bytes) -> _NiftiHeader:
        second = head[4:8] in (b"n+2\0", b"ni2\0")
        if len(head) < (540 if second else 348):
            raise Unreadable("not a whole nifti header: truncated", fix="copy the file again from its source")
        order = "<" if int.from_bytes(head[:4], "little") in (348, 540) else ">"

        def field(kind: str, count: int, first: int, later: tuple[str, int]) -> np.ndarray:
            kind, at = later if second else (kind, first)
            return np.frombuffer(head, np.dtype(f"{order}{kind}"), count, at)

        sides = field("i2", 8, 40, ("i8", 16))
        extent = [int(v) for v in sides[1 : 1 + min(7, max(0, int(sides[0])))]]
        kind, bits = int(field("i2", 1, 70, ("i2", 12))[0]), int(field("i2", 1, 72, ("i2", 14))[0])
        pixdim = field("f4", 8, 76, ("f8", 104))
        return cls(
            extent=extent,
            start=max(0, int(field("f4", 1, 108, ("i8", 168))[0])),
            size=math.prod(extent) * bits // 8,
            floats={16: np.dtype(f"{order}f4"), 64: np.dtype(f"{order}f8")}.get(kind),
            spaced=bool(np.isfinite(pixdim[1:4]).all() and (pixdim[1:4] > 0).all()),
            oriented=bool(field("i2", 2, 252, ("i4", 344)).any()),
        )
