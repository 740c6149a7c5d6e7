"""The main job on the real, openly licensed studies: scan, run, report, predict.

Slow (minutes): every recipe of the repository, shortened by overrides, so that no recipe goes stale.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medgraft import audit, config, flow
from medgraft.engine import serve
from medgraft.intake import scan

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
SHORT = ["seeds=[0]", "threads=1", "workers=0", "stats.resamples=200", "train.epochs=1"]
SETS = [
    (
        "nih_cxr_pneumonia",
        {"labels": "labels.csv", "patient": "patient", "target": "label", "positive": "pneumonia"},
        [
            "split.folds=2",
            "window.size=64",
            "models=[{model: efficientnet_lite0, strategy: frozen_logistic}, {model: mobilenet_v2_folded}]",
        ],
        "images/00000193_019.jpg",
    ),
    (
        "lung_pocus_video",
        {"labels": "labels.csv", "patient": "patient", "target": "label"},
        [
            "split.folds=2",
            "window={size: 64, length: 4}",
            "models=[{model: efficientnet_lite0, strategy: frozen_logistic}]",
        ],
        "videos/Cov-Atlas-Day_1.mp4",
    ),
    (
        "medmnist_adrenal3d",
        {
            "labels": "labels.csv",
            "patient": "none",
            "split": "official_split",
            "target": "label",
            "positive": "hyperplasia",
        },
        ["models=[{model: resnet3d_10, start: random, window: {kind: whole, length: 16, size: 16}}]"],
        "volumes/adrenal_train_0004.nii.gz",
    ),
    (
        "msd_hippocampus",
        {"labels": "cases.csv", "masks": "label", "patient": "none", "structures": {1: "anterior", 2: "posterior"}},
        ["train={epochs: 8, batch_size: 4, learning_rate: 1e-2}"],
        "images/hippocampus_001.nii.gz",
    ),
]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "options", "words", "study"), SETS, ids=[s[0] for s in SETS])
def test_the_main_job_on_real_studies(shared_data: Path, tmp_path: Path, name, options, words, study) -> None:
    source = shared_data / name
    if not source.is_dir():
        pytest.skip(f"{name} is absent")
    report = scan.scan(
        source, config.build(scan.ScanOptions, {**options, "identity": "keep", "out": tmp_path / "data"})
    )
    assert report.cases > 0 and not report.rejected
    overrides = [
        f"data={tmp_path / 'data'}",
        f"out={tmp_path / 'runs'}",
        f"weights=[{shared_data / 'weights'}]",
        *SHORT,
        *words,
    ]
    root = flow.run(config.load_recipe(RECIPES / f"{name}.yaml", overrides))
    summary = json.loads((root / "summary.json").read_text(encoding="utf-8"))
    for model in summary["models"]:
        entry = model["metrics"][summary["run"]["primary_metric"]]
        assert entry["low"] <= entry["value"] <= entry["high"]
    assert (root / "report.html").stat().st_size > 50_000
    served = serve.predict(root, [source / study], out=str(tmp_path / "served.csv"))
    assert len(served.rows) == 1 and not served.rejected


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_loads_and_says_how_it_was_run(path: Path) -> None:
    recipe = config.load_recipe(path)
    assert recipe.models and recipe.name == path.stem
    head = path.read_text(encoding="utf-8").split("name:")[0]
    for word in ("# Source", "# Command", "# Hardware", "# Result"):
        assert word in head, f"{path.name} lacks {word}"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("nih_cxr_pneumonia", {"facts": ["view", "age"]}, {"facts_together", "same_one_patient"}),
        ("lung_pocus_video", {"facts": ["probe", "source_id"]}, {"facts_together", "fact_strong"}),
        ("medmnist_adrenal3d", {}, {"patients_unknown", "search_limited"}),
        ("msd_hippocampus", {}, {"patients_unknown"}),
    ],
)
def test_the_audit_of_real_studies_says_what_is_known_and_raises_no_false_alarm(
    shared_data: Path, tmp_path: Path, name, more, expected
) -> None:
    options = next(facts for known, facts, _, _ in SETS if known == name)
    scan.scan(
        shared_data / name,
        config.build(scan.ScanOptions, {**options, **more, "identity": "keep", "out": tmp_path / "data"}),
    )
    report = audit.audit(tmp_path / "data", audit.AuditOptions(permutations=4999))
    assert {f["kind"] for f in report.findings} - {"fact_weak"} == expected and report.leaks == 0
    told = {
        e["fact"] for f in report.findings for e in (f["facts"] if f["kind"] in ("fact_strong", "fact_weak") else [])
    }
    assert set(more.get("facts", [])) <= told
    assert report.page.stat().st_size < 15_000_000
