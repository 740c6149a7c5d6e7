"""Every network that claims to be an official one gives the official numbers (``medgraft.models.parity``)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medgraft.models import parity

GOLDENS = sorted((Path(__file__).parent / "goldens").glob("*.json"))


@pytest.mark.parametrize("path", GOLDENS, ids=lambda p: p.stem)
def test_outputs_are_the_official_ones_and_every_parameter_counts(path: Path) -> None:
    """Relative error at most 1e-4 in float32, an output spread of at least .1, and no parameter without effect.

    A parameter counts when the gradient of a random mix of the outputs reaches it. Running statistics
    count with the norm that holds them: its scale is not 0 and its bias has a gradient.
    """
    golden = json.loads(path.read_text(encoding="utf-8"))
    body, state, report = parity.loaded_body(golden)
    assert not report.missing and not report.unexpected
    found = parity.outputs(golden, body, state)
    expected = torch.tensor(golden["output"])
    assert expected.std() >= 0.1
    assert parity.error(golden, found) <= parity.TOLERANCE
    mix = parity.signal(found.shape, "mix")
    (found * mix).sum().backward()
    dead = {n for n, p in body.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert dead == set(golden.get("idle", []))
