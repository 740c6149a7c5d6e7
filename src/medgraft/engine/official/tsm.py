"""TSM: ResNets, with non-local blocks, and MobileNetV2."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medgraft.engine.official import Official

PROJECT = "mit-han-lab/temporal-shift-module"


def networks(root: Path) -> list[Official]:
    """At 64x64; the networks of 8 and of 16 frames are two there and one here."""
    module = importlib.import_module("ops.models")
    module.TSN.print_spec = False  # read there, set nowhere

    def builder(base: str, frames: int, classes: int, non_local: bool) -> Callable[[], nn.Module]:
        return lambda: module.TSN(
            classes,
            frames,
            "RGB",
            base_model=base,
            dropout=0.5,
            partial_bn=False,
            print_spec=False,
            pretrain="",
            is_shift=True,
            shift_div=8,
            shift_place="blockres",
            non_local=non_local,
        )

    def run(net: Any, x: Tensor) -> Tensor:
        return net(x.transpose(1, 2).flatten(1, 2))

    rows = [
        ("tsm_resnet50_8", "tsm_resnet50", "resnet50", 8, 400, "kinetics_8_dense", 0.8),
        ("tsm_resnet50_16", "tsm_resnet50", "resnet50", 16, 400, "kinetics_16_uniform", 0.8),
        ("tsm_resnet101", "tsm_resnet101", "resnet101", 4, 174, "something_v1_8", 0.75),
        ("tsm_resnet50_nl", "tsm_resnet50_nl", "resnet50", 8, 400, "kinetics_8_dense", 0.65),
        ("tsm_mobilenet_v2", "tsm_mobilenet_v2", "mobilenetv2", 8, 400, "kinetics_8_dense", 1.0),
    ]
    return [
        Official(
            golden,
            network,
            (1, 3, frames, 64, 64),
            builder(base, frames, classes, network.endswith("_nl")),
            run,
            head=("module.new_fc.weight", "module.new_fc.bias"),
            card=card,
            gain=gain,
            file_name_of=lambda name: f"module.{name}",
        )
        for golden, network, base, frames, classes, card, gain in rows
    ]
