"""BN-Inception against the project whose file of ImageNet weights is loaded."""

from __future__ import annotations

import importlib
from pathlib import Path

from medgraft.engine.official import Official

PROJECT = "Cadene/pretrained-models.pytorch"


def networks(root: Path) -> list[Official]:
    module = importlib.import_module("pretrainedmodels.models.bninception")
    return [
        Official(
            "bninception",
            "bninception",
            (2, 3, 64, 64),
            lambda: module.bninception(pretrained=None),
            lambda net, x: net(x),
            head=("last_linear.weight", "last_linear.bias"),
            card="imagenet",
            gain=1.2,
        )
    ]
