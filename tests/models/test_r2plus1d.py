"""R(2+1)D-34: the traps of the IG-65M files, each seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from medgraft.errors import UserError
from medgraft.models import parity, registry, weights
from medgraft.models.model import make_model, preprocess_of

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "r2plus1d_34_8.json").read_text(encoding="utf-8"))


def body() -> nn.Module:
    with torch.device("meta"):
        return registry.build_body("r2plus1d_34")


def test_every_convolution_has_the_middle_width_of_its_own_channels() -> None:
    """Tran et al. 2018: m = floor(27 c_in c_out / (9 c_in + 3 c_out)); the stem's 45 is their choice."""
    widths = {n: m[0].out_channels for n, m in body().named_modules() if n.endswith((".conv1.0", ".conv2.0"))}
    assert len(widths) == 32
    first = {"layer1": (144, 144), "layer2": (230, 288), "layer3": (460, 576), "layer4": (921, 1152)}
    for name, width in widths.items():
        layer, block, part, _ = name.split(".")
        assert width == (first[layer][part == "conv2"] if block == "0" else first[layer][1]), name
    assert body().stem[0].out_channels == 45


@pytest.mark.parametrize(("frames", "card"), [(8, "ig65m_8"), (32, "ig65m_32")])
def test_clips_of_both_lengths_give_512_features_and_the_stated_parameters(frames: int, card: str) -> None:
    with torch.device("meta"):
        model, _ = make_model("r2plus1d_34", start=card, outputs=2, channels=3, load_weights=False)
        logits = model({"x": torch.empty(2, 3, frames, 112, 112), "value_range": torch.empty(2, 2)})
    assert logits.shape == (2, 2)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(63.49, abs=0.01)
    found = weights.find_card("r2plus1d_34", card)
    assert found is not None and found.input_size == (frames, 112, 112) and found.source_data == "IG-65M"
    assert f"_clip{frames}_ig65m_from_scratch-{found.sha256}.pth" in found.file_name and found.addresses[0].endswith(
        found.file_name
    )
    assert preprocess_of(found, 3).mean == (0.43216, 0.394666, 0.37645) and preprocess_of(found, 3).std == (
        0.22803,
        0.22145,
        0.216989,
    )


def test_kinetics_means_the_fine_tuned_files() -> None:
    card = weights.find_card("r2plus1d_34", "kinetics")
    assert card is not None and "ft_kinetics" in card.file_name and card.source_data == "IG-65M, Kinetics-400"


def test_torchvisions_own_block_does_not_fit_the_files() -> None:
    """It takes the middle width once from the block's ends: second convolutions of 230, 460 and 921."""
    from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

    with torch.device("meta"):
        net = VideoResNet(block=BasicBlock, conv_makers=[Conv2Plus1D] * 4, layers=[3, 4, 6, 3], stem=R2Plus1dStem)
    wrong = {
        n: list(t.shape)
        for n, t in net.state_dict().items()
        if not n.startswith("fc.") and list(t.shape) != GOLDEN["tensors"][n]
    }
    assert {n.split(".conv2.0.")[0] for n in wrong} == {"layer2.0", "layer3.0", "layer4.0"}
    assert [wrong[f"layer{k}.0.conv2.0.0.weight"][0] for k in (2, 3, 4)] == [230, 460, 921]
    ours = registry.build_body("r2plus1d_34")
    card = weights.find_card("r2plus1d_34", "ig65m_8")
    assert card is not None
    state = {n: torch.zeros(wrong.get(n, shape)) for n, shape in GOLDEN["tensors"].items()}
    with pytest.raises(UserError, match=r"have another shape \(layer2.0.conv2.0.0.weight \(230, "):
        weights.load_state(ours, card, state, "file")


def test_the_outputs_see_another_epsilon() -> None:
    filled, state, _ = parity.loaded_body(GOLDEN)
    with torch.no_grad():
        assert parity.error(GOLDEN, parity.outputs(GOLDEN, filled, state)) <= parity.TOLERANCE
        for module in filled.modules():
            if isinstance(module, nn.BatchNorm3d):
                assert module.eps == 1e-3
                module.eps = 1e-5
        assert parity.error(GOLDEN, parity.outputs(GOLDEN, filled, state)) > 10 * parity.TOLERANCE


def test_the_momentum_of_the_converter_is_not_taken_over() -> None:
    """PyTorch's .9 is 90 % of the new batch; one step must move the statistics by a tenth."""
    filled, _, _ = parity.loaded_body(GOLDEN)
    norms = [m for m in filled.modules() if isinstance(m, nn.BatchNorm3d)]
    assert len(norms) == 69 and {m.momentum for m in norms} == {0.1}
    before = norms[0].running_mean.clone()  # type: ignore[union-attr, operator]
    seen: list[torch.Tensor] = []
    norms[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().mean((0, 2, 3, 4))))
    with torch.no_grad():
        filled.train()(parity.signal(GOLDEN["input"]))
    assert torch.allclose(norms[0].running_mean, 0.9 * before + 0.1 * seen[0], atol=1e-6)  # type: ignore[arg-type]
