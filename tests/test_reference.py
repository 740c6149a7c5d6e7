"""The reference is built from docstrings: every public module is in it, with its functions and their words."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import medgraft

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "reference.py"


def test_reference_lists_every_public_module(tmp_path: Path) -> None:
    target = tmp_path / "reference.md"
    subprocess.run([sys.executable, str(SCRIPT), str(target)], check=True, capture_output=True)
    lines = target.read_text(encoding="utf-8").splitlines()
    public = [
        m.name for m in pkgutil.walk_packages(medgraft.__path__, "medgraft.", onerror=print) if "._" not in m.name
    ]
    assert len(public) > 20
    assert [name for name in public if f"## {name}" not in lines] == []


def test_reference_holds_signatures_and_docstrings_but_nothing_private(tmp_path: Path) -> None:
    target = tmp_path / "reference.md"
    subprocess.run([sys.executable, str(SCRIPT), str(target)], check=True, capture_output=True)
    text = target.read_text(encoding="utf-8")
    store = importlib.import_module("medgraft.store")
    part = text.split("## medgraft.store\n")[1].split("\n## medgraft.")[0]
    own = [f for name, f in inspect.getmembers(store, inspect.isfunction) if f.__module__ == store.__name__]
    for function in own:
        heading = f"### {function.__name__}\n" in part
        assert heading != function.__name__.startswith("_")
        assert not heading or inspect.getdoc(function) in part
    assert "### class ArrayWriter" in part and "`append(frame: np.ndarray)`" in part
