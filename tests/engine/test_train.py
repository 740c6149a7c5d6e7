"""What one fit does with its setting: steps, clipping, the pull towards the start, a loss that is lost."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from medgraft.config import TrainConfig
from medgraft.data.dataset import TargetSpec
from medgraft.engine import loop, optim
from medgraft.engine.device import make_fabric
from medgraft.errors import UserError
from medgraft.models.model import Model, make_model
from medgraft.tasks.classify import Classify

MODEL = "timm:test_efficientnet"


class Samples:
    """Two pictures, asked for again at every step; notes what was asked."""

    def __init__(self, loud: float = 1.0) -> None:
        x = torch.rand(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * loud
        self.batch = {"x": x, "value_range": torch.tensor([[0.0, 1.0]] * 2), "y": torch.tensor([[1.0], [0.0]])}
        self.asked: list[tuple[int, int, int, bool]] = []

    def __len__(self) -> int:
        return 2

    def train_batch(self, seed: int, step: int, batch_size: int, balanced: bool = False) -> dict[str, Any]:
        self.asked.append((seed, step, batch_size, balanced))
        return self.batch


def fitted(
    samples: Samples, how: str = "finetune", seed: int = 0, **changes: Any
) -> tuple[Model, dict[str, Any], loop.History]:
    """A model after a fit of three steps, how it began, and what was written down."""
    model, _ = make_model(MODEL, outputs=1, channels=1, dropout=changes.get("dropout", 0.0), seed=2)
    before = copy.deepcopy(model.state_dict())
    fabric = make_fabric("cpu", "32", 1)
    facts = {
        "iterations": 3,
        "learning_rate": 1e-2,
        "warmup": 0,
        "evaluations": 1,
        "optimizer": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
    }
    setting = TrainConfig(**{**facts, "schedule": "constant", **changes})
    task = Classify([TargetSpec("x", "binary", ("no", "yes"), "yes")])
    history, _ = loop.train(fabric, model, task, samples, setting, seed=seed, horizon=3, how=how)  # type: ignore[arg-type]
    return model, before, history


def moved(model: Model, before: dict[str, Any], part: str = "") -> float:
    """How far the parameters went from where they began."""
    return (
        sum(float((p.detach() - before[n]).square().sum()) for n, p in model.named_parameters() if n.startswith(part))
        ** 0.5
    )


def test_steps_are_rounded_up_and_iterations_replace_epochs() -> None:
    assert [
        optim.steps_for(TrainConfig(epochs=e, batch_size=b), 10) for e, b in ((1, 4), (1, 5), (0.1, 16), (2.5, 4))
    ] == [3, 2, 1, 7]
    assert optim.steps_for(TrainConfig(epochs=9, iterations=5), 10) == 5


def test_each_step_asks_for_its_own_batch() -> None:
    samples = Samples()
    fitted(samples, seed=4, batch_size=2, balanced=True)
    assert samples.asked == [(4, step, 2, True) for step in range(3)]


def test_the_largest_gradient_norm_holds() -> None:
    free, clipped = fitted(Samples(), iterations=1), fitted(Samples(), iterations=1, clip_gradient=1e-3)
    assert moved(*free[:2]) > 1e-3
    assert moved(*clipped[:2]) == pytest.approx(
        3 * 1e-3 * 1e-2, rel=0.5
    )  # three steps of rate 1e-2 along a gradient of 1e-3


def test_the_pull_towards_the_start_holds_the_body_and_not_the_head() -> None:
    free, held = fitted(Samples()), fitted(Samples(), l2sp=50.0)
    assert moved(*held[:2], "body") < 0.7 * moved(*free[:2], "body") and moved(*held[:2], "head") > 0


def test_every_knob_of_the_optimiser_reaches_the_steps() -> None:
    plain = fitted(Samples())

    def head_and_body(**changes: Any) -> tuple[float, float]:
        model, before, _ = fitted(Samples(), **changes)
        return moved(model, before, "head"), moved(model, before, "body")

    head, body = moved(*plain[:2], "head"), moved(*plain[:2], "body")
    assert (head, body) == head_and_body()  # the same fit goes the same way, so any difference below is the knob's
    still, _ = head_and_body(head_learning_rate=1e-5)
    assert still < 0.01 * head
    _, slow = head_and_body(layer_decay=0.1)
    assert slow < 0.5 * body
    changes: list[dict[str, Any]] = [
        {"weight_decay": 0.5},
        {"momentum": 0.9},
        {"optimizer": "adam", "weight_decay": 0.5},
        {"optimizer": "adamw", "weight_decay": 0.5},
        {"schedule": "cosine"},
        {"schedule": "step"},
        {"warmup": 0.9},
        {"learning_rate": 1e-3},
        {"schedule": "linear"},
        {"schedule": "linear", "end_rate": 9e-3},
    ]
    found = [head_and_body(**change) for change in changes]
    assert len({(head, body), *found}) == 1 + len(changes)
    late, early = (head_and_body(how="gradual", unfreeze=share)[1] for share in (1.0, 0.01))
    assert late < early


def test_dropout_draws_follow_seed_and_step_and_end_with_training() -> None:
    first, again, other = (fitted(Samples(), dropout=0.5, seed=s) for s in (1, 1, 2))
    same = [torch.equal(p, q) for p, q in zip(first[0].parameters(), again[0].parameters())]
    assert all(same) and not torch.equal(first[0].head.linear.weight, other[0].head.linear.weight)
    plain = fitted(Samples(), seed=1)
    assert not torch.equal(plain[0].head.linear.weight, first[0].head.linear.weight)  # it is on while training
    assert not first[0].training


def test_a_loss_that_is_no_number_stops_the_fit() -> None:
    samples = Samples()
    samples.batch["x"][0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="the training loss is not a number"):
        fitted(samples)
