"""MONAI's SwinUNETR and its self-supervised encoder file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medgraft.models import parity, registry, weights
from medgraft.models.model import make_model


def published(body: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A state dict with the names that MONAI's own loader asks for, heads of the self-supervised tasks included."""
    own = {k.removeprefix("swinViT."): v for k, v in body.state_dict().items() if k.startswith("swinViT.")}
    index = {k: v for k, v in own.items() if k.endswith("relative_position_index")}
    filled = {**parity.fill({k: list(v.shape) for k, v in own.items() if k not in index}), **index}
    named = {f"module.{k.replace('.mlp.linear', '.mlp.fc')}": v for k, v in filled.items()}
    return {**named, "module.norm.weight": torch.ones(192), "module.rotation_head.weight": torch.ones(4, 192)}


def test_the_encoder_file_fills_what_monais_own_loader_fills(tmp_path: Path) -> None:
    """Same file, theirs and ours: every tensor of the encoder is equal, the rest keeps its start and is reported."""
    from monai.networks.nets import SwinUNETR

    card = weights.find_card("monai:swinunetr", "ssl_ct")
    assert (
        card is not None
        and card.channels == 1
        and card.licence.startswith("Apache-2.0")
        and card.addresses[0].endswith("/model_swinvit.pt")
    )
    official = SwinUNETR(in_channels=1, out_channels=2, feature_size=12)  # a quarter of the published width, for time
    state = published(official)
    official.load_from({"state_dict": state})
    torch.save({"state_dict": state}, tmp_path / card.file_name)

    body = registry.build_body("monai:swinunetr", channels=1, structures=3, options={"feature_size": 12})
    report = weights.load(body, card, weights.locate(card, folders=[tmp_path]))
    theirs = official.state_dict()
    encoder = {k: v for k, v in body.state_dict().items() if k.startswith("swinViT.")}
    assert len(encoder) > 100 and all(torch.equal(v, theirs[k]) for k, v in encoder.items())
    assert set(report.loaded) == set(encoder) and not report.adapted
    assert report.missing and all(k.startswith(("encoder", "decoder")) for k in report.missing)
    assert set(report.unexpected) == {"swinViT.norm.weight", "swinViT.rotation_head.weight"}
    assert report.by_layer["swinViT"][0] == report.by_layer["swinViT"][1] and report.by_layer["decoder1"][0] == 0


def test_sides_divide_by_32() -> None:
    assert registry.info("monai:swinunetr").divisor == 32
    with pytest.raises(ValueError, match="divisible"):
        registry.build_body("monai:swinunetr", channels=1, structures=2, options={"feature_size": 12})(
            torch.zeros(1, 1, 64, 64, 72)
        )


def test_the_width_is_that_of_the_published_file() -> None:
    body = registry.build_body("monai:swinunetr", channels=1, structures=14)
    assert body.state_dict()["swinViT.patch_embed.proj.weight"].shape == (48, 1, 2, 2, 2)
    assert sum(p.numel() for p in body.parameters()) == 62_187_296  # its authors print 62.19 M


@pytest.mark.slow
def test_volumes_of_any_size_give_maps_of_their_size() -> None:
    model, _ = make_model("monai:swinunetr", outputs=3, dense=True, options={"feature_size": 12})
    out = model({"x": torch.rand(1, 1, 40, 66, 50), "value_range": torch.tensor([[0.0, 1.0]])})
    assert out.shape == (1, 3, 40, 66, 50)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
