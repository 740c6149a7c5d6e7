"""C3D against the port that publishes the Sports-1M weights."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from torch import Tensor

from medgraft.engine.official import Official

PROJECT = "DavideA/c3d-pytorch"


def networks(root: Path) -> list[Official]:
    """The port ends in a softmax: its input is compared, not its output."""
    module = importlib.import_module("C3D_model")

    def logits(net: Any, x: Tensor) -> Tensor:
        net.softmax.forward = lambda h: h
        return net(x)

    return [
        Official(
            "c3d", "c3d", (1, 3, 16, 112, 112), module.C3D, logits, head=("fc8.weight", "fc8.bias"), card="c3d.sports1m"
        )
    ]
