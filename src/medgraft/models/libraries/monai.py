"""MONAI's networks that are offered, all in 3D, and the weights of one."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from torch import Tensor, nn

from medgraft.models import surgery
from medgraft.models.records import WeightCard

#: Name -> (class, output, divisor, arguments of the class).
NETWORKS: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "densenet121": ("DenseNet121", "features", 1, {}),
    "densenet169": ("DenseNet169", "features", 1, {}),
    "densenet201": ("DenseNet201", "features", 1, {}),
    "basicunet": ("BasicUNet", "dense", 16, {}),
    "segresnet": ("SegResNet", "dense", 8, {}),
    "swinunetr": ("SwinUNETR", "dense", 32, {"feature_size": 48}),  # the width of the published weights
}


def names() -> list[str]:
    return list(NETWORKS)


def has(bare: str) -> bool:
    return bare in NETWORKS


def facts(bare: str) -> dict[str, Any]:
    _, output, divisor, _ = NETWORKS[bare]
    side = 64
    return {
        "dims": 3,
        "output": output,
        "default_size": (side,) * 3,
        "min_size": (32,) * 3 if output == "features" else (divisor * 2,) * 3,
        "divisor": divisor,
    }


def monai_networks() -> Any:
    """The module of MONAI's networks.

    Importing it would import transformers for one network that is not offered here, half of its 13 seconds.
    """
    name, unwanted = "monai.networks.nets", "transformers"
    hide = name not in sys.modules and unwanted not in sys.modules
    if hide:
        sys.modules[unwanted] = None  # type: ignore[assignment]  # to the import system: not installed
    try:
        return importlib.import_module(name)
    finally:
        if hide:
            del sys.modules[unwanted]


def build(bare: str, *, channels: int, size: tuple[int, ...] | None, structures: int = 2, **options: Any) -> nn.Module:
    networks = monai_networks()
    kind, output, _, arguments = NETWORKS[bare]
    body: nn.Module = getattr(networks, kind)(
        **{"spatial_dims": 3, "in_channels": channels, "out_channels": structures, **arguments, **options}
    )
    if output == "features":
        return surgery.annotate(body, removed=(surgery.remove_classifier(body),))
    return surgery.annotate(body, last=(surgery.last_layer(body),))


def cards(bare: str) -> list[WeightCard]:
    if bare != "swinunetr":
        return []
    return [
        WeightCard(
            name="monai:swinunetr.ssl_ct",
            backbone="monai:swinunetr",
            file_name="model_swinvit.pt",
            addresses=(
                "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/model_swinvit.pt",
            ),
            licence="Apache-2.0 (MONAI); its training data may add terms",
            source_data="5050 CT volumes of head, chest, abdomen and pelvis, self-supervised",
            accuracy="none of its own; a start for segmentation",
            paper="arXiv:2111.14791",
            input_size=(96, 96, 96),
            mean=(0.0,),
            std=(1.0,),
            channels=1,
            name_map="library",
            scope="swinViT",
            notes="no hash is published; -1000 to 1000 HU become 0 to 1; encoder only",
        )
    ]


def convert_state(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """SwinUNETR's self-supervised files predate MONAI's names for the layers of a block."""
    if type(body).__name__ != "SwinUNETR":
        return state
    return {k.replace(".mlp.fc", ".mlp.linear"): v for k, v in state.items()}
