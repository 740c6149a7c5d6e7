"""C3D: logits without a softmax, 0..255 without a mean, one input size, the counts of its paper."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medgraft.errors import UserError
from medgraft.models import parity, registry, weights
from medgraft.models.model import make_model

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "c3d.json").read_text(encoding="utf-8"))


def test_logits_are_logits_and_not_probabilities() -> None:
    """The port ends in a softmax; cross-entropy applies its own. The golden is what enters that softmax."""
    body, state, report = parity.loaded_body(GOLDEN)
    assert report.card == "c3d.sports1m" and report.head == ("fc8.bias", "fc8.weight")
    with torch.no_grad():
        logits = parity.outputs(GOLDEN, body, state)
    assert logits.shape == (1, 487)
    assert parity.error(GOLDEN, logits) <= parity.TOLERANCE
    assert logits.min() < 0 and logits.abs().sum() > 10  # probabilities are positive and sum to 1
    assert parity.error(GOLDEN, logits.softmax(1)) > 0.5


def test_values_enter_from_0_to_255_without_a_mean() -> None:
    with torch.device("meta"):
        model, _ = make_model("c3d", start="sports1m", outputs=2, load_weights=False)
    x = torch.randint(0, 256, (2, 3, 16, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model.mean, model.std = torch.zeros(1, 3, 1, 1, 1), torch.ones(1, 3, 1, 1, 1)  # the buffers stand on meta
    assert model.card.mean == (0, 0, 0) and model.card.std == (1, 1, 1) and model.card.order == "RGB"
    assert torch.allclose(model.prepare(x, torch.tensor([[0.0, 255.0]] * 2)), x.float(), atol=1e-4)


@pytest.mark.parametrize("size", [(8, 112, 112), (32, 112, 112), (16, 224, 224)])
def test_it_takes_one_size_only(size: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"takes \(16, 112, 112\) only"):
        registry.build_body("c3d", size=size)


def test_parameters_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        for outputs, millions in ((2, 78.00), (487, 79.99)):
            model, _ = make_model("c3d", outputs=outputs)
            assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_the_card_says_which_accuracy_it_is() -> None:
    card = weights.find_card("c3d", "sports1m")
    assert card is not None and "top-5 84.4" in card.accuracy and card.range == 255
