"""New studies through the model that a run chose: same reader, windows, join and rows as when it was judged."""

from __future__ import annotations

import contextlib
import csv
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import SimpleITK

from medgraft import config, runs
from medgraft.config import ArmConfig, Recipe
from medgraft.data.dataset import TargetSpec
from medgraft.datasets import Dataset, load_dataset
from medgraft.engine import fit
from medgraft.engine import predict as joined
from medgraft.engine.context import Context, make_fabric
from medgraft.errors import UserError
from medgraft.files import no_formula, read_json, write_text
from medgraft.intake import scan
from medgraft.intake.private import keys


@dataclass(frozen=True)
class Served:
    """Predictions of new studies: one row per study, and what could not be read."""

    rows: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    model: str
    members: int
    out: Path | None
    named: bool = False  # by whoever asked, not chosen by inner scores

    def text(self) -> str:
        """For a terminal: the card of the model, a line per study, flags, rejects."""
        lines = [
            f"{self.model}: mean of {self.members} networks (folds and seeds), "
            f"{'as asked for' if self.named else 'chosen by inner scores'}"
        ]
        for row in self.rows[:50]:
            facts = ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("study", "flag"))
            lines.append(f"{row['study']}: {facts}" + (f"  CAUTION: {row['flag']}" if row["flag"] else ""))
        if len(self.rows) > 50:
            lines.append(f"... and {len(self.rows) - 50} more")
        lines += [f"{r['source']}: not predicted: {r['reason']}" for r in self.rejected]
        if self.out:
            lines.append(f"table {self.out}")
        return "\n".join(lines)


def predict(
    root: Path,
    files: Sequence[Path],
    *,
    out: str | None = None,
    model: str | None = None,
    weights: Sequence[str] | str = (),
    download: bool = False,
    flagged: str = "keep",
    identity: str = "code",
) -> Served:
    """Predict files or folders with a run's chosen model, the mean over its folds and seeds.

    ``model`` names another arm of the run. ``flagged=refuse`` refuses studies outside the training
    acquisition instead of flagging them. A file that was named keeps its name; what lies in a folder appears
    as a keyed code unless ``identity=keep`` (the codes stand in ``.medgraft-sources-<table>.json`` beside the
    table, readable by its owner only). Segmentations are written as NIfTI (volumes) or PNG beside the
    table. Raises ``UserError`` when the run is not finished or no study could be read.
    """
    if flagged not in ("keep", "refuse"):
        raise UserError(f"flagged={flagged} is unknown", fix="use flagged=keep or flagged=refuse")
    if identity not in ("code", "keep"):
        raise UserError(f"identity={identity} is unknown", fix="use identity=code or identity=keep")
    missing = [f for f in files if not f.exists()]
    if missing or not files:
        raise UserError(
            "no such file or folder", case=str(missing[0]) if missing else "", fix="give the studies to predict"
        )
    run = runs.Run.open(root)
    recipe = config.build(Recipe, run.info["recipe"])
    if weights or download:
        folders = [Path(w) for w in ([weights] if isinstance(weights, str) else weights)]
        recipe = recipe.model_copy(
            update={"weights": folders + list(recipe.weights), "download": download or recipe.download}
        )
    arm = choose(run, recipe, model)
    with tempfile.TemporaryDirectory(prefix="medgraft-") as scratch:
        dataset, rejected = read(files, Path(scratch), colour=run.info.get("channels", 1) == 3)
        if identity == "code":
            dataset, rejected = _coded(dataset, rejected, Path(scratch), Path(out or "predictions.csv"))
        return replace(_serve(run, recipe, arm, dataset, rejected, out, flagged), named=model is not None)


def choose(run: runs.Run, recipe: Recipe, name: str | None) -> ArmConfig:
    """The arm with the best mean inner score, or the named one."""
    records = [r for r in run.records() if r["state"] == "done"]
    arms = {arm.id: arm for arm in recipe.models}
    if name is not None:
        near = [a for i, a in arms.items() if name in (i, a.model) or name.lower() in i.lower()]
        if len(near) != 1:
            raise UserError(f"model={name} fits {len(near)} of the run's models", fix=f"name one of: {'; '.join(arms)}")
        return near[0]
    known = {i: score for i, score in runs.inner_scores(records).items() if i in arms}
    if not known:
        raise UserError(
            "the run has no inner scores to choose by",
            case=str(run.root),
            fix=f"name one with model=: {'; '.join(arms)}",
        )
    metric = next(r["metric"] for r in records if r.get("metric"))
    return arms[(min if metric == "mae" else max)(known, key=lambda i: known[i])]


def read(files: Sequence[Path], scratch: Path, *, colour: bool) -> tuple[Dataset, list[dict[str, Any]]]:
    """Scan files and folders into a data set that lives as long as the prediction."""
    source = scratch / "studies"
    source.mkdir()
    for index, file in enumerate(files):
        target = source / (file.name if not (source / file.name).exists() else f"{index}_{file.name}")
        try:
            os.symlink(file.resolve(), target)
        except OSError:  # no links on this system
            import shutil

            (shutil.copytree if file.is_dir() else shutil.copyfile)(file, target)
    # The scratch folder lives as long as the prediction: names are put into codes where they leave it.
    values = {
        "out": scratch / "data",
        "patient": "none",
        "identity": "keep",
        "colour": colour,
        "workers": 1,
        "follow_links": True,
    }
    options = config.build(scan.ScanOptions, values)
    try:
        report = scan.scan(source, options)
    except UserError as error:
        if error.case != str(source):
            raise
        raise UserError(
            error.cause, case=str(files[0]), fix=error.fix
        ) from error  # the scratch folder means nothing to anybody
    rejects: list[dict[str, Any]] = []
    if (scratch / "data" / "rejects.csv").is_file():
        with open(scratch / "data" / "rejects.csv", newline="", encoding="utf-8") as stream:
            rejects = list(csv.DictReader(stream))
    if not report.cases:
        raise UserError(
            rejects[0]["reason"] if rejects else "no study was found",
            case=str(files[0]),
            fix="see `medgraft scan --help` for the formats",
        )
    return load_dataset(scratch / "data"), rejects


def _coded(
    dataset: Dataset, rejected: list[dict[str, Any]], scratch: Path, table: Path
) -> tuple[Dataset, list[dict[str, Any]]]:
    """Names of studies and rejects that lie in folders as keyed codes, told in a private map beside the table."""
    files = read_json(scratch / ".medgraft-sources-data.json")["cases"]
    inside = {case: paths for case, paths in files.items() if "/" in Path(paths[0]).as_posix()}
    refused = [r for r in rejected if "/" in r["source"]]
    if not inside and not refused:
        return dataset, rejected
    folder = table.resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    names = keys.Names(keys.load_key(folder))
    codes = {case: names.of("case", Path(paths[0]).as_posix()) for case, paths in inside.items()}
    rejected = [{**r, "source": names.of("case", r["source"])} if r in refused else r for r in rejected]
    keys.write_private(folder / f".medgraft-sources-{table.stem}.json", {"names": names.given})
    recoded = [pl.col(c).replace(codes) for c in ("case_id", "study_id", "patient_id")]
    return replace(dataset, manifest=dataset.manifest.with_columns(recoded)), rejected


def _serve(
    run: runs.Run,
    recipe: Recipe,
    arm: ArmConfig,
    dataset: Dataset,
    rejected: list[dict[str, Any]],
    out: str | None,
    flagged: str,
) -> Served:
    fabric, threads = make_fabric(recipe)
    # All that a prediction needs lies in the run folder: the data set may be in another building.
    task_name, structures = run.info["task"], run.info["structures"]
    targets = [TargetSpec(**{**t, "classes": tuple(t["classes"])}) for t in run.info["target_specs"]]
    flags = {row["case_id"]: outside(row, run.info["acquisition"]) for row in dataset.manifest.iter_rows(named=True)}
    keep = [k for k, case in enumerate(dataset.manifest["case_id"]) if not (flags[case] and flagged == "refuse")]
    rejected = rejected + [
        {"source": case, "reason": f"outside the training acquisition: {flags[case]}"}
        for k, case in enumerate(dataset.manifest["case_id"])
        if k not in set(keep)
    ]
    if not keep:
        raise UserError(
            rejected[0]["reason"], case=str(rejected[0]["source"]), fix="flagged=keep predicts it all the same"
        )
    kind = run.info["kind"]
    if set(dataset.manifest["kind"].to_list()) != {kind}:
        raise UserError(
            f"the run was trained on {kind}s, the studies hold {', '.join(sorted(set(dataset.manifest['kind'])))}",
            fix=f"give {kind}s only",
        )
    labels = [pl.lit(None, dtype=pl.String).alias(f"label.{t.name}") for t in targets]
    dataset = Dataset(
        dataset.root, {**dataset.info, "structures": structures}, dataset.manifest.with_columns(labels), dataset.frames
    )
    context = Context(recipe, dataset, kind, task_name, targets, structures, fabric, threads)
    members = [
        r
        for r in run.records()
        if r["state"] == "done"
        and r["inner"] < 0
        and (r["model"], r["start"], r["strategy"]) == (arm.model, arm.start, arm.strategy_name)
    ]
    if not members:
        raise UserError(
            "the run has no finished network of this model", case=arm.id, fix="finish it with `medgraft run`"
        )
    window = recipe.arm_window(arm)
    spec = context.window(arm)
    if spec.kind == "labelled":  # new studies carry no tracing: every frame is predicted
        spec = type(spec)(kind="slices", length=spec.length, size=spec.size)
    setting = config.TrainConfig(**members[0]["setting"])
    samples = context.samples(keep, spec, context.augment(setting) if setting.tta else "none", window.hu_window)
    facts = joined.Cases(dataset)
    total: Any = None
    share: Any = None  # of a study's windows that vote yes, where windows vote
    fields: dict[int, np.ndarray] = {}
    for record in members:
        network, task = fit.load_model(context, run, arm, record)
        if task.dense:

            def add(row: int, field: np.ndarray) -> None:
                fields[row] = fields.get(row, 0) + field / len(members)

            joined.predict_cases(fabric, network, task, samples, facts, batch_size=4, on_case=add)
        else:
            answer = joined.predict_cases(fabric, network, task, samples, facts, batch_size=16, views=setting.tta)
            total = answer.scores / len(members) if total is None else total + answer.scores / len(members)
            if answer.votes is not None:
                said = answer.votes[:, 0] / answer.votes[:, 1] / len(members)
                share = said if share is None else share + said
    path = Path(out) if out else None
    if fields:
        rows = _write_masks(fields, facts, structures, dataset, path or Path("predictions.csv"))
        path = path or Path("predictions.csv")
    else:
        found = list(run.info.get("thresholds", {}).get(arm.id, {}).values())
        threshold = (
            float(np.mean(found)) if found else None
        )  # one network for all folds: the mean of the folds' inner thresholds
        rows = [_row(facts.ids[row], scores, targets, threshold) for row, scores in zip(keep, total)]
        for k, row in enumerate(rows if share is not None else []):
            row["votes"] = round(float(share[k]), 4)
            row[targets[0].name] = targets[0].positive if share[k] > 0.5 else _other(targets[0])
    for row in rows:
        row["flag"] = flags[row["study"]]
    if path is not None:
        _write_csv(rows, path)
    return Served(rows, rejected, arm.id, len(members), path)


def _row(study: str, scores: np.ndarray, targets: Sequence[Any], threshold: float | None) -> dict[str, Any]:
    row: dict[str, Any] = {"study": study}
    if len(targets) == 1 and targets[0].kind == "classes":
        best = int(np.argmax(scores))
        row[targets[0].name] = targets[0].classes[best]
        row.update({f"p({c})": round(float(p), 4) for c, p in zip(targets[0].classes, scores)})
        return row
    for target, score in zip(targets, scores):
        if target.kind == "regress":
            row[target.name] = round(float(score), 4)
            continue
        row[f"p({target.positive})"] = round(float(score), 4)
        if threshold is not None and len(targets) == 1:
            row[target.name] = target.positive if score >= threshold else _other(target)
            row["threshold"] = round(threshold, 4)
    return row


def _other(target: Any) -> str:
    """The class that a yes/no target is when it is not the positive one."""
    return next((c for c in target.classes if c != target.positive), f"not {target.positive}")


def _write_masks(
    fields: dict[int, np.ndarray], facts: joined.Cases, structures: list[str], dataset: Dataset, table: Path
) -> list[dict[str, Any]]:
    """Label maps (value k for structure k, later ones on top) as NIfTI beside the table, and their sizes."""
    rows = []
    folder = table.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for row, field in fields.items():
        said = field > 0.5
        labels = np.zeros(field.shape[1:], np.uint8)
        for k in range(len(structures)):
            labels[said[k]] = k + 1
        image = SimpleITK.GetImageFromArray(labels)
        _place(image, dataset.manifest.row(row, named=True))
        path = folder / f"{facts.ids[row]}_mask.nii.gz"
        SimpleITK.WriteImage(image, str(path))
        spacing = dataset.manifest["spacing"][row]
        voxel = float(np.prod(list(spacing))) if spacing is not None and all(s is not None for s in spacing) else None
        entry: dict[str, Any] = {"study": facts.ids[row], "mask": path.name}
        for k, name in enumerate(structures):
            entry[f"{name} voxels"] = int(said[k].sum())
            if voxel and facts.kinds[row] == "volume":
                entry[f"{name} ml"] = round(said[k].sum() * voxel / 1000, 4)
        rows.append(entry)
    return rows


def _place(image: SimpleITK.Image, line: dict[str, Any]) -> None:
    """Give a label map the place of its source: ``to_source`` maps (d, h, w) to the source's coordinates (LPS)."""
    if line["to_source"] is None or line["kind"] != "volume":
        return
    affine = np.reshape(line["to_source"], (4, 4))
    axes = affine[:3, [2, 1, 0]]  # SimpleITK counts w, h, d
    spacing = np.linalg.norm(axes, axis=0)
    with contextlib.suppress(RuntimeError):  # a source without an invertible geometry keeps voxel coordinates
        image.SetDirection((axes / spacing).reshape(-1).tolist())
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(affine[:3, 3].tolist())


def _write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    names = list(dict.fromkeys(k for row in rows for k in row))
    lines = [
        [no_formula(n) for n in names],
        *[[no_formula(row.get(n, "")) for n in names] for row in rows],
    ]
    import io

    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    write_text(path, stream.getvalue())


def outside(line: dict[str, Any], ranges: dict[str, Any]) -> str:
    """Why a study lies outside the training acquisition; empty when it does not.

    Sizes may differ by half from the range seen, spacing by a quarter, brightness of raw values tenfold.
    """
    reasons = []
    if ranges["value_unit"] and line["value_unit"] not in ranges["value_unit"]:
        reasons.append(f"values are {line['value_unit']}, trained on {', '.join(ranges['value_unit'])}")
    for name, value in zip(("frames", "height", "width"), line["shape"][1:]):
        low, high = ranges[name]
        if not 0.5 * low <= value <= 1.5 * high:
            reasons.append(f"{name} {value}, trained on {low} to {high}")
    if ranges.get("spacing") and line["spacing"] is not None and all(s is not None for s in line["spacing"]):
        for name, value, (low, high) in zip(("depth", "height", "width"), line["spacing"], ranges["spacing"]):
            if not 0.75 * low <= value <= 1.25 * high:
                reasons.append(f"{name} spacing {value:.3g}, trained on {low:.3g} to {high:.3g}")
    if line["p995"] is not None and line["p995"] <= line["p005"]:
        reasons.append("the picture is blank")
    elif line["value_unit"] == "display" and ranges["p995"][0] is not None and line["p995"] < 0.5 * ranges["p995"][0]:
        reasons.append(
            f"much darker than any training study (bright end {line['p995']:.0f}, trained on {ranges['p995'][0]:.0f} "
            f"and more)"
        )
    return "; ".join(reasons)
