"""Verbs through the command line: every word of theirs reaches what they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from factory import make_dataset
from medgraft import config, flow
from medgraft.cli import app
from medgraft.datasets import load_dataset
from medgraft.simulate import chest_xray


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def say(*words: str) -> str:
    """What a command printed."""
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_simulated_radiographs_are_those_that_were_asked_for() -> None:
    words = ["patients=4", "images_per_patient=1", "size=64", "difficulty=0.1", "prevalence=0.75", "seed=3"]
    printed = say("simulate", "chest_xray", "out=said", *words, "encoding=raw")
    asked: dict[str, Any] = {"patients": 4, "images_per_patient": 1, "size": 64, "difficulty": 0.1, "prevalence": 0.75}
    chest_xray.simulate("called", **asked, seed=3, encoding="raw")
    assert "4 radiographs of 4 patients" in printed and "3 Lung Opacity" in printed
    assert contents(Path("said")) == contents(Path("called"))


def test_a_demo_simulates_scans_and_compares_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the training, which is only listened to."""
    heard: list[config.Recipe] = []

    def listen(recipe: config.Recipe, **_: Any) -> Path:
        heard.append(recipe)
        return recipe.out / recipe.name

    monkeypatch.setattr(flow, "run", listen)
    printed = say("demo", "out=mine", "patients=6", "size=48", "difficulty=0.1")
    assert printed.splitlines()[-1] == f"open {Path('mine') / 'runs' / 'xray' / 'report.html'}"
    (recipe,) = heard
    assert (recipe.data, recipe.out, recipe.window.size) == (Path("mine/data"), Path("mine/runs"), 48)
    assert load_dataset(recipe.data).manifest["patient_id"].n_unique() == 6
    chest_xray.simulate("called", patients=6, images_per_patient=2, size=256, difficulty=0.1, prevalence=0.45, seed=1)
    assert contents(Path("mine/studies")) == contents(Path("called"))


def test_a_report_is_written_again_in_the_language_asked_for() -> None:
    make_dataset(Path("data"))
    words = ["data=data", "target=finding", "split={folds: 2, inner: 0}", "seeds=[0]", "threads=1", "workers=0"]
    words += ["window.size=32", "train={epochs: 1, batch_size: 8}", "stats.resamples=100", "report=false", "name=mine"]
    words += ["models=[{model: 'timm:test_efficientnet', start: random}]"]
    root = flow.run(config.load_recipe(None, words), say=lambda line: None)
    assert not list(root.glob("report*"))
    assert say("report", str(root), "lang=zh") == f"open {root / 'report.zh.html'}\n"
    assert [path.name for path in root.glob("report*")] == ["report.zh.html"]
    assert 'lang="zh' in (root / "report.zh.html").read_text(encoding="utf-8")
