"""A flow diagram as SVG: boxes from top to bottom, and beside each what leaves there or is set apart.

It is drawn here and not by the plotting library because text decides the size of a box, in two languages. ``figures``
dresses it for a file or for the page like any other figure.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medgraft.report.figures import BLUE, FONTS, INK, MUTED, RULE
from medgraft.report.text import clean

SIZE, LEADING, PAD = 12.0, 16.0, 10.0  # of text, of its lines, within a box
GAP, INDENT = 26.0, 30.0  # between boxes of a column; of what stands below the box that it leaves
MAIN, SIDE, BETWEEN = 290.0, 310.0, 40.0  # widths side by side
NARROW, ASIDE = 340.0, 24.0  # width of one column where nothing stands beside it; between two such columns
MOST = 200  # characters of a line that are drawn

Sort = Literal["step", "out", "learn"]


@dataclass(frozen=True)
class Box:
    """A head in bold with lines below it. ``out`` leaves the flow, ``learn`` is what is trained on."""

    head: str
    lines: tuple[str, ...] = ()
    sort: Sort = "step"


@dataclass(frozen=True)
class Step:
    """A box of the flow and what stands beside it."""

    box: Box
    beside: tuple[Box, ...] = ()


def flow(columns: Sequence[Sequence[Step]], *, narrow: bool = False) -> str:
    """One ``<svg>``. A single column has its side boxes on the right; several columns stand next to each other, each
    with its side boxes below what they leave; ``narrow`` (a phone) puts everything into one column.
    """
    drawn: list[str] = []
    beside = len(columns) == 1 and not narrow
    left = top = height = 1.0
    width = MAIN + BETWEEN + SIDE if beside else NARROW
    for column in columns:
        end = _column(drawn, column, left, top, beside)
        height = max(height, end)
        if narrow:
            top = end + GAP
        else:
            left += NARROW + ASIDE
    if not beside and not narrow:
        width = len(columns) * (NARROW + ASIDE) - ASIDE
    size = f'width="{width + 2:.0f}pt" height="{height + 1:.0f}pt" viewBox="0 0 {width + 2:.0f} {height + 1:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" version="1.1" {size}>'
    return "\n".join([head, f'<g style="font-family: {FONTS}; font-size: {SIZE:g}px">', *drawn, "</g>", "</svg>"])


def _column(drawn: list[str], steps: Sequence[Step], left: float, top: float, beside: bool) -> float:
    """Draw a column; return where it ends."""
    width = MAIN if beside else NARROW
    for number, step in enumerate(steps):
        rail = left + (width / 2 if beside else 14)
        bottom = _box(drawn, step.box, left, top, width)
        end = bottom
        if beside:
            middle, place = (top + bottom) / 2, top
            for box in step.beside:
                below = _box(drawn, box, left + MAIN + BETWEEN, place, SIDE)
                level = min(max(middle, place + PAD), below - PAD)
                _arrow(drawn, [(left + MAIN, min(level, bottom - 3)), (left + MAIN + BETWEEN, min(level, bottom - 3))])
                place = below + PAD
                end = max(end, below)
        else:
            for box in step.beside:
                place = end + PAD
                below = _box(drawn, box, left + INDENT, place, width - INDENT)
                level = place + PAD + LEADING / 2
                _arrow(drawn, [(rail, bottom), (rail, level), (left + INDENT, level)])
                end = below
        if number + 1 < len(steps):
            top = end + GAP
            _arrow(drawn, [(rail, bottom), (rail, top)])
    return end if steps else top


def _box(drawn: list[str], box: Box, left: float, top: float, width: float) -> float:
    """Draw a box; return where it ends."""
    lines = [(line, True) for line in wrapped(box.head, width - 2 * PAD, bold=True)]
    for text in box.lines:
        lines += [(line, False) for line in wrapped(text, width - 2 * PAD)]
    height = 2 * PAD + LEADING * len(lines) - (LEADING - SIZE)
    ink = MUTED if box.sort == "out" else INK
    edge = {"step": f"stroke: {MUTED}", "out": f"stroke: {RULE}; stroke-dasharray: 4 3", "learn": f"stroke: {BLUE}"}
    drawn.append(
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" '
        f'style="fill: none; stroke-width: 1; {edge[box.sort]}"/>'
    )
    for number, (line, bold) in enumerate(lines):
        y = top + PAD + SIZE * 0.85 + LEADING * number
        weight = "; font-weight: 600" if bold else ""
        colour = ink if bold else MUTED
        text = html.escape(line, quote=False)
        drawn.append(f'<text x="{left + PAD:.1f}" y="{y:.1f}" style="fill: {colour}{weight}">{text}</text>')
    return top + height


def _arrow(drawn: list[str], places: list[tuple[float, float]]) -> None:
    """A line through places with a head at its end; it ends level or straight down."""
    (_, y0), (x1, y1) = places[-2:]
    path = " L ".join(f"{x:.1f} {y:.1f}" for x, y in places)
    drawn.append(f'<path d="M {path}" style="fill: none; stroke: {MUTED}; stroke-width: 1"/>')
    tip = "l -6 -3.2 l 0 6.4 z" if y0 == y1 else "l -3.2 -6 l 6.4 0 z"
    drawn.append(f'<path d="M {x1:.1f} {y1:.1f} {tip}" style="fill: {MUTED}"/>')


def wrapped(text: str, width: float, *, bold: bool = False) -> list[str]:
    """Lines of a text that fit into a width: broken between words, and anywhere within Chinese and long words."""
    lines, line, used = [], "", 0.0
    for piece in re.findall(r"[\u2e80-\uffef]|[^\s\u2e80-\uffef]+|\s+", clean(text, MOST)):
        while piece:
            size = extent(piece, bold)
            if used + size <= width:
                line, used, piece = line + piece, used + size, ""
            elif line.strip() and (size <= width or piece.isspace()):
                lines.append(line.strip())
                line, used = "", 0.0
                piece = piece.lstrip()
            else:  # a word longer than the line
                room = next(n for n in range(len(piece), 0, -1) if n == 1 or used + extent(piece[:n], bold) <= width)
                lines.append((line + piece[:room]).strip())
                line, used, piece = "", 0.0, piece[room:]
    return [*lines, line.strip()] if line.strip() or not lines else lines


def extent(text: str, bold: bool = False) -> float:
    """About how wide a text is drawn, on the safe side of common fonts."""
    ems = (1.0 if c >= "\u2e80" else 0.9 if c in "MWmw@%" else 0.32 if c in " .,:;'il|!()" else 0.58 for c in text)
    return SIZE * sum(ems) * (1.06 if bold else 1.0)
