"""Text burnt into pixels: real ultrasound screens, rendered ones, and the pass within a scan."""

from __future__ import annotations

import csv
import json
import stat
from pathlib import Path

import av
import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageDraw, ImageFont

from medgraft import store, tables
from medgraft.datasets import load_dataset
from medgraft.errors import UserError
from medgraft.intake.options import ScanOptions
from medgraft.intake.private import ocr, text
from medgraft.intake.scan import scan


def written(
    words: dict[tuple[int, int], str], shape: tuple[int, int] = (240, 320), size: int = 18, seed: int = 0
) -> np.ndarray:
    """A grey picture with speckle in its middle and words at (x, y)."""
    pixels = np.zeros(shape, np.uint8)
    height, width = shape
    inner = np.random.default_rng(seed).gamma(2.0, 20.0, (height // 2, width // 2)).clip(0, 200).astype(np.uint8)
    pixels[height // 4 : height // 4 + height // 2, width // 4 : width // 4 + width // 2] = inner
    picture = Image.fromarray(pixels)
    pen = ImageDraw.Draw(picture)
    for place, word in words.items():
        pen.text(place, word, fill=235, font=ImageFont.load_default(size=size))
    return np.asarray(picture)


def truth(folder: Path) -> list[dict[str, str]]:
    with open(folder / "truth.csv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


# ------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_all_three_real_clocks_are_read_from_their_crops(shared_data: Path, mode: str) -> None:
    folder = shared_data / "us_burnt_in_text"
    read = {}
    for row in truth(folder):
        pixels = np.asarray(Image.open(folder / row["path"]).convert(mode))
        left, top, right, bottom = (int(row[f"box_{k}"]) for k in ("x0", "y0", "x1", "y1"))
        clock = ocr.read_clock(pixels[top:bottom, left:right])
        assert clock is not None and (clock.text, clock.kind) == (row["clock"], row["clock_kind"])
        read[row["patient"]] = clock.seconds
    assert read == {"aloka": 11 * 3600 + 24 * 60 + 20, "philips": 14 * 3600 + 56 * 60 + 22, "ge": 2 * 3600 + 9 * 60 + 4}


def test_real_screens_give_their_clock_and_what_may_name_someone(shared_data: Path) -> None:
    folder = shared_data / "us_burnt_in_text"
    naming = {
        "aloka": {"WESTWAY", "24-MAY-02"},
        "philips": {"5/25/2011", "11-05-25-142825"},
        "ge": {"BAPTIST", "630P630", "44CG43"},
    }
    for row in truth(folder):
        found = ocr.read_frame(np.asarray(Image.open(folder / row["path"]).convert("L")))
        clocks = [f for f in found if f.kind == "clock"]
        parsed = ocr.parse_clock(clocks[0].text)
        assert len(clocks) == 1 and parsed is not None and parsed.text == row["clock"]
        across, down = (int(row["box_x0"]) + int(row["box_x1"])) / 2, (int(row["box_y0"]) + int(row["box_y1"])) / 2
        assert clocks[0].top <= down <= clocks[0].bottom and clocks[0].left <= across <= clocks[0].right
        flagged = " ".join(f.text for f in found if f.kind in text.NAMING)
        assert all(word in flagged for word in naming[row["patient"]]), flagged


def test_a_real_screen_loses_its_names_and_keeps_its_clock(shared_data: Path, tmp_path: Path) -> None:
    row = truth(shared_data / "us_burnt_in_text")[0]  # the date stands directly above the clock
    pixels = np.asarray(Image.open(shared_data / "us_burnt_in_text" / row["path"]).convert("L"))
    array = store.write_array(tmp_path, pixels[None, None]).array_id
    job = text.TextJob("key", tmp_path, array, "image", (0.0, 255.0), text.NAMING)
    answer = job.record()
    assert answer["text"]["state"] == "blacked"
    left = ocr.read_frame(np.asarray(store.open_array(tmp_path, answer["text"]["array_id"]))[0, 0])
    assert not {"name", "id", "date"} & {f.kind for f in left}
    clock = ocr.parse_clock(next(f.text for f in left if f.kind == "clock"))
    assert clock is not None and clock.text == row["clock"]


def test_a_screen_without_a_clock_gives_none() -> None:
    import pydicom
    from pydicom.data import get_testdata_file

    frame = pydicom.dcmread(str(get_testdata_file("examples_ybr_color.dcm"))).pixel_array[0]
    found = ocr.read_frame(frame)
    assert {"MI", "0.9", "TIS", "0.7"} <= set(" ".join(f.text for f in found).split())
    assert not [f for f in found if f.kind == "clock"]
    top = min(f.top for f in found if f.text == "MI")
    assert ocr.read_clock(frame[top - 2 : top + 14, 280:320]) is None


@pytest.mark.parametrize("clock", ["00:12", "11:24:20", "+0:01:37", "9:05:59 AM"])
@pytest.mark.parametrize(("ink", "paper"), [(235, 0), (120, 60), (10, 200)])
def test_rendered_clocks_of_low_contrast_and_dark_on_bright(clock: str, ink: int, paper: int) -> None:
    picture = Image.new("L", (150, 26), paper)
    ImageDraw.Draw(picture).text((4, 3), clock, fill=ink, font=ImageFont.load_default(size=17))
    found = ocr.read_clock(np.asarray(picture))
    assert found is not None and found.text == clock


@pytest.mark.parametrize(
    ("said", "seconds", "kind"),
    [
        ("11:24:20", 41060, "time of day 24h"),
        (":M 11:24:20", 41060, "time of day 24h"),
        ("2:56:22 PM", 53782, "time of day 12h"),
        ("12:00:01 a.m.", 1, "time of day 12h"),
        ("+2:09:04", 7744, "elapsed timer"),
        ("00:12", 12, "elapsed timer"),
        ("1:23:45.5", 5025.5, "time of day 24h"),
        ("1:23 and 1:24", None, ""),
        ("25:00:00", None, ""),
        ("12:60", None, ""),
        ("3:PELVIS", None, ""),
        ("13:05:00 PM", None, ""),
    ],
)
def test_what_a_clock_means(said: str, seconds: float | None, kind: str) -> None:
    clock = ocr.parse_clock(said)
    assert (
        (clock is None) if seconds is None else (clock is not None and (clock.seconds, clock.kind) == (seconds, kind))
    )


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        *[(t, "word") for t in ("MI 0.9", "1.06 cm", "R", "TIS<0.4 MI=0.8 AO=100%", "CINE 0118")],
        *[(t, "name") for t in ("DOE^JOHN", "MRN 4711", "张伟", "*WESTWAY MEDICAL*", "JOHN 11:24:20")],
        *[(t, "date") for t in ("24-MAY-02", "19700131", "5/25/2011")],
        *[(t, "id") for t in ("630P630", "555 123 4567")],
        ("20Hz", "number"),
        ("11:24:20", "clock"),
    ],
)
def test_text_is_identity_until_proven_otherwise(said: str, kind: str) -> None:
    assert ocr.kind_of(said) == kind


# ------------------------------------------------------------------------------------------ the pass within a scan


def cine(path: Path, frames: list[np.ndarray]) -> Path:
    """A lossless AVI: what is drawn is what is decoded."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape, "gray"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())
    return path


def test_text_is_listed_without_words_and_blacked_out_on_request(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    plain = {(5, 5): "MI 0.9", (220, 5): "00:12"}
    once = {**plain, (5, 212): "ZEBEDEE"}  # in one frame that is neither first, nor middle, nor last
    cine(source / "a.avi", [written(once if n == 3 else plain, seed=n) for n in range(5)])
    Image.fromarray(written({(5, 5): "MI 0.9"})).save(source / "b.png")
    Image.fromarray(written({}, shape=(60, 60))).save(source / "c.png")

    report = scan(source, ScanOptions(out=tmp_path / "data", patient="none"))
    assert any("3 cases were not searched" in n for n in report.notes)
    options = {"out": tmp_path / "data", "patient": "none", "workers": 1}
    scan(source, ScanOptions(**options, text="list"))
    files = {
        Path(f[0]).stem: case
        for case, f in json.loads((tmp_path / ".medgraft-sources-data.json").read_text())["cases"].items()
    }

    def rows() -> dict[str, dict]:
        found = {r["case_id"]: r for r in load_dataset(tmp_path / "data").manifest.iter_rows(named=True)}
        return {stem: found[case] for stem, case in files.items()}

    listed = rows()
    assert {k: r["pixel_text"] for k, r in listed.items()} == {"a": "found", "b": "clear", "c": "clear"}
    boxes = tables.read(tmp_path / "data" / "text.parquet", "text").filter(
        pl.col("array_id") == listed["a"]["array_id"]
    )
    assert set(boxes["kind"]) == {"word", "clock", "name"} and not boxes["blacked"].any()
    name = boxes.filter(pl.col("kind") == "name").row(0, named=True)
    assert name["frame"] == text.OVERLAID and 205 <= name["top"] < 220 and name["left"] < 10
    private = tmp_path / ".medgraft-text-data.jsonl"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600 and "ZEBEDEE" in private.read_text(encoding="utf-8")
    assert not [
        p for p in (tmp_path / "data").rglob("*") if p.is_file() and p.suffix != ".npy" and b"ZEBEDEE" in p.read_bytes()
    ]

    before = np.array(store.open_array(tmp_path / "data", listed["a"]["array_id"]))
    report = scan(source, ScanOptions(**options, text="black"))
    blacked = rows()
    assert report.new == 0 and {k: r["pixel_text"] for k, r in blacked.items()} == {
        "a": "blacked",
        "b": "clear",
        "c": "clear",
    }
    assert not store.path_of(
        tmp_path / "data", listed["a"]["array_id"]
    ).exists()  # the original may not stay in the data set
    after = np.array(store.open_array(tmp_path / "data", blacked["a"]["array_id"]))
    assert not [f for f in text.find(after, "video", (0.0, 255.0)) if f.kind in text.NAMING]
    changed = np.argwhere((before != after).any(axis=(0, 1)))
    assert (
        changed.size and changed.min(axis=0)[0] > 190 and changed.max(axis=0)[1] < 130
    )  # the clock and MI 0.9 still stand
    report = scan(source, ScanOptions(**options, text="black"))
    assert report.new == 0 and rows() == blacked

    (source / "a.avi").unlink()
    files.pop("a")
    scan(source, ScanOptions(**options, text="black_all"))
    assert np.array(store.open_array(tmp_path / "data", rows()["b"]["array_id"]))[..., :40, :].max() == 0


def test_copies_need_a_search_of_the_pixels(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(written({})).save(tmp_path / "in" / "a.png")
    for options, says in (({}, "not searched"), ({"text": "list", "identity": "keep"}, "exclude each other")):
        with pytest.raises(UserError, match=says):
            scan(
                tmp_path / "in",
                ScanOptions(out=tmp_path / "data", patient="none", deidentified=tmp_path / "copies", **options),
            )
