"""Gate-shift modules: zero gates are a permutation, image weights undo it, names and accuracies of the files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medgraft.errors import UserError
from medgraft.models import parity, registry, weights
from medgraft.models.model import make_model
from medgraft.models.zoo import gsm
from medgraft.models.zoo.gsm import GateShift

GOLDENS = Path(__file__).parent / "goldens"
GATES = {"3a": 64, "3b": 64, "3c": 128, "4a": 224, "4b": 192, "4c": 160, "4d": 96, "4e": 128, "5a": 352, "5b": 352}


def golden(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def test_zero_gates_interleave_each_half() -> None:
    x = torch.arange(16.0).view(1, 16, 1, 1).expand(3, 16, 2, 2)
    with torch.no_grad():
        out = GateShift(16).eval()(x, 3)
    assert out[0, :, 0, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]


def test_open_gates_move_the_first_half_back_and_the_second_on() -> None:
    gate = GateShift(8).eval()
    nn.init.constant_(gate.conv3D.bias, 40.0)  # type: ignore[arg-type]  # tanh 1: everything moves
    x = torch.rand(4, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = gate(x, 4)
    order = [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(out[:3, :4], x[1:, order[:4]]) and not out[3, :4].any()
    assert torch.equal(out[1:, 4:], x[:3, order[4:]]) and not out[0, 4:].any()


def test_ten_gates_with_51060_parameters() -> None:
    with torch.device("meta"):
        body = registry.build_body("gsm_bninception")
        gates = {
            n.split(".")[0].removeprefix("inception_"): m for n, m in body.named_modules() if isinstance(m, GateShift)
        }
        assert {n: m.bn.num_features for n, m in gates.items()} == GATES
        assert sum(p.numel() for m in gates.values() for p in m.parameters()) == 51_060
        for frames, outputs, millions in ((8, 174, 10.5), (16, 2, 10.3)):
            model, _ = make_model("gsm_bninception", outputs=outputs, channels=3)
            assert model({"x": torch.empty(1, 3, frames, 224, 224), "value_range": torch.empty(1, 2)}).shape == (
                1,
                outputs,
            )
            assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.03)


def test_image_weights_with_zero_gates_are_the_image_network() -> None:
    """The loader re-orders the convolutions before the gates; without that the channels are shuffled."""
    row = golden("bninception")
    state = parity.fill(row["tensors"], row["gain"])
    image_card, clip_card = (
        weights.find_card("bninception", "imagenet"),
        weights.find_card("gsm_bninception", "imagenet"),
    )
    assert image_card is not None and clip_card is not None and clip_card.file_name == image_card.file_name
    image, clip = registry.build_body("bninception").eval(), registry.build_body("gsm_bninception").eval()
    weights.load_state(image, image_card, state, "file")
    report = weights.load_state(clip, clip_card, state, "file")
    assert len(report.missing) == 10 * 6 and all(".gate." in name for name in report.missing) and not report.unexpected
    assert report.share_of_parameters == pytest.approx(1 - 51_060 / sum(p.numel() for p in clip.parameters()))

    x = parity.signal((1, 3, 3, 64, 64))
    with torch.no_grad():
        expected = image(x[0].transpose(0, 1)).mean(0)
        assert expected.std() > 0.1
        assert torch.allclose(clip(x)[0], expected, atol=1e-5 * float(expected.abs().max()))
        weights.load_state(clip, replace(clip_card, name_map="bninception.published"), state, "file")
        assert (clip(x)[0] - expected).abs().max() > 0.1 * expected.abs().max()
    published = weights.find_card("gsm_bninception", "something_v1_8")
    assert published is not None
    with pytest.raises(UserError, match="tensors are missing"):  # a published file must bring its gates
        weights.load_state(clip, published, state, "file")


def test_a_gate_that_opens_learns() -> None:
    """Zero gates do not stop their gradients: the first step moves them."""
    gate = GateShift(8)
    x = torch.rand(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    (gate(x, 4) * parity.signal((4, 8, 3, 3), "mix")).sum().backward()
    assert gate.conv3D.weight.grad is not None and gate.conv3D.weight.grad.abs().sum() > 0


def test_names_of_the_published_files_fit_with_and_without_prefixes() -> None:
    row = golden("gsm_bninception_8")
    with torch.device("meta"):
        body = registry.build_body("gsm_bninception")
        expected = {*body.state_dict(), "new_fc.weight", "new_fc.bias"}
        for prefix in ("module.", "module.base_model."):
            assert (
                set(gsm.published({k.removeprefix(prefix): torch.empty(0) for k in row["tensors"]}, body)) == expected
            )
    for name, ours in {
        "module.base_model.gsm_inception_3a_1x1.conv3D.weight": "inception_3a.gate.conv3D.weight",
        "module.base_model.gsm_inception_3c_3x3_reduce.bn.running_var": "inception_3c.gate.bn.running_var",
        "module.base_model.inception_3c_3x3_reduce_bn.bias": "inception_3c.3x3_reduce_bn.bias",
    }.items():
        assert name in row["tensors"] and list(gsm.published({name: torch.empty(0)}, body)) == [ours]


def test_the_outputs_see_the_direction_of_the_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    row = golden("gsm_bninception_8")
    body, state, _ = parity.loaded_body(row)
    shift = gsm.temporal_shift
    monkeypatch.setattr(gsm, "temporal_shift", lambda x, frames, fold: shift(x.flip(1), frames, fold).flip(1))
    with torch.no_grad():
        assert parity.error(row, parity.outputs(row, body, state)) > 10 * parity.TOLERANCE


@pytest.mark.parametrize("frames", [8, 16])
def test_no_accuracy_is_printed_for_files_that_have_none(frames: int) -> None:
    """49.01 and 50.63 % belong to the project's Inception v3."""
    card = weights.find_card("gsm_bninception", f"something_v1_{frames}")
    assert card is not None and card.file_name == f"something-v1_RGB_BNInception_avg_segment{frames}_checkpoint.pth.tar"
    assert card.accuracy == "" and not any(figure in card.notes for figure in ("49.01", "50.63"))
    assert (card.mean, card.std, card.range, card.channel_order) == ((104, 117, 128), (1, 1, 1), 255, "BGR")
