"""Networks of segmentation_models_pytorch, ``ARCHITECTURE-ENCODER``, and weights of their encoders."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from torch import nn

from medgraft.models import surgery
from medgraft.models.libraries import timm
from medgraft.models.records import WeightCard


def names() -> list[str]:
    """Every architecture on every encoder."""
    import segmentation_models_pytorch as smp

    return [f"{a}-{e}" for a in smp.MODEL_ARCHITECTURES_MAPPING for e in smp.encoders.encoders]


def has(bare: str) -> bool:
    """``tu-`` encoders are timm's."""
    import segmentation_models_pytorch as smp

    architecture, _, encoder = bare.partition("-")
    if architecture not in smp.MODEL_ARCHITECTURES_MAPPING:
        return False
    if encoder.startswith("tu-"):
        return timm.has(encoder.removeprefix("tu-"))
    return encoder in smp.encoders.encoders


def facts(bare: str) -> dict[str, Any]:
    return {"dims": 2, "output": "dense", "default_size": (224, 224), "min_size": (64, 64), "divisor": 32}


def build(bare: str, *, channels: int, structures: int, size: tuple[int, ...] | None, **options: Any) -> nn.Module:
    import segmentation_models_pytorch as smp

    architecture, _, encoder = bare.partition("-")
    body = smp.create_model(
        architecture, encoder, encoder_weights=None, in_channels=channels, classes=structures, **options
    )
    removed = (
        "encoder.fc",
        "encoder.last_linear",
        "encoder.classifier",
        "encoder.model.fc",
        "encoder.model.classifier",
        "encoder.model.head",
    )
    return surgery.annotate(body, removed=removed, last=("segmentation_head",))


def cards(bare: str) -> list[WeightCard]:
    import segmentation_models_pytorch as smp

    encoder = bare.partition("-")[2]
    if encoder.startswith("tu-"):
        return [
            replace(
                card, name=f"smp:{bare}.{card.tag}", backbone=f"smp:{bare}", scope="encoder.model", name_map="identity"
            )
            for card in timm.cards(encoder.removeprefix("tu-"))
        ]
    if not re.match(r"(resnet|resnext|densenet|vgg|mobilenet_v2)", encoder):
        return []  # their preprocessing stands only at the hub; the same networks have full records as tu- encoders
    sources = {"imagenet": "ImageNet-1k", "ssl": "YFCC-100M, ImageNet-1k", "swsl": "Instagram-1B, ImageNet-1k"}
    return [
        WeightCard(
            name=f"smp:{bare}.{tag}",
            backbone=f"smp:{bare}",
            file_name=f"{encoder}.{tag}.safetensors",
            addresses=(f"https://huggingface.co/{place['repo_id']}/resolve/{place['revision']}/model.safetensors",),
            source_data=sources[tag],
            scope="encoder",
        )
        for tag, place in smp.encoders.encoders[encoder]["pretrained_settings"].items()
        if tag in sources and "repo_id" in place
    ]
