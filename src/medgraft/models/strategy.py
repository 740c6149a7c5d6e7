"""How pretrained weights are used: which parameters train, how fast, and what holds them back.

``finetune`` trains everything, ``frozen`` the head alone on a body that stays in evaluation mode,
``gradual`` opens stage after stage from the head down. ``layer_decay`` and ``L2SP`` go with any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.errors import UserError
from medgraft.models import surgery
from medgraft.models.model import Model

STRATEGIES = ("finetune", "frozen", "gradual")


def apply(model: Model, strategy: str, *, steps: int | None = None, first: int = 1) -> Callable[[int], int]:
    """Set up a model for a strategy; returns what the loop calls before each step.

    ``finetune``: all parameters train. ``frozen``: only the head trains; the body has ``requires_grad``
    off and stays in evaluation mode also under ``model.train()``, so its statistics stand still.
    ``gradual``: at step 0 the last ``first`` stages train (1 = the head); the others open one by one at
    even distances from the output to the input, all by half of ``steps``. A closed stage has
    ``requires_grad`` off and its norms in evaluation mode.

    The returned function takes the number of the coming step (any order, so a resumed run calls it once),
    sets the model and returns how many stages train. Raises ``UserError`` for an unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"unknown strategy '{strategy}'", fix=f"choose one of {', '.join(STRATEGIES)}")
    count = len(model.groups())
    if strategy == "gradual" and (steps is None or steps < 1 or not 1 <= first <= count):
        raise UserError(
            f"gradual unfreezing needs the number of steps and 1 to {count} first stages", fix="give steps and first"
        )

    def opened(step: int) -> int:
        if strategy == "finetune":
            return count
        if strategy == "frozen":
            return 1
        return gradual_stages(step, steps or 1, count, first)

    now = 0

    def set_step(step: int) -> int:
        nonlocal now
        number = opened(step)
        if number != now:  # walking over the modules at every step would cost milliseconds
            _open(model, number)
            now = number
        return number

    set_step(0)
    return set_step


def gradual_stages(step: int, steps: int, stages: int, first: int = 1) -> int:
    """Number of stages (counted from the head) that train at ``step``: ``first`` at 0, all from ``steps / 2`` on."""
    closed = stages - first
    half = steps / 2
    if closed == 0 or step >= half:
        return stages
    return first + int(step / half * closed)


def _open(model: Model, number: int) -> None:
    """Train the last ``number`` stages; everything before is closed, its norms and dropouts held in evaluation mode."""
    groups = model.groups()
    closed: set[int] = set()
    for index, (_, members) in enumerate(groups):
        trains = index >= len(groups) - number
        for parameter in members:
            parameter.requires_grad_(trains)
        if not trains:
            closed.update(map(id, members))
    body_closed = number == 1 and not model.info.dense
    still = []
    for module in model.body.modules():
        own = list(module.parameters())
        if body_closed or (own and all(id(p) in closed for p in own)):
            still.append(module)
    model.hold(still)


def parameter_groups(
    model: Model,
    learning_rate: float,
    weight_decay: float,
    *,
    layer_decay: float | None = None,
    decay_norms_and_biases: bool = False,
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: every parameter once, also those closed now, so gradual opening needs no new
    optimiser.

    With ``layer_decay`` d the head trains at ``learning_rate``, the stage k before it at ``learning_rate * d**k``.
    Norm weights, biases and other vectors carry no weight decay unless ``decay_norms_and_biases``. Each group
    has ``name``, ``params``, ``lr`` and ``weight_decay``.
    """
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise UserError(f"layer_decay is a factor between 0 and 1, not {layer_decay}", fix="0.65 to 0.9 are usual")
    norms = surgery.norm_parameters(model)
    groups = model.groups()
    found: list[dict[str, Any]] = []
    for index, (name, members) in enumerate(groups):
        rate = learning_rate * (layer_decay or 1.0) ** (len(groups) - 1 - index)
        plain = [p for p in members if not decay_norms_and_biases and (id(p) in norms or p.ndim < 2)]
        decayed = [p for p in members if not any(p is q for q in plain)]
        if decayed:
            found.append({"name": name, "params": decayed, "lr": rate, "weight_decay": weight_decay})
        if plain:
            found.append({"name": f"{name}, no decay", "params": plain, "lr": rate, "weight_decay": 0.0})
    return found


class L2SP:
    """Pull towards the starting point: ``alpha / 2`` times the squared distance of the body from where it began.

    Li et al., Explicit inductive bias for transfer learning, ICML 2018 (arXiv:1802.01483). The head has no
    starting point and is left to weight decay. Take it once, after weights are loaded and before training;
    a resumed run gives ``state_dict`` back through ``load_state_dict``, or takes it before the checkpoint.
    """

    def __init__(self, model: Model, alpha: float) -> None:
        if alpha < 0:
            raise UserError(f"l2sp is a strength of 0 or more, not {alpha}")
        self.alpha = alpha
        members = [p for name, ps in model.groups() if name != "head" for p in ps]
        self._members: Sequence[nn.Parameter] = members
        self._start = [p.detach().clone() for p in members]

    def __call__(self) -> Tensor:
        """The penalty, a scalar to add to the loss; closed parameters add nothing."""
        terms = [(p - s.to(p.device)).square().sum() for p, s in zip(self._members, self._start) if p.requires_grad]
        total = torch.stack(terms).sum() if terms else torch.zeros(())
        return 0.5 * self.alpha * total

    def state_dict(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "start": self._start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.alpha = float(state["alpha"])
        self._start = [t.clone() for t in state["start"]]
