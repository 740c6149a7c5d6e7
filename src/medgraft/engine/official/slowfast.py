"""C2D, I3D, Slow and SlowFast against PySlowFast, with the tensor names of its Caffe2 zoo.

PySlowFast imports fvcore, iopath, yacs, simplejson and psutil; put them on ``PYTHONPATH``. Its detection and
distributed parts (detectron2, pytorchvideo) are not used here and are replaced by empty modules where absent.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import re
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.engine.official import Official

PROJECT = "facebookresearch/SlowFast"

_LEAVES = {"weight": "w", "bias": "b"}
_NORM_LEAVES = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}


def caffe2_blob(name: str) -> str | None:
    """The blob of the official zoo for a tensor of PySlowFast; its counters have none."""
    stem, _, leaf = name.rpartition(".")
    if leaf == "num_batches_tracked":
        return None
    if stem == "head.projection":
        return f"pred_{_LEAVES[leaf]}"
    words = stem.split(".")
    stage = words[0][1]
    if words[0].endswith("_fuse"):
        place = (
            "t_pool1_subsample"
            if stage == "1"
            else f"t_res{stage}_{dict(zip('234', (2, 3, 5)))[stage]}_branch2c_bn_subsample"
        )
        return f"{place}_bn_{_NORM_LEAVES[leaf]}" if words[1] == "bn" else f"{place}_{_LEAVES[leaf]}"
    path, what, block = re.fullmatch(r"pathway(\d)_(stem|res|nonlocal)(\d*)", words[1]).groups()  # type: ignore[union-attr]
    fast = "t_" if path == "1" else ""
    if what == "stem":
        return f"{fast}res_conv1_bn_{_NORM_LEAVES[leaf]}" if words[2] == "bn" else f"{fast}conv1_{_LEAVES[leaf]}"
    if what == "nonlocal":
        place = f"nonlocal_conv{stage}_{block}"
        return (
            f"{place}_bn_{_NORM_LEAVES[leaf]}"
            if words[2] == "bn"
            else f"{place}_{words[2].removeprefix('conv_')}_{_LEAVES[leaf]}"
        )
    layer = "".join(words[2:])  # branch1, branch1_bn, branch2a, branch2a_bn, ...
    return f"{fast}res{stage}_{block}_{layer}_{(_NORM_LEAVES if layer.endswith('_bn') else _LEAVES)[leaf]}"


def networks(root: Path) -> list[Official]:
    """Each at 64x64 and few frames, its head without softmax, pooled over what is left of time and space.

    The dot-product blocks are cubic in their input, so those networks want a small gain.
    """
    sys.meta_path.append(_Absent())
    defaults = importlib.import_module("slowfast.config.defaults")
    builder = importlib.import_module("slowfast.models.video_model_builder")

    def entry(
        name: str, file: str, frames: int, side: int = 64, gain: float = 0.7, alpha: int = 0, **options: Any
    ) -> Official:
        def build() -> nn.Module:
            config = defaults.get_cfg()
            config.merge_from_file(str(root / "configs" / "Kinetics" / f"{file}.yaml"))
            config.merge_from_list(
                ["NUM_GPUS", 0, "DATA.TRAIN_CROP_SIZE", side, "DATA.NUM_FRAMES", frames, "MODEL.HEAD_ACT", "none"]
            )
            if (
                config.MODEL.MODEL_NAME == "ResNet_nopool"
            ):  # the released C2D; today's code has its pool under another name
                config.merge_from_list(["MODEL.MODEL_NAME", "ResNet", "MODEL.ARCH", "slow_c2d"])
            return getattr(builder, config.MODEL.MODEL_NAME)(config)

        def run(net: Any, x: Tensor) -> Tensor:
            if not alpha:
                return net([x])
            slow = x.index_select(2, torch.linspace(0, frames - 1, frames // alpha).long())
            return net([slow, x])

        head = ("pred_w", "pred_b")
        card = "" if name.endswith("_nl") and name != "i3d_r50_nl" else f"{name}.kinetics400"
        return Official(
            name, name, (1, 3, frames, side, side), build, run, head=head, card=card,
            name_map="" if card else "slowfast.caffe2", gain=gain, options=options, file_name_of=caffe2_blob,
        )  # fmt: skip

    return [
        entry("c2d_r50", "c2/C2D_NOPOOL_8x8_R50", 4),
        entry("c2d_r50_nl", "C2D_NLN_8x8_R50", 4),
        entry("i3d_r50", "c2/I3D_8x8_R50", 8),
        entry("i3d_r50_nl", "c2/I3D_NLN_8x8_R50", 8),
        entry("slow_r50_8x8", "c2/SLOW_8x8_R50", 8),
        entry("slow_r50_4x16", "c2/SLOW_4x16_R50", 4),
        entry("slow_r50_8x8_nl", "SLOW_NLN_8x8_R50", 8, gain=0.35),
        entry("slow_r50_4x16_nl", "SLOW_NLN_4x16_R50", 4, gain=0.35),
        entry("slowfast_r50_8x8", "c2/SLOWFAST_8x8_R50", 32, alpha=4),
        entry("slowfast_r50_4x16", "c2/SLOWFAST_4x16_R50", 32, alpha=8),
        entry("slowfast_r50_8x8_nl", "SLOWFAST_NLN_8x8_R50", 16, gain=0.35, alpha=4),
        entry("slowfast_r50_4x16_nl", "SLOWFAST_NLN_4x16_R50", 16, gain=0.35, alpha=8),
    ]


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules of what is not installed: every name in them is a layer without content, never run here."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        known = fullname.partition(".")[0] in ("pytorchvideo", "detectron2")
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True) if known else None

    def exec_module(self, module: types.ModuleType) -> None:
        def layer(name: str) -> type[nn.Module]:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (nn.Module,), {})

        module.__getattr__ = layer  # type: ignore[method-assign]
