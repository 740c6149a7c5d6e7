"""On a CUDA device: identical draws, and the numbers of the CPU to rounding."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from conftest import quiet
from medgraft import flow, tables

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_cuda_run_tells_what_the_cpu_run_tells(recipe, precision: str) -> None:
    frozen = (
        "models=[{model: efficientnet_lite0, strategy: frozen, train: {augment: none, epochs: 8, learning_rate: 1e-2}}]"
    )
    found = {}
    for device in ("cpu", "cuda"):
        root = flow.run(
            recipe(frozen, f"name={device}", f"device={device}", f"precision={precision if device == 'cuda' else 32}"),
            say=quiet,
        )
        table = (
            tables.read(root / "predictions.parquet", "predictions").filter(pl.col("split") == "test").sort("case_id")
        )
        found[device] = table["y_pred"].to_numpy()
    assert abs(found["cpu"] - found["cuda"]).max() < (1e-3 if precision == "32" else 0.05)
