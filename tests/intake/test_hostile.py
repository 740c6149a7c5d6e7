"""Files that mean harm: nothing outside the folder is opened, nothing is unpacked without end, nothing runs; each has
its line.
"""

from __future__ import annotations

import csv
import io
import os
import pickle
import socket
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless
from test_readers import load, refused, write_dicom

from medgraft.errors import UserError
from medgraft.files import write_csv
from medgraft.intake import labels, npz, plan
from medgraft.intake.compose import write_rejects
from medgraft.intake.options import ScanOptions
from medgraft.intake.read import Limits, Reject, Unreadable
from medgraft.intake.scan import scan

SMALL = Limits(bytes=16 << 20)
LINKS = pytest.mark.skipif(os.name == "nt", reason="needs links, pipes and sockets in the file system")


def refused_small(path: Path) -> str:
    """The reason, with no more than 64 MiB of Python's memory on the way."""
    tracemalloc.start()
    try:
        return refused(path, SMALL)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 << 20


# ------------------------------------------------------------------------------------------ detached headers


def detached(folder: Path, suffix: str) -> Path:
    """A header and its voxels; a secret of the same size outside."""
    folder.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)), str(folder / f"v{suffix}"))
    (folder.parent / "secret.raw").write_bytes(b"\x07\0" * 24)
    return folder / f"v{suffix}"


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
@pytest.mark.parametrize(
    "name",
    [
        "../secret.raw",
        "{outside}/secret.raw",
        "/dev/zero",
        "/proc/self/environ",
        "LIST",
        "sub/v.raw",
        "v%03d.raw 1 3 1",
        "..",
        "",
        "v.mhd",
        "C:secret.raw",
    ],
)
def test_detached_headers_name_plain_neighbours_only(tmp_path: Path, suffix: str, name: str) -> None:
    header = detached(tmp_path / "in", suffix)
    (tmp_path / "in" / "sub").mkdir()
    text = header.read_text()
    (tmp_path / "in" / "sub" / "v.raw").write_bytes(b"\x07\0" * 24)
    header.write_text(text.replace("v.raw", name.format(outside=tmp_path)))
    assert "detached header" in refused(header) or "absent" in refused(header) or "names no file" in refused(header)


@pytest.mark.parametrize(
    "trick",
    [
        "ElementDataFile = ../secret.raw\nElementDataFile = v.raw",
        " ElementDataFile = ../secret.raw",
        "elementdatafile=../secret.raw",
    ],
)
def test_one_header_names_one_file(tmp_path: Path, trick: str) -> None:
    header = detached(tmp_path / "in", ".mhd")
    header.write_text(
        header.read_text().replace(
            "ElementDataFile = v.raw", trick + ("" if "\n" in trick else "\nElementDataFile = v.raw")
        )
    )
    assert refused(header)


@LINKS
@pytest.mark.parametrize("suffix", [".mhd", ".nhdr", ".hdr"])
@pytest.mark.parametrize("kind", ["link", "pipe", "absent", "folder"])
def test_voxels_are_a_file_and_no_link(tmp_path: Path, suffix: str, kind: str) -> None:
    header = detached(tmp_path / "in", suffix)
    voxels = tmp_path / "in" / ("v.img" if suffix == ".hdr" else "v.raw")
    voxels.unlink()
    if kind == "link":
        voxels.symlink_to(tmp_path / "secret.raw")
    elif kind == "pipe":
        os.mkfifo(voxels)
    elif kind == "folder":
        voxels.mkdir()
    assert "absent" in refused(header) if kind == "absent" else "not a plain file" in refused(header)


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr", ".hdr"])
def test_voxels_are_as_many_as_declared(tmp_path: Path, suffix: str) -> None:
    header = detached(tmp_path / "in", suffix)
    voxels = tmp_path / "in" / ("v.img" if suffix == ".hdr" else "v.raw")
    voxels.write_bytes(voxels.read_bytes()[:-10])
    assert refused(header) == "truncated: 10 of 48 bytes of voxels are missing"


# ------------------------------------------------------------------------------------------ playlists, pickles


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".ts", ".gif", ".mov"])
def test_playlists_that_pose_as_videos_are_not_followed(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "secret.png")
    secret = tmp_path / "secret.png"
    texts = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{secret}'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "dash": f'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{secret}</BaseURL></MPD>',
        "pattern": f"{tmp_path}/secret%d.png",
        "script": "<script>alert(1)</script>",
    }
    for name, text in texts.items():
        (source / f"{name}{suffix}").write_text(text)
    report = scan(source, ScanOptions(out=tmp_path / "out", patient="none"))
    assert report.cases == 0 and report.rejected == len(texts)
    assert set(report.reasons) == {"its content is no format that medgraft reads"}


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    np.save(tmp_path / "a.npy", np.array([Harm()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", train_images=np.array([Harm()], dtype=object))
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Harm()))
    assert "pickled" in refused(tmp_path / "a.npy")
    with pytest.raises(Unreadable, match="pickled"):
        npz.members(tmp_path / "a.npz")
    assert "not a format" in refused(tmp_path / "b.npy")
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------ bombs


def test_deflated_dicom_bombs(tmp_path: Path) -> None:
    data = write_dicom(tmp_path / "d.dcm", np.zeros((8, 8), np.uint8))
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.add_new(0x00091001, "OB", b"\0" * (40 << 20))
    data.save_as(tmp_path / "d.dcm")
    assert (tmp_path / "d.dcm").stat().st_size < 100_000
    assert "decompression bomb" in refused_small(tmp_path / "d.dcm")


def test_a_codestream_greater_than_its_header(tmp_path: Path) -> None:
    data = write_dicom(tmp_path / "j.dcm", np.zeros((32, 32), np.uint8))
    data.compress(JPEG2000Lossless, generate_instance_uid=False)
    frame = bytearray(next(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=1)))
    at = frame.index(b"\xff\x4f\xff\x51") + 8
    frame[at : at + 8] = struct.pack(">II", 60000, 60000)
    data.PixelData = encapsulate([bytes(frame)])
    data.save_as(tmp_path / "j.dcm")
    assert refused_small(tmp_path / "j.dcm") == "its compressed picture has 60000x60000 pixels, its header says 32x32"


@pytest.mark.timeout(60)
def test_jpeg_ls_that_never_ends(tmp_path: Path) -> None:
    """Cut within its data and without a last marker: CharLS would wait for ever."""
    data = write_dicom(tmp_path / "l.dcm", np.random.default_rng(0).integers(0, 4096, (48, 48), dtype=np.uint16))
    data.compress(JPEGLSLossless, generate_instance_uid=False)
    frame = next(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=1)).rstrip(b"\0")
    for cut in range(60, len(frame), 97):
        data.PixelData = encapsulate([frame[:cut]])
        data.save_as(tmp_path / "l.dcm")
        assert refused(tmp_path / "l.dcm") == "its compressed picture ends early: truncated"


def test_deeply_nested_sequences(tmp_path: Path) -> None:
    data = write_dicom(tmp_path / "n.dcm", np.zeros((8, 8), np.uint8))
    data.save_as(tmp_path / "n.dcm")
    whole = (tmp_path / "n.dcm").read_bytes()
    opening = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    at = (
        whole.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OB"))
        if b"OB" in whole
        else whole.index(struct.pack("<HH", 0x7FE0, 0x0010))
    )
    (tmp_path / "n.dcm").write_bytes(whole[:at] + opening * 20_000 + whole[at:])
    assert refused_small(tmp_path / "n.dcm")


def test_archives_that_unfold(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "rows.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 28, 28)})
        archive.writestr("train_images.npy", header.getvalue() + b"\0" * (1 << 20))
    with pytest.raises(Unreadable, match="more than the archive holds"):
        npz.members(tmp_path / "rows.npz")
    with zipfile.ZipFile(tmp_path / "head.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30) + b" " * (64 << 20))
    tracemalloc.start()
    with pytest.raises(Unreadable, match="damaged"):
        npz.members(tmp_path / "head.npz")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    with (
        zipfile.ZipFile(tmp_path / "many.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("train_images.npy", "w") as stream,
    ):
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "|u1", "fortran_order": False, "shape": (6_000_000, 1, 1)}
        )
        stream.write(b"\0" * 6_000_000)
    with pytest.raises(Unreadable, match="rows"):
        npz.members(tmp_path / "many.npz")
    report = scan(tmp_path, ScanOptions(out=tmp_path / "out", patient="none"))
    assert report.cases == 0 and report.rejected == 3


def test_pictures_and_volumes_that_unfold(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(stream, "PNG")
    data = stream.getvalue()
    chunk = b"zTXt" + b"k\0\0" + zlib.compress(b"\0" * (60 << 20))
    text = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "text.png").write_bytes(data[:33] + text + data[33:])
    assert refused_small(tmp_path / "text.png")
    rows = zlib.compress(b"\0" * (60 << 20))
    pixels = b"IDAT" + rows
    (tmp_path / "rows.png").write_bytes(
        data[:33] + struct.pack(">I", len(rows)) + pixels + struct.pack(">I", zlib.crc32(pixels)) + data[-12:]
    )
    tracemalloc.start()
    array, _ = load(tmp_path / "rows.png", SMALL)  # what is more than the declared rows is never unpacked
    assert array.shape == (1, 1, 8, 8) and tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    zipped = b"ElementType = MET_UCHAR\nCompressedData = True\nElementDataFile = LOCAL\n"
    for name, header in {
        "a.mha": b"ObjectType = Image\nNDims = 3\nDimSize = 4000 4000 4000\n" + zipped,
        "b.mha": b"ObjectType = Image\nNDims = 3\nDimSize = 200 200 200\n" + zipped,
        "a.nrrd": b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4000 4000 4000\nencoding: gzip\n\n",
        "b.nrrd": b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 200 200 200\nencoding: gzip\n\n",
    }.items():
        (tmp_path / name).write_bytes(header + zlib.compress(b"\0" * 100))
        assert ("more than 16 MiB" if name.startswith("a") else "bytes of voxels are missing") in refused_small(
            tmp_path / name
        )


# ------------------------------------------------------------------------------------------ links, pipes, devices


@LINKS
def test_links_pipes_and_circles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, outside = tmp_path / "in", tmp_path / "outside"
    (source / "sub").mkdir(parents=True)
    outside.mkdir()
    for folder in (source, outside):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "a.png")
    (source / "self.png").symlink_to(source / "self.png")
    (source / "ping.png").symlink_to(source / "pong.png")
    (source / "pong.png").symlink_to(source / "ping.png")
    (source / "gone.png").symlink_to(source / "absent.png")
    (source / "out.png").symlink_to(outside / "a.png")
    (source / "away").symlink_to(outside)
    (source / "sub" / "up").symlink_to(source)
    (source / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(source / "pipe.png")
    monkeypatch.chdir(source)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.png")
        files, rejects = plan.walk(source, set(), False)
        assert files == ["a.png"]
        circle, device = "a link that leads nowhere or in a circle", "a pipe or a device, not a file"
        leaves = "a link that leaves the source folder"
        assert {r.source: r.reason for r in rejects} == {
            **dict.fromkeys(("self.png", "ping.png", "pong.png", "gone.png"), circle),
            **dict.fromkeys(("pipe.png", "s.png"), device),
            **dict.fromkeys(("out.png", "zero.png"), leaves),
        }
        files, rejects = plan.walk(source, set(), True)
        assert files == ["a.png", "away/a.png", "out.png"]
        assert {r.source: r.reason for r in rejects}["zero.png"] == device
    report = scan(source, ScanOptions(out=tmp_path / "out", patient="none", follow_links=True))
    assert report.cases == 3


# ------------------------------------------------------------------------------------------ tables of strangers

FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", " =1", "\uff1d1"]


@pytest.mark.parametrize("formula", FORMULAS)
def test_spreadsheets_run_nothing(tmp_path: Path, formula: str) -> None:
    write_rejects([Reject(formula, formula, formula)], tmp_path / "rejects.csv")
    frame = pl.DataFrame({"id": [formula, "plain"], formula: [1.5, -2.0]})
    write_csv(frame, tmp_path / "leaderboard.csv")
    for name in ("rejects.csv", "leaderboard.csv"):
        with open(tmp_path / name, encoding="utf-8", newline="") as stream:
            cells = [cell for row in csv.reader(stream) for cell in row]
        assert not any(c.lstrip().startswith(("=", "+", "@", "\uff1d")) or c.startswith("-1+") for c in cells)
    assert pl.read_csv(tmp_path / "leaderboard.csv").to_series(1).to_list() == [1.5, -2.0]


def workbook(path: Path, sheet: bytes) -> Path:
    """A workbook whose first sheet holds these rows."""
    import openpyxl

    stream = io.BytesIO()
    openpyxl.Workbook().save(stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            text = old.read(name)
            if name == "xl/worksheets/sheet1.xml":
                start = text.index(b"<sheetData")
                text = text[:start] + b"<sheetData>" + sheet + b"</sheetData></worksheet>"
            new.writestr(name, text)
    return path


def test_workbooks_that_unfold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "_MOST_WORKBOOK", 4 << 20)
    cell = b'<c r="%s" t="inlineStr"><is><t>%s</t></is></c>'
    sound = workbook(
        tmp_path / "sound.xlsx",
        b'<row r="1">' + cell % (b"A1", b"id") + b'</row><row r="2">' + cell % (b"A2", b"7") + b"</row>",
    )
    assert labels.read_table(sound).to_dicts() == [{"id": "7"}]
    corners = (
        b'<row r="1">' + cell % (b"A1", b"x") + b'</row><row r="1048576">' + cell % (b"XFD1048576", b"x") + b"</row>"
    )
    for path in (workbook(tmp_path / "corners.xlsx", corners), workbook(tmp_path / "zip.xlsx", b" " * (5 << 20))):
        assert path.stat().st_size < 1 << 20
        with pytest.raises(UserError, match="decompression bomb"):
            labels.read_table(path)


def test_tables_with_absurdly_many_columns(tmp_path: Path) -> None:
    (tmp_path / "wide.csv").write_text(",".join(f"c{n}" for n in range(1_000_000)) + "\n1\n")
    with pytest.raises(UserError, match="columns"):
        labels.read_table(tmp_path / "wide.csv")
    (tmp_path / "long.csv").write_text("a,b\n" + "x" * (8 << 20) + ",1\n")
    assert labels.read_table(tmp_path / "long.csv").height == 1


def test_a_label_of_html_and_formulas_through_a_scan(tmp_path: Path) -> None:
    """Labels are text all the way: stored as given, neutral where a program would run them."""
    source = tmp_path / "in"
    source.mkdir()
    rows = []
    for n in range(4):
        Image.fromarray(np.full((4, 4), n, np.uint8)).save(source / f"{n}.png")
        rows.append({"file": f"{n}.png", "label": "<script>alert(1)</script>" if n % 2 else "=1+1"})
    rows.append({"file": "=HYPERLINK(1).png", "label": "=1+1"})
    pl.DataFrame(rows).write_csv(source / "labels.csv")
    report = scan(source, ScanOptions(out=tmp_path / "out", labels="labels.csv", patient="none", identity="keep"))
    assert report.classes == {"label": {"<script>alert(1)</script>": 2, "=1+1": 2}}
    text = (tmp_path / "out" / "rejects.csv").read_text()
    assert "\n'=HYPERLINK(1).png," in text


def test_odd_values_of_headers_are_not_believed(tmp_path: Path) -> None:
    for name, tags in {
        "zero": {"Rows": 0},
        "wide": {"Rows": 65535, "Columns": 65535},
        "samples": {"SamplesPerPixel": 4},
        "interpretation": {"PhotometricInterpretation": "HSV", "SamplesPerPixel": 3, "PlanarConfiguration": 0},
    }.items():
        data: Dataset = write_dicom(tmp_path / f"{name}.dcm", np.zeros((8, 8), np.uint8))
        for tag, value in tags.items():
            setattr(data, tag, value)
        data.save_as(tmp_path / f"{name}.dcm")
        assert refused_small(tmp_path / f"{name}.dcm")
