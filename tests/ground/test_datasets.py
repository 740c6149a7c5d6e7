"""Data sets as things: boxes in one convention, which of them are findings, and old and new schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory import make_dataset
from medgraft import tables
from medgraft.datasets import FORMAT, Box, drawn_boxes, load_dataset
from medgraft.errors import UserError
from medgraft.files import read_json, write_json

SIDES = st.floats(0, 10_000).map(lambda v: round(v, 6))


@given(SIDES, SIDES, SIDES, SIDES)
def test_a_box_goes_back_to_corner_and_sides(x: float, y: float, width: float, height: float) -> None:
    """What a label table said is what the annotations say, to the last digit."""
    assert Box.from_xywh(x, y, width, height).xywh() == (x, y, width, height)


def annotations(*rows: tuple[str, int, str, str, str | None]) -> pl.DataFrame:
    """Rows of (case, frame, kind, author, what), each around another place."""
    return pl.DataFrame(
        [
            (case, frame, kind, json.dumps({"x": n, "y": 0, "width": 2, "height": 3}), author, what, None)
            for n, (case, frame, kind, author, what) in enumerate(rows)
        ],
        schema=tables.SCHEMAS["annotations"],
        orient="row",
    )


def test_only_boxes_around_findings_count_as_drawn(tmp_path: Path) -> None:
    table = annotations(
        ("a", 0, "box", "labels", "finding"),
        ("a", 0, "box", "reader", "clock"),
        ("a", 0, "box", "reader", None),
        ("a", 0, "point", "reader", "finding"),
        ("b", 3, "box", "reader", "finding"),
        ("b", 0, "box", "header", "region"),
        ("c", 0, "box", "header", None),
        ("d", 0, "box", "header", "finding"),
    )
    tables.write(table, tmp_path / "annotations.parquet", "annotations")
    assert drawn_boxes(tmp_path) == {"a": [Box(0, 0, 3, 2), Box(0, 2, 3, 4)], "d": [Box(0, 7, 3, 9)]}


def test_older_annotations_are_findings_unless_a_header_made_them(tmp_path: Path) -> None:
    old = annotations(("a", 0, "box", "labels", None), ("b", 0, "box", "header", None)).drop("what", "time_s")
    old.write_parquet(tmp_path / "annotations.parquet")
    assert drawn_boxes(tmp_path) == {"a": [Box(0, 0, 3, 2)]}
    assert tables.read(tmp_path / "annotations.parquet", "annotations")["what"].to_list() == [None, None]


# ------------------------------------------------------------------------------------------ older and newer data sets


@pytest.mark.parametrize("number", [None, 1, FORMAT])
def test_data_sets_of_this_and_older_schemas_are_read(tmp_path: Path, number: int | None) -> None:
    root = make_dataset(tmp_path, "image", cases=4, patients=2).root
    info = {k: v for k, v in read_json(root / "dataset.json").items() if k != "format"}
    write_json(root / "dataset.json", info if number is None else {**info, "format": number})
    manifest = pl.read_parquet(root / "manifest.parquet")
    manifest.drop("day", "region", "pixel_text", strict=False).write_parquet(root / "manifest.parquet")
    dataset = load_dataset(root)
    assert dataset.manifest.height == 4 and dataset.manifest["pixel_text"].null_count() == 4


@pytest.mark.parametrize("number", [FORMAT + 1, 0, "2", 1.5, True, None, []])
def test_a_schema_that_this_version_does_not_know_is_one_line(tmp_path: Path, number: Any) -> None:
    write_json(tmp_path / "dataset.json", {"format": number, "name": "from the future"})
    with pytest.raises(UserError, match="this version reads 1 to") as caught:
        load_dataset(tmp_path)
    assert "\n" not in str(caught.value) and caught.value.case == str(tmp_path) and "update" in str(caught.value.fix)


def test_a_table_that_lacks_what_is_needed_is_one_line(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, "image", cases=4, patients=2).root
    pl.read_parquet(root / "manifest.parquet").drop("array_id").write_parquet(root / "manifest.parquet")
    with pytest.raises(UserError, match="lacks") as caught:
        load_dataset(root)
    assert "\n" not in str(caught.value)
    write_json(root / "dataset.json", ["no", "data set"])
    with pytest.raises(UserError, match="not that of a data set"):
        load_dataset(root)
