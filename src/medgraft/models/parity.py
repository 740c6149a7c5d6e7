"""Is a network the official one? Same weights in, same numbers out.

Every tensor of the official state dict is filled from a generator keyed by its name, away from 0 and 1:
with default initialisation, zero gammas, zero gates and unit variances hide broken branches. The filled
file goes through the same card and name map as a published one, so names are proven with the arithmetic.

A golden holds what the official implementation gave: the names and shapes of its tensors, the input's
shape, and a sample of its outputs. With that, ``outputs`` needs no foreign code:

    {"network": "c3d", "official": "owner/name@commit", "card": "c3d.sports1m", "input": [1, 3, 16, 112, 112],
     "gain": 1.4, "options": {}, "tensors": {name: shape}, "head": ["fc8.weight", "fc8.bias"], "output": [...]}

``card`` may be replaced by ``"name_map"``; ``head`` names the official classifier, applied to our features
(empty where the output is the body's own). Tolerance: ``TOLERANCE`` times the largest official output.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medgraft.models import registry, weights
from medgraft.models.records import LoadReport, WeightCard

TOLERANCE = 1e-4
SAMPLE = 512  # numbers of an output that a golden keeps at most


def _uniform(name: str, count: int) -> np.ndarray:
    """``count`` float32 numbers in [0, 1) that depend on nothing but the name: counter-based, the same everywhere."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).random(count, dtype=np.float32)


def fill(shapes: Mapping[str, Sequence[int]], gain: float = math.sqrt(2)) -> dict[str, Tensor]:
    """A state dict for these names and shapes, every value away from 0 and 1.

    Weights of two axes or more: sign times 0.3 to 1.7, over the square root of the fan in, times ``gain``
    (root 2 keeps the scale of a plain ReLU network; residual ones want less). Running variances and norm
    scales (one axis, called ``weight``, ``gamma`` or ``*_s``): 0.5 to 0.9 or 1.1 to 1.5. Running means and all other
    vectors: sign times 0.05 to 0.35. Counters (``num_batches_tracked``): 7.
    """
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        leaf = name.rpartition(".")[2]
        if leaf == "num_batches_tracked":
            state[name] = torch.tensor(7)
            continue
        count = math.prod(shape)
        u = _uniform(name, count)
        upper = u >= 0.5
        within = np.where(upper, u - 0.5, u) * 2  # 0..1 in each half
        if len(shape) == 1 and (leaf in ("running_var", "weight", "gamma") or leaf.endswith(("_riv", "_s"))):
            values = np.where(upper, 1.1, 0.5) + 0.4 * within
        elif len(shape) >= 2:
            values = np.where(upper, 1.0, -1.0) * (0.3 + 1.4 * within) * (gain / math.sqrt(max(1, count // shape[0])))
        else:
            values = np.where(upper, 1.0, -1.0) * (0.05 + 0.3 * within)
        state[name] = torch.from_numpy(values.astype(np.float32).reshape(tuple(shape)))
    return state


def shapes(module: nn.Module) -> dict[str, list[int]]:
    """Names and shapes of a module's state dict, as a golden keeps them."""
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def signal(shape: Sequence[int], name: str = "input") -> Tensor:
    """An input of this shape with values in -1.7..1.7 (unit variance), keyed by a name."""
    return torch.from_numpy(
        ((_uniform(name, math.prod(shape)) - np.float32(0.5)) * np.float32(2 * math.sqrt(3))).reshape(tuple(shape))
    )


def input_of(golden: Mapping[str, Any]) -> Tensor:
    """The input of a golden; with ``pixels``, brought to the 256 values k/255 that pictures have."""
    x = signal(golden["input"])
    return ((x / (2 * math.sqrt(3)) + 0.5).clamp(0, 1) * 255).round() / 255 if golden.get("pixels") else x


def sample(output: Tensor) -> Tensor:
    """At most ``SAMPLE`` numbers of an output, evenly spaced, as float32."""
    flat = output.detach().float().reshape(-1)
    return flat if flat.numel() <= SAMPLE else flat[torch.linspace(0, flat.numel() - 1, SAMPLE).round().long()]


def loaded_body(golden: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Tensor], LoadReport]:
    """Our body of a golden in evaluation mode with the filled official tensors, those tensors, and the report of
    loading.
    """
    name = golden["network"]
    facts = registry.info(name)
    shape = golden["input"]
    state = fill(golden["tensors"], golden.get("gain", math.sqrt(2)))
    body = registry.build_body(
        name,
        channels=shape[1],
        structures=golden.get("structures") if facts.dense else None,
        size=tuple(shape[2:]) if facts.fixed_size else None,
        options=golden.get("options"),
    )
    card = weights.find_card(name, golden["card"]) if golden.get("card") else None
    if card is None:
        card = WeightCard(
            name=f"{name}.golden", backbone=name, file_name="golden", name_map=golden.get("name_map", "identity")
        )
    report = weights.load_state(body, card, state, "golden")
    last = tuple(getattr(body, "last", ()))
    if last:  # a dense body's last layer belongs to the task and is not taken from a file; here it is compared too
        own = body.state_dict()
        mapped = weights.name_map(card.name_map)(state, body)
        own.update({k: v for k, v in mapped.items() if k in own and any(k.startswith(p + ".") for p in last)})
        body.load_state_dict(own)
    return body.eval(), state, report


def outputs(golden: Mapping[str, Any], body: nn.Module, state: Mapping[str, Tensor], x: Tensor | None = None) -> Tensor:
    """What our network gives where the official one gave ``golden["output"]``: logits, features or maps, whole."""
    out = body(input_of(golden) if x is None else x)
    head = golden.get("head") or []
    if head:
        weight = state[head[0]].reshape(state[head[0]].shape[0], -1)
        out = nn.functional.linear(out, weight, state[head[1]] if len(head) > 1 else None)
    return out


def error(golden: Mapping[str, Any], found: Tensor) -> float:
    """Largest difference to the official outputs over the largest of these."""
    expected = torch.tensor(golden["output"], dtype=torch.float32)
    return float((sample(found) - expected).abs().max() / expected.abs().max())
