"""docs/rows.md is complete and honest: every row of the specification once, every tick backed by a test that exists."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

import mutants

ROOT = Path(__file__).resolve().parents[1]
STATES = {"open", "done", "reference"}


def numbered(prefix: str, *spans: tuple[int, int]) -> list[str]:
    return [f"{prefix}{n:02d}" for low, high in spans for n in range(low, high + 1)]


CEUS = [
    *numbered("CEUS-P", (1, 13)),
    *numbered("CEUS-A", (1, 7)),
    *numbered("CEUS-S", (1, 5)),
    *numbered("CEUS-M", (1, 18)),
    *[f"CEUS-M06{letter}" for letter in "abcd"],
    *[f"CEUS-M{number}{letter}" for number in (10, 13, 14, 17) for letter in "ab"],
    *numbered("CEUS-W", (1, 6)),
    *numbered("CEUS-T", (1, 6)),
    *numbered("CEUS-E", (1, 12)),
    *numbered("CEUS-F", (1, 1)),
    *numbered("CEUS-X", (1, 10)),
]
REFERENCE = [
    *numbered("CEUS-T31-", (1, 15)),
    *numbered("CEUS-T32-", (1, 10)),
    *numbered("CEUS-T33-", (1, 4)),
    *numbered("CEUS-T34-", (1, 4)),
    *numbered("CEUS-T35-", (1, 2)),
    "CEUS-B01",
]
ECHO = [
    *numbered("ECHO-D", (1, 6)),
    *numbered("ECHO-L", (1, 8)),
    *numbered("ECHO-S", (1, 9)),
    *[f"ECHO-S01{letter}" for letter in "abcd"],
    *numbered("ECHO-O", (1, 9)),
    *numbered("ECHO-E", (1, 16), (20, 25)),
    *numbered("ECHO-EF-", (1, 7)),
    *numbered("ECHO-X", (1, 1)),
    *numbered("ECHO-H", (1, 6)),
    *numbered("ECHO-R", (1, 3)),
]
GEN = [
    *numbered("GEN-D", (1, 9)),
    *numbered("GEN-T", (1, 7), (10, 17), (20, 21)),
    *numbered("GEN-R", (1, 1)),
    *numbered("GEN-M", (1, 5)),
    *numbered("GEN-P", (1, 6)),
    *numbered("GEN-X", (1, 9)),
    *numbered("GEN-B", (1, 8)),
    *numbered("GEN-E", (1, 2)),
    *numbered("GEN-F", (1, 4)),
]
PNEU = [
    *numbered("PNEU-D", (1, 6)),
    *numbered("PNEU-S", (1, 1)),
    *numbered("PNEU-M", (1, 4)),
    *numbered("PNEU-T", (1, 4)),
    *numbered("PNEU-X", (1, 2), (10, 10)),
    *numbered("PNEU-A", (1, 2)),
    *numbered("PNEU-L", (1, 1)),
    *numbered("PNEU-E", (1, 8)),
    *numbered("PNEU-F", (1, 3)),
]


def rows() -> list[list[str]]:
    """Cells of every table row: row, what, where, test, state."""
    found = []
    for line in (ROOT / "docs" / "rows.md").read_text(encoding="utf-8").splitlines():
        if re.match(r"\| [A-Z]+-", line):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_functions(path: Path) -> set[str]:
    """Names of the test functions of a file, methods as Class::name."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return {name for name in names if name.split("::")[-1].startswith("test_")}


test_functions.__test__ = False  # type: ignore[attr-defined]


def fault(row: list[str]) -> str:
    """What is wrong with a row, or nothing."""
    if len(row) != 5:
        return "not five cells"
    name, what, where, test, state = row
    weak = mutants.weak_ids(state)
    if (state not in STATES and not weak and not re.fullmatch(r"part: .{8,}", state)) or not what or not where:
        return "no state, description or place"
    if (state == "reference") != (name in REFERENCE):
        return "reference data and work are mixed up"
    if state != "done" and not weak:
        return "a test without a tick" if test else ""
    for name_of_break in weak:
        if name not in planted().get(name_of_break, ()):
            return f"no break {name_of_break} of this row"
    for named in test.split("<br>"):
        path, _, function = named.strip("` ").partition("::")
        if not (ROOT / path).is_file() or function not in test_functions(ROOT / path):
            return f"no such test: {named}"
    return ""


@lru_cache(maxsize=1)
def planted() -> dict[str, list[str]]:
    """Rows of every break (tests/mutants.py), by its id."""
    source = mutants.Source(ROOT / "src" / "medgraft")
    return {fault.id: fault.row_names for fault in mutants.load_breaks(source)}


def test_every_row_stands_once() -> None:
    names = [row[0] for row in rows()]
    assert sorted(names) == sorted([*CEUS, *REFERENCE, *ECHO, *GEN, *PNEU])


def test_every_tick_names_a_test_that_exists() -> None:
    assert {row[0]: fault(row) for row in rows() if fault(row)} == {}
    assert any(row[4] == "done" for row in rows())


def test_a_dishonest_tick_is_found() -> None:
    real = f"`{Path(__file__).relative_to(ROOT).as_posix()}::test_every_row_stands_once`"
    assert fault(["PNEU-D06", "x", "`y`", real, "done"]) == ""
    assert "no such test" in fault(["PNEU-D06", "x", "`y`", real.replace("once", "twice"), "done"])
    assert "no such test" in fault(["PNEU-D06", "x", "`y`", "", "done"])
    assert "mixed up" in fault(["CEUS-B01", "x", "`y`", real, "done"])
    assert fault(["PNEU-D06", "x", "`y`", "", "part: lacks the boxes"]) == ""
    # A weak row keeps its tests and has lost its tick.
    assert fault(["CEUS-S02", "x", "`y`", real, "weak: tsn-one-place-for-all"]) == ""
    assert "no such test" in fault(["CEUS-S02", "x", "`y`", "", "weak: tsn-one-place-for-all"])
    assert "no break" in fault(["CEUS-S02", "x", "`y`", real, "weak: tsn-one-place-for-all, no-such-break"])
    assert "no break" in fault(["CEUS-S01", "x", "`y`", real, "weak: tsn-one-place-for-all"])
    assert "no state" in fault(["PNEU-D06", "x", "`y`", "", "part"])
    assert "without a tick" in fault(["PNEU-D06", "x", "`y`", real, "part: lacks the boxes"])
    assert "without a tick" in fault(["PNEU-D06", "x", "`y`", real, "open"])
