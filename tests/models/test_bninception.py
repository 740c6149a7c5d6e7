"""BN-Inception: Caffe's pools, BGR inputs, norms of the published file, sides that do not halve evenly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medgraft.models import parity, registry, weights
from medgraft.models.model import make_model

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "bninception.json").read_text(encoding="utf-8"))


def test_parameters_and_features() -> None:
    with torch.device("meta"):
        for outputs, millions in ((1000, 11.30), (2, 10.27)):
            model, _ = make_model("bninception", outputs=outputs, channels=3)
            assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
        assert model({"x": torch.empty(2, 3, 1, 224, 224), "value_range": torch.empty(2, 2)}).shape == (2, 2)


def test_colours_enter_as_blue_green_red_with_the_mean_in_that_order() -> None:
    with torch.device("meta"):
        model, _ = make_model("bninception", start="imagenet", outputs=2, channels=3, load_weights=False)
    model.mean, model.std = (
        torch.tensor(model.card.mean).view(1, 3, 1, 1, 1),
        torch.tensor(model.card.std).view(1, 3, 1, 1, 1),
    )
    red_green_blue = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1, 1)
    limits = torch.tensor([[0.0, 255.0]])
    assert torch.allclose(
        model.prepare(red_green_blue, limits).flatten(), torch.tensor([30.0 - 104, 20 - 117, 10 - 128]), atol=1e-4
    )
    grey = torch.full((1, 1, 1, 1, 1), 50, dtype=torch.uint8)
    assert torch.allclose(
        model.prepare(grey, limits).flatten(), torch.tensor([50.0 - 104, 50 - 117, 50 - 128]), atol=1e-4
    )


def sides(body: nn.Module, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """Height and width that enter the Inception blocks."""
    seen: list[tuple[int, ...]] = []
    hooks = [
        block.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
        for block in body.blocks.values()
    ]  # type: ignore[operator, union-attr]
    with torch.no_grad():
        body(torch.empty(1, 3, *size, device="meta"))
    for hook in hooks:
        hook.remove()
    return seen


def test_pools_round_up() -> None:
    """At 224: 112, then 56, 28, 14, 7. Rounded down the pools would give 55 and 27."""
    with torch.device("meta"):
        body = registry.build_body("bninception").eval()
    assert sides(body, (224, 224)) == [(28, 28)] * 3 + [(14, 14)] * 5 + [(7, 7)] * 2
    # 112 halves to 7, which 4e halves to 4 in its convolutions; the pool must follow.
    assert sides(body, (112, 176)) == [(14, 22)] * 3 + [(7, 11)] * 5 + [(4, 6)] * 2


def test_the_pool_of_an_odd_side_sees_all_of_it() -> None:
    block = registry.build_body("bninception").blocks["4e"].eval()  # type: ignore[operator, union-attr]
    x = torch.rand(1, block.outputs - 448, 7, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pooled = block(x)[:, 448:]
    assert pooled.shape[2:] == (4, 3)
    assert torch.equal(pooled[:, :, 3, 2], x[:, :, 6, 4]) and torch.equal(
        pooled[:, :, 0, 0], x[:, :, :3, :3].amax((2, 3))
    )


@pytest.mark.parametrize("name", ["5a", "5b"])
def test_the_outputs_see_the_kind_of_the_last_pools(name: str) -> None:
    """5a averages, 5b takes maxima; with either the other way round the numbers are wrong."""
    body, state, _ = parity.loaded_body(GOLDEN)
    block = body.blocks[name]  # type: ignore[operator, index]
    assert block.averages == (name == "5a")
    with torch.no_grad():
        assert parity.error(GOLDEN, parity.outputs(GOLDEN, body, state)) <= parity.TOLERANCE
        block.averages = not block.averages
        assert parity.error(GOLDEN, parity.outputs(GOLDEN, body, state)) > 10 * parity.TOLERANCE


def test_norms_of_the_published_file_have_a_leading_axis() -> None:
    """Caffe's (1, C) is (C,) here."""
    state = {n: torch.zeros(s) for n, s in GOLDEN["tensors"].items() if not n.endswith("num_batches_tracked")}
    file: dict[str, Tensor] = {n: t.unsqueeze(0) if "_bn." in n else t for n, t in state.items()}
    assert file["inception_3a_1x1_bn.running_var"].shape == (1, 64)
    card = weights.find_card("bninception", "imagenet")
    assert card is not None and card.sha256.startswith("52deb4733") and "73.524" in card.accuracy
    report = weights.load_state(registry.build_body("bninception"), card, file, card.file_name)
    assert not report.missing and not report.unexpected and report.share_of_parameters == 1
    assert report.head == ("last_linear.bias", "last_linear.weight")
