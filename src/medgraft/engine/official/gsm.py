"""Gate-shift networks on BN-Inception."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.engine.official import Official

PROJECT = "swathikirans/GSM"


def networks(root: Path) -> list[Official]:
    """At 64x64.

    The project needs a GPU tensor type, an old PyYAML, its own folder and a download; its last pool is 7x7.
    """
    torch.cuda.FloatTensor = torch.FloatTensor  # type: ignore[attr-defined]
    loader = importlib.import_module("model_zoo.bninception.pytorch_load")
    yaml_load = loader.yaml.load
    loader.yaml.load = lambda stream: yaml_load(stream, loader.yaml.SafeLoader)
    loader.torch.utils.model_zoo.load_url = lambda address: {}
    description = str(root / "model_zoo" / "bninception" / "bn_inception_gsm.yaml")
    module = importlib.import_module("models")

    def builder(frames: int) -> Callable[[], nn.Module]:
        def build() -> nn.Module:
            made = loader.BNInception_gsm

            def with_description(**arguments: Any) -> nn.Module:
                net = made(model_path=description, **arguments)
                net.global_pool = nn.AvgPool2d(2)
                return net

            importlib.import_module("model_zoo").BNInception_gsm = with_description  # type: ignore[attr-defined]
            return module.VideoModel(174, frames, "RGB", partial_bn=False, print_spec=False, gsm=True)

        return build

    def run(net: Any, x: Tensor) -> Tensor:
        return net(x.transpose(1, 2).flatten(1, 2))

    return [
        Official(
            f"gsm_bninception_{frames}",
            "gsm_bninception",
            (1, 3, frames, 64, 64),
            builder(frames),
            run,
            head=("module.new_fc.weight", "module.new_fc.bias"),
            gain=0.9,  # gates stay away from -1 and 1
            card=f"something_v1_{frames}",
            file_name_of=lambda name: f"module.{name}",
        )
        for frames in (8, 16)
    ]
