"""MedicalNet's encoders, without the decoder that its files lack."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medgraft.engine.official import Official

PROJECT = "Tencent/MedicalNet"
SHORTCUT = {10: "B", 18: "A", 34: "A", 50: "B", 101: "B", 152: "B", 200: "B"}  # as its README states for the files


def networks(root: Path) -> list[Official]:
    """Seven depths, the last stage averaged over all places."""
    module: Any = importlib.import_module("models.resnet")
    module.nn.init.kaiming_normal = nn.init.kaiming_normal_  # the old name assigned what it returned, and so does this

    def features(net: Any, x: Tensor) -> Tensor:
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        return net.layer4(net.layer3(net.layer2(net.layer1(x)))).mean((2, 3, 4))

    def build(depth: int) -> nn.Module:
        sides = {f"sample_input_{axis}": 32 for axis in "DHW"}
        net: nn.Module = getattr(module, f"resnet{depth}")(
            **sides, num_seg_classes=2, shortcut_type=SHORTCUT[depth], no_cuda=True
        )
        return net

    def entry(depth: int) -> Official:
        return Official(
            f"medicalnet_{depth}",
            f"medicalnet_{depth}",
            (1, 1, 16, 32, 24),
            lambda: build(depth),
            features,
            card=f"medicalnet_{depth}.8datasets",
            gain=0.8 if depth < 50 else 0.6,
            file_name_of=lambda name: None if name.startswith("conv_seg.") else name,
        )

    return [entry(depth) for depth in SHORTCUT]
