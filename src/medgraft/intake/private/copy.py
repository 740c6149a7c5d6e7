"""De-identified copies of DICOM files: cleaned headers, blacked text, no comment left in a compressed stream."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medgraft import __version__
from medgraft.datasets import Box
from medgraft.files import write_bytes
from medgraft.intake.jobs import Job
from medgraft.intake.private.deidentify import clean
from medgraft.intake.private.keys import Names
from medgraft.intake.private.names import identity_words
from medgraft.intake.read import Unreadable

METHOD = f"medgraft {__version__}: PS3.15 Basic Profile, keyed pseudonyms and UIDs"


def copy(
    path: Path,
    folder: Path,
    names: Names,
    patient: str,
    name: str,
    days: int | None,
    boxes: Sequence[Box],
) -> str:
    """Write the de-identified copy of one DICOM file, ``<patient>/<study>/<name>.dcm`` below ``folder``; return that
    path.

    ``boxes`` are blacked out in every frame: all that the text pass found and that could
    name someone. Raises ``Unreadable`` where the file cannot be cleaned; then nothing is written.
    """
    try:
        dataset = pydicom.dcmread(path, force=True)
        said = identity_words(dataset, nested=True)
        study = names.of("study", str(dataset.get("StudyInstanceUID") or "").strip())
        syntax = getattr(dataset, "file_meta", FileMetaDataset()).get("TransferSyntaxUID")
        implicit = dataset.original_encoding[0]
        syntax = syntax or (ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax.is_compressed and (boxes or syntax.is_deflated or _in_stream(dataset, said)):
            if syntax.is_encapsulated:
                dataset.decompress(generate_instance_uid=False)
            else:
                dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if boxes:
            black_out(dataset, boxes)
        clean(dataset, names, patient, days)
        _flags(dataset, days)
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
        meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.file_meta, dataset.preamble = meta, b"\0" * 128
        stream = io.BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(
            f"it cannot be de-identified ({type(error).__name__})", fix="repair the header, or leave the file out"
        ) from error
    relative = f"{patient}/{study}/{name}.dcm"
    (folder / relative).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / relative, stream.getbuffer())
    return relative


def _in_stream(dataset: Dataset, said: Sequence[str]) -> bool:
    """Whether compressed pixels carry a comment, metadata of a camera, or a name of the header."""
    data = bytes(dataset.get("PixelData", b""))
    if any(w.encode() in data.lower() for w in said if len(w) > 5):
        return True
    return (
        any(mark in data for mark in (b"Exif\0", b"http://ns.adobe.com", b"\xff\xfe\x00")) and b"\xff\xd8\xff" in data
    )


def black_out(dataset: Dataset, boxes: Sequence[Box]) -> None:
    """Set boxes to black in every frame of uncompressed pixels; colours stored as YBR become RGB."""
    pixels = np.array(dataset.pixel_array)
    shape = (int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns))
    frames = pixels.reshape(*shape, -1)
    kind = str(dataset.PhotometricInterpretation)
    black: Any = 0
    if kind == "MONOCHROME1":
        black = frames.max()
    elif kind == "MONOCHROME2":
        black = frames.min()
    elif kind == "PALETTE COLOR":
        black = _darkest(dataset)
    for top, left, bottom, right in boxes:
        frames[:, max(0, top) : bottom, max(0, left) : right] = black
    kind = "RGB" if kind.startswith("YBR") else kind
    dataset.set_pixel_data(frames.reshape(pixels.shape), kind, int(dataset.BitsStored), generate_instance_uid=False)


def _darkest(dataset: Dataset) -> int:
    from pydicom.pixels import apply_color_lut

    return int(np.argmin(apply_color_lut(np.arange(256, dtype=np.uint8)[None], dataset).astype(np.int64).sum(-1)))


def _flags(dataset: Dataset, days: int | None) -> None:
    """What was done (PS3.15 E.3 and PS3.3 C.12.1)."""
    options = [("113100", "Basic Application Confidentiality Profile"), ("113101", "Clean Pixel Data Option")]
    if days is not None:
        options.append(("113107", "Retain Longitudinal Temporal Information Modified Dates Option"))
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = [METHOD[:64]]
    dataset.DeidentificationMethodCodeSequence = Items([_coded(*o) for o in options])
    dataset.LongitudinalTemporalInformationModified = "REMOVED" if days is None else "MODIFIED"
    dataset.BurnedInAnnotation = "NO"


def _coded(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


@dataclass(frozen=True)
class CopyJob(Job):
    """De-identified copies of the files of one case; all of them, or none and a reject."""

    files: tuple[str, ...]
    folder: Path
    secret: bytes
    patient: str
    case: str
    days: int | None
    boxes: tuple[Box, ...]

    def record(self) -> dict[str, Any]:
        done: list[str] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom quotes values of the header
            try:
                for number, file in enumerate(self.files, start=1):
                    name = self.case if len(self.files) == 1 else f"{self.case}-{number:04d}"
                    done.append(
                        copy(Path(file), self.folder, Names(self.secret), self.patient, name, self.days, self.boxes)
                    )
            except Unreadable as error:
                for path in done:
                    (self.folder / path).unlink(missing_ok=True)
                return self.refused(error.cause, error.fix)
        return {"key": self.key, "copy": done}
