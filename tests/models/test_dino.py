"""DINOv2 and DINOv3 of timm as image bodies: other sizes than the published, frames of clips, cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from medgraft.errors import UserError
from medgraft.models import parity, registry, weights
from medgraft.models.model import make_model

V2, V3 = "vit_small_patch14_dinov2", "vit_small_patch16_dinov3"


def official(name: str, file: Path, **options: Any) -> torch.nn.Module:
    """timm's network with filled tensors, and a file of them; ``dynamic_img_size`` interpolates positions as it
    runs.
    """
    network = timm.create_model(name, num_classes=0, dynamic_img_size=True, **options).eval()
    state = parity.fill(parity.shapes(network), gain=1.0)
    network.load_state_dict(state)
    torch.save(state, file)
    return network


@pytest.mark.parametrize(("name", "options", "size"), [(V2, {"img_size": 56}, (98, 70)), (V3, {}, (64, 96))])
def test_a_file_of_another_size_gives_timms_features(
    name: str, options: dict[str, Any], size: tuple[int, int], tmp_path: Path
) -> None:
    """DINOv2's positions are interpolated on loading, DINOv3 rotates: both equal timm's network, which meets the size
    as it runs.
    """
    network = official(name, tmp_path / "file.pth", **options)
    card = weights.find_card(f"timm:{name}", "lvd142m" if name == V2 else "lvd1689m")
    assert card is not None
    body = registry.build_body(f"timm:{name}", size=size).eval()
    report = weights.load(body, card, tmp_path / "file.pth")
    assert report.share_of_parameters == 1 and not report.missing and not report.unexpected
    if name == V2:
        assert (
            body.state_dict()["pos_embed"].shape[1] == 1 + 7 * 5
            and network.state_dict()["pos_embed"].shape[1] == 1 + 4 * 4
        )
    picture = parity.signal((2, 3, *size))
    with torch.no_grad():
        expected, found = network(picture), body(picture)
    assert expected.std() >= 0.1 and (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(("name", "size", "start"), [(V2, (28, 42), "lvd142m"), (V3, (32, 48), "lvd1689m")])
def test_clips_are_lifted_over_their_frames(name: str, size: tuple[int, int], start: str, tmp_path: Path) -> None:
    card = weights.find_card(f"timm:{name}", start)
    assert card is not None
    official(name, tmp_path / card.file_name)  # of the published size
    model, report = make_model(f"timm:{name}", start=start, outputs=2, channels=1, size=(3, *size), folders=[tmp_path])
    assert report is not None and report.share_of_parameters == 1
    clip = torch.rand(2, 1, 3, *size, generator=torch.Generator().manual_seed(1))
    batch = {"x": clip, "value_range": torch.tensor([[0.0, 1.0]] * 2)}
    model.eval()
    frames = [model.features({**batch, "x": clip[:, :, k : k + 1]}) for k in range(3)]
    found = model.features(batch)
    assert found.shape == (2, 384) and torch.allclose(found, torch.stack(frames).mean(0), atol=1e-5)
    assert not torch.allclose(frames[0], frames[1], atol=1e-3)
    model(batch).square().sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0} == set()


def test_a_size_that_is_no_multiple_of_the_patch_is_refused() -> None:
    for name, size in ((V2, (64, 64)), (V2, (8, 8)), (V3, (70, 64))):
        with pytest.raises(UserError, match="into patches of"):
            registry.build_body(f"timm:{name}", size=size)


def test_cards_tell_the_licences_apart() -> None:
    two, three = weights.cards(f"timm:{V2}")[0], weights.cards(f"timm:{V3}")[0]
    assert (two.licence, two.source_data, two.input_size) == ("apache-2.0", "LVD-142M", (518, 518))
    assert three.licence.startswith("DINOv3 License: Meta's own terms") and (three.source_data, three.input_size) == (
        "LVD-1689M",
        (256, 256),
    )
    assert registry.resolve(V2) == f"timm:{V2}" and registry.resolve(V3) == f"timm:{V3}"  # bare names do
