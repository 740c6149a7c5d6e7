"""R(2+1)D-34 against the project that converted the IG-65M weights."""

from __future__ import annotations

import importlib
from pathlib import Path

from medgraft.engine.official import Official

PROJECT = "moabitcoin/ig65m-pytorch"


def networks(root: Path) -> list[Official]:
    """Both clip lengths, each with the class count of its plain IG-65M file; smaller frames than the files', for
    time.
    """
    module = importlib.import_module("ig65m.models")

    def entry(frames: int, classes: int) -> Official:
        build = getattr(module, f"r2plus1d_34_{frames}_ig65m")
        return Official(
            f"r2plus1d_34_{frames}",
            "r2plus1d_34",
            (1, 3, frames, 32, 32),
            lambda: build(classes),
            lambda net, x: net(x),
            head=("fc.weight", "fc.bias"),
            card=f"r2plus1d_34.ig65m_{frames}",
            gain=1.0,
        )

    return [entry(8, 487), entry(32, 359)]
