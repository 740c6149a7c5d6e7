"""Small runs that take seconds: tiny images, a tiny network, one thread."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from factory import make_dataset
from medgraft import config, tables

MODEL = "timm:test_efficientnet"  # 0.4 M parameters, with batch norm


def quiet(line: str) -> None:
    """Where a run tells what it does, and nobody listens."""


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., config.Recipe]:
    """``recipe(*words, kind=..., **factory)`` -> a recipe over a fresh data set in ``tmp_path``."""

    def make(*words: str, kind: str = "image", **facts: object) -> config.Recipe:
        if not (tmp_path / "data" / "dataset.json").is_file():
            make_dataset(tmp_path / "data", kind, **{"cases": 24, "patients": 16, **facts})  # type: ignore[arg-type]
        base = [
            f"data={tmp_path / 'data'}",
            f"out={tmp_path / 'runs'}",
            "target=finding",
            "split.folds=2",
            "seeds=[0]",
            "threads=1",
            "workers=0",
            "window.size=32",
            "train={epochs: 4, batch_size: 8, learning_rate: 1e-3, evaluations: 2}",
            "stats.resamples=200",
            "report=false",
            f"models=[{{model: '{MODEL}', start: random}}]",
        ]
        return config.load_recipe(None, [*base, *words])

    return make


def predictions(root: Path) -> list[tuple]:
    """All predictions of a run without the cell's name, in a fixed order."""
    frame = tables.read(root / "predictions.parquet", "predictions")
    return sorted(frame.select("cell", "split", "case_id", "class", "y_true", "y_pred").rows())
