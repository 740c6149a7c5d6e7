"""C2D, I3D, Slow and SlowFast: what the official zoo's weights need, each seen where it would be wrong."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medgraft.models import parity, registry, weights
from medgraft.models.model import make_model, preprocess_of
from medgraft.models.zoo import slowfast

GOLDENS = Path(__file__).parent / "goldens"


@lru_cache(maxsize=2)
def loaded(name: str) -> tuple[dict[str, Any], nn.Module, dict[str, Tensor]]:
    """A golden with our network, filled as the official one was."""
    golden = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
    body, state, _ = parity.loaded_body(golden)
    return golden, body, state


def error(name: str) -> float:
    golden, body, state = loaded(name)
    with torch.no_grad():
        return parity.error(golden, parity.outputs(golden, body, state))


@lru_cache
def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return registry.build_body(name)


def seen_by(body: nn.Module, layers: list[str], shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Channels and frames of what these layers are given for an input of ``shape``, without arithmetic."""
    found: dict[str, tuple[int, ...]] = {}
    with ExitStack() as hooks, torch.no_grad():
        for layer in layers:

            def note(module: nn.Module, given: tuple[Tensor, ...], layer: str = layer) -> None:
                found[layer] = tuple(given[0].shape[1:3])

            hooks.enter_context(body.get_submodule(layer).register_forward_pre_hook(note))
        body.eval()(torch.empty(shape, device="meta"))
    return [found[layer] for layer in layers]


@pytest.mark.parametrize(
    ("name", "frames", "millions", "source"),
    [
        ("c2d_r50", 8, 23.51, 67.2),
        ("i3d_r50", 8, 27.23, 73.5),
        ("i3d_r50_nl", 8, 34.59, 74.0),
        ("slow_r50_8x8", 8, 31.64, 74.8),
        ("slow_r50_4x16", 4, 31.64, 72.7),
        ("slowfast_r50_8x8", 32, 33.65, 77.0),
        ("slowfast_r50_4x16", 32, 33.56, 75.6),
    ],
)
def test_two_logits_from_a_kinetics_start(name: str, frames: int, millions: float, source: float) -> None:
    with torch.device("meta"):
        model, _ = make_model(name, start="kinetics", outputs=2, channels=1, load_weights=False)
        logits = model({"x": torch.empty(2, 1, frames, 224, 224), "value_range": torch.empty(2, 2)})
    assert logits.shape == (2, 2) and registry.info(name).default_size == (frames, 224, 224)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)
    card = model.weight_card
    assert (
        card is not None
        and card.name == f"{name}.kinetics400"
        and card.format == "caffe2"
        and f"top-1 {source}" in card.accuracy
    )
    assert (
        preprocess_of(card, 3).mean == (0.45,) * 3 and preprocess_of(card, 3).std == (0.225,) * 3 and card.resize == 256
    )


# ---------------------------------------------------------------------------------------- the traps


def test_the_slow_path_sees_the_official_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    for alpha in (4, 8):
        for frames in range(alpha, 129, alpha):  # at 160 the official float32 falls just short of frame 53
            assert slowfast.slow_frames(frames, alpha) == torch.linspace(0, frames - 1, frames // alpha).long().tolist()
    assert slowfast.slow_frames(32, 8) == [0, 10, 20, 31] and slowfast.slow_frames(32, 4) == [
        0,
        4,
        8,
        13,
        17,
        22,
        26,
        31,
    ]
    assert slowfast.slow_frames(1, 8) == [0] and slowfast.slow_frames(9, 8) == [0, 8]
    _, body, _ = loaded("slowfast_r50_4x16")
    x = torch.rand(1, 3, 32, 16, 16)
    given: list[Tensor] = []
    stems = [body.get_submodule(f"s1.pathway{path}_stem") for path in (0, 1)]
    hooks = [stem.register_forward_pre_hook(lambda module, what: given.append(what[0])) for stem in stems]
    with torch.no_grad():
        body(x)
    for hook in hooks:
        hook.remove()
    assert torch.equal(given[0], x[:, :, [0, 10, 20, 31]]) and torch.equal(given[1], x)
    assert error("slowfast_r50_4x16") <= parity.TOLERANCE
    monkeypatch.setattr(
        slowfast, "slow_frames", lambda frames, alpha: list(range(0, frames, alpha))
    )  # every alpha-th: not the official ones
    assert error("slowfast_r50_4x16") > 10 * parity.TOLERANCE


def test_lateral_connections_have_their_kernels_and_feed_the_slow_path() -> None:
    for name, alpha, kernel in (
        ("slowfast_r50_8x8", 4, 7),
        ("slowfast_r50_4x16", 8, 5),
        ("slowfast_r50_8x8_nl", 4, 5),
        ("slowfast_r50_4x16_nl", 8, 5),
    ):
        body = on_meta(name)
        for stage, width in zip((1, 2, 3, 4), (8, 32, 64, 128)):
            conv = body.get_submodule(f"s{stage}_fuse.conv_f2s")
            assert isinstance(conv, nn.Conv3d) and conv.bias is None
            assert (conv.kernel_size, conv.stride, conv.padding) == ((kernel, 1, 1), (alpha, 1, 1), (kernel // 2, 0, 0))
            assert (conv.in_channels, conv.out_channels) == (width, 2 * width)
        shapes = seen_by(body, [f"s{stage}.pathway0_res0" for stage in (2, 3, 4, 5)], (1, 3, 32, 64, 64))
        assert shapes == [(channels, 32 // alpha) for channels in (80, 320, 640, 1280)]


def test_temporal_kernels_stand_where_the_table_has_them_and_i3d_halves_its_frames_after_res2() -> None:
    kernels = {
        "c2d_r50": (1, [1] * 3, [1] * 4, [1] * 6, [1] * 3),
        "i3d_r50": (5, [3] * 3, [3, 1] * 2, [3, 1] * 3, [1, 3, 1]),
        "slow_r50_8x8": (1, [1] * 3, [1] * 4, [3] * 6, [3] * 3),
    }
    frames = {"c2d_r50": 8, "i3d_r50": 4, "slow_r50_8x8": 8, "c2d_r50_nl": 4, "i3d_r50_nl": 4, "slow_r50_8x8_nl": 8}
    for name, (stem, *stages) in kernels.items():
        body = on_meta(name)
        assert body.get_submodule("s1.pathway0_stem.conv").kernel_size == (stem, 7, 7)
        for stage, expected in zip((2, 3, 4, 5), stages):
            blocks = [body.get_submodule(f"s{stage}.pathway0_res{b}") for b in range(len(expected))]
            assert [b.branch2.a.kernel_size for b in blocks] == [(k, 1, 1) for k in expected]
            assert [b.branch2.b.stride for b in blocks] == [
                (1, 1 + (stage > 2), 1 + (stage > 2)),
                *[(1, 1, 1)] * (len(blocks) - 1),
            ]
    for name, left in frames.items():
        assert [depth for _, depth in seen_by(on_meta(name), ["s2", "s3", "s5"], (1, 3, 8, 64, 64))] == [8, left, left]


def test_non_local_blocks_stand_after_res3_1_3_and_res4_1_3_5_of_the_slow_path() -> None:
    kinds = {
        "c2d_r50": "scaled_softmax",
        "i3d_r50": "scaled_softmax",
        "slow_r50_8x8": "mean",
        "slow_r50_4x16": "mean",
        "slowfast_r50_8x8": "mean",
    }
    places = [f"s3.pathway0_nonlocal{b}" for b in (1, 3)] + [f"s4.pathway0_nonlocal{b}" for b in (1, 3, 5)]
    for name, kind in kinds.items():
        found = {
            n: m
            for n, m in on_meta(f"{name}_nl").named_modules()
            if n.rpartition(".")[2].startswith("pathway0_nonlocal")
        }
        assert list(found) == places and all(m.affinity == kind and m.pool_first for m in found.values())
        assert not any("nonlocal" in n for n, _ in on_meta(name).named_modules())


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(
            lambda body, part: [setattr(m, "eps", 1e-3) for m in body.modules() if isinstance(m, nn.BatchNorm3d)],
            id="batch-norm epsilon",
        ),
        pytest.param(lambda body, part: setattr(body, "pool", False), id="no pool after res2"),
        pytest.param(lambda body, part: setattr(part, "affinity", "softmax"), id="affinity without scale"),
        pytest.param(lambda body, part: setattr(part, "affinity", "mean"), id="dot product"),
        pytest.param(lambda body, part: setattr(part, "pool_first", False), id="pool after phi and g"),
        pytest.param(lambda body, part: nn.init.zeros_(part.bn.weight), id="scale of zero"),
    ],
)
def test_the_golden_of_i3d_with_non_local_blocks_sees(spoil: Callable[[nn.Module, nn.Module], object]) -> None:
    name = "i3d_r50_nl"
    _, body, _ = loaded(name)
    part = body.get_submodule("s4.pathway0_nonlocal5")
    assert error(name) <= parity.TOLERANCE
    scale = part.bn.weight.detach().clone()
    settings = {m: {"eps": m.eps} for m in body.modules() if isinstance(m, nn.BatchNorm3d)}
    settings |= {body: {"pool": True}, part: {"affinity": part.affinity, "pool_first": True}}
    with torch.no_grad():
        spoil(body, part)
        wrong = error(name)
        part.bn.weight.copy_(scale)
    for module, facts in settings.items():
        for key, value in facts.items():
            setattr(module, key, value)
    assert wrong > 10 * parity.TOLERANCE and error(name) <= parity.TOLERANCE


def test_a_new_network_hides_its_branches_and_a_filled_one_does_not() -> None:
    """Why goldens are filled: with the zero scales of a new network a wrong branch goes unseen."""
    torch.manual_seed(0)
    fresh = registry.build_body("c2d_r50_nl").eval()
    golden, filled, _ = loaded("i3d_r50_nl")
    x = parity.signal((1, 3, 2, 32, 32))
    for body, hidden in ((fresh, True), (filled, False)):
        with torch.no_grad():
            before = body(x)
            for name in ("s3.pathway0_nonlocal1.conv_g.weight", "s4.pathway0_res1.branch2.c.weight"):
                old = body.get_parameter(name).clone()
                body.get_parameter(name).mul_(1.5)
                change = (body(x) - before).abs().max()
                body.get_parameter(name).copy_(old)
                assert (change == 0) == hidden, name
    assert golden["network"] == "i3d_r50_nl"


def test_the_official_softmax_is_off_and_norms_are_pytorchs() -> None:
    golden, body, _ = loaded("i3d_r50_nl")
    assert min(golden["output"]) < 0 and golden["head"] == ["pred_w", "pred_b"]
    assert all(m.eps == 1e-5 and m.momentum == 0.1 for m in body.modules() if isinstance(m, nn.BatchNorm3d))


# ---------------------------------------------------------------------------------------- names of Caffe2


@pytest.mark.parametrize(
    ("blob", "name"),
    [
        ("conv1_w", "s1.pathway0_stem.conv.weight"),
        ("res_conv1_bn_s", "s1.pathway0_stem.bn.weight"),
        ("res_conv1_bn_riv", "s1.pathway0_stem.bn.running_var"),
        ("t_conv1_w", "s1.pathway1_stem.conv.weight"),
        ("t_res_conv1_bn_rm", "s1.pathway1_stem.bn.running_mean"),
        ("res4_0_branch1_w", "s4.pathway0_res0.branch1.weight"),
        ("res4_0_branch1_bn_b", "s4.pathway0_res0.branch1_bn.bias"),
        ("res4_5_branch2a_w", "s4.pathway0_res5.branch2.a.weight"),
        ("t_res3_2_branch2c_bn_riv", "s3.pathway1_res2.branch2.c_bn.running_var"),
        ("t_pool1_subsample_w", "s1_fuse.conv_f2s.weight"),
        ("t_pool1_subsample_bn_s", "s1_fuse.bn.weight"),
        ("t_res4_5_branch2c_bn_subsample_w", "s4_fuse.conv_f2s.weight"),
        ("t_res2_2_branch2c_bn_subsample_bn_rm", "s2_fuse.bn.running_mean"),
        ("nonlocal_conv3_1_theta_w", "s3.pathway0_nonlocal1.conv_theta.weight"),
        ("nonlocal_conv4_5_phi_b", "s4.pathway0_nonlocal5.conv_phi.bias"),
        ("nonlocal_conv4_3_g_w", "s4.pathway0_nonlocal3.conv_g.weight"),
        ("nonlocal_conv4_1_out_b", "s4.pathway0_nonlocal1.conv_out.bias"),
        ("nonlocal_conv3_3_bn_s", "s3.pathway0_nonlocal3.bn.weight"),
        ("pred_w", "head.projection.weight"),
        ("pred_b", "head.projection.bias"),
        ("conv1_w_momentum", None),
        ("res4_0_branch1_bn_s_momentum", None),
        ("lr", None),
        ("model_iter", None),
        ("stranger_w", "stranger_w"),
    ],
)
def test_caffe2_names(blob: str, name: str | None) -> None:
    assert slowfast.caffe2_name(blob) == name


def test_a_caffe2_pickle_of_the_official_zoo_loads_by_its_card(tmp_path: Path) -> None:
    """The file as published (blobs, optimiser, numbers without axes of length 1), found, converted, named, loaded: the
    golden's outputs.
    """
    golden = json.loads((GOLDENS / "c2d_r50.json").read_text(encoding="utf-8"))
    state = parity.fill(golden["tensors"], golden["gain"])
    card = weights.find_card("c2d_r50", "kinetics")
    assert card is not None
    blobs: dict[str, Any] = {name: tensor.numpy() for name, tensor in state.items()}
    blobs |= {f"{name}_momentum": blobs[name] for name in ("conv1_w", "pred_w")} | {
        "lr": blobs["pred_b"][:1],
        "model_iter": blobs["pred_b"][:1],
    }
    blobs["res2_0_branch1_w"] = blobs["res2_0_branch1_w"][:, :, 0, 0, 0]  # axes of length 1 may be absent at the end
    blobs["stranger_w"] = blobs["pred_b"]
    (tmp_path / card.file_name).write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    body = registry.build_body("c2d_r50").eval()
    report = weights.load(body, card, weights.locate(card, folders=[tmp_path]))
    assert report.share_of_parameters == 1 and not report.missing and report.unexpected == ("stranger_w",)
    assert report.head == ("head.projection.bias", "head.projection.weight")
    with torch.no_grad():
        assert parity.error(golden, parity.outputs(golden, body, state)) <= parity.TOLERANCE
    assert (tmp_path / f"{card.file_name}.safetensors").is_file()


def test_both_stems_of_slowfast_take_other_channels() -> None:
    golden, colour, state = loaded("slowfast_r50_4x16")
    card = weights.find_card("slowfast_r50_4x16", "kinetics")
    assert card is not None
    grey = registry.build_body("slowfast_r50_4x16", channels=1).eval()
    report = weights.load_state(grey, card, state, "golden")
    assert sorted(report.adapted) == ["s1.pathway0_stem.conv.weight", "s1.pathway1_stem.conv.weight"]
    x = parity.signal((1, 1, 8, 32, 32))
    with torch.no_grad():
        expected = colour(x.expand(-1, 3, -1, -1, -1))
        assert (grey(x) - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert golden["card"] == card.name


# ---------------------------------------------------------------------------------------- image weights


def image_net() -> tuple[nn.Module, dict[str, Tensor]]:
    """torchvision's ResNet-50 with every tensor away from 0 and 1."""
    from torchvision.models import resnet50

    with torch.device("meta"):
        net = resnet50()
    state = parity.fill(parity.shapes(net), 0.7)
    net.load_state_dict(state, assign=True)
    return net.eval(), state


def test_image_weights_keep_their_activations_on_a_still_clip() -> None:
    """C2D: every frame. I3D pads with zeros in time: the frames that no border reaches."""
    net, state = image_net()
    picture = parity.signal((1, 3, 32, 32))
    blocks = [f"s3.pathway0_nonlocal{b}" for b in (1, 3)] + [f"s4.pathway0_nonlocal{b}" for b in (1, 3, 5)]
    with torch.no_grad():
        net.fc = nn.Identity()
        expected = net(picture).reshape(2048, 1, 1)
        for name, frames, whole in (("c2d_r50", 3, [0, 1, 2]), ("c2d_r50_nl", 4, [0, 1]), ("i3d_r50", 40, [9, 10])):
            card = weights.find_card(name, "imagenet_torchvision")
            assert card is not None and card.tag == "imagenet_torchvision" and card.mean == (0.485, 0.456, 0.406)
            body = registry.build_body(name).eval()
            report = weights.load_state(body, card, state, "filled")
            assert {".".join(k.split(".")[:2]) for k in report.missing} == (
                {*blocks} if name.endswith("_nl") else set()
            )
            clip = picture[:, :, None].expand(-1, -1, frames, -1, -1)
            out: list[Tensor] = []
            with body.get_submodule("s5").register_forward_hook(
                lambda module, given, made, out=out: out.append(made[0])
            ):
                body(clip)
            for frame in whole:
                assert (out[0][0, :, frame] - expected).abs().max() <= 1e-4 * expected.abs().max(), (name, frame)
            if name not in ("c2d_r50", "c2d_r50_nl"):
                assert (out[0][0, :, 0] - expected).abs().max() > 0.01 * expected.abs().max()


def test_without_the_division_the_activations_are_lost() -> None:
    from torch.nn import functional

    from medgraft.models import inflate

    kernel, picture = parity.fill({"w": [8, 3, 7, 7]})["w"], parity.signal((1, 3, 32, 32))
    expected = functional.conv2d(picture, kernel, padding=3)
    spread = inflate.to_shape(kernel, (8, 3, 5, 7, 7))
    clip = picture[:, :, None].expand(-1, -1, 9, -1, -1)
    found = functional.conv3d(clip, spread, padding=(2, 3, 3))
    assert torch.allclose(found[:, :, 4], expected, atol=1e-5)
    undivided = functional.conv3d(clip, spread * 5, padding=(2, 3, 3))
    assert not torch.allclose(undivided[:, :, 4], expected, atol=1)


def test_image_files_of_timm_and_of_pyslowfast_fit_too() -> None:
    import timm
    from torchvision.models import resnet50

    with torch.device("meta"):
        names = set(resnet50().state_dict())
        assert set(timm.create_model("resnet50").state_dict()) == names
        body = on_meta("i3d_r50")
        own = {
            name: torch.empty(t.shape[:2] + t.shape[3:] if t.ndim == 5 else t.shape)
            for name, t in body.state_dict().items()
        }
        mapped = slowfast.inflated(own, body)
    assert all(mapped[name].shape == t.shape for name, t in body.state_dict().items())
    for name in ("c2d_r50", "i3d_r50", "i3d_r50_nl", "slow_r50_8x8", "slow_r50_4x16"):
        tags = [card.tag for card in weights.cards(name)]
        assert tags == ["kinetics400", "imagenet", "imagenet_torchvision", "imagenet_timm"]
        found = weights.find_card(name, "imagenet")
        assert found is not None and found.file_name == "R50_IN1K.pyth" and found.source_data == "ImageNet-1k"
