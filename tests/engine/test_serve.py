"""New studies through the chosen model: by the same path, flagged where it has never been."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import SimpleITK
from PIL import Image

from conftest import MODEL, quiet
from factory import make_dataset
from medgraft import config, flow, runs, serve, store, tables
from medgraft.datasets import load_dataset
from medgraft.engine import plan as planning
from medgraft.engine.build import load_model
from medgraft.engine.predict import predict_cases
from medgraft.engine.session import Session
from medgraft.errors import UserError
from medgraft.intake import scan


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run on 24 scanned PNG files, and the folder of the files."""
    root = tmp_path_factory.mktemp("serve")
    made = make_dataset(root / "made", "image", cases=24, patients=12)
    (root / "files").mkdir()
    lines = ["file,patient,finding"]
    for row in made.manifest.iter_rows(named=True):
        Image.fromarray(np.asarray(store.open_array(made.root, row["array_id"])[0, 0])).save(
            root / "files" / f"{row['case_id']}.png"
        )
        lines.append(f"{row['case_id']}.png,{row['patient_id']},{row['label.finding']}")
    (root / "files" / "labels.csv").write_text("\n".join(lines))
    options = config.build(
        scan.ScanOptions,
        {
            "out": root / "data",
            "labels": "labels.csv",
            "patient": "patient",
            "target": "finding",
            "workers": 1,
            "identity": "keep",
        },
    )
    scan.scan(root / "files", options)
    words = [
        f"data={root / 'data'}",
        f"out={root / 'runs'}",
        "split.folds=2",
        "seeds=[0]",
        "threads=1",
        "workers=0",
        "window.size=32",
        "report=false",
    ]
    words += ["train={epochs: 8, batch_size: 8, learning_rate: 3e-3}", "stats.resamples=200"]
    words += [f"models=[{{model: '{MODEL}', start: random}}, {{model: efficientnet_lite0, strategy: frozen_logistic}}]"]
    return flow.run(config.load_recipe(None, words), say=quiet), root / "files"


@pytest.mark.parametrize("name", [MODEL, "efficientnet_lite0"])
def test_a_served_study_gets_the_numbers_of_the_judged_path(finished, name) -> None:
    """As judged the run's own numbers to the bit, by the one network that had the study in its test part; plain, the
    mean of all, with a caution.
    """
    root, files = finished
    names = ["c003", "c004"]
    judged = serve.predict(root, [files / f"{n}.png" for n in names], model=name, **{"as": "judged"})
    told = tables.read(root / "predictions.parquet", "predictions").filter(pl.col("split") == "test")
    cells = [r["hash"] for r in runs.Run.open(root).records() if r["inner"] < 0 and r["model"] == name]
    own = dict(told.filter(pl.col("cell").is_in(cells)).select("case_id", "y_pred").iter_rows())
    assert [r["p(class1)"] for r in judged.rows] == [own[n] for n in names]  # to the bit, unrounded
    assert not any(r["seen"] for r in judged.rows)
    served = serve.predict(root, [files / f"{n}.png" for n in names], model=name)
    plan = planning.read(root)
    dataset = load_dataset(runs.Run.open(root).dataset_root)
    session = Session.open(plan, dataset, root)
    rows = [dataset.manifest["case_id"].to_list().index(n) for n in names]
    scores = []
    for record in (r for r in runs.Run.open(root).records() if r["hash"] in cells):
        model, task, setting = load_model(session, next(a for a in plan.arms if a.model == name), record)
        samples = session.samples(rows, setting)
        scores.append(predict_cases(session.fabric, model, task, samples, session.cases, batch_size=4).scores[:, 0])
    assert len(scores) == 2 == served.members and "as asked for" in served.text()
    np.testing.assert_allclose([r["p(class1)"] for r in served.rows], np.mean(scores, axis=0), atol=1e-5)
    assert {r["finding"] for r in served.rows} <= {"class0", "class1"} and all(not r["flag"] for r in served.rows)
    assert all("the run trained on this study" in r["seen"] for r in served.rows)
    assert "CAUTION: the run trained on this study" in served.text()


def test_the_model_is_chosen_by_inner_scores_alone(finished) -> None:
    root, _ = finished
    the_run = runs.Run.open(root)
    plan = planning.read(root)
    scores: dict[str, list[float]] = {}
    for record in the_run.records():
        if record["inner"] >= 0:
            scores.setdefault(record["model"], []).append(record["score"])
    best = max(scores, key=lambda m: np.mean(scores[m]))
    assert (
        np.mean(scores[best]) > min(np.mean(v) for v in scores.values())
        or len({np.mean(v) for v in scores.values()}) == 1
    )
    assert serve.choose(the_run, plan, None).model == best


def test_studies_outside_the_training_acquisition_are_flagged_or_refused(finished, tmp_path) -> None:
    root, files = finished
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "blank.png")
    Image.fromarray(np.asarray(Image.open(files / "c001.png").resize((400, 300)))).save(tmp_path / "large.png")
    served = serve.predict(root, [tmp_path / "blank.png", tmp_path / "large.png", files / "c001.png"])
    flags = {r["study"]: r["flag"] for r in served.rows}
    assert "chosen by inner scores" in served.text()
    assert "blank" in flags["blank"] and "height 300" in flags["large"] and not flags["c001"]
    refused = serve.predict(root, [tmp_path / "large.png", files / "c001.png"], flagged="refuse")
    assert [r["study"] for r in refused.rows] == ["c001"] and refused.rejected[0]["source"] == "large"


def test_an_unreadable_file_is_named_and_the_rest_is_predicted(finished, tmp_path) -> None:
    root, files = finished
    (tmp_path / "broken.png").write_bytes((files / "c001.png").read_bytes()[:60])
    served = serve.predict(root, [tmp_path / "broken.png", files / "c002.png"], out=str(tmp_path / "out.csv"))
    assert [r["study"] for r in served.rows] == ["c002"] and "broken.png" in served.rejected[0]["source"]
    table = list(csv.DictReader((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()))
    assert table[0]["study"] == "c002" and 0 <= float(table[0]["p(class1)"]) <= 1


@pytest.mark.parametrize(
    ("files", "options", "says"),
    [
        (["nowhere.png"], {}, "no such file"),
        (["labels.csv"], {}, r"labels\.csv: holds no study"),
        (["c001.png"], {"model": "resnet"}, "fits 0 of the run's models"),
        (["c001.png"], {"flagged": "maybe"}, "flagged: maybe is none of keep, refuse"),
    ],
)
def test_a_wrong_wish_is_one_line(finished, files, options, says) -> None:
    root, folder = finished
    with pytest.raises(UserError, match=says) as error:
        serve.predict(root, [folder / f for f in files], **options)
    assert "\n" not in str(error.value)


def test_a_served_segmentation_lies_where_its_study_lies(tmp_path) -> None:
    made = make_dataset(tmp_path / "made", "volume", cases=10, masks=True)
    words = [
        f"data={tmp_path / 'made'}",
        f"out={tmp_path / 'runs'}",
        "task=segment",
        "split.folds=2",
        "seeds=[0]",
        "threads=1",
        "report=false",
    ]
    words += [
        "models=[{model: unet3d, start: random}]",
        "window={size: 16, length: 8}",
        "stats.resamples=200",
        "workers=0",
    ]
    words += ["train={epochs: 40, batch_size: 4, learning_rate: 1e-2, augment: none}"]
    root = flow.run(config.load_recipe(None, words), say=quiet)
    array = np.asarray(store.open_array(made.root, made.manifest["array_id"][0])[0])
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.0, 1.0))
    image.SetOrigin((5.0, -7.0, 11.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    SimpleITK.WriteImage(image, str(tmp_path / "new.nii.gz"))
    store.close_all()
    made.root.rename(tmp_path / "elsewhere")  # a run serves without its data set
    served = serve.predict(root, [tmp_path / "new.nii.gz"], out=str(tmp_path / "out.csv"))
    mask = SimpleITK.ReadImage(str(tmp_path / "out" / served.rows[0]["mask"]))
    on_source = (
        SimpleITK.GetArrayFromImage(
            SimpleITK.Resample(mask, image, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
        )
        > 0
    )
    truth = np.asarray(store.open_mask(tmp_path / "elsewhere", made.manifest["mask_id"][0])[:, 0]) == 1
    dice = 2 * (on_source & truth).sum() / (on_source.sum() + truth.sum())
    assert dice > 0.7 and served.rows[0]["structure0 voxels"] == int((SimpleITK.GetArrayFromImage(mask) > 0).sum())


def test_an_external_test_set_keeps_patients_apart(tmp_path) -> None:
    home = make_dataset(tmp_path / "home", "image", cases=16, seed=1)
    away = make_dataset(tmp_path / "away", "image", cases=8, seed=2)
    words = [
        f"data={home.root}",
        f"out={tmp_path / 'runs'}",
        "target=finding",
        "split.kind=external",
        f"split.test={away.root}",
        "seeds=[0]",
    ]
    words += [
        "threads=1",
        "workers=0",
        "window.size=32",
        "report=false",
        "train={epochs: 2, batch_size: 8}",
        "stats.resamples=200",
    ]
    words += [f"models=[{{model: '{MODEL}', start: random}}]"]
    recipe = config.load_recipe(None, words)
    with pytest.raises(UserError, match="patients stand in both data sets"):
        flow.run(recipe, say=quiet)
    renamed = away.manifest.with_columns(
        pl.concat_str(pl.lit("x"), "patient_id").alias("patient_id"),
        pl.concat_str(pl.lit("x"), "case_id").alias("case_id"),
    )
    tables.write(renamed, away.root / "manifest.parquet", "manifest")
    root = flow.run(recipe, say=quiet)
    found = tables.read(root / "predictions.parquet", "predictions").filter(pl.col("split") == "test")
    assert sorted(found["case_id"].to_list()) == sorted(renamed["case_id"].to_list())
    rows = json.loads((root / "splits.json").read_text())["rows"]
    assert {r["patient_id"] for r in rows if r["role"] == "test"} == set(renamed["patient_id"])


def test_names_within_folders_become_codes(finished, tmp_path) -> None:
    root, files = finished
    folder = tmp_path / "ward"
    (folder / "DOE_JOHN").mkdir(parents=True)
    (folder / "DOE_JOHN" / "MRN4711.png").write_bytes((files / "c001.png").read_bytes())
    (folder / "DOE_JOHN" / "MRN4712.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    served = serve.predict(root, [folder, files / "c002.png"], out=str(tmp_path / "out.csv"))
    names = {r["study"] for r in served.rows}
    assert (
        "c002" in names
        and len(names) == 2
        and "MRN" not in served.text() + (tmp_path / "out.csv").read_text(encoding="utf-8")
    )
    private = tmp_path / ".medgraft-sources-out.json"
    known = json.loads(private.read_text(encoding="utf-8"))["names"]
    assert private.stat().st_mode & 0o077 == 0 and known[(names - {"c002"}).pop()] == "ward/DOE_JOHN/MRN4711.png"
    assert known[served.rejected[0]["source"]] == "ward/DOE_JOHN/MRN4712.png"
    kept = serve.predict(root, [folder], identity="keep")
    assert kept.rows[0]["study"] == "MRN4711" and kept.rejected[0]["source"].endswith("MRN4712.png")
