"""Data sets as things: boxes in one convention."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from medgraft.datasets import Box

SIDES = st.floats(0, 10_000).map(lambda v: round(v, 6))


@given(SIDES, SIDES, SIDES, SIDES)
def test_a_box_goes_back_to_corner_and_sides(x: float, y: float, width: float, height: float) -> None:
    """What a label table said is what the annotations say, to the last digit."""
    assert Box.from_xywh(x, y, width, height).xywh() == (x, y, width, height)
