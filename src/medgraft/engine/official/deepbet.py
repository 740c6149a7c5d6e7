"""deepbet's two networks, run from their TorchScript archives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.engine.official import Official

PROJECT = "pypi/deepbet"


def networks(root: Path) -> list[Official]:
    """One entry: both archives hold the same layers.

    Axes are (x, y, z) there (so D = W here, for equal times); the softmax is skipped.
    """

    def build() -> nn.Module:
        net: Any = torch.jit.load(str(root / "data" / "models" / "model.pt"))
        end = net.graph.findNode("aten::softmax")
        end.output().replaceAllUsesWith(next(iter(end.inputs())))
        return net  # type: ignore[no-any-return]

    def run(net: Any, x: Tensor) -> Tensor:
        logits: Tensor = net(x.permute(0, 1, 4, 3, 2))
        return logits.permute(0, 1, 4, 3, 2)

    return [
        Official(
            "deepbet", "linknet3d", (1, 1, 64, 96, 64), build, run, card="linknet3d.deepbet", gain=1.0, structures=2
        )
    ]
