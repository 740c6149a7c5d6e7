"""Breaks: small faults planted into the package one at a time, each of which a named test must notice.

A module of this folder holds ``BREAKS``, a list of ``Break``. ``generated`` makes three families from the source
itself. ``tests/mutants.py`` finds the places, plants the faults and runs the tests.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Break:
    """One fault.

    ``rows``   rows of docs/rows.md that claim what it breaks, parted by blanks; a test named by each of them must fail.
    ``where``  the function, class or module constant by qualified name (``draw_window``, ``Classify.loss``); a prefix
               ``part:`` (the end of a module's dotted name) tells namesakes apart.
    ``old``    a snippet of Python that stands there exactly once: an expression, statements, ``name=value`` (a keyword,
               a default or an assignment) or ``key: value`` (an entry of a dict). It is matched as syntax.
    ``new``    what takes its place, of the same sort; ``pass`` removes statements, nothing removes an entry.
    ``kind``   the sort of fault, for the list.
    ``tests``  for a fault of no row: the tests that must fail (``stats/test_roc.py::test_x``, below tests/; a file
               alone means all its tests). With rows: a choice among the tests that they name.
    ``equal``  why the fault changes nothing that a test could see; such a break is listed and not run.
    ``edit``   in place of ``old`` and ``new``: a function that changes the definition's node.
    """

    id: str
    rows: str
    where: str
    old: str = ""
    new: str = ""
    kind: str = "logic"
    tests: tuple[str, ...] = ()
    equal: str = ""
    edit: Callable[[ast.AST], None] | None = None

    @property
    def row_names(self) -> list[str]:
        return self.rows.split()
