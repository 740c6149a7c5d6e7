"""docs/zoo.md and docs/parity.md say what registry, cards and measurements say now."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from medgraft.models import registry, weights

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
PAGE = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
PARITY = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
HINT = "run `python scripts/zoo.py`"


def cells(first: str, second: str = "") -> list[str]:
    """The row of a table that begins with these cells."""
    start = f"| `{first}` | " + (f"`{second}` | " if second else "")
    found = [line for line in PAGE.splitlines() if line.startswith(start)]
    assert found, f"{first} {second} is not on the page; {HINT}"
    return [cell.strip() for cell in found[0].strip("|").split(" | ")]


def test_every_network_and_every_card_has_its_row() -> None:
    import zoo

    for name in registry.names():
        row = cells(name)
        assert row[1] == "x".join(map(str, zoo.shape_of(name))), HINT
        for card in weights.cards(name):
            told = zoo.card_row(card)
            assert cells(name, card.tag) == [cell.strip() for cell in told], HINT
    networks = PAGE.split("## Weights")[0]
    assert len(re.findall(r"^\| `", networks, re.M)) == len(registry.names()), f"a network is gone; {HINT}"


@pytest.mark.parametrize("name", ["efficientnet_lite0", "c3d", "genesis_encoder3d"])
def test_parameters_and_operations_are_computed(name: str) -> None:
    import zoo

    assert cells(name)[:5] == zoo.facts_row(name), HINT
    if name == "c3d":
        parameters, operations = zoo.cost(name)
        # By hand: kernels times places, and the two dense layers.
        layers = [(3, 64, 16 * 112 * 112), (64, 128, 16 * 56 * 56), (128, 256, 8 * 28 * 28), (256, 256, 8 * 28 * 28)]
        layers += [(256, 512, 4 * 14 * 14), (512, 512, 4 * 14 * 14), (512, 512, 2 * 7 * 7), (512, 512, 2 * 7 * 7)]
        assert operations == sum(27 * a * b * n for a, b, n in layers) + 8192 * 4096 + 4096 * 4096
        assert parameters == sum((27 * a + 1) * b for a, b, _ in layers) + 8193 * 4096 + 4097 * 4096


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_pages_are_what_the_script_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "scripts" / "zoo.py"), str(tmp_path)], check=True, capture_output=True)
    assert (tmp_path / "zoo.md").read_text(encoding="utf-8") == PAGE, HINT
    assert (tmp_path / "parity.md").read_text(encoding="utf-8") == PARITY, HINT


def test_every_trap_names_a_test_that_exists() -> None:
    """Of a chain of tests in one cell, a bare ``::name`` belongs to the file before it."""
    traps = PARITY.split("## Traps")[1]
    named, file = [], ""
    for found in re.findall(r"`((?:test_\w+\.py)?::test_\w+)`", traps):
        file, _, test = found.partition("::") if not found.startswith("::") else (file, "", found[2:])
        named.append(test)
        assert f"def {test}(" in (ROOT / "tests" / "models" / file).read_text(encoding="utf-8"), f"{file}::{test}"
    assert len(named) > 25


def test_every_golden_has_its_line_and_what_was_measured_met_the_bar() -> None:
    import zoo

    from medgraft.models import parity

    rows = {row["network"]: row for row in zoo.measured("parity.json")["rows"] if "error" in row}
    for path in (ROOT / "tests" / "models" / "goldens").glob("*.json"):
        assert f"| `{path.stem}` |" in PARITY, HINT
        if path.stem in rows:
            assert rows[path.stem]["error"] <= parity.TOLERANCE and rows[path.stem]["spread"] >= 0.1
