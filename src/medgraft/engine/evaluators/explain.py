"""Where an image network looks: Grad-CAM by captum, held against the boxes that people drew.

Selvaraju et al., ICCV 2017 (arXiv:1610.02391). The layer is the last part of the body that still gives a map.
A hit is a map whose brightest place lies in a box (the pointing game, Zhang et al., arXiv:1608.00507); beside it
stands the chance of a hit for a place drawn blindly, the share of the picture that the boxes cover.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from medgraft import tables
from medgraft.data.dataset import CaseDataset
from medgraft.data.windows import Window
from medgraft.datasets import Box
from medgraft.engine.session import Session, Training
from medgraft.files import write_bytes
from medgraft.models.lift import Lift
from medgraft.models.model import Model
from medgraft.tasks.task import Task


def run(
    session: Session, model: Model, task: Task, rows: Sequence[int], training: Training, folder: Path
) -> pl.DataFrame | None:
    """Maps of a refitted image network held against boxes, where the plan asks for it and there is one yes/no
    question.
    """
    wanted = session.plan.explain if not training.searches else 0
    if not wanted or session.plan.kind != "image" or not task.yes_no or not session.boxes or model.info.dims != 2:
        return None
    samples = session.samples(rows, training.setting)
    cell = training.cell.hash
    return explain(session.fabric, model, samples, session.boxes, folder, most=wanted, cell=cell)


def last_map(model: Model, batch: Mapping[str, Any]) -> nn.Module:
    """The part of the body that is the last to give a map of more than one place: what Grad-CAM looks at."""
    found: list[nn.Module] = []

    def hear(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim >= 4 and output.shape[-1] * output.shape[-2] > 1:
            found.append(module)

    root = model.body.body if isinstance(model.body, Lift) else model.body
    hooks = [m.register_forward_hook(hear) for m in root.modules() if m is not root]
    try:
        with torch.no_grad():
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ValueError("the network gives no map on its way")
    return found[-1]


def grad_cam(model: Model, batch: Mapping[str, Any], output: int = 0, layer: nn.Module | None = None) -> Tensor:
    """Maps (B, h, w) in 0..1, of the layer's own size, for one output of a network on images (B, C, 1, H, W).

    ``layer`` is what is looked at; by default ``last_map`` finds it, at the price of a forward pass.
    """
    from captum.attr import LayerGradCam

    x = batch["x"].to(torch.float32).requires_grad_()
    rest = {k: v for k, v in batch.items() if k != "x"}
    layer = layer or last_map(model, {**rest, "x": x.detach()})
    with torch.enable_grad():
        cam = LayerGradCam(lambda pixels: model({**rest, "x": pixels}), layer).attribute(
            x, target=output, relu_attributions=True
        )
    assert isinstance(cam, Tensor)
    cam = cam.detach()[:, 0]
    top = cam.amax((1, 2), keepdim=True)
    return cam / torch.where(top > 0, top, torch.ones_like(top))


def pointing(cam: np.ndarray, window: Window, boxes: Sequence[Box], shape: tuple[int, int]) -> tuple[float, float]:
    """(hit, chance) of a map (h, w) over a window of an array with sides ``shape`` (H, W).

    The map points with the middle of its brightest cell: brought to the picture's size it would point to an edge
    where that cell lies at one. A map without any bright place is a miss. ``chance`` is the share of the array that the
    boxes cover.
    """
    top, left, height, width = window.box
    row, column = np.unravel_index(int(cam.argmax()), cam.shape)
    y = top + (row + 0.5) / cam.shape[0] * height
    x = left + (column + 0.5) / cam.shape[1] * width
    inside = cam.max() > 0 and any(box.holds(y, x) for box in boxes)
    covered = np.zeros(shape, bool)
    for box in boxes:
        first, left_, last, right = (max(0, round(v)) for v in box)
        covered[first:last, left_:right] = True
    return float(inside), float(covered.mean())


def explain(
    fabric: Fabric,
    model: Model,
    samples: CaseDataset,
    boxes: Mapping[str, Sequence[Box]],
    folder: Path,
    *,
    most: int,
    cell: str,
) -> pl.DataFrame:
    """``cam.hit`` and ``cam.chance`` of at most ``most`` positive cases that have boxes, as rows of ``measures``.

    The maps go to ``folder/explain.npz``: ``case`` (n,), ``cam`` (n, h, w) uint8 of the layer's size.
    """
    model.eval()
    positive = samples.labels()[:, 0] == 1
    ids = samples.case_ids()
    wanted = {int(row): case for row, case, yes in zip(samples.cases, ids, positive) if yes and boxes.get(case)}
    rows: dict[str, list[Any]] = {"case_id": [], "frame": [], "name": [], "value": []}
    cases: list[str] = []
    cams: list[np.ndarray] = []
    layer: nn.Module | None = None  # the same for every window
    last = 0
    for window in samples.eval_windows():
        case = wanted.pop(window.case, None)
        if case is None or len(cases) >= most:
            continue
        batch = fabric.to_device(samples.batch([window]))
        if layer is None:
            with torch.no_grad():
                last = int(model(batch).shape[1]) - 1  # the only logit, or the second of two
            layer = last_map(model, batch)
        cam = grad_cam(model, batch, last, layer)[0].cpu().numpy()
        _, height, width = samples.grid(window.case)
        for name, value in zip(("cam.hit", "cam.chance"), pointing(cam, window, boxes[case], (height, width))):
            rows["case_id"].append(case)
            rows["frame"].append(-1)
            rows["name"].append(name)
            rows["value"].append(value)
        cases.append(case)
        cams.append(np.round(cam * 255).astype(np.uint8))
    if cases:
        stream = io.BytesIO()
        np.savez_compressed(stream, case=np.array(cases), cam=np.stack(cams))
        write_bytes(folder / "explain.npz", stream.getbuffer())
    frame = pl.DataFrame(rows, schema={"case_id": pl.String, "frame": pl.Int64, "name": pl.String, "value": pl.Float64})
    return tables.validate(frame.with_columns(pl.lit(cell).alias("cell")), "measures")
