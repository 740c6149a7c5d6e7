"""The page in its parts: one file a section, with its own strings, what it shows, and its own template.

A section is a module with ``make(view, drawn)``, which gives what its template ``templates/sections/NAME.html`` shows
(with ``nav``, its (anchor, word) in the menu), or None where the run holds nothing for it. To add one: its file, its
template, its place in ``SECTIONS``.
"""

from __future__ import annotations

from typing import Any, Protocol

from medgraft.report.drawn import Drawn
from medgraft.report.sections import (
    agreement,
    answers,
    board,
    cases,
    claims,
    curves,
    explanations,
    flow,
    glossary,
    heatmap,
    learning,
    limits,
    made,
    pairs,
    ways,
)
from medgraft.report.view import View


class Section(Protocol):
    """What a module of this folder is; its own name is the name of its template."""

    __name__: str

    def make(self, view: View, drawn: Drawn) -> dict[str, Any] | None: ...


#: Every section in the order of the page.
SECTIONS: tuple[Section, ...] = (
    answers,
    board,
    pairs,
    flow,
    claims,
    ways,
    explanations,
    curves,
    agreement,
    heatmap,
    cases,
    learning,
    made,
    limits,
    glossary,
)
