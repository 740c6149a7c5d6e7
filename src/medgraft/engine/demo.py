"""``medgraft demo``: the whole flow on simulated chest X-rays, for somebody who has just arrived."""

from __future__ import annotations

from pathlib import Path

from medgraft import config
from medgraft.config import Recipe
from medgraft.engine import compare
from medgraft.intake import scan
from medgraft.simulate import chest_xray


def demo(*, out: str = "demo", patients: int = 90, size: int = 128, difficulty: float = 0.35) -> Path:
    """Simulate, scan, compare three ways of transfer, report. Returns the path of ``report.html``."""
    root = Path(out)
    print("1/3 simulating chest X-rays in the RSNA format")
    made = chest_xray.simulate(root / "studies", patients=patients, images_per_patient=2, size=256, difficulty=difficulty, prevalence=0.45, seed=1)
    print(made.text())
    print("2/3 scanning them")
    options = config.build(scan.ScanOptions, {"out": root / "data", "layout": "rsna", "target": "pneumonia", "patient": "patient_id"})
    print(scan.scan(root / "studies", options).text())
    print("3/3 comparing three ways of transfer")
    recipe = config.build(
        Recipe,
        {
            "name": "xray",
            "data": root / "data",
            "out": root / "runs",
            "split": {"folds": 3},
            "window": {"size": size},
            "seeds": [0],
            "train": {"epochs": 4, "learning_rate": 3e-4, "evaluations": 2},
            "models": [
                {"model": "efficientnet_lite0", "strategy": "frozen_logistic"},
                {"model": "efficientnet_lite0", "strategy": "finetune"},
                {"model": "efficientnet_lite0", "start": "random", "train": {"learning_rate": 1e-3}},
            ],
        },
    )
    return compare.run(recipe) / "report.html"
