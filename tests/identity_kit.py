"""Studies with planted identity, and a search for it in every byte that was written.

``plant`` writes studies of every format with names where real ones carry them: headers, nested sequences, private
tags, overlays, folder and file names, label tables, picture and video metadata, pixels, and files that are broken.
``leaks`` looks through files for any planted string, plain or lower-cased, as UTF-16, in base64, in decoded tables
and in archives.
"""

from __future__ import annotations

import base64
import contextlib
import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import polars as pl
import pydicom
import SimpleITK as sitk
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

#: What is planted. Each is long and odd enough that no output holds it by chance.
PLANTED = {
    "family name": "Quillfeather",
    "given name": "Zebulon",
    "patient id": "MRN8675309",
    "birth date": "19470313",
    "study date": "20190627",
    "institution": "Saint-Mungo-Infirmary",
    "address": "Purvis Lane 77",
    "physician": "Thistlethwaite",
    "operator": "Oxnardson",
    "serial": "SN-44AA17ZX",
    "accession": "ACC5551234",
    "station": "USROOMWEST9",
    "comment": "fell off a penny-farthing",
    "private": "GrandmasterKey",
    "overlay": "OverlayOfWimbledon",
    "uid": "1.2.826.0.1.3680043.8.498.10203040506070809",
    "title": "BirthdayRecording",
    "folder": "Quillfeather_Zebulon_MRN8675309",
}
BURNT = "QUILLFEATHER"


def picture(number: int, label: int, name: str = "", shape: tuple[int, int] = (120, 160)) -> np.ndarray:
    """Speckle with a disc whose size carries the label, and a burnt-in name."""
    rng = np.random.default_rng(number)
    pixels = rng.gamma(2.0, 15.0, shape).clip(0, 120).astype(np.uint8)
    pixels[:24] = 0
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    pixels[(rows - 75) ** 2 + (columns - 80) ** 2 < (12 + 16 * label) ** 2] = 220
    image = Image.fromarray(pixels)
    if name:
        ImageDraw.Draw(image).text((4, 3), name, fill=240, font=ImageFont.load_default(size=15))
    return np.asarray(image)


def dicom(path: Path, pixels: np.ndarray, number: int, **more: Any) -> Path:
    """A single-frame ultrasound picture with identity wherever a header can hold it."""
    p = PLANTED
    d = Dataset()
    d.SpecificCharacterSet = "ISO_IR 192"
    d.SOPClassUID, d.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.6.1", f"{p['uid']}.3.{number}"
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = f"{p['uid']}.1", f"{p['uid']}.2", f"{p['uid']}.4"
    d.PatientName, d.PatientID = f"{p['family name']}^{p['given name']}", f"{p['patient id']}-{number // 2}"
    d.PatientBirthDate, d.PatientSex, d.PatientAge = p["birth date"], "M", "072Y"
    d.OtherPatientIDs, d.PatientAddress, d.PatientComments = p["patient id"], p["address"], p["comment"]
    d.StudyDate = d.SeriesDate = d.AcquisitionDate = d.ContentDate = p["study date"]
    d.StudyTime = d.ContentTime = "101112"
    d.AcquisitionDateTime = p["study date"] + "101112.50"
    d.InstitutionName, d.InstitutionAddress, d.StationName = p["institution"], p["address"], p["station"]
    d.ReferringPhysicianName, d.OperatorsName, d.PerformingPhysicianName = (
        f"{p['physician']}^A",
        p["operator"],
        p["physician"],
    )
    d.Manufacturer, d.ManufacturerModelName, d.DeviceSerialNumber = "Maker", "Model 5", p["serial"]
    d.AccessionNumber, d.StudyID = p["accession"], p["accession"]
    d.StudyDescription = d.SeriesDescription = d.ProtocolName = f"{p['comment']} {p['family name']}"
    d.ImageComments, d.AdditionalPatientHistory = f"{p['comment']}, {p['given name']}", p["comment"]
    d.AcquisitionDeviceProcessingDescription = f"for {p['family name']}"  # the profile does not name this element
    nested = Dataset()
    nested.CodeValue, nested.CodingSchemeDesignator, nested.CodeMeaning = "T-A", "SRT", f"Liver of {p['family name']}"
    nested.PersonName, nested.ReferencedSOPInstanceUID = p["physician"], f"{p['uid']}.9"
    nested.add_new(0x00090010, "LO", "ACME")
    nested.add_new(0x00091001, "LO", p["private"])
    d.AnatomicRegionSequence = Sequence([nested])
    request = Dataset()
    request.ScheduledProcedureStepDescription, request.RequestedProcedureID = p["comment"], p["accession"]
    d.RequestAttributesSequence = Sequence([request])
    d.add_new(0x00090010, "LO", "ACME")
    d.add_new(0x00091001, "LT", f"{p['private']} {p['family name']}")
    d.add_new(0x00091002, "UN", p["private"].encode() + b"\0")
    d.add_new(0x60000010, "US", 8)
    d.add_new(0x60000011, "US", 8)
    d.add_new(0x60000022, "LO", p["overlay"])
    d.add_new(0x60003000, "OW", p["overlay"].encode())
    d.add_new(0x60004000, "LT", p["overlay"])
    d.Rows, d.Columns = pixels.shape[:2]
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated = d.BitsStored = 8
    d.HighBit, d.PixelRepresentation = 7, 0
    d.Modality, d.PixelData = "US", pixels.tobytes()
    for key, value in more.items():
        setattr(d, key, value)
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID, d.file_meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
    d.file_meta.SourceApplicationEntityTitle = p["station"]
    d.preamble = p["family name"].encode().ljust(128, b"\0")
    path.parent.mkdir(parents=True, exist_ok=True)
    d.save_as(path, enforce_file_format=True)
    return path


def jpeg_dicom(path: Path, pixels: np.ndarray, number: int) -> Path:
    """The same, its pixels a JPEG whose comment holds the name."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95, comment=PLANTED["family name"].encode())
    dicom(path, pixels, number)
    d = pydicom.dcmread(path)
    d.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    d.PixelData = pydicom.encaps.encapsulate([stream.getvalue()])
    d["PixelData"].is_undefined_length = True
    d.save_as(path, enforce_file_format=True)
    return path


def plant(root: Path, *, burnt: bool) -> tuple[Path, Path]:
    """Two sources below ``root``: ``pictures`` (16 of 8 patients, with a label table) and ``others`` (every other
    format, and broken files).
    """
    p = PLANTED
    pictures, others = root / "pictures", root / "others"
    rows = []
    for n in range(16):
        label = (n // 2) % 2
        pixels = picture(n, label, BURNT if burnt and n < 4 else "")
        name = f"{p['folder']}/{p['family name']}_{p['patient id']}_{n:02d}"
        path = pictures / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if n % 3 == 0:
            dicom(path.with_suffix(".dcm"), pixels, n)
        elif n % 3 == 1:
            info = PngImagePlugin.PngInfo()
            info.add_text("Author", p["physician"])
            info.add_itxt("Comment", p["comment"])
            exif = Image.Exif()
            exif[0x013B] = p["operator"]
            Image.fromarray(pixels).save(path.with_suffix(".png"), pnginfo=info, exif=exif)
        else:
            exif = Image.Exif()
            exif[0x010E], exif[0x013B] = p["comment"], p["operator"]
            Image.fromarray(pixels).save(path.with_suffix(".jpg"), quality=95, exif=exif, comment=p["title"])
        suffix = (".dcm", ".png", ".jpg")[n % 3]
        rows.append(
            {
                "file": name + suffix,
                "patient": f"{p['family name']}^{n // 2}",
                "finding": f"class{label}",
                "clinic": p["institution"],
            }
        )
    rows += [
        {
            "file": f"{p['patient id']}_absent.png",
            "patient": p["given name"],
            "finding": "class0",
            "clinic": p["institution"],
        },
        {"file": rows[0]["file"], "patient": p["operator"], "finding": "class0", "clinic": p["institution"]},
        {"file": f"../{p['folder']}.png", "patient": p["given name"], "finding": "class1", "clinic": p["institution"]},
    ]
    pl.DataFrame(rows).write_csv(pictures / "labels.csv")
    (pictures / p["folder"] / f"{p['given name']}.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    (pictures / p["folder"] / f"{p['operator']}_unlabelled.png").write_bytes((pictures / rows[1]["file"]).read_bytes())

    folder = others / p["folder"]
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    frames = [picture(40 + n, 1, BURNT if burnt else "") for n in range(5)]
    for suffix, codec, pixel in ((".avi", "mjpeg", "yuvj420p"), (".mp4", "mpeg4", "yuv420p"), (".mkv", "ffv1", "gray")):
        path = folder / f"{p['given name']}{suffix}"
        with av.open(str(path), "w") as container:
            container.metadata.update({"title": p["title"], "comment": p["comment"], "artist": p["physician"]})
            stream = container.add_stream(codec, rate=10)
            stream.height, stream.width, stream.pix_fmt = 120, 160, pixel
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
            container.mux(stream.encode())
        assert p["title"].encode() in path.read_bytes()
    volume = sitk.GetImageFromArray(rng.integers(0, 500, (4, 20, 24)).astype(np.int16))
    for key in ("descrip", "aux_file", "intent_name", "PatientName"):
        volume.SetMetaData(key, p["family name"])
    for suffix in (".nii.gz", ".mha", ".nrrd"):
        sitk.WriteImage(volume, str(folder / f"{p['patient id']}{suffix}"))
    for n in range(3):
        dicom(folder / f"CT_{p['accession']}_{n}.dcm", picture(60, 0)[:32, :32].copy(), n, Modality="CT", **_place(n))
    multi = np.stack([picture(70 + n, 0) for n in range(4)])
    dicom(folder / f"cine_{p['serial']}.dcm", multi[0], 9, NumberOfFrames=4, PixelData=multi.tobytes(), FrameTime=40.0)
    jpeg_dicom(folder / f"jpeg_{p['serial']}.dcm", picture(75, 0), 11)

    broken = others / f"broken {p['operator']}"
    broken.mkdir()
    for path in [*sorted(folder.iterdir()), pictures / rows[0]["file"], pictures / rows[2]["file"]]:
        data = path.read_bytes()
        (broken / f"{p['given name']}_{path.name}").write_bytes(data[: len(data) * 2 // 3])
    (broken / f"{p['family name']}.png").write_bytes(b"")
    (broken / f"{p['family name']}.dcm").write_bytes(f"{p['given name']} {p['patient id']}".encode())
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "DimSize = 2 2 2",
        "ElementType = MET_UCHAR",
        f"Comment = {p['comment']}",
    ]
    (broken / f"{p['family name']}.mhd").write_text(
        "\n".join([*lines, f"ElementDataFile = {p['family name']}.raw", ""])
    )
    odd = dicom(broken / f"{p['accession']}_odd.dcm", picture(80, 0), 12)
    d = pydicom.dcmread(odd)
    d.add_new(0x00280008, "IS", "3")
    d.PixelSpacing = None
    d["Rows"].value = 9999
    d.save_as(odd)
    return pictures, others


def _place(number: int) -> dict[str, Any]:
    return {
        "ImagePositionPatient": [0.0, 0.0, 2.0 * number],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [1.0, 1.0],
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }


# ------------------------------------------------------------------------------------------ the search


def _forms(word: str) -> list[bytes]:
    """How a string may stand in bytes; plain and UTF-16 ones are looked for in lower case."""
    found = [word.lower().encode(), word.lower().encode("utf-16-le"), word.lower().encode("utf-16-be")]
    return list(dict.fromkeys(found))


def _base64(word: str) -> list[bytes]:
    """The middle of the base64 of a string at each of the three offsets."""
    found = []
    for spelled in {word, word.upper(), word.lower()}:
        for offset in range(3):
            text = base64.b64encode(b"\0" * offset + spelled.encode())
            found.append(text[(4 if offset else 0) : -4])
    return [f for f in found if len(f) > 6]


_PLAIN = [(what, form) for what, word in PLANTED.items() for form in _forms(word)]
_CODED = [(what, form) for what, word in PLANTED.items() for form in _base64(word)]


def in_bytes(data: bytes, *, encoded: bool = True) -> set[str]:
    """Which planted strings stand in bytes."""
    lower = data.lower()
    found = {what for what, form in _PLAIN if form in lower}
    return found | ({what for what, form in _CODED if form in data} if encoded else set())


def _parts(path: Path) -> Iterator[tuple[str, bytes]]:
    """The bytes of a file, and what is packed inside: tables, archives, pictures within pages, values of DICOM
    elements.
    """
    data = path.read_bytes()
    yield "", data
    if path.suffix == ".parquet":
        yield "rows", str(pl.read_parquet(path).to_dicts()).encode()
    elif path.suffix in (".html", ".svg"):
        for part in re.findall(r"base64,([A-Za-z0-9+/=]+)", data.decode("utf-8", "replace")):
            yield "data URI", base64.b64decode(part)
    elif path.suffix == ".dcm":
        with contextlib.suppress(Exception):  # broken on purpose: its bytes were searched
            yield "elements", str(pydicom.dcmread(path, force=True)).encode()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name, name.encode() + archive.read(name)


def leaks(*roots: Path, private: str = ".medgraft-") -> list[str]:
    """A line for every planted string in names and contents of files below ``roots``; of files for the owner alone only
    the rights are checked.
    """
    found = []
    for root in roots:
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            if path.name.startswith(private):
                assert path.stat().st_mode & 0o077 == 0, path
                continue
            found += [
                f"{path.relative_to(root)}: name holds {w}" for w in in_bytes(str(path.relative_to(root)).encode())
            ]
            for part, data in _parts(path):
                found += [f"{path.relative_to(root)} {part}: {w}" for w in in_bytes(data)]
    return found
