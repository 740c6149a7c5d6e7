"""New studies through the networks that a run made: same reader, windows, join and rows as when they were judged.

What is served comes from the last plan of the run and from nothing else. ``as=model`` is the mean of all networks of an
arm; ``as=judged`` answers each study with the networks that had it in their test part, and gives the run's own numbers.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medgraft import config, runs, tables
from medgraft.data import spacing
from medgraft.data.cases import Cases
from medgraft.data.dataset import CaseDataset
from medgraft.datasets import Dataset
from medgraft.engine import features
from medgraft.engine import plan as planning
from medgraft.engine import predict as joined
from medgraft.engine.build import cleaned, load_model
from medgraft.engine.device import make_fabric
from medgraft.engine.plan import Arm, Plan, Setting
from medgraft.engine.session import Session
from medgraft.errors import UserError
from medgraft.export.masks import write_labels
from medgraft.files import no_formula, read_json, write_text
from medgraft.intake.private import keys
from medgraft.intake.studies import read_like
from medgraft.models.model import Model
from medgraft.options import PredictOptions

MOST = 1 << 30  # bytes of joined fields that are held at once, at most; one case is always held


@dataclass(frozen=True)
class Served:
    """Predictions of new studies: one row per study, and what could not be read."""

    rows: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    model: str
    members: int
    out: Path | None
    how: str = ""  # chosen by inner scores, or as asked for

    def text(self) -> str:
        """For a terminal: the card of the model, a line per study, flags, rejects."""
        lines = [f"{self.model}: {self.how}"]
        for row in self.rows[:50]:
            facts = ", ".join(f"{k} {_told(v)}" for k, v in row.items() if k not in ("study", "flag", "seen"))
            cautions = "; ".join(str(row[k]) for k in ("flag", "seen") if row.get(k))
            lines.append(f"{row['study']}: {facts}" + (f"  CAUTION: {cautions}" if cautions else ""))
        if len(self.rows) > 50:
            lines.append(f"... and {len(self.rows) - 50} more")
        lines += [f"{r['source']}: not predicted: {r['reason']}" for r in self.rejected]
        if self.out:
            lines.append(f"table {self.out}")
        return "\n".join(lines)


def _told(value: Any) -> Any:
    """A number with four significant digits; the table holds it whole."""
    return f"{value:.4g}" if isinstance(value, float) else value


@dataclass(frozen=True)
class Studies:
    """New studies as a data set, and for each the cases of the run that have the same pixels."""

    dataset: Dataset
    known: dict[str, list[int]]  # study -> rows of the run's manifest


def predict(root: Path, files: Sequence[Path], options: PredictOptions | None = None, **values: Any) -> Served:
    """Predict files or folders with an arm of a run. ``values`` are fields of ``PredictOptions``.

    ``as=model`` serves the mean over folds and seeds and marks a study that the run trained on. ``as=judged`` serves
    the run's own numbers, to the bit on the CPU that made them. A file that was named keeps its name; what lies in a
    folder appears as a keyed code unless ``identity=keep`` (the codes stand in ``.medgraft-sources-<table>.json``
    beside the table, readable by its owner only). Segmentations are written as NIfTI beside the table. Raises
    ``UserError`` when the model is not finished or no study could be read.
    """
    options = options or config.build(PredictOptions, values, where="predict")
    missing = [f for f in files if not f.exists()]
    if missing or not files:
        raise UserError(
            "no such file or folder", case=str(missing[0]) if missing else "", fix="give the studies to predict"
        )
    run, plan = runs.Run.open(root), planning.read(Path(root))
    means = plan.means
    folders = (*(str(folder) for folder in options.weights), *means.weights)
    plan = replace(plan, means=replace(means, weights=folders, download=options.download or means.download, stage=None))
    arm = choose(run, plan, options.model)
    members = members_of(run, plan, arm)
    with tempfile.TemporaryDirectory(prefix="medgraft-") as scratch:
        dataset, rejected = read_like(files, Path(scratch), stored_with(run.info))
        if options.identity == "code":
            table = options.out or Path("predictions.csv")
            dataset, rejected = _coded(dataset, rejected, Path(scratch), table)
        studies, rejected = accepted(run, dataset, rejected, options)
        if options.as_ != "judged":
            studies, rejected = at_spacing(arm, studies, rejected)
        serve = Judging(run, plan, arm, studies) if options.as_ == "judged" else Serving(run, plan, arm, studies)
        rows = list(write_answers(serve, members, options.out))
        how = f"{serve.told(members)}, {'as asked for' if options.model else 'chosen by inner scores'}"
    path = options.out or (Path("predictions.csv") if serve.task.joins == "field" else None)
    if path is not None:
        _write_csv(rows, path)
    return Served(rows, rejected + serve.strangers, arm.id, len(members), path, how)


def stored_with(info: Mapping[str, Any]) -> dict[str, Any]:
    """Scan options that decided what is stored, as the run's data set recorded them."""
    return {"colour": info.get("channels", 1) == 3, **(info.get("stored_with") or {})}


def choose(run: runs.Run, plan: Plan, name: str | None) -> Arm:
    """The arm with the best mean inner score, or the named one: an equal id wins, then an equal network, then a
    part.
    """
    arms = {arm.id: arm for arm in plan.arms}
    if name is not None:
        tests = (lambda a: a.id == name, lambda a: a.model == name, lambda a: name.lower() in a.id.lower())
        near: list[Arm] = next((found for fits in tests if (found := [a for a in plan.arms if fits(a)])), [])
        if len(near) != 1:
            raise UserError(f"model={name} fits {len(near)} of the run's models", fix=f"name one of: {'; '.join(arms)}")
        return near[0]
    if len(arms) == 1:
        return plan.arms[0]  # nothing to choose
    known = {i: score for i, score in runs.inner_scores(run.records()).items() if i in arms and score == score}
    if not known:
        raise UserError(
            "the run has no inner scores to choose by",
            case=str(run.root),
            fix=f"name one with model=: {'; '.join(arms)}",
        )
    higher = plan.make_task().metric.direction != "lower"
    return arms[(max if higher else min)(known, key=lambda i: known[i])]


def members_of(run: runs.Run, plan: Plan, arm: Arm) -> list[dict[str, Any]]:
    """Records of an arm's networks under the last plan, by fold and seed.

    Raises ``UserError`` when some are missing.
    """
    found = [r for r in run.records() if r["arm"] == arm.id and r["inner"] < 0 and r["state"] == "done"]
    wanted = len(plan.folds) * len(plan.seeds)
    if len(found) < wanted:
        raise UserError(
            f"{len(found)} of {wanted} networks of this model are finished",
            case=arm.id,
            fix="finish it with `medgraft run`, or name another with model=",
        )
    return sorted(found, key=lambda r: (r["outer"], plan.seeds.index(r["seed"])))


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


@dataclass
class Said:
    """What the networks said of one study so far, and which thresholds hold for them."""

    scores: list[np.ndarray]
    votes: list[float]
    thresholds: list[float]
    total: np.ndarray | None = None  # of joined fields, which are too large to keep one by one
    networks: int = 0
    cleaned: list[str] = field(default_factory=list)  # a network each time that it was judged with clean-up of it

    def mean(self) -> np.ndarray:
        if self.total is not None:
            return self.total / self.networks
        return np.mean(self.scores, axis=0)

    def largest(self) -> tuple[str, ...]:
        """Structures of which the largest component alone is called: those that more than half of the networks were
        judged so with. Networks of one test part agree.
        """
        return tuple(name for name, n in Counter(self.cleaned).items() if 2 * n > self.networks)


class Serving:
    """The mean of all networks of an arm, on studies that nobody has judged."""

    strangers: list[dict[str, Any]]

    def __init__(self, run: runs.Run, plan: Plan, arm: Arm, studies: Studies) -> None:
        self.run, self.plan, self.arm, self.studies = run, plan, arm, studies
        self.task = plan.make_task()
        self.strangers = []
        dataset = self.arranged()
        self.session = Session(plan, dataset, run.root, make_fabric(plan.device, plan.precision, plan.threads))
        bare = dataset.manifest.with_columns(pl.lit(None, dtype=pl.String).alias("mask_id"))
        self.facts = Cases(replace(dataset, manifest=bare))  # nothing is measured against a mask here
        self.features: dict[str, dict[str, np.ndarray]] = {}

    def told(self, members: Sequence[Mapping[str, Any]]) -> str:
        return f"mean of {len(members)} networks (folds and seeds)"

    def arranged(self) -> Dataset:
        """The studies as the run's task reads them: without labels, and without marks."""
        labels = [pl.lit(None, dtype=pl.String).alias(f"label.{t.name}") for t in self.task.targets]
        found = self.studies.dataset
        info = {**found.info, "structures": list(self.plan.task.structures)}
        return replace(found, info=info, manifest=found.manifest.with_columns(labels))

    def setting(self, setting: Setting) -> Setting:
        """As judged, but for marked frames: new studies carry no marks, so every frame is predicted."""
        window = setting.window
        if window.kind != "marked":
            return setting
        return replace(setting, window=replace(window, kind="slices", max_windows=None, together=False))

    def answers(self, record: Mapping[str, Any], row: int) -> bool:
        """Whether a network answers a study."""
        return True

    def layout(
        self, samples: CaseDataset, setting: Setting, batch_size: int, who: Iterable[int] | None
    ) -> list[joined.Block] | None:
        """Which windows share a batch. ``who`` are the run's cases that were judged together (None: all)."""
        return joined.blocks(samples.eval_windows(), batch_size)

    def rounds(self, rows: Sequence[int]) -> list[list[int]]:
        """Studies that can be asked together."""
        return [list(rows)] if rows else []

    def judged_with(self, record: Mapping[str, Any]) -> list[int] | None:
        """The run's cases that a network was judged on."""
        return None

    @cached_property
    def _learnt(self) -> set[str]:
        return {patient for fold in self.plan.folds for patient in fold.learns}

    def seen(self, row: int) -> str:
        """Why a study's number may be too good."""
        study = self.session.dataset.manifest["case_id"][row]
        if not any(self.plan.cases[known][1] in self._learnt for known in self.studies.known.get(study, [])):
            return ""
        return "the run trained on this study, so its number is too good; as=judged asks networks that did not"

    def place(self, row: int) -> dict[str, Any]:
        """Where a study's voxels lie, as its own file says it: what differs from its row in the manifest."""
        return {}

    def blocks(self) -> Iterator[list[int]]:
        """Manifest rows, as many at a time as their joined fields fit into memory."""
        rows = range(self.session.dataset.manifest.height)
        if self.task.joins != "field":
            yield list(rows)
            return
        size, block = 0, list[int]()
        most = min(MOST, int(self.plan.means.memory_gb * MOST / 2))
        for row in rows:
            shape = self.session.dataset.manifest["shape"][row]
            need = 4 * int(np.prod(list(shape)[1:])) * (2 * self.task.outputs + 1)
            if block and size + need > most:
                yield block
                size, block = 0, []
            size += need
            block.append(row)
        yield block

    def ask(self, record: dict[str, Any], rows: Sequence[int], said: Mapping[int, Said]) -> None:
        """Add one network's answers on some studies to what was said of them."""
        model, task, judged = load_model(self.session, self.arm, record)
        setting = self.setting(judged)
        train, who = setting.train, self.judged_with(record)
        samples: Any = self.session.samples(rows, setting, augmented=train.tta > 0, masks=False)
        if self.arm.on_features(setting, task) and not train.tta:
            samples = features.FeatureSamples(samples, self.features_of(model, samples, setting, who))

        def add(row: int, found: np.ndarray) -> None:
            total = said[row].total
            said[row].total = found if total is None else total + found

        found = joined.predict_cases(
            self.session.fabric,
            model,
            task,
            samples,
            self.facts,
            batch_size=train.batch_size,
            views=train.tta,
            on_case=add,
            layout=self.layout(samples, setting, train.batch_size, who),
        )
        threshold = (self.run.info.get("thresholds") or {}).get(self.arm.id, {}).get(str(record["outer"]))
        for place, row in enumerate(found.cases):
            said[row].networks += 1
            said[row].cleaned += cleaned(record)
            if task.joins == "case":
                said[row].scores.append(found.scores[place])
            if found.votes is not None:
                said[row].votes.append(float(found.votes[place, 0] / found.votes[place, 1]))
            if threshold is not None:
                said[row].thresholds.append(float(threshold))

    def features_of(
        self, model: Model, samples: CaseDataset, setting: Setting, who: Iterable[int] | None
    ) -> dict[str, np.ndarray]:
        """Features of the studies under a still body; bodies that are equal to the byte are asked once."""
        features.refuse_mixing(model, self.arm)
        selected = setting.select != config.SelectConfig()
        key = features.cache_key(self.session, self.arm, setting, model, str(samples.cases.tolist()))
        if key not in self.features:
            depth = samples.eval_windows()[0].size[0]
            together = who if selected else None  # as the run's own cache was filled
            layout = self.layout(samples, setting, features.block_of(depth), together)
            self.features[key] = features.compute(self.session.fabric, model, samples, layout=layout)
        return self.features[key]


class Judging(Serving):
    """Each study by the networks that had it in their test part: the run's own numbers."""

    def told(self, members: Sequence[Mapping[str, Any]]) -> str:
        seeds = len(self.plan.seeds)
        return f"each study by the network of its test part, {'one seed' if seeds == 1 else f'mean of {seeds} seeds'}"

    def arranged(self) -> Dataset:
        """The run's own cases (view, range, marks) of each study that is known to it, under the study's name."""
        self.home = Dataset(
            self.run.root,
            {**self.studies.dataset.info, "structures": list(self.plan.task.structures)},
            tables.read(self.run.root / "manifest.parquet", "manifest"),
            tables.read(self.run.root / "frames.parquet", "frames"),
        )
        tested = {patient for fold in self.plan.folds for patient in fold.test}
        self.patients = patients = self.home.manifest["patient_id"].to_list()
        self.row_at_home: list[int] = []
        self.given: list[dict[str, Any]] = []
        names: list[str] = []
        places = self.studies.dataset.manifest.select("case_id", "spacing", "to_source").iter_rows(named=True)
        for given in places:
            study = given.pop("case_id")
            rows = [row for row in self.studies.known.get(study, []) if patients[row] in tested]
            if not rows:
                known = study in self.studies.known
                reason = "no network of the run had it in its test part" if known else "the run has no such case"
                self.strangers.append({"source": study, "reason": reason})
            names += [study if len(rows) == 1 else f"{study} {self.home.manifest['case_id'][row]}" for row in rows]
            self.row_at_home += rows
            self.given += [given] * len(rows)
        if not self.row_at_home:
            raise UserError(
                self.strangers[0]["reason"], case=self.strangers[0]["source"], fix="leave out as=judged for new studies"
            )
        manifest = self.home.manifest[self.row_at_home].with_columns(pl.Series("case_id", names, dtype=pl.String))
        return replace(self.home, root=self.studies.dataset.root, manifest=manifest)

    def setting(self, setting: Setting) -> Setting:
        return setting

    def place(self, row: int) -> dict[str, Any]:
        return self.given[row]  # the same pixels may lie elsewhere in the run's data set, or twice in it

    def answers(self, record: Mapping[str, Any], row: int) -> bool:
        return self.patients[self.row_at_home[row]] in self._tests[record["outer"]]

    @cached_property
    def _tests(self) -> dict[int, set[str]]:
        return {fold.outer: set(fold.test) for fold in self.plan.folds}

    def rounds(self, rows: Sequence[int]) -> list[list[int]]:
        """A case of the run has one place in its batch: copies of its pixels are asked one after the other."""
        found: list[dict[int, int]] = []
        for row in rows:
            case = self.row_at_home[row]
            free = next((there for there in found if case not in there), None)
            if free is None:
                found.append(free := {})
            free[case] = row
        return [list(there.values()) for there in found]

    def judged_with(self, record: Mapping[str, Any]) -> list[int] | None:
        test = self._tests[record["outer"]]
        return [row for row, patient in enumerate(self.patients) if patient in test]

    def layout(
        self, samples: CaseDataset, setting: Setting, batch_size: int, who: Iterable[int] | None
    ) -> list[joined.Block] | None:
        everyone = list(range(self.home.manifest.height)) if who is None else list(who)
        place = {row: number for number, row in enumerate(everyone)}
        at_home = CaseDataset(self.home, everyone, window=setting.window)
        counts = dict.fromkeys(everyone, 0)
        for window in at_home.eval_windows():
            counts[window.case] += 1
        places = {row: place[self.row_at_home[row]] for row in samples.cases.tolist()}
        return joined.blocks_as_judged(samples.eval_windows(), batch_size, list(counts.values()), places)

    def seen(self, row: int) -> str:
        return ""


def accepted(
    run: runs.Run, dataset: Dataset, rejected: list[dict[str, Any]], options: PredictOptions
) -> tuple[Studies, list[dict[str, Any]]]:
    """The studies that are answered: of the run's kind, and with ``flagged=refuse`` within its acquisition."""
    kind = run.info["kind"]
    if set(dataset.manifest["kind"].to_list()) != {kind}:
        raise UserError(
            f"the run was trained on {kind}s, the studies hold {', '.join(sorted(set(dataset.manifest['kind'])))}",
            fix=f"give {kind}s only",
        )
    if options.flagged == "refuse":
        flags = {
            row["case_id"]: outside(row, run.info["acquisition"]) for row in dataset.manifest.iter_rows(named=True)
        }
        rejected = rejected + [
            {"source": case, "reason": f"outside the training acquisition: {flag}"}
            for case, flag in flags.items()
            if flag
        ]
        kept = [not flags[case] for case in dataset.manifest["case_id"]]
        if not any(kept):
            raise UserError(
                rejected[-1]["reason"], case=str(rejected[-1]["source"]), fix="flagged=keep predicts it all the same"
            )
        dataset = replace(dataset, manifest=dataset.manifest.filter(pl.Series(kept)))
    of_array: dict[str, list[int]] = {}
    for row, array in enumerate(tables.read(run.root / "manifest.parquet", "manifest")["array_id"]):
        of_array.setdefault(array, []).append(row)
    pairs = dataset.manifest.select("case_id", "array_id").iter_rows()
    return Studies(dataset, {case: of_array[array] for case, array in pairs if array in of_array}), rejected


def at_spacing(arm: Arm, studies: Studies, rejected: list[dict[str, Any]]) -> tuple[Studies, list[dict[str, Any]]]:
    """The studies that can be brought to the spacing of an arm's windows; the others are rejected with the reason.

    Raises ``UserError`` where none is left.
    """
    targets = {s.window.spacing for s in arm.settings if s.window.spacing is not None}
    why: dict[str, UserError] = {}
    for line in studies.dataset.manifest.iter_rows(named=True):
        for target in targets:
            try:
                spacing.grid_for(line["case_id"], line["shape"][1:], line["spacing"], target)
            except UserError as error:
                why[line["case_id"]] = error
    if not why:
        return studies, rejected
    manifest = studies.dataset.manifest.filter(~pl.col("case_id").is_in(list(why)))
    if not manifest.height:
        case, fault = next(iter(why.items()))
        raise UserError(fault.cause, case=case, fix="mend the file's header")
    rejected = rejected + [{"source": case, "reason": fault.cause} for case, fault in why.items()]
    return replace(studies, dataset=replace(studies.dataset, manifest=manifest)), rejected


def write_answers(serve: Serving, members: Sequence[dict[str, Any]], out: Path | None) -> Iterator[dict[str, Any]]:
    """For each study the mean over the networks that answer it, a block of studies at a time; masks are written at
    once.
    """
    for block in serve.blocks():
        said = {row: Said([], [], []) for row in block}
        for record in members:
            for rows in serve.rounds([row for row in block if serve.answers(record, row)]):
                serve.ask(record, rows, said)
        for row in block:
            yield _row(serve, row, said.pop(row), out)


def _row(serve: Serving, row: int, said: Said, out: Path | None) -> dict[str, Any]:
    line = {**serve.session.dataset.manifest.row(row, named=True), **serve.place(row)}
    case = {**line, **({"votes": float(np.mean(said.votes))} if said.votes else {})}
    # one answer for all folds: the mean of the folds' inner thresholds
    threshold = float(np.mean(said.thresholds)) if said.thresholds else None
    task = serve.plan.make_task(serve.arm.settings[0], largest=said.largest()) if said.cleaned else serve.task
    answer = task.answer(said.mean(), case, threshold=threshold)
    found: dict[str, Any] = {"study": line["case_id"]}
    if answer.labels is not None:
        found["mask"] = write_labels(answer.labels, line, (out or Path("predictions.csv")).with_suffix("")).name
    flag = outside(line, serve.run.info["acquisition"])
    return {**found, **answer.columns, "flag": flag, "seen": serve.seen(row)}


def _write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    names = list(dict.fromkeys(k for row in rows for k in row))
    lines = [
        [no_formula(n) for n in names],
        *[[no_formula(row.get(n, "")) for n in names] for row in rows],
    ]
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
