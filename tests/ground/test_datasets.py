"""Data sets as things: boxes in one convention, and which of them are findings."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from medgraft import tables
from medgraft.datasets import Box, drawn_boxes

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
