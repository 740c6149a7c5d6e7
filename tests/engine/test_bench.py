"""``medgraft bench``: what is asked for is what is timed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medgraft.cli import app
from medgraft.engine import bench, official

MODEL = "timm:test_efficientnet.r160_in1k"


def test_every_option_of_a_step_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench itself runs; only what it was called with and what it found are looked at."""
    seen: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    real = bench.step_overhead

    def watched(**asked: Any) -> list[dict[str, Any]]:
        rows = real(**asked)
        seen.append((asked, rows))
        return rows

    monkeypatch.setattr(bench, "step_overhead", watched)
    words = [f"models=['{MODEL}']", "batch_size=2", "steps=1", "repeats=2", "device=cpu", "threads=1"]
    done = CliRunner().invoke(app, ["bench", *words], catch_exceptions=False)
    assert done.exit_code == 0 and f"{MODEL[:20]}" in done.output and "cpu, 1 threads" in done.output
    asked, rows = seen[0]
    said = {"models": [MODEL], "batch_size": 2, "steps": 1, "repeats": 2, "device": "cpu", "threads": 1}
    assert asked == said
    assert [(r["model"], r["threads"]) for r in rows] == [(MODEL, 1)] and rows[0]["ratio"] > 0


def test_every_option_of_a_comparison_is_heard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No project lies in the folder, so every network of the one asked for is named as not run."""
    seen: list[dict[str, Any]] = []
    real = official.compare

    def watched(folder: Path, **asked: Any) -> list[dict[str, Any]]:
        seen.append({"official": folder, **asked})
        return real(folder, **asked)

    monkeypatch.setattr(official, "compare", watched)
    table = tmp_path / "rows.json"
    words = [f"official={tmp_path}", "only=c3d", f"record={tmp_path / 'goldens'}", f"table={table}", "repeats=2"]
    done = CliRunner().invoke(app, ["bench", *words, "threads=2"], catch_exceptions=False)
    assert done.exit_code == 0 and "the project is absent" in done.output
    assert seen == [{"official": tmp_path, "only": "c3d", "record": tmp_path / "goldens", "repeats": 2, "threads": 2}]
    written = json.loads(table.read_text(encoding="utf-8"))
    assert written["threads"] == 2 and [r["network"] for r in written["rows"]] == ["c3d"]
