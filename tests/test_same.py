"""``scripts/same.py``: it finds what it is there to find, and the working tree gives the numbers that are stored."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "same.py"
FEW = ["image_segment", "volume_classify"]  # of the fast test: dense and labelled, flat and deep, HU and coded names


@pytest.fixture(scope="module")
def same() -> Iterator[ModuleType]:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("same", SCRIPT)
    assert spec is not None and spec.loader is not None
    path = list(sys.path)
    module = sys.modules["same"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path


@pytest.fixture(scope="module")
def results(same: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two recipes run on the working tree."""
    return same.results(".", FEW, tmp_path_factory.mktemp("same"), jobs=1)


@pytest.mark.timeout(600)
def test_the_working_tree_gives_the_stored_numbers(same: ModuleType, results: dict[str, Any]) -> None:
    for name in FEW:
        found = same.compare(name, same.stored(name), same.numbers(name, results[name]), same.near)
        assert [d.text() for d in found] == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_working_tree_gives_all_stored_numbers(same: ModuleType) -> None:
    assert same.main(["--stored"]) == 0


def test_every_section_of_a_real_result_is_compared(same: ModuleType, results: dict[str, Any]) -> None:
    """One value of each section is changed in a copy: each change is found, and named by its place alone."""
    result = results["image_segment"]
    kinds = {"lines": 0, "table": 0, "tree": 0}
    for section, content in result.items():
        (kind, value), changed = next(iter(content.items())), copy.deepcopy(result)
        if kind == "lines" and value:
            changed[section]["lines"][-1] += " and more"
        elif kind == "table" and value["rows"]:
            row, column = list(value["rows"])[-1], len(value["columns"]) - 1
            changed[section]["table"]["rows"][row][column] = "another"
        elif kind == "tree" and value:
            changed[section]["tree"] = {**value, list(value)[-1]: "another"}
        else:
            continue
        kinds[kind] += 1
        found = same.compare("image_segment", result, changed)
        assert len(found) >= 1 and all(d.path.startswith(f"image_segment/{section}/") for d in found), section
    assert kinds["lines"] >= 14 and kinds["table"] >= 6 and kinds["tree"] >= 7
    assert same.compare("image_segment", result, json.loads(json.dumps(result))) == []


def test_a_planted_number_is_named(same: ModuleType, results: dict[str, Any]) -> None:
    now = same.numbers("volume_classify", results["volume_classify"])
    planted = copy.deepcopy(same.stored("volume_classify"))
    cell, values = next(iter(planted["predictions"]["tree"].items()))
    case = next(iter(values))
    before, values[case] = values[case], values[case] + 3e-4
    (found,) = same.compare("volume_classify", planted, now, same.near)
    assert found.path == f"volume_classify/predictions/{cell}/{case}"
    assert found.text().startswith(f"{found.path}: {before + 3e-4!r} | ")
    values[case] = before + 5e-5  # as far as another processor may take it
    assert same.compare("volume_classify", planted, now, same.near) == []


def test_the_last_bit_counts_between_commits(same: ModuleType) -> None:
    import numpy as np

    def tree(value: Any) -> dict[str, Any]:
        return {"summary": {"tree": {"auc": value}}}

    after = float(np.nextafter(0.3, 1))
    (found,) = same.compare("r", tree(0.3), tree(after))
    assert found.text() == f"r/summary/auc: 0.3 | {after!r}"
    assert same.compare("r", tree(0.3), tree(after), same.near) == []
    assert same.compare("r", tree(float("nan")), tree(float("nan"))) == []
    assert len(same.compare("r", tree(1), tree(1.0))) == len(same.compare("r", tree(True), tree(1))) == 1
    assert len(same.compare("r", tree(0.0), tree(None), same.near)) == 1


def test_a_table_tells_columns_types_rows_and_order(same: ModuleType) -> None:
    def table(columns: list[str], types: list[str], rows: list[list[Any]]) -> dict[str, Any]:
        return {"cells": {"table": same.table("cells", columns, types, rows)}}

    a = table(["hash", "seed"], ["String", "Int64"], [["x", 1], ["y", 2], ["y", 3]])
    assert [d.path for d in same.compare("r", a, table(["hash"], ["String"], [["x"], ["y"], ["y"]]))] == [
        "r/cells/column seed"
    ]
    retyped = table(["hash", "seed"], ["String", "Float64"], [["x", 1], ["y", 2], ["y", 3]])
    assert [d.text() for d in same.compare("r", a, retyped)] == ["r/cells/column seed: Int64 | Float64"]
    moved = table(["hash", "seed"], ["String", "Int64"], [["y", 2], ["x", 1], ["y", 3]])
    assert [d.text() for d in same.compare("r", a, moved)] == ["r/cells/order of rows: x | y"]
    fewer = table(["hash", "seed"], ["String", "Int64"], [["x", 1], ["y", 2]])
    assert [d.text() for d in same.compare("r", a, fewer)] == ["r/cells/y #2: ['y', 3] | (absent)"]
    assert [d.path for d in same.compare("r", a, {})] == ["r/cells"]


def test_lines_are_compared_one_by_one(same: ModuleType) -> None:
    a, b = ({"page": {"lines": text.split()}} for text in ("a b c d", "a c x d e"))
    found = [d.text() for d in same.compare("r", a, b)]
    assert found == ["r/page/line 2: b | (absent)", "r/page/line 3: (absent) | x", "r/page/line 5: (absent) | e"]
    long = "w" * 500
    (line,) = same.compare("r", {"page": {"lines": [f"{long}1{long}"]}}, {"page": {"lines": [f"{long}2{long}"]}})
    assert "www1www" in line.text() and "www2www" in line.text() and len(line.text()) < 2 * same.WIDE + 50


def test_announced_differences_do_not_count(same: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    found = {
        "r": [same.Difference(f"r/summary/{k}", k, k + 1) for k in range(30)]
        + [same.Difference("r/terminal/run/line 1", "a", "b")]
    }
    assert same.tell(found, []) == 31
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == same.SHOWN + 1 and printed[-1] == "r: 11 more of 31"
    assert same.tell(found, ["r/summary", "never"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "r/terminal/run/line 1: a | b"
    assert printed[1] == "announced: r/summary/0: 0 | 1" and printed[-1] == "announced, but no difference: never"


def test_a_cell_keeps_its_name_when_its_hash_changes(same: ModuleType, tmp_path: Path) -> None:
    def cells(folder: str, salt: str, more: dict[str, Any]) -> dict[str, str]:
        for k, rate in enumerate((0.1, 0.2)):
            record = {"model": "m", "start": "s", "strategy": "t", "outer": 0, "inner": -1, "seed": 0}
            record |= {"hash": f"{salt}{k}" * 6, "setting": {"learning_rate": rate, "epochs": 1, **more}}
            path = tmp_path / folder / "cells" / record["hash"] / "cell.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(record), encoding="utf-8")
        return same.name_cells(tmp_path / folder)

    before, after = cells("a", "b", {}), cells("b", "c", {"another": True})
    assert set(before) & set(after) == set() and sorted(before.values()) == sorted(after.values())
    assert before["b1b1b1b1b1b1"] == "m · s · t learning_rate=0.2 fold 0 inner -1 seed 0"
    assert same.normal(["2024-01-02 03:04 b1b1b1b1b1b1 is done; 1.2 s"], before, tmp_path) == [
        f"<time> {before['b1' * 6]} is done; <seconds>"
    ]
    records = {"looks": [{"cell": "x", "time": "now", "seed": 1}, {"cell": "w", "time": "then", "seed": 2}]}
    assert same.pruned(records) == {"looks": {"x": {"cell": "x", "seed": 1}, "w": {"cell": "w", "seed": 2}}}


def test_words_of_a_page(same: ModuleType) -> None:
    picture = "<img alt='a curve' src='data:image/png;base64,AA'>"
    page = f"<style>p {{}}</style><h1>Mean &amp;\n  sum</h1><script>x < 1</script>{picture}<p>.5</p>"
    assert same.words_of(page) == ["Mean & sum", "a curve", f"picture {same.digest(b'data:image/png;base64,AA')}", ".5"]


def test_raw_studies_are_the_same_each_time(same: ModuleType, tmp_path: Path) -> None:
    def files(folder: Path) -> dict[str, tuple[bytes, int]]:
        found = (p for p in sorted(folder.rglob("*")) if p.is_file())
        return {p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns) for p in found}

    by_function = {getattr(r.studies, "func", r.studies): r for r in same.RECIPES}
    assert len(by_function) >= 5
    for number, recipe in enumerate(by_function.values()):
        for time in ("a", "b"):
            same.write_studies(recipe, tmp_path / time / str(number))
    assert files(tmp_path / "a") == files(tmp_path / "b") != {}
