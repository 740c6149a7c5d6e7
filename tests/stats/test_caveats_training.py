"""Arms whose training stopped before it had learned are told by name, in both languages."""

from __future__ import annotations

import pytest

from medgraft.notices import say
from medgraft.stats.caveats import of_training

CELLS = {"a": "one", "b": "one", "c": "other"}


def facts(horizon: int | None = 500, losses: tuple[float, float] | None = (1.0, 0.2), body: bool = True) -> dict:
    return {"horizon": horizon, "losses": losses, "body_trains": body}


@pytest.mark.parametrize(
    ("own", "kinds"),
    [
        (facts(), []),
        (facts(horizon=200), []),
        (facts(horizon=199), ["few_steps"]),
        (facts(horizon=3, losses=None), ["few_steps"]),
        (facts(horizon=3, losses=None, body=False), []),  # a head on a still body needs no many steps
        (facts(losses=(1.0, 0.89)), []),
        (facts(losses=(1.0, 0.91)), ["loss_stays"]),
        (facts(losses=(1.0, 1.4), body=False), ["loss_stays"]),
        (facts(losses=(-1.0, -1.0)), []),  # a loss below zero has no share
        ({}, []),  # of an older run
    ],
)
def test_what_is_said_of_one_training(own, kinds) -> None:
    found = of_training(CELLS, {"a": facts(), "b": own, "c": facts()})
    assert [n.kind for n in found] == kinds and all(n.values["model"] == "one" for n in found)


def test_the_worst_training_speaks_once_for_its_arm() -> None:
    both = {"a": facts(100, (2.0, 1.9)), "b": facts(50, (1.0, 1.0)), "c": facts(10)}
    found = of_training(CELLS, both)
    assert [(n.kind, n.values["model"]) for n in found] == [
        ("few_steps", "one"),
        ("loss_stays", "one"),
        ("few_steps", "other"),
    ]
    assert "50 steps; below 200" in say(found[0]) and "50 步" in say(found[0], "zh")
    assert "1 at first, 1 at the end" in say(found[1]) and "开始 1，结束 1" in say(found[1], "zh")
