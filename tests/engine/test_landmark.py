"""A task that nobody foresaw costs one file: one landmark a picture, found by a heat map.

It joins fields, its measure is in pixels and better when less, it has no ROC, it needs one notice. It goes through run,
report and predict from here alone: engine, stats and report know nothing of it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from factory import make_dataset
from medgraft import config, flow, notices, runs, serve, store, tables
from medgraft.config import TrainConfig
from medgraft.data.dataset import TargetSpec
from medgraft.datasets import Dataset
from medgraft.errors import UserError
from medgraft.notices import Notice, notice
from medgraft.stats import kinds, metrics
from medgraft.stats.kinds import Kind, Question
from medgraft.stats.metrics import METRICS, Weights, metric
from medgraft.tasks.choose import TASKS
from medgraft.tasks.task import Answer, Columns, Grid, Joins, Linear, TaskSpec, Trivial


def centre(mask: np.ndarray) -> tuple[float, float]:
    """Middle of what is drawn, row and column."""
    rows, columns = np.nonzero(mask == 1)
    return float(rows.mean()), float(columns.mean())


def peak(field: np.ndarray) -> tuple[float, float]:
    """The brightest place of a map (D, H, W), row and column."""
    _, row, column = np.unravel_index(int(np.nanargmax(field)), field.shape)
    return float(row), float(column)


class Landmark:
    """The middle of the first structure of a mask, as a Gaussian heat map to be matched."""

    name: ClassVar[str] = "landmark"
    joins: ClassVar[Joins] = "field"
    question = "landmark"
    yes_no = False
    stratify = None
    outputs = 1

    def __init__(self, structure: str) -> None:
        self.structure = structure
        self.targets: list[TargetSpec] = []
        self.metric = METRICS["distance"]

    @classmethod
    def describe(cls, dataset: Dataset, names: Sequence[str], classes: Sequence[str]) -> TaskSpec:
        structures = list(dataset.info.get("structures") or [])
        if not structures:
            raise UserError("the data set has no masks", fix="scan it again with masks=COLUMN")
        return TaskSpec(cls.name, structures=tuple(structures[:1]))

    @classmethod
    def make(cls, spec: TaskSpec, setting: TrainConfig | None = None) -> Landmark:
        return cls(spec.structures[0])

    def usable(self, manifest: pl.DataFrame) -> pl.Series:
        return manifest["mask_id"].is_not_null()

    def remarks(self, dataset: Dataset) -> list[Notice]:
        return [notice("landmark_rule", structure=self.structure)]

    def refuse(self, setting: TrainConfig, join: str) -> None:
        if setting.tta:
            raise UserError("test-time augmentation moves a landmark", fix="leave out train.tta")

    def fit(self, y: np.ndarray) -> None:
        pass

    def state(self) -> dict[str, np.ndarray]:
        return {}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        pass

    def loss(self, output: torch.Tensor, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        height, width = output.shape[-2:]
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        maps = []
        for mask in batch["mask"][:, 0, 0]:
            y, x = centre(mask.numpy()) if (mask == 1).any() else (0.0, 0.0)
            maps.append(torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 18))
        return {"loss": ((output[:, 0, 0].float() - torch.stack(maps)) ** 2).mean() * 100}

    def scores(self, output: torch.Tensor) -> torch.Tensor:
        return output.float()

    def rows(self, case_ids: Sequence[str], patient_ids: Sequence[str], truth: Any, scores: Any) -> Columns:
        away = []
        for (_, mask), field in zip(truth, scores):
            (y, x), (row, column) = centre(mask[0, 0]), peak(field[0])
            away.append(float(np.hypot(row - y, column - x)))
        n = len(away)
        return {
            "case_id": list(case_ids),
            "frame": [f for f, _ in truth],
            "name": [f"distance.{self.structure}"] * n,
            "value": away,
        }

    def summary(self, columns: Columns) -> dict[str, float]:
        return {"distance": float(np.mean(columns["value"])) if columns["value"] else float("nan")}

    def closed_form(self, x: Any, y: Any, patients: Any, *, c: float | None, seed: int) -> Linear | None:
        return None

    def trivial(self, truths: Iterable[np.ndarray], grids: Sequence[Grid], kind: str) -> list[Trivial]:
        places = np.mean([centre(mask[0, 0]) for mask in truths], axis=0).round().astype(int)

        def field(grid: Grid) -> np.ndarray:
            found = np.zeros((1, *grid), np.float32)
            found[0, 0, places[0], places[1]] = 1
            return found

        return [Trivial("mean_place", ("Mean place", "平均位置"), field)]

    def answer(self, scores: np.ndarray, case: Mapping[str, Any], *, threshold: float | None) -> Answer:
        row, column = peak(scores[0])
        return Answer({f"{self.structure} row": row, f"{self.structure} column": column})


def asks(predictions: pl.DataFrame, measures: pl.DataFrame, run: Mapping[str, Any]) -> Question:
    structure = run["structures"][0]
    return Question(kinds.KINDS["landmark"], [structure], [], [(structure, "")])


def measured(predictions: pl.DataFrame, measures: pl.DataFrame, asked: Question) -> pl.DataFrame:
    rows = measures.filter(pl.col("name").str.starts_with("distance.") & (pl.col("frame") == -1))
    return rows.select(
        "cell",
        "case_id",
        pl.lit(None, dtype=pl.String).alias("patient_id"),
        pl.lit(0, dtype=pl.Int64).alias("column"),
        pl.lit(0, dtype=pl.Int64).alias("part"),
        pl.lit(0.0).alias("y_true"),
        pl.col("value").alias("y_pred"),
    )


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """What the file of a task does when it is imported, undone at the end."""

    @metric("landmark", (0, np.inf), "mean distance to the landmark", direction="lower", decimals=1, unit="px",
            title=("Distance", "距离"))  # fmt: skip
    def distance(y_true: np.ndarray, y_pred: np.ndarray, weights: Weights) -> np.ndarray:
        total, n = weights.sums(y_pred, np.ones(len(y_pred)))
        return np.asarray(total / n)

    kinds.register(
        Kind(
            name="landmark",
            task="landmark",
            primary="distance",
            dimensions=1,
            question=asks,
            rows=measured,
            arrays=lambda labels, values: (None, values[:, :, 0, 0], np.zeros(len(labels), dtype=bool)),
            case_values=lambda asked, answers: answers.y_pred.mean(axis=0),
            hardest="high",
            label=lambda asked, y: "",
            by_patient=False,
        )
    )
    notices.register(
        "landmark_rule",
        "the landmark is the middle of {structure}, not a place that anybody marked",
        "标志点取 {structure} 的中心，并非人工标注的位置",
    )
    TASKS["landmark"] = Landmark  # type: ignore[assignment]
    yield
    del TASKS["landmark"], kinds.KINDS["landmark"], metrics.METRICS["distance"], notices.NOTICES["landmark_rule"]


def test_a_task_from_one_file_runs_reports_and_predicts(tmp_path: Path) -> None:
    made = make_dataset(tmp_path / "data", "image", cases=24, patients=24, masks=True)
    lazy = "{model: unet2d, start: random, label: lazy, train: {learning_rate: 1e-7}}"
    words = [
        f"data={made.root}",
        f"out={tmp_path / 'runs'}",
        "task=landmark",
        "split.folds=2",
        "seeds=[0]",
        "threads=1",
        "workers=0",
        "window.size=32",
        "stats.resamples=200",
        "train={iterations: 120, batch_size: 8, learning_rate: 3e-3, evaluations: 1, augment: none, clip_gradient: 1}",
        f"models=[{{model: unet2d, start: random}}, {lazy}]",
    ]
    said: list[str] = []
    root = flow.run(config.load_recipe(None, words), say=said.append)
    summary = json.loads((root / "summary.json").read_text(encoding="utf-8"))
    assert summary["run"]["primary_metric"] == "case.distance" and not summary["roc"]
    good, bad = summary["models"]
    assert bad["strategy"] == "lazy" and good["metrics"]["case.distance"]["value"] < 4  # less is better, and it learns
    assert good["metrics"]["case.distance"]["value"] < bad["metrics"]["case.distance"]["value"]
    assert summary["run"]["measures"]["distance"]["unit"] == "px"
    (place,) = summary["trivial"]
    assert place["title"] == {"en": "Mean place", "zh": "平均位置"} and place["metrics"]["case.distance"]["n"] == 24
    assert bad["beyond"]["id"] == "trivial · mean_place" and not bad["beyond"]["shown"]

    from medgraft.report import page

    english, chinese = (page.build(root, lang=lang).read_text(encoding="utf-8") for lang in ("en", "zh"))
    assert "Distance" in english and "\u00a0px" in english and "距离" in chinese
    assert "the landmark is the middle of structure0, not a place that anybody marked" in english
    assert "标志点取 structure0 的中心" in chinese
    assert "Receiver operating" not in english

    assert runs.status(root)["higher_is_better"] is False
    status = runs.status_text(runs.status(root))
    assert status.index("finetune") < status.index("lazy")  # the nearer one stands first

    picture = np.asarray(store.open_array(made.root, made.manifest["array_id"][3])[0, 0])
    mask = np.asarray(store.open_mask(made.root, made.manifest["mask_id"][3])[0, 0])
    Image.fromarray(picture).save(tmp_path / "new.png")
    served = serve.predict(root, [tmp_path / "new.png"], out=tmp_path / "out.csv", **{"as": "judged"})
    row = served.rows[0]
    y, x = centre(mask)
    away = float(np.hypot(row["structure0 row"] - y, row["structure0 column"] - x))
    measures = tables.read(root / "measures.parquet", "measures").filter(pl.col("case_id") == "c003")
    cells = {r["hash"]: r for r in runs.Run.open(root).records() if r["inner"] < 0 and r["arm"] == served.model}
    assert away in measures.filter(pl.col("cell").is_in(list(cells)))["value"].to_list()  # the run's own number
    assert served.model.endswith("finetune")  # chosen by the smaller distance
    table = list(csv.DictReader((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()))
    assert float(table[0]["structure0 row"]) == row["structure0 row"] and "mask" not in table[0]
