"""Served is judged: for every task, start, option, and folds x seeds, a file gives the run's own number, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import SimpleITK
from PIL import Image

from conftest import MODEL, quiet
from factory import make_dataset
from medgraft import config, flow, runs, serve, store, tables
from medgraft.data.windows import Window
from medgraft.engine.predict import blocks, blocks_as_judged
from medgraft.errors import UserError
from medgraft.intake import scan


def scanned(root: Path, kind: str, *, masks: bool = False, **facts: Any) -> tuple[Path, list[Path]]:
    """Studies as files (PNG, folders of PNG frames, NIfTI in Hounsfield units), scanned: (data set, files by case)."""
    made = make_dataset(root / "made", kind, masks=masks, **{"cases": 14, "patients": 10, **facts})
    source = root / "files"
    source.mkdir()
    targets = made.targets
    lines, files = [",".join(["file", "patient", *targets, "mask"])], []
    for row in made.manifest.iter_rows(named=True):
        array = np.asarray(store.open_array(made.root, row["array_id"]))
        mask = np.asarray(store.open_mask(made.root, row["mask_id"]))[:, 0] if masks else None
        file, drawn = _write(source, row["case_id"], kind, array, mask)
        files.append(source / file)
        labels = ["" if row[f"label.{t}"] is None else str(row[f"label.{t}"]) for t in targets]
        lines.append(",".join([file, row["patient_id"], *labels, drawn]))
    (source / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options: dict[str, Any] = {
        "out": root / "data",
        "labels": "labels.csv",
        "patient": "patient",
        "target": targets,
        "workers": 1,
        "identity": "keep",
    }
    options |= {"masks": "mask"} if masks else {}
    options |= {"unit": "HU"} if kind == "volume" else {"frames": "folder"} if kind == "video" else {}
    report = scan.scan(source, config.build(scan.ScanOptions, options))
    assert report.cases == len(files), report.text()
    return root / "data", files


def _write(source: Path, name: str, kind: str, array: np.ndarray, mask: np.ndarray | None) -> tuple[str, str]:
    drawn = ""
    if kind == "image":
        Image.fromarray(array[0, 0]).save(source / f"{name}.png")
        if mask is not None:
            drawn = f"{name}_m.png"
            (source / "m").mkdir(exist_ok=True)
            Image.fromarray(mask[0] * 255).save(source / "m" / drawn)
            drawn = f"m/{drawn}"
        return f"{name}.png", drawn
    if kind == "video":
        (source / name).mkdir()
        for k, frame in enumerate(array[0]):
            Image.fromarray(frame).save(source / name / f"{k:04d}.png")
        return name, drawn
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array[0].astype(np.int16)), str(source / f"{name}.nii.gz"))
    if mask is not None:
        (source / "m").mkdir(exist_ok=True)
        drawn = f"m/{name}.nii.gz"
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(mask.astype(np.uint8)), str(source / drawn))
    return f"{name}.nii.gz", drawn


def finished(root: Path, data: Path, *words: str) -> Path:
    base = [f"data={data}", f"out={root / 'runs'}", "split.folds=2", "threads=1", "workers=0", "report=false"]
    base += ["seeds=[0]", "window.size=32", "stats.resamples=100"]
    base += ["train={iterations: 3, batch_size: 4, learning_rate: 1e-3, evaluations: 1}"]
    return flow.run(config.load_recipe(None, [*base, *words]), say=quiet)


def own_numbers(root: Path) -> dict[str, dict[tuple[str, str], float]]:
    """case -> {(target, class): the run's number}, mean over seeds."""
    told = tables.read(root / "predictions.parquet", "predictions").filter(pl.col("split") == "test")
    told = told.join(runs.Run.open(root).cells().select(pl.col("hash").alias("cell"), "seed"), on="cell")
    found: dict[str, dict[tuple[str, str], float]] = {}
    keys = ["case_id", "target", "class"]
    views = told.group_by([*keys, "seed"], maintain_order=True).agg(pl.col("y_pred"))
    for (case, target, name), part in views.group_by(keys, maintain_order=True):
        each = [np.mean(values.to_numpy()) if len(values) > 1 else values[0] for values in part.sort("seed")["y_pred"]]
        found.setdefault(str(case), {})[str(target), str(name)] = float(np.mean(each))
    return found


R3D = "models=[{model: resnet3d_10, start: random}]"
SMALL = f"models=[{{model: '{MODEL}', start: random}}]"
LITE = "models=[{model: efficientnet_lite0, strategy: %s}]"

CASES = [
    ("image", {}, ["seeds=[0, 1, 2]", SMALL]),
    ("image", {}, ["train.augment=xray", "train.tta=2", SMALL]),
    ("image", {"classes": 3, "cases": 24, "patients": 18}, [SMALL]),
    ("image", {"multilabel": True, "missing": 0.2}, ["target=[a, b]", SMALL]),
    ("image", {"regress": True}, ["target=size", SMALL]),
    ("image", {"regress": True}, ["target=size", LITE % "frozen_logistic"]),
    ("image", {}, ["train.logits=2", LITE % "frozen"]),
    ("image", {}, ["models=[{model: efficientnet_lite0, start: random, strategy: frozen}]", "seeds=[0, 1]"]),
    ("image", {}, ["normalise=data", SMALL]),
    ("image", {"cases": 20, "patients": 16}, ["split.kind=holdout", "split.test_share=0.5", SMALL]),
    ("video", {"vary_length": True}, ["window={kind: uniform, length: 2, size: 32, views: 3}", LITE % "frozen"]),
    ("video", {"vary_length": True}, ["window={kind: uniform, length: 1, size: 32, views: 50, join: vote}", SMALL]),
    ("video", {}, ["window={length: 4, size: 32}", "models=[{model: r3d_18, start: random}]"]),
    ("volume", {"unit": "HU"}, ["window={size: 16, length: 16, hu_window: [-900, 200]}", R3D]),
]


@pytest.mark.parametrize(("kind", "facts", "words"), CASES, ids=[f"{k} {' '.join(w)[:40]}" for k, _, w in CASES])
def test_a_judged_study_gets_the_runs_own_number_to_the_bit(tmp_path, kind, facts, words) -> None:
    data, files = scanned(tmp_path, kind, **facts)
    target = [] if any(w.startswith("target=") for w in words) else ["target=finding"]
    root = finished(tmp_path, data, *target, *words)
    own = own_numbers(root)
    asked = files[1::3]  # a few of them: their places in a batch must not matter
    answered = serve.predict(root, asked, identity="keep", **{"as": "judged"})
    rows = {row["study"]: row for row in answered.rows}
    tested = [f for f in asked if _name(f) in own]
    assert tested and set(rows) == {_name(f) for f in tested}
    assert {r["source"] for r in answered.rejected} == {_name(f) for f in asked} - set(rows)
    for file in tested:
        name = _name(file)
        for (target_, class_), value in own[name].items():
            keys = [f"p({class_})", f"{target_} p({class_})", target_]
            said = next(rows[name][k] for k in keys if isinstance(rows[name].get(k), float))
            assert said == value, (name, target_, class_)
    if any("vote" in w for w in words):
        measured = tables.read(root / "measures.parquet", "measures").pivot("name", index="case_id", values="value")
        share = {c: v / n for c, v, n in measured.select("case_id", "votes", "windows").iter_rows()}
        assert all(rows[_name(f)]["votes"] == share[_name(f)] for f in tested)


def _name(file: Path) -> str:
    return file.name.removesuffix(".png").removesuffix(".nii.gz")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("image", ["models=[{model: unet2d, start: random}]"]),
        ("volume", ["models=[{model: unet3d, start: random}]", "window={size: 12, length: 6, overlap: 0.25}"]),
        (
            "volume",
            ["models=[{model: unet2d, start: random}]", "window={kind: slices, length: 1, size: 16, stride: 2}"],
        ),
    ],
)
def test_a_judged_mask_has_the_runs_own_counts(tmp_path, kind, words) -> None:
    facts = {"unit": "HU"} if kind == "volume" else {}
    data, files = scanned(tmp_path, kind, masks=True, **facts)
    learns = "train={iterations: 12, batch_size: 4, learning_rate: 1e-2, evaluations: 1, augment: none}"
    root = finished(tmp_path, data, "task=segment", "target=null", learns, *words)
    (tmp_path / "data").rename(tmp_path / "elsewhere")  # a run serves without its data set
    served = serve.predict(root, files[:5], out=tmp_path / "out.csv", **{"as": "judged"})
    measures = tables.read(root / "measures.parquet", "measures").filter(pl.col("frame") == -1)
    refits = [r["hash"] for r in runs.Run.open(root).records() if r["inner"] < 0]
    measures = measures.filter(pl.col("cell").is_in(refits))
    assert len(served.rows) == 5
    some = 0
    for row, file in zip(served.rows, files):
        said, truth = _on_source(tmp_path / "out" / row["mask"], file), _truth(file)
        counts = dict(measures.filter(pl.col("case_id") == row["study"]).select("name", "value").iter_rows())
        structure = next(name.partition(".")[2] for name in counts)
        own = [counts[f"{part}.{structure}"] for part in ("tp", "fp", "fn")]
        assert own == [(said & truth).sum(), (said & ~truth).sum(), (~said & truth).sum()]
        some += own[0]
    assert some > 0  # a network that says nothing would agree with anything


def _on_source(mask: Path, file: Path) -> np.ndarray:
    """A served mask as it lies over its source."""
    said = SimpleITK.ReadImage(str(mask))
    if file.suffix != ".png":
        said = SimpleITK.Resample(
            said, SimpleITK.ReadImage(str(file)), SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor
        )
    return SimpleITK.GetArrayFromImage(said) > 0


def _truth(file: Path) -> np.ndarray:
    if file.suffix == ".png":
        return np.asarray(Image.open(file.parent / "m" / f"{file.stem}_m.png"))[None] > 0
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file.parent / "m" / file.name))) > 0


def test_as_judged_knows_only_cases_of_the_run(tmp_path) -> None:
    data, files = scanned(tmp_path, "image")
    root = finished(tmp_path, data, "target=finding", SMALL)
    Image.fromarray(np.full((32, 32), 90, np.uint8)).save(tmp_path / "new.png")
    answered = serve.predict(root, [tmp_path / "new.png", files[0]], **{"as": "judged"})
    assert [r["study"] for r in answered.rows] == ["c000"]
    assert answered.rejected == [{"source": "new", "reason": "the run has no such case"}]
    with pytest.raises(UserError, match="new: the run has no such case"):
        serve.predict(root, [tmp_path / "new.png"], **{"as": "judged"})


@pytest.mark.parametrize("way", [SMALL, LITE % "frozen_logistic"])
def test_a_study_that_is_given_twice_is_answered_twice(tmp_path, way: str) -> None:
    data, files = scanned(tmp_path, "image")
    root = finished(tmp_path, data, "target=finding", way)
    again = tmp_path / "again.png"
    again.write_bytes(files[1].read_bytes())
    own = own_numbers(root)
    answered = serve.predict(root, [files[1], again, *files[2:6]], identity="keep", **{"as": "judged"})
    said = {row["study"]: next(v for k, v in row.items() if k.startswith("p(")) for row in answered.rows}
    assert len(said) == 6 and said["again"] == said[_name(files[1])]
    for file in files[1:6]:
        assert said[_name(file)] == next(iter(own[_name(file)].values()))


def test_an_altered_or_absent_checkpoint_is_refused(tmp_path) -> None:
    data, files = scanned(tmp_path, "image")
    root = finished(tmp_path, data, "target=finding", SMALL)
    refit = next(r for r in runs.Run.open(root).records() if r["inner"] < 0)
    path = root / "cells" / refit["hash"] / "best.ckpt"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"best\.ckpt was altered"):
        serve.predict(root, files[:1])
    path.unlink()
    with pytest.raises(UserError, match=r"best\.ckpt is missing"):
        serve.predict(root, files[:1])


def test_windows_keep_their_batch_and_place() -> None:
    def window(case: int, k: int) -> Window:
        return Window(case, (k,), (0, 0, 1, 1), (1, 1, 1), k)

    counts = [2, 3, 1, 2]  # windows of four judged cases, in batches of three: 0 0 1 | 1 1 2 | 3 3
    everything = [window(c, k) for c, n in enumerate(counts) for k in range(n)]
    assert blocks_as_judged(everything, 3, counts, {c: c for c in range(4)}) == blocks(everything, 3)
    few = [window(7, 0), window(7, 1), window(7, 2), window(9, 0), window(9, 1)]  # cases 1 and 3, under other numbers
    made = blocks_as_judged(few, 3, counts, {7: 1, 9: 3})
    assert [b.kept for b in made] == [(2,), (0, 1), (0, 1)]
    assert [len(b.windows) for b in made] == [3, 3, 2]  # the last batch was smaller when it was judged
    assert [[b.windows[k] for k in b.kept] for b in made] == [[few[0]], [few[1], few[2]], [few[3], few[4]]]
