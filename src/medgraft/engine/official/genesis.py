"""Models Genesis: the 3D U-Net with running and with batch statistics, and the encoder of its classifiers."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from medgraft.engine.official import Official

PROJECT = "MrGiovanni/ModelsGenesis"


def networks(root: Path) -> list[Official]:
    """The sigmoid is passed by, and volumes enter as (x, y, z). Its batch norm knows batch statistics only."""
    sys.path.insert(0, str(root / "pytorch"))
    module = importlib.import_module("unet3d")

    def running() -> Any:
        net = module.UNet3D()
        for norm in net.modules():
            if isinstance(norm, module.ContBatchNorm3d):
                norm.forward = partial(_normalised, norm)
        return net

    def logits(net: Any, x: Tensor) -> Tensor:
        net.out_tr.sigmoid = nn.Identity()
        return net(x.transpose(2, 4)).transpose(2, 4)

    def encoded(net: Any, x: Tensor) -> Tensor:
        net(x.transpose(2, 4))
        return net.out512.mean((2, 3, 4))

    whole, part = "genesis_unet3d", "genesis_encoder3d"
    batch = {"bn_mode": "batch"}
    return [
        Official(whole, whole, (1, 1, 8, 16, 24), running, logits, card="genesis_chest_ct", structures=1),
        Official(
            f"{whole}_batch",
            whole,
            (2, 1, 8, 16, 24),
            module.UNet3D,
            logits,
            card="genesis_chest_ct",
            structures=1,
            options=batch,
        ),
        Official(part, part, (1, 1, 24, 16, 16), running, encoded, card="genesis_chest_ct"),
    ]


def _normalised(norm: Any, x: Tensor) -> Tensor:
    return functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
