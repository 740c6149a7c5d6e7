"""The package starts fast because heavy libraries come late; measured in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "monai",
    "lightning_fabric",
    "polars",
    "pandas",
    "sklearn",
    "scipy",
    "matplotlib",
    "numpy",
    "SimpleITK",
    "av",
}


def heavy_after(statement: str) -> set[str]:
    """Which heavy libraries a fresh interpreter holds after one statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return HEAVY & set(answer.stdout.split())


LIGHT = ["medgraft", "medgraft.errors", "medgraft.simulate", "medgraft.cli", "medgraft.verbs", "medgraft.knobs"]
LIGHT += [f"medgraft.{package}options" for package in ("", "engine.", "models.", "report.", "simulate.")]


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    assert heavy_after(f"import {module}") == set()


def test_a_heavy_import_would_be_seen() -> None:
    assert "polars" in heavy_after("import medgraft.tables")
