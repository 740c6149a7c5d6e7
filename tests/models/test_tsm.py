"""Temporal shift: what moves where, in which blocks, and the names of the published files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medgraft.errors import UserError
from medgraft.models import parity, registry, weights
from medgraft.models.model import make_model
from medgraft.models.zoo import tsm
from medgraft.models.zoo.nonlocal_block import NonLocal

GOLDENS = Path(__file__).parent / "goldens"


def golden(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
    return found


# ---------------------------------------------------------------------------------------- the shift


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_first_eighth_comes_from_the_next_frame_the_second_from_the_one_before(layout: torch.memory_format) -> None:
    clip = torch.arange(1.0, 2 * 3 * 16 * 2 * 2 + 1).view(2, 3, 16, 2, 2)  # two clips of three frames, 16 channels
    x = clip.flatten(0, 1).contiguous(memory_format=layout)
    out = tsm.temporal_shift(x, 3, 2)
    assert out.is_contiguous(memory_format=layout) and out.data_ptr() != x.data_ptr()
    moved = out.unflatten(0, (2, 3))
    assert torch.equal(moved[:, :2, :2], clip[:, 1:, :2]) and not moved[:, 2, :2].any()
    assert torch.equal(moved[:, 1:, 2:4], clip[:, :2, 2:4]) and not moved[:, 0, 2:4].any()
    assert torch.equal(moved[:, :, 4:], clip[:, :, 4:])


def test_gradients_of_the_shift_are_exact() -> None:
    x = torch.rand(6, 8, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: tsm.temporal_shift(t, 3, 2), x)
    assert torch.autograd.gradgradcheck(lambda t: tsm.temporal_shift(t, 3, 2).square(), x)


def shifted(monkeypatch: pytest.MonkeyPatch, name: str) -> dict[str, tuple[int, int]]:
    """Block -> (channels, fold) of every shift that a forward pass does."""
    with torch.device("meta"):
        body = registry.build_body(name).eval()
    now = ""
    found: dict[str, tuple[int, int]] = {}

    def note(path: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            nonlocal now
            now = path

        return hook

    def shift(x: Tensor, frames: int, fold: int) -> Tensor:
        assert frames == 5
        found[now] = (x.shape[1], fold)
        return x

    for path, module in body.named_modules():
        if isinstance(module, (tsm.ShiftBottleneck, tsm.ShiftInverted)):
            module.register_forward_pre_hook(note(path))
    monkeypatch.setattr(tsm, "temporal_shift", shift)
    with torch.no_grad():
        assert body(torch.empty(1, 3, 5, 64, 64, device="meta")).shape == (1, registry.info(name).features)
    assert all(fold == channels // 8 for channels, fold in found.values())
    return found


def test_every_bottleneck_of_resnet50_shifts_and_every_second_of_resnet101(monkeypatch: pytest.MonkeyPatch) -> None:
    found = shifted(monkeypatch, "tsm_resnet50")
    assert list(found) == [f"layer{k}.{i}" for k, n in zip((1, 2, 3, 4), (3, 4, 6, 3)) for i in range(n)]
    assert found["layer1.0"] == (64, 8) and found["layer4.2"] == (2048, 256)
    deep = shifted(monkeypatch, "tsm_resnet101")
    assert list(deep) == [f"layer{k}.{i}" for k, n in zip((1, 2, 3, 4), (3, 4, 23, 3)) for i in range(0, n, 2)]


def test_ten_blocks_of_mobilenet_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    found = shifted(monkeypatch, "tsm_mobilenet_v2")
    assert list(found) == [f"features.{k}" for k in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]
    assert found["features.3"] == (24, 3)


@pytest.mark.parametrize("name", ["tsm_resnet50", "tsm_resnet50_nl", "tsm_mobilenet_v2"])
def test_two_clips_of_a_batch_give_what_each_gives_alone(name: str) -> None:
    body = registry.build_body(name).eval()
    clips = torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    clips[1] = clips[1].flip(2) * 0.2
    with torch.no_grad():
        together, alone = body(clips), torch.cat([body(clip[None]) for clip in clips])
    scale = alone.abs().max()
    assert (alone[0] - alone[1]).abs().max() > 0.01 * scale > 0
    assert (together - alone).abs().max() < 1e-4 * scale


@pytest.mark.parametrize("name", ["tsm_resnet50_8", "tsm_mobilenet_v2"])
def test_the_outputs_see_the_direction_of_the_shift(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = golden(name)
    body, state, _ = parity.loaded_body(row)
    monkeypatch.setattr(tsm, "temporal_shift", lambda x, frames, fold: tsm._Shift.apply(x, frames, fold, True))
    with torch.no_grad():
        assert parity.error(row, parity.outputs(row, body, state)) > 10 * parity.TOLERANCE


# ---------------------------------------------------------------------------------------- non-local blocks


def test_non_local_blocks_stand_where_the_project_puts_them() -> None:
    with torch.device("meta"):
        body = registry.build_body("tsm_resnet50_nl")
    found = {n: m for n, m in body.named_modules() if isinstance(m, NonLocal)}
    assert list(found) == ["layer2.0.nl", "layer2.2.nl", "layer3.0.nl", "layer3.2.nl", "layer3.4.nl"]
    assert all(not m.pool_first and m.affinity == "softmax" for m in found.values())


@pytest.mark.parametrize("kind", ["pool", "scale"])
def test_the_outputs_see_the_kind_of_the_non_local_block(kind: str) -> None:
    """PySlowFast's pools before phi and g and divides by a root; its block on TSM's weights gives other numbers."""
    row = golden("tsm_resnet50_nl")
    body, state, _ = parity.loaded_body(row)
    for module in body.modules():
        if isinstance(module, NonLocal):
            if kind == "pool":
                module.pool_first = True
            else:
                module.affinity = "scaled_softmax"
    with torch.no_grad():
        assert parity.error(row, parity.outputs(row, body, state)) > 10 * parity.TOLERANCE


def test_image_weights_start_the_non_local_network_as_the_plain_one() -> None:
    """New blocks begin as the identity and are reported; a Kinetics file without them is refused."""
    row = golden("tsm_resnet50_8")
    state = tsm.published(parity.fill(row["tensors"], 0.8), nn.Identity())
    plain, deep = registry.build_body("tsm_resnet50").eval(), registry.build_body("tsm_resnet50_nl").eval()
    image, video = weights.find_card("tsm_resnet50_nl", "imagenet"), weights.find_card("tsm_resnet50_nl", "kinetics")
    card = weights.find_card("tsm_resnet50", "imagenet")
    assert image is not None and video is not None and card is not None and card.file_name == image.file_name
    report = weights.load_state(deep, image, state, "file")
    assert (
        len(report.missing) == 5 * 12
        and all(".nl." in name for name in report.missing)
        and 0.7 < report.share_of_parameters < 0.8
    )
    assert weights.load_state(plain, card, state, "file").share_of_parameters == 1
    clip = parity.signal((1, 3, 4, 64, 64))
    with torch.no_grad():
        assert torch.allclose(deep(clip), plain(clip), atol=1e-5)
    with pytest.raises(UserError, match="60 of"):
        weights.load_state(deep, video, state, "file")


# ---------------------------------------------------------------------------------------- names and cards


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("tsm_resnet50_8", {"module.base_model.layer1.0.conv1.net.weight": "layer1.0.conv1.weight"}),
        ("tsm_resnet101", {"module.base_model.layer3.22.conv1.net.weight": "layer3.22.conv1.weight"}),
        (
            "tsm_resnet50_nl",
            {
                "module.base_model.layer2.0.block.conv1.net.weight": "layer2.0.conv1.weight",
                "module.base_model.layer3.4.nl.phi.0.bias": "layer3.4.nl.conv_phi.bias",
                "module.base_model.layer3.4.nl.W.1.running_var": "layer3.4.nl.bn.running_var",
            },
        ),
        (
            "tsm_mobilenet_v2",
            {
                "module.base_model.features.0.0.weight": "features.0.0.weight",
                "module.base_model.features.1.conv.0.weight": "features.1.conv.0.0.weight",
                "module.base_model.features.1.conv.3.weight": "features.1.conv.1.weight",
                "module.base_model.features.3.conv.0.net.weight": "features.3.conv.0.0.weight",
                "module.base_model.features.3.conv.4.running_mean": "features.3.conv.1.1.running_mean",
                "module.base_model.features.3.conv.7.bias": "features.3.conv.3.bias",
            },
        ),
    ],
)
def test_names_of_the_published_files_fit_with_and_without_prefixes(name: str, seen: dict[str, str]) -> None:
    row = golden(name)
    assert set(seen) <= set(row["tensors"])
    with torch.device("meta"):
        body = registry.build_body(row["network"])
        expected = {*body.state_dict(), "new_fc.weight", "new_fc.bias"}
        for prefix in ("module.", "module.base_model."):
            bare = {k.removeprefix(prefix): torch.empty(0) for k in row["tensors"]}
            assert set(tsm.published(bare, body)) == expected
        for published, ours in seen.items():
            assert list(tsm.published({published: torch.empty(0)}, body)) == [ours]


@pytest.mark.parametrize(
    ("name", "frames", "with_2", "with_400"),
    [
        ("tsm_resnet50", 8, 23.51, 24.33),
        ("tsm_resnet50", 16, 23.51, 24.33),
        ("tsm_mobilenet_v2", 8, 2.23, 2.74),
        ("tsm_resnet50_nl", 8, 30.87, 31.69),
    ],
)
def test_clips_of_any_length_and_the_stated_parameters(name: str, frames: int, with_2: float, with_400: float) -> None:
    with torch.device("meta"):
        for outputs, millions in ((2, with_2), (400, with_400)):
            model, _ = make_model(name, outputs=outputs, channels=3)
            assert model({"x": torch.empty(1, 3, frames, 224, 224), "value_range": torch.empty(1, 2)}).shape == (
                1,
                outputs,
            )
            assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize(
    ("network", "tag", "top1", "kind", "file"),
    [
        ("tsm_resnet50", "kinetics_8_dense", "74.1", "dense", "resnet50_shift8_blockres_avg_segment8_e100_dense"),
        ("tsm_resnet50", "kinetics_8_uniform", "71.2", "uniform", "resnet50_shift8_blockres_avg_segment8_e50"),
        ("tsm_resnet50", "kinetics_16_uniform", "72.6", "uniform", "resnet50_shift8_blockres_avg_segment16_e50"),
        ("tsm_resnet50_nl", "kinetics_8_dense", "75.6", "dense", "resnet50_shift8_blockres_avg_segment8_e100_dense_nl"),
        (
            "tsm_mobilenet_v2",
            "kinetics_8_dense",
            "69.5",
            "dense",
            "mobilenetv2_shift8_blockres_avg_segment8_e100_dense",
        ),
    ],
)
def test_accuracies_stand_with_the_clips_they_were_trained_on(
    network: str, tag: str, top1: str, kind: str, file: str
) -> None:
    card = weights.find_card(network, tag)
    assert card is not None and card.file_name == f"TSM_kinetics_RGB_{file}.pth"
    assert card.accuracy.startswith(f"top-1 {top1} %") and kind in card.accuracy
    assert ("trained on dense clips" if kind == "dense" else "trained on frames spread evenly") in card.notes
    assert card.mean == (0.485, 0.456, 0.406) and card.std == (0.229, 0.224, 0.225)
    first = weights.find_card(network, "kinetics")
    assert first is not None and first.tag == "kinetics_8_dense"
