"""Image weights with a reach over time, on the real ImageNet weights: a still clip keeps the image network's
activations.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medgraft.errors import UserError
from medgraft.models import inflate, parity, registry, weights
from medgraft.models.model import Model, make_model
from medgraft.models.weights import LoadReport

LITE = "efficientnet_lite0"


def model_of(name: str, start: str = "imagenet", **more: object) -> tuple[Model, LoadReport | None]:
    model, report = make_model(name, start=start, outputs=2, channels=3, **more)  # type: ignore[arg-type]
    return model.eval(), report


def still(frames: int = 4, side: int = 64) -> Tensor:
    """Two clips of one picture each."""
    return parity.signal((2, 3, 1, side, side)).expand(-1, -1, frames, -1, -1)


def moving(frames: int = 4, side: int = 64) -> Tensor:
    return parity.signal((2, 3, frames, side, side))


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-4 * b.abs().max())


# ---------------------------------------------------------------------------------------- one convolution


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("reach", [1, 3, 5])
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_the_temporal_convolution_is_a_3d_convolution_with_the_border_frames_repeated(
    groups: int, reach: int, frames: int
) -> None:
    torch.manual_seed(0)
    image = nn.Conv2d(6, 12, 3, stride=2, padding=1, groups=groups)
    conv = inflate.TemporalConv(image, reach)
    conv.clip = frames
    x = torch.randn(2, 6, frames, 7, 6)
    folded = x.transpose(1, 2).flatten(0, 1)
    with torch.no_grad():
        conv.weight.normal_()  # no longer the same at every offset
        padded = torch.cat([x[:, :, :1]] * (reach // 2) + [x] + [x[:, :, -1:]] * (reach // 2), 2)
        expected = functional.conv3d(padded, conv.kernel(), conv.bias, (1, 2, 2), (0, 1, 1), groups=groups)
        found = conv(folded).unflatten(0, (2, frames)).transpose(1, 2)
    assert conv.kernel().shape == (12, 6 // groups, reach, 3, 3)
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_new_temporal_convolution_holds_the_image_kernel_divided_by_its_length() -> None:
    image = nn.Conv2d(6, 12, 3, groups=2)
    kernel = inflate.TemporalConv(image, 5).kernel()
    assert torch.allclose(kernel, inflate.to_shape(image.weight, kernel.shape)) and torch.allclose(
        kernel.sum(2), image.weight, atol=1e-6
    )


# ---------------------------------------------------------------------------------------- networks


def test_a_still_clip_keeps_the_activations_of_the_real_image_network() -> None:
    image, _ = model_of(LITE)
    clip, report = model_of(f"i3d:{LITE}")
    assert report is not None and report.share_of_parameters == 1 and not report.missing and not report.unexpected
    convolutions = {n: m for n, m in clip.body.body.named_modules() if isinstance(m, inflate.TemporalConv)}
    assert set(report.adapted) == {f"{n}.weight" for n in convolutions} and len(convolutions) == 17
    assert all("divided by 3" in how for how in report.adapted.values())
    assert type(image.body.body.conv_stem).__name__ == "Conv2dSame"  # asymmetric padding at stride 2 is kept, too

    def inside(model: Model, x: Tensor) -> list[Tensor]:
        out: list[Tensor] = []
        layers = [model.body.body.get_submodule(n) for n in ("conv_stem", "blocks.2", "blocks.5", "conv_head")]
        hooks = [layer.register_forward_hook(lambda module, given, made: out.append(made)) for layer in layers]
        with torch.no_grad():
            out.append(model.body(x))
        for hook in hooks:
            hook.remove()
        return out

    for a, b in zip(inside(clip, still()), inside(image, still())):
        assert close(a, b)  # every frame of every layer, the first and the last included
    with torch.no_grad():
        assert not close(clip.body(moving()), image.body(moving()))  # it does look at its neighbours
        assert close(clip.body(still(1)), image.body(still(1)))
        broken = copy.deepcopy(clip)
        for module in broken.body.modules():
            if isinstance(module, inflate.TemporalConv):
                module.weight.mul_(3)  # the division left out
        assert not close(broken.body(still()), image.body(still()))


def test_frames_see_their_neighbours_of_the_same_clip_alone() -> None:
    clip, _ = model_of(f"i3d:{LITE}", start="random")
    x = moving(frames=3)
    with torch.no_grad():
        together = clip.body(x)
        apart = torch.cat([clip.body(x[:1]), clip.body(x[1:])])
        assert close(together, apart)
        assert not close(clip.body(x[:, :, [1, 0, 2]]), together)  # their order counts


def test_the_factored_network_starts_as_the_lifted_image_network_on_every_clip() -> None:
    image, _ = model_of(LITE)
    clip, report = model_of(f"r2plus1d:{LITE}")
    assert (
        report is not None and not report.missing and len(report.adapted) == 17 and 0.9 < report.share_of_parameters < 1
    )
    assert all(name.endswith(".time.weight") and "identity" in how for name, how in report.adapted.items())
    with torch.no_grad():
        assert close(clip.body(moving()), image.body(moving()))
        clip.body.body.conv_stem.time.weight.normal_()
        assert not close(clip.body(moving()), image.body(moving()))
    card = weights.find_card(f"r2plus1d:{LITE}", "imagenet")
    assert card is not None
    weights.load(clip.body.body, card, weights.locate(card))  # a second load puts the identity back
    with torch.no_grad():
        assert close(clip.body(moving()), image.body(moving()))


def test_the_folded_mobilenet_keeps_its_activations(shared_data: Path) -> None:
    """No norms, biases on all convolutions, a file in float16: biases are not spread, and kernels are divided in
    float32.
    """
    x = still(side=96)
    folder = [shared_data / "weights"]
    image, _ = model_of("mobilenet_v2_folded", folders=folder)
    for kind in ("i3d", "r2plus1d"):
        clip, report = model_of(f"{kind}:mobilenet_v2_folded", folders=folder)
        assert report is not None and not report.missing
        with torch.no_grad():
            assert close(clip.body(x), image.body(x))


@pytest.mark.parametrize(
    ("name", "dense"), [(f"i3d:{LITE}", False), (f"r2plus1d:{LITE}", False), ("i3d:lraspp_mobilenet_v3_large", True)]
)
def test_an_inflated_network_trains_and_grey_files_fit(name: str, dense: bool) -> None:
    model, _ = make_model(name, outputs=2, dense=dense, channels=1, seed=3)
    batch = {"x": torch.rand(2, 1, 3, 64, 64), "value_range": torch.tensor([[0.0, 1.0]] * 2)}
    out = model(batch)
    assert out.shape == ((2, 2, 3, 64, 64) if dense else (2, 2))
    out.square().sum().backward()
    temporal = [m for m in model.modules() if isinstance(m, inflate.TemporalConv)]
    assert temporal and all(m.weight.grad is not None and m.weight.grad.abs().sum() > 0 for m in temporal)
    groups = model.groups()
    assert sorted(id(p) for _, ps in groups for p in ps) == sorted(id(p) for p in model.parameters())
    model.body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert torch.allclose(model(batch), out, atol=1e-4)


def test_a_grey_body_sums_the_colours_of_an_inflated_first_convolution() -> None:
    grey, report = make_model(f"i3d:{LITE}", start="imagenet", outputs=2, channels=1, body_channels=1)
    colour, _ = model_of(f"i3d:{LITE}")
    assert report is not None and "divided by 3; input channels 3 -> 1" in report.adapted["conv_stem.weight"]
    x = parity.signal((1, 1, 3, 64, 64))
    with torch.no_grad():
        assert close(grey.eval().body(x), colour.body(x.expand(-1, 3, -1, -1, -1)))


def test_names_starts_and_refusals() -> None:
    assert registry.resolve("i3d:resnet18") == "i3d:torchvision:resnet18"
    assert registry.info(f"i3d:{LITE}").name == f"i3d:{LITE}" and registry.info(f"i3d:{LITE}").dims == 2
    card = weights.find_card("i3d:resnet18", "imagenet")
    assert card is not None and card.backbone == "i3d:torchvision:resnet18" and card.mean == (0.485, 0.456, 0.406)
    wide = registry.build_body(f"i3d:{LITE}", options={"frames": 5})
    assert {m.reach for m in wide.modules() if isinstance(m, inflate.TemporalConv)} == {
        3,
        5,
    }  # at most the side of the kernel
    with pytest.raises(UserError, match="only an image network"):
        registry.build_body("i3d:r3d_18")
    with pytest.raises(UserError, match="has no centre"):
        registry.build_body(f"i3d:{LITE}", options={"frames": 2})
    with pytest.raises(UserError, match="changes its weights"):
        registry.build_body("i3d:timm:resnetv2_50x1_bit")
    with pytest.raises(UserError, match="efficientnet_lite0"):
        registry.resolve("i3d:efficientnet_lit0")
