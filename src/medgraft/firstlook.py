"""A first answer in minutes: the arms that cost least, by the same flow, and what comes next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medgraft import config, files, flow, runs
from medgraft.config import Recipe
from medgraft.datasets import Dataset, load_dataset
from medgraft.engine import pace
from medgraft.engine import plan as planning
from medgraft.engine.defaults import with_defaults
from medgraft.engine.session import Session
from medgraft.errors import UserError
from medgraft.intake.options import QuickOptions, ScanOptions
from medgraft.progress import duration


def quick(source: Path, options: QuickOptions, *, say: Callable[[str], None] = print) -> Path:
    """A first answer in minutes: scan where needed, then ``run`` with the first arms of the default set. Returns the
    run folder, where ``next.yaml`` is the longer run that is named at the end.

    Raises ``UserError`` where a data set is given with knobs of a scan.
    """
    data = _scanned(source, options, say)
    dataset = load_dataset(data)
    values: dict[str, Any] = {
        "name": options.run or data.resolve().name,
        "data": data,
        "out": options.out,
        "target": options.target or None,
        "task": options.task,
        "classes": options.classes,
        "weights": options.weights,
        "threads": options.threads,
        "lang": options.lang,
    }
    if len(options.split) == 1:
        values["split"] = {"kind": "column", "column": options.split[0]}
    if isinstance(values["target"], list) and len(values["target"]) == 1:
        values["target"] = values["target"][0]
    whole = config.build(Recipe, {k: v for k, v in values.items() if v not in (None, [])})
    root = flow.run(with_defaults(whole, dataset, say, first=True), say=say, estimate=True)
    say(_next(whole, dataset, root))
    return root


def _scanned(source: Path, options: QuickOptions, say: Callable[[str], None]) -> Path:
    """The data set of a source: the source itself, or what a scan of it writes."""
    given = options.model_fields_set & set(ScanOptions.model_fields)
    if (source / "manifest.parquet").is_file():
        if strange := sorted(given - {"target", "split", "out", "progress"} | (options.model_fields_set & {"data"})):
            raise UserError(
                f"{strange[0]} is for a scan, and this is a data set already", case=str(source), fix="leave it out"
            )
        return source
    from medgraft.intake import scan as act

    chosen = {name: getattr(options, name) for name in given - {"out"}}
    report = act.scan(source, config.build(ScanOptions, {**chosen, "out": options.data}))
    say(report.text())
    return Path(report.out)


def _next(whole: Recipe, dataset: Dataset, root: Path) -> str:
    """Which longer run comes after a first look, and how long it takes here; written as ``next.yaml``."""
    full = with_defaults(whole, dataset, lambda line: None)
    plan = planning.resolve(full, dataset)
    before = planning.read(root)
    fields = plan.make_task().joins == "field"
    if fields:  # other steps and other parts: a run of its own
        whole = whole.model_copy(update={"name": f"{whole.name}_full"})
    place = files.write_text(root / "next.yaml", config.dump_recipe(whole, said=True))
    known = {arm.id for arm in before.arms}
    paces = pace.measure(Session.open(plan, dataset, root), None if fields else runs.Run.open(root))
    more = [arm.id for arm in plan.arms if fields or arm.id not in known]
    left = sum(p.seconds for p in paces if p.arm in more)
    what = ", ".join(more) if not fields else f"{more[0]} with {len(plan.folds)} folds and all its steps"
    return f"next: medgraft run {place} (about {duration(left)} here) adds {what}"
