"""What scripts of other people build on does not change unseen: verbs, keys, defaults, choices, columns."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "surface.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("surface", SCRIPT)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["surface"] = found
    spec.loader.exec_module(found)
    return found


def test_command_line_and_columns_are_as_frozen(script: ModuleType) -> None:
    frozen = json.loads(script.GOLDEN.read_text(encoding="utf-8"))
    changes = script.difference(frozen, script.surface())
    assert not changes, "\n".join([*changes, "meant? then python scripts/surface.py, and a line in CHANGELOG.md"])


def test_a_change_is_told_by_its_place(script: ModuleType) -> None:
    frozen = json.loads(script.GOLDEN.read_text(encoding="utf-8"))
    other = copy.deepcopy(frozen)
    other["verbs"]["predict"]["keys"]["flagged"]["default"] = "refuse"
    del other["verbs"]["scan"]["keys"]["patient"]
    other["predict"]["regression"].append("low")
    other["tables"]["cells"]["note"] = "String"
    assert script.difference(frozen, frozen) == []
    changed = script.difference(frozen, other)
    assert [line.split(" (")[0] for line in changed if line.startswith(("gone", "new"))] == [
        "gone: verbs > scan > keys > patient",
        "new: tables > cells > note",
    ]
    assert 'changed: verbs > predict > keys > flagged > default: "keep" -> "refuse"' in changed
    assert any(line.startswith("changed: predict > regression: ") for line in changed)
