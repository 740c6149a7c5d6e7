"""Every backbone of the zoo, and a sample of the libraries': shapes, features, gradients, stages, published weights."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medgraft.errors import UserError
from medgraft.models import registry, surgery, weights
from medgraft.models.model import make_model
from medgraft.models.records import BackboneInfo

LIBRARY_NETS = [
    "torchvision:resnet18",
    "torchvision:densenet121",
    "torchvision:squeezenet1_1",
    "torchvision:mnasnet0_5",
    "torchvision:regnet_y_400mf",
    "timm:vit_tiny_patch16_224",
    "timm:mobilenetv3_small_050",
    "monai:densenet121",
    "monai:segresnet",
    "smp:unet-resnet18",
    "smp:deeplabv3plus-mobilenet_v2",
    "smp:fpn-tu-resnet18",
]
#: Forward and backward in the slow run, shapes in every run; each shares its code with a lighter sister, save MViT
#: and TimeSformer (a tiny one runs in test_video_transformers.py).
HEAVY = {
    "mvit_v1_b",
    "mvit_v2_s",
    "deeplabv3_resnet101",
    "fcn_resnet101",
    "resnet3d_34",
    "resnet3d_50",
    "c2d_r50",
    "c2d_r50_nl",
    "i3d_r50",
    "i3d_r50_nl",
    "slow_r50_8x8",
    "slow_r50_8x8_nl",
    "slow_r50_4x16",
    "slow_r50_4x16_nl",
    "slowfast_r50_8x8",
    "slowfast_r50_8x8_nl",
    "slowfast_r50_4x16_nl",
    "genesis_unet3d",
    "videomae_base",
    "timesformer_base",
    "tsm_resnet101",
    *(f"medicalnet_{n}" for n in (34, 50, 101, 152, 200)),
    "c3d",  # its golden runs both ways
    "i3_resnet152",
}
ZOO = [pytest.param(n, 1, marks=pytest.mark.slow if n in HEAVY else ()) for n in registry.names()]
TWO_CHANNELS = [
    "efficientnet_lite0",
    "s3d",
    "unet2d",
    "lraspp_mobilenet_v3_large",
    "mobilenet_v2_folded",
    "torchvision:resnet18",
]


def small_size(facts: BackboneInfo) -> tuple[int, ...]:
    """A small input that the network takes."""
    if facts.fixed_size and facts.name in registry.names() and facts.min_size != facts.default_size:
        return (4, 32, 32)  # built for any size
    if facts.fixed_size:
        return facts.default_size
    return tuple(
        max(least, 33 if i else 32) for i, least in enumerate(facts.min_size)
    )  # 33: not a multiple of any divisor


def small_batch(facts: BackboneInfo, channels: int) -> dict[str, Tensor]:
    size = small_size(facts)
    if facts.dims == 3 and not facts.dense and not facts.fixed_size:
        size = (max(4, facts.min_size[0]), *size[1:])
    shape = (2, channels, *(size if facts.dims == 3 else (1, *size)))
    generator = torch.Generator().manual_seed(5)
    return {"x": torch.rand(shape, generator=generator), "value_range": torch.tensor([[0.0, 1.0]] * 2)}


def test_facts_are_those_that_were_published() -> None:
    """Every fact of every network, as dumped before sisters came to share theirs; a new network is added to the file.

    The decorator's own reading, at import, gives the same as the registry's reading of the source.
    """
    published = json.loads((Path(__file__).parent / "zoo_facts.json").read_text(encoding="utf-8"))
    assert {name: json.loads(json.dumps(asdict(registry.info(name)))) for name in registry.names()} == published
    for name, (module, facts) in registry._zoo().items():
        assert getattr(importlib.import_module(module), name).info == facts


@pytest.mark.parametrize(("name", "channels"), [*ZOO, *((n, 1) for n in LIBRARY_NETS), *((n, 2) for n in TWO_CHANNELS)])
def test_builds_runs_and_every_parameter_counts(name: str, channels: int) -> None:
    facts = registry.info(name)
    batch = small_batch(facts, channels)
    size = tuple(batch["x"].shape[-facts.dims :])
    model, report = make_model(
        name, outputs=3, dense=facts.dense, channels=channels, size=size if facts.fixed_size else None, seed=1
    )
    assert report is None
    model.eval()

    # Stages hold every parameter once and come in the order in which the input meets them.
    groups = model.groups()
    place = {id(p): i for i, (_, ps) in enumerate(groups) for p in ps}
    assert sorted(id(p) for _, ps in groups for p in ps) == sorted(id(p) for p in model.parameters())
    assert groups[-1][0] == "head" and all(ps for _, ps in groups) and 4 <= len(groups) <= 30
    seen: list[int] = []

    def note(module: nn.Module, inputs: Any) -> None:
        seen.extend(place[id(p)] for p in module.parameters(recurse=False) if place[id(p)] not in seen)

    hooks = [module.register_forward_pre_hook(note) for module in model.modules()]

    with torch.no_grad():  # away from the zeros that some residual branches and gates start with
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.add_(0.05)
            elif not parameter.any():
                parameter.add_(1 / parameter[0].numel())
    out = model(batch)
    assert out.shape == ((2, 3, *batch["x"].shape[2:]) if facts.dense else (2, 3))
    assert torch.isfinite(out).all()
    if name != "monai:segresnet":  # its up-layers and up-samples alternate
        assert seen == sorted(seen), [groups[i][0] for i in seen]
    for hook in hooks:
        hook.remove()
    if not facts.dense:
        assert model.features(batch).shape == (2, facts.features)

    weighting = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    (out * weighting).sum().backward()
    dead = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    # The last block of MViTv2 pools the queries of all tokens but the class token, which alone is read.
    last = "body.blocks.15.attn."
    idle = (
        {last + n for n in ("rel_pos_h", "rel_pos_w", "rel_pos_t", "pool_q.pool.weight")}
        if name == "mvit_v2_s"
        else set()
    )
    assert dead == idle


@pytest.mark.parametrize("name", sorted(HEAVY))
def test_heavy_networks_have_their_declared_shapes(name: str) -> None:
    with torch.device("meta"):
        facts = registry.info(name)
        body = registry.build_body(name, structures=2 if facts.dense else None)
        out = surgery.output_shape(body, (1, 3, *facts.default_size))
    assert out == ((1, 2, *facts.default_size) if facts.dense else (1, facts.features))


@pytest.mark.parametrize(
    ("bare", "published", "last"),
    [
        ("vgg19", 143_667_240, 4096),
        ("resnet50", 25_557_032, 2048),
        ("densenet121", 7_978_856, 1024),
        ("inception_v3", 27_161_264, 2048),
    ],
)
def test_chest_xray_networks_keep_all_but_the_last_layer(bare: str, published: int, last: int) -> None:
    """Parameters are the published count for 1000 classes with the last layer, and it alone, replaced by one logit."""
    auxiliary = 3_326_696 if bare == "inception_v3" else 0  # its auxiliary head is left out
    name = f"torchvision:{bare}"
    with torch.device("meta"):
        model, _ = make_model(name, start="imagenet", outputs=1, load_weights=False)
        logit = model({"x": torch.empty(2, 1, 1, *registry.info(name).default_size), "value_range": torch.empty(2, 2)})
    assert logit.shape == (2, 1) and registry.info(name).default_size == (
        (299,) * 2 if bare == "inception_v3" else (224,) * 2
    )
    head = dict(model.groups())["head"]
    assert [tuple(p.shape) for p in head] == [(1, last), (1,)]
    assert sum(p.numel() for p in model.parameters()) == published - auxiliary - 1000 * (last + 1) + last + 1
    card = weights.find_card(name, "imagenet")
    assert card is not None and card.source_data == "ImageNet-1k"
    usual = (
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if bare != "inception_v3" else ((0.5,) * 3,) * 2
    )  # what its transform_input comes to
    assert (card.channels, card.range, card.mean, card.std) == (3, 1.0, *usual)


@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "deeplabv3_resnet101", "fcn_resnet50", "fcn_resnet101"])
def test_ventricle_networks_have_one_map_and_three_named_starts(name: str) -> None:
    """torchvision's networks without auxiliary loss; ImageNet backbone, all random and COCO are starts of different
    names.
    """
    from torchvision import models

    with torch.device("meta"):
        body = registry.build_body(name, structures=1)
        official = models.get_model(name, weights=None, weights_backbone=None, num_classes=1, aux_loss=False)
        assert surgery.output_shape(body, (1, 3, 112, 112)) == (1, 1, 112, 112)
    assert sorted(tuple(p.shape) for p in body.parameters()) == sorted(tuple(p.shape) for p in official.parameters())
    coco, image = weights.find_card(name, "COCO_WITH_VOC_LABELS_V1"), weights.find_card(name, "imagenet")
    assert coco is not None and image is not None and weights.find_card(name, "random") is None
    assert (
        (coco.scope, image.scope) == ("", "backbone")
        and coco.source_data.startswith("COCO")
        and image.source_data == "ImageNet-1k"
    )


def test_three_kinds_of_video_convolution() -> None:
    """Tran et al. 2018: full 3D, 3D then 2D, and space and time apart. The stem looks 7 wide; shortcuts are points."""

    def kernels(name: str) -> dict[str, set[tuple[int, ...]]]:
        with torch.device("meta"):
            body = registry.build_body(name)
        found: dict[str, set[tuple[int, ...]]] = {}
        for path, module in body.named_modules():
            if isinstance(module, nn.Conv3d) and "downsample" not in path:
                stage = next(part for part in path.split(".") if part.startswith(("stem", "layer")))
                found.setdefault(stage, set()).add(tuple(module.kernel_size))
        return found

    full, flat, apart = {(3, 3, 3)}, {(1, 3, 3)}, {(1, 3, 3), (3, 1, 1)}
    layers = [f"layer{k}" for k in (1, 2, 3, 4)]
    assert kernels("r3d_18") == {"stem": {(3, 7, 7)}, **dict.fromkeys(layers, full)}
    assert kernels("mc3_18") == {"stem": {(3, 7, 7)}, **dict.fromkeys(layers, flat), "layer1": full}
    assert kernels("r2plus1d_18") == {"stem": {(1, 7, 7), (3, 1, 1)}, **dict.fromkeys(layers, apart)}


def scrambled(net: nn.Module) -> nn.Module:
    """Fill every tensor, statistics included, away from 0 and 1, so that no branch is hidden by its start."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                if tensor.ndim > 1:
                    fan = tensor[0].numel()
                    tensor.copy_((noise - 0.5) * (12 / fan) ** 0.5)
                else:
                    tensor.copy_(0.6 + 0.8 * noise if name.endswith(("weight", "var")) else (noise - 0.5) * 0.4)
    return net.eval()


@pytest.mark.parametrize(
    "bare",
    [
        "resnet18",
        "densenet121",
        "squeezenet1_1",
        "mobilenet_v3_small",
        "googlenet",
        pytest.param("convnext_tiny", marks=pytest.mark.slow),
        pytest.param("vit_b_32", marks=pytest.mark.slow),
    ],
)
def test_torchvision_files_give_torchvisions_outputs(bare: str, tmp_path: Path) -> None:
    from torchvision import models, transforms

    extra = {"init_weights": False, "aux_logits": True, "transform_input": True} if bare == "googlenet" else {}
    official = scrambled(models.get_model(bare, weights=None, **extra))
    state = official.state_dict()
    if bare == "densenet121":  # the published file still has the dots of an old version
        state = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", k): v for k, v in state.items()}
        assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "file.pth")

    name = f"torchvision:{bare}"
    card = weights.find_card(name, "imagenet")
    assert (
        card is not None
        and card.source_data == "ImageNet-1k"
        and len(card.sha256) == 8
        and card.addresses[0].startswith("https://")
    )
    body = registry.build_body(name).eval()
    report = weights.load(body, card, tmp_path / "file.pth")
    assert report.share_of_parameters == 1 and not report.missing and not report.unexpected
    assert report.head and {k.split(".")[0] for k in report.head} <= {"fc", "classifier", "heads", "aux1", "aux2"}

    picture = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    usual = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(picture)
    ours = transforms.Normalize(card.mean, card.std)(picture)
    with torch.no_grad():
        expected = official(usual)
        classifier = official.get_submodule(body.removed[0])
        features = body(ours)
        if isinstance(classifier, nn.Conv2d):  # SqueezeNet classifies every place and then averages
            expected, logits = official.features(usual).relu().mean((2, 3)), features
        else:
            logits = classifier(features)
    assert expected.std() > 0.01
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_timm_files_for_another_size_have_their_positions_interpolated(tmp_path: Path) -> None:
    import timm

    official = scrambled(timm.create_model("vit_tiny_patch16_224", num_classes=10))
    torch.save(official.state_dict(), tmp_path / "file.pth")
    card = weights.find_card("timm:vit_tiny_patch16_224", "imagenet")
    assert card is not None
    body = registry.build_body("timm:vit_tiny_patch16_224").eval()
    weights.load(body, card, tmp_path / "file.pth")
    picture = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = official(picture)
        assert torch.allclose(official.head(body(picture)), expected, atol=1e-4 * float(expected.abs().max()))
    smaller = registry.build_body("timm:vit_tiny_patch16_224", size=(96, 96)).eval()
    report = weights.load(smaller, card, tmp_path / "file.pth")
    assert report.share_of_parameters == 1
    assert smaller(torch.rand(1, 3, 96, 96)).shape == (1, 192)


def test_s3d_equals_torchvision_where_that_runs_and_runs_where_it_does_not() -> None:
    from torchvision.models.video import s3d

    official = scrambled(s3d())
    body = registry.build_body("s3d").eval()
    body.load_state_dict({k: v for k, v in official.state_dict().items() if not k.startswith("classifier")})
    clip = torch.rand(1, 3, 16, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = official(clip)
        ours = official.classifier[1](body(clip).view(1, -1, 1, 1, 1)).flatten(1)
        assert expected.std() > 0.01
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()
        with pytest.raises(RuntimeError):
            official(clip[:, :, :, :112, :112])
        assert body(clip[:, :, :, :112, :112]).shape == (1, 1024)
    model, _ = make_model("s3d", outputs=1)
    with pytest.raises(UserError, match="smaller than the network takes"):
        model({"x": torch.zeros(1, 1, 4, 32, 32), "value_range": torch.tensor([[0.0, 1.0]])})


def test_segmentation_files_fill_the_whole_network_or_its_backbone(tmp_path: Path) -> None:
    from torchvision import models

    name = "lraspp_mobilenet_v3_large"
    coco, image = weights.find_card(name, "COCO_WITH_VOC_LABELS_V1"), weights.find_card(name, "imagenet")
    assert coco is not None and image is not None and image.scope == "backbone"
    official = scrambled(models.get_model(name, weights=None, weights_backbone=None, num_classes=21))
    torch.save(official.state_dict(), tmp_path / "coco.pth")
    body = registry.build_body(name, structures=2)
    report = weights.load(body, coco, tmp_path / "coco.pth")
    assert set(report.head) == {
        f"classifier.{k}.{leaf}" for k in ("low_classifier", "high_classifier") for leaf in ("weight", "bias")
    }
    assert not report.missing and 0.99 < report.share_of_parameters < 1
    assert torch.equal(body.state_dict()["classifier.cbr.0.weight"], official.state_dict()["classifier.cbr.0.weight"])

    encoder = scrambled(models.mobilenet_v3_large())
    torch.save(encoder.state_dict(), tmp_path / "image.pth")
    body = registry.build_body(name, structures=2)
    report = weights.load(body, image, tmp_path / "image.pth")
    assert torch.equal(body.state_dict()["backbone.0.0.weight"], encoder.state_dict()["features.0.0.weight"])
    assert report.missing and all(k.startswith("classifier.") for k in report.missing)
    assert {k.split(".")[1] for k in report.head} == {"classifier"}


def test_smp_encoders_take_image_weights(tmp_path: Path) -> None:
    from torchvision import models

    card = weights.find_card("smp:unet-resnet18", "imagenet")
    assert card is not None
    encoder = scrambled(models.resnet18())
    torch.save(encoder.state_dict(), tmp_path / "file.pth")
    body = registry.build_body("smp:unet-resnet18", structures=1, channels=1)
    report = weights.load(body, card, tmp_path / "file.pth")
    assert torch.equal(
        body.state_dict()["encoder.layer4.1.bn2.running_var"], encoder.state_dict()["layer4.1.bn2.running_var"]
    )
    assert set(report.adapted) == {"encoder.conv1.weight"} and all(k.startswith("decoder.") for k in report.missing)


def test_frozen_statistics_follow_within_a_few_hundred_steps() -> None:
    for name in ("s3d", "torchvision:mnasnet0_5", "efficientnet_lite0", "lraspp_mobilenet_v3_large"):
        body = registry.build_body(name, structures=1 if registry.info(name).dense else None)
        assert {m.momentum for m in body.modules() if isinstance(m, nn.modules.batchnorm._NormBase)} == {0.1}, name


def test_pools_to_one_are_means() -> None:
    body = registry.build_body("r3d_18")
    assert any(isinstance(m, surgery.MeanPool) for m in body.modules())
    assert not any(isinstance(m, nn.AdaptiveAvgPool3d) for m in body.modules())
    x = torch.rand(2, 5, 3, 4, 2)
    assert torch.allclose(surgery.MeanPool()(x), nn.AdaptiveAvgPool3d(1)(x))


def test_a_card_of_another_width_is_refused(tmp_path: Path) -> None:
    from torchvision import models

    torch.save(models.mnasnet0_75().state_dict(), tmp_path / "file.pth")
    card = weights.find_card("torchvision:mnasnet0_5", "imagenet")
    assert card is not None
    body = registry.build_body("torchvision:mnasnet0_5")
    with pytest.raises(UserError, match="have another shape"):
        weights.load(body, card, tmp_path / "file.pth")
