"""Claims of a source against answers of known worth."""

from __future__ import annotations

from typing import Any

import numpy as np

from medgraft.stats.claims import verdicts
from medgraft.stats.judged import Judged
from medgraft.stats.kinds import BINARY, Question
from medgraft.stats.pairs import Calls

ASKED = Question(BINARY, ["t"], ["no", "yes"], [("t", "yes")])
OPTIONS = {"resamples": 1000, "confidence": 0.95, "seed": 0, "unit": "patient"}


def answers(name: str, signal: float, seed: int, n: int = 80) -> Judged:
    """One case a patient, half of them positive; scores that tell the classes apart by ``signal`` deviations."""
    y = np.arange(n) % 2
    codes = np.array([f"c{i:03d}" for i in range(n)])
    scores = 1 / (1 + np.exp(-(np.random.default_rng(seed).normal(0, 1, n) + signal * y)))
    return Judged(name, codes, codes, y.astype(float), scores[None], np.zeros((1, n)), ["0"])


def verdict(arms: dict[str, Judged], claim: dict[str, Any]) -> dict[str, Any]:
    models = [{"id": name, "model": name, "start": "random", "strategy": "finetune"} for name in arms]
    at = {name: np.full(80, 0.5) for name in arms}
    return verdicts([{"text": "t", **claim}], Calls(ASKED, arms, at, OPTIONS), models)[0]


def test_a_verdict_needs_a_corrected_p() -> None:
    """One clear pair among many equal ones: the family takes the borderline pair's verdict away."""
    arms = {"good": answers("good", 3, 1), "equal": answers("equal", 3, 2), "poor": answers("poor", 0, 3)}
    against_equal = verdict(arms, {"better": {"model": "good"}, "than": {"model": "equal"}})
    assert against_equal["verdict"] == "not shown" and against_equal["comparisons"][0]["p_adjusted"] > 0.05
    assert verdict(arms, {"better": {"model": "good"}, "than": {"model": "poor"}})["verdict"] == "supported"
    assert verdict(arms, {"better": {"model": "good"}})["verdict"] == "partly"
    assert verdict(arms, {"better": {"model": "poor"}, "than": {"model": "good"}})["verdict"] == "contradicted"
    near = {"good": answers("good", 1.5, 1), "near": answers("near", 0.9, 12)}
    alone = verdict(near, {"better": {"model": "good"}})["comparisons"][0]
    near |= {f"twin{i}": near["good"] for i in range(12)}
    family = verdict(near, {"better": {"model": "good"}})
    pair = next(c for c in family["comparisons"] if c["b"] == "near")
    assert alone["p"] == alone["p_adjusted"] == pair["p"] < 0.05 < pair["p_adjusted"]
    assert family["verdict"] == "not shown"
