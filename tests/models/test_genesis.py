"""Models Genesis beyond its numbers (those are goldens): files, batch norm, sizes, the heads of its target tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medgraft.errors import UserError
from medgraft.models import parity, registry, surgery, weights
from medgraft.models.model import make_model

WHOLE, PART = "genesis_unet3d", "genesis_encoder3d"


def published(folder: Path) -> Path:
    """A file as the authors write theirs: the restoration network under DataParallel, with its optimiser."""
    state = parity.fill(parity.shapes(registry.build_body(WHOLE, channels=1, structures=1)))
    path = folder / "Genesis_Chest_CT.pt"
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 1.0, "params": [0]}]}
    torch.save(
        {"epoch": 7, "state_dict": {f"module.{k}": v for k, v in state.items()}, "optimizer_state_dict": optimizer},
        path,
    )
    return path


def volumes(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def test_layers_are_those_of_the_source() -> None:
    """Channels and sizes of the table, 19.07 M parameters: 7.03 on the way down, 12.05 on the way up."""
    seen: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        body = registry.build_body(WHOLE, channels=1, structures=1)
        for name in (
            "down_tr64",
            "down_tr128",
            "down_tr256",
            "down_tr512",
            "up_tr256",
            "up_tr128",
            "up_tr64",
            "out_tr",
        ):
            body.get_submodule(name).register_forward_hook(
                lambda m, i, o, name=name: seen.update({name: tuple(o.shape[1:])})
            )
        out = body(torch.empty(1, 1, 32, 64, 64))
    full, half, quarter, eighth = ((64 >> k, 64 >> k, 32 >> k) for k in range(4))  # inside as published: 64x64x32
    assert seen == {
        "down_tr64": (64, *full),
        "down_tr128": (128, *half),
        "down_tr256": (256, *quarter),
        "down_tr512": (512, *eighth),
        "up_tr256": (256, *quarter),
        "up_tr128": (128, *half),
        "up_tr64": (64, *full),
        "out_tr": (1, *full),
    }
    assert out.shape == (1, 1, 32, 64, 64)
    counts = {name: p.numel() for name, p in body.named_parameters()}
    down = sum(n for name, n in counts.items() if name.startswith("down_"))
    assert (
        round(down / 1e6, 2),
        round((sum(counts.values()) - down) / 1e6, 2),
        round(sum(counts.values()) / 1e6, 2),
    ) == (7.03, 12.05, 19.07)


def test_the_published_file_fills_the_segmenter_but_its_last_layer(tmp_path: Path) -> None:
    published(tmp_path)
    model, report = make_model(WHOLE, start="genesis_chest_ct", outputs=3, dense=True, folders=[tmp_path])
    assert report is not None and not report.missing and not report.unexpected
    assert report.head == ("out_tr.final_conv.bias", "out_tr.final_conv.weight")
    state = weights.read_state(tmp_path / "Genesis_Chest_CT.pt")
    own = model.body.state_dict()
    assert own["out_tr.final_conv.weight"].shape == (3, 64, 1, 1, 1)
    assert all(torch.equal(own[name], state[name]) for name in own if not name.startswith("out_tr"))
    assert {id(p) for p in dict(model.groups())["head"]} == {
        id(p) for p in model.body.get_submodule("out_tr").parameters()
    }
    card = model.weight_card
    assert (
        card is not None
        and "non-commercial" in card.licence
        and (model.card.channels, model.card.mean, model.card.std) == (1, (0.0,), (1.0,))
    )
    hounsfield = torch.tensor([-2000.0, -1000.0, 0.0, 1000.0, 3000.0]).view(1, 1, 1, 1, 5)
    assert model.prepare(hounsfield, torch.tensor([[-1000.0, 1000.0]])).flatten().tolist() == [0, 0, 0.5, 1, 1]


def test_the_published_file_fills_the_classifier_and_the_rest_is_reported(tmp_path: Path) -> None:
    """Encoder, global mean, dense layer of 1024 with ReLU, last layer: the authors' target network."""
    published(tmp_path)
    model, report = make_model(PART, start="genesis_chest_ct", outputs=2, hidden=1024, folders=[tmp_path])
    assert report is not None and not report.missing and not report.unexpected and report.share_of_parameters == 1
    state = weights.read_state(tmp_path / "Genesis_Chest_CT.pt")
    assert set(report.head) == {k for k in state if not k.startswith("down_")}
    assert [tuple(p.shape) for p in model.head.parameters()] == [(1024, 512), (1024,), (2, 1024), (2,)]
    batch = {"x": volumes(2, 1, 16, 16, 16), "value_range": torch.tensor([[0.0, 1.0]] * 2)}
    whole = make_model(WHOLE, start="genesis_chest_ct", outputs=1, dense=True, folders=[tmp_path])[0].body.eval()
    deep: list[Tensor] = []
    whole.get_submodule("down_tr512").register_forward_hook(lambda m, i, out: deep.append(out))
    with torch.no_grad():
        logits = model.eval()(batch)
        whole(batch["x"])
        first, last = model.head.hidden, model.head.last.linear
        assert torch.allclose(logits, last(first(deep[0].mean((2, 3, 4))).relu()), atol=1e-6)
        cut = last(first(deep[0].mean((2, 3, 4))))
    assert not torch.allclose(logits, cut, atol=1e-6)  # the ReLU is seen


def test_batch_statistics_look_across_cases_and_running_ones_do_not() -> None:
    state = parity.fill(parity.shapes(registry.build_body(PART, channels=1)))
    case, others = volumes(1, 1, 16, 16, 16), volumes(2, 1, 16, 16, 16).square()

    def answers(bn_mode: str) -> tuple[nn.Module, Tensor, Tensor]:
        body = registry.build_body(PART, channels=1, options={"bn_mode": bn_mode}).eval()
        body.load_state_dict(state)
        with torch.no_grad():
            return body, body(case)[0], body(torch.cat([case, others]))[0]

    body, alone, among = answers("running")
    assert torch.allclose(alone, among, atol=1e-4) and not surgery.mixes_cases(body)
    body, alone, among = answers("batch")
    assert (alone - among).abs().max() > 0.1 and surgery.mixes_cases(body)
    assert all(torch.equal(v, state[k]) for k, v in body.state_dict().items())  # evaluation changes nothing
    body.train()(others)
    assert not torch.equal(
        body.state_dict()["down_tr64.ops.0.bn1.running_mean"], state["down_tr64.ops.0.bn1.running_mean"]
    )
    with pytest.raises(UserError, match="bn_mode is running or batch"):
        registry.build_body(PART, options={"bn_mode": "group"})


@pytest.mark.parametrize(("side", "met"), [(24, 24), (20, 24), (16, 16)])
def test_sides_divide_by_eight_not_by_sixteen(side: int, met: int) -> None:
    model, _ = make_model(WHOLE, outputs=1, dense=True)
    sides: list[int] = []
    model.body.register_forward_pre_hook(lambda m, inputs: sides.append(inputs[0].shape[-1]))
    with torch.no_grad():
        out = model.eval()({"x": volumes(1, 1, 16, 16, side), "value_range": torch.tensor([[0.0, 1.0]])})
        raw = model.body(volumes(1, 1, 16, 16, met))
    assert sides[0] == met and out.shape[-1] == side and raw.shape[-1] == met


def test_two_dimensional_networks_share_their_encoder(tmp_path: Path) -> None:
    """What the U-Net learnt fills the encoder, and ImageNet weights give torchvision's ResNet-18 features in both."""
    from torchvision.models import resnet18

    official = resnet18().eval()
    official.load_state_dict(parity.fill(parity.shapes(official), gain=1.0))
    torch.save(official.state_dict(), tmp_path / "image.pth")
    card = weights.find_card("genesis_encoder2d", "imagenet")
    assert card is not None and card.scope == "encoder" and card.source_data == "ImageNet-1k"
    body = registry.build_body("genesis_encoder2d").eval()
    report = weights.load(body, card, tmp_path / "image.pth")
    assert report.share_of_parameters == 1 and report.head == ("encoder.fc.bias", "encoder.fc.weight")
    picture = parity.signal((2, 3, 64, 64))
    with torch.no_grad():
        official.fc = nn.Identity()
        expected = official(picture)
        assert expected.std() > 0.1 and (body(picture) - expected).abs().max() <= 1e-4 * expected.abs().max()

    whole = registry.build_body("genesis_unet2d", channels=1, structures=1)
    torch.save(whole.state_dict(), tmp_path / "own.pth")
    own = weights.WeightCard(name="own", backbone="genesis_encoder2d", file_name="own.pth")
    part = registry.build_body("genesis_encoder2d", channels=1)
    report = weights.load(part, own, tmp_path / "own.pth")
    assert report.share_of_parameters == 1 and not report.unexpected
    assert {k.split(".")[0] for k in report.head} == {"decoder", "segmentation_head"}
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in part.state_dict().items())


def test_a_hidden_layer_has_no_place_in_a_dense_network() -> None:
    with pytest.raises(UserError, match="no place for a hidden one"):
        make_model(WHOLE, outputs=1, dense=True, hidden=16)
