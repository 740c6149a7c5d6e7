"""A Python entry for each verb: the keys of the command line as keyword arguments, tables back as polars data frames.

``from medgraft import scan, run, predict, report, audit``. A section of a recipe is a dict (``train={"epochs": 2}``) or
keys with dots (``**{"train.epochs": 2}``); ``as`` is written ``as_``, since Python keeps the word. What is wrong raises
``medgraft.errors.UserError`` with the line that the command line would print. docs/notebook.md shows all of it at work.
"""

from __future__ import annotations

import contextlib
import csv
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from medgraft import knobs, verbs
from medgraft.files import read_json

if TYPE_CHECKING:
    import polars as pl

    from medgraft.audit.audit import AuditReport
    from medgraft.intake.scan import ScanReport
    from medgraft.serve import Served

Place = str | os.PathLike[str]
Say = Callable[[str], None]
Act = TypeVar("Act", bound=Callable[..., Any])


class Folder(os.PathLike[str]):
    """A result that lies in a folder, ``root``: it can be handed on wherever a path is asked for."""

    root: Path

    def __fspath__(self) -> str:
        return str(self.root)


@dataclass(frozen=True)
class ScanResult(Folder):
    """A data set as a scan left it. ``counts`` says what the scan did; ``print`` shows it as the terminal does."""

    root: Path
    counts: ScanReport

    def __str__(self) -> str:
        return self.counts.text()

    @cached_property
    def manifest(self) -> pl.DataFrame:
        """One row a case (docs/architecture.md)."""
        return _table(self.root / "manifest.parquet", "manifest")

    @cached_property
    def frames(self) -> pl.DataFrame:
        """One row a frame that has a time or a mask."""
        return _table(self.root / "frames.parquet", "frames")

    @cached_property
    def rejects(self) -> pl.DataFrame:
        """What was refused: source, reason, fix."""
        return _csv(self.root / "rejects.csv", "rejects")


@dataclass(frozen=True)
class AuditResult:
    """What an audit found. ``findings`` is told from ``details``, which name pairs, patients and facts."""

    page: Path
    details: list[dict[str, Any]]
    said: list[str]

    @property
    def leaks(self) -> int:
        """How many findings are leaks."""
        return sum(finding["severity"] == "leak" for finding in self.details)

    @cached_property
    def findings(self) -> pl.DataFrame:
        """One row a finding, gravest first: severity (leak, check, note), kind, n, and what is said of it."""
        import polars as pl

        text = [line.removeprefix(f["severity"]).strip() for f, line in zip(self.details, self.said)]
        rows = [[f["severity"], f["kind"], f["n"], line] for f, line in zip(self.details, text)]
        schema = {"severity": pl.String, "kind": pl.String, "n": pl.Int64, "said": pl.String}
        return pl.DataFrame(rows, schema=schema, orient="row")


@dataclass(frozen=True)
class RunResult(Folder):
    """A run folder; ``RunResult("runs/xrays")`` opens one that was made before. Tables are read when asked for."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))

    @cached_property
    def leaderboard(self) -> pl.DataFrame:
        """One row a model, best first: every measure with its interval (``.low``, ``.high``)."""
        return self._csv("leaderboard.csv")

    @cached_property
    def pairs(self) -> pl.DataFrame:
        """One row a pair of models and measure: difference, interval, p and corrected p."""
        return self._csv("pairs.csv")

    @cached_property
    def predictions(self) -> pl.DataFrame:
        """One row a cell, case, class and view."""
        return _table(self.root / "predictions.parquet", "predictions")

    @cached_property
    def measures(self) -> pl.DataFrame:
        """One row a cell, case and measure: voxels of a segmentation, and whatever else a task counts."""
        return _table(self.root / "measures.parquet", "measures")

    @cached_property
    def cells(self) -> pl.DataFrame:
        """One row a training, with its state."""
        return _table(self.root / "cells.parquet", "cells")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """``summary.json``: all that the report says."""
        found: dict[str, Any] = read_json(self.root / "summary.json")
        return found

    @property
    def report(self) -> Path | None:
        """The page, where there is one (``report=False`` leaves it out)."""
        path = self.root / "report.html"
        return path if path.is_file() else None

    def _csv(self, name: str) -> pl.DataFrame:
        import polars as pl

        return pl.read_csv(self.root / name, infer_schema_length=None)


@dataclass(frozen=True)
class PredictResult:
    """Answers for new studies. ``model`` is the arm that gave them, by the mean of ``members`` networks."""

    served: Served

    def __str__(self) -> str:
        return self.served.text()

    @property
    def model(self) -> str:
        return self.served.model

    @property
    def members(self) -> int:
        return self.served.members

    @cached_property
    def frame(self) -> pl.DataFrame:
        """One row a study, as the CSV table has it."""
        import polars as pl

        return pl.DataFrame(self.served.rows, infer_schema_length=None)

    @cached_property
    def rejects(self) -> pl.DataFrame:
        """Studies that were not answered: source and reason."""
        import polars as pl

        rows = [[str(r["source"]), str(r["reason"])] for r in self.served.rejected]
        return pl.DataFrame(rows, schema={"source": pl.String, "reason": pl.String}, orient="row")


def _keys_of(verb: str) -> Callable[[Act], Act]:
    """Give an entry the keys of its verb: in its signature, for a notebook's completion, and in its help."""

    def with_keys(act: Act) -> Act:
        model = verbs.options_class(verb)
        own = [p for p in inspect.signature(act).parameters.values() if p.kind is not p.VAR_KEYWORD]
        found = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=field.annotation
            )
            for name, field in model.model_fields.items()
        ]
        act.__signature__ = inspect.signature(act).replace(parameters=[*own, *found])  # type: ignore[attr-defined]
        lines = [f"    {knob.key}: {knob.told}" for knob in knobs.knobs(model)]
        act.__doc__ = "\n".join([inspect.cleandoc(act.__doc__ or ""), "", "Options:", *lines])
        return act

    return with_keys


def _default(field: Any) -> Any:
    return inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)


@_keys_of("scan")
def scan(source: Place, /, *, say: Say = print, quiet: bool = False, **options: Any) -> ScanResult:
    """Turn a folder of raw studies and a label table into a data set. A second scan does only what is new."""
    chosen = verbs.options("scan", _values(options, quiet))
    from medgraft.intake import scan as act

    with _without_script():
        report = act.scan(Path(source), chosen)
    _say(say, quiet)(report.text())
    return ScanResult(Path(report.out), report)


@_keys_of("audit")
def audit(data: Place, /, *, say: Say = print, quiet: bool = False, **options: Any) -> AuditResult:
    """Look for what makes results too good: copies, one patient in two roles, facts that tell the label.

    ``data`` is a data set folder. Writes ``audit.html`` and ``audit.json`` into it.
    """
    chosen = verbs.options("audit", _values(options, quiet))
    from medgraft.audit import audit as act

    with _without_script():
        report: AuditReport = act(Path(data), chosen)
    _say(say, quiet)(report.text())
    return AuditResult(report.page, report.findings, report.lines)


@_keys_of("quick")
def quick(source: Place, /, *, say: Say = print, quiet: bool = False, **options: Any) -> RunResult:
    """A first answer in minutes: frozen features of every start that is here, with intervals and controls.

    ``source`` is a folder of raw studies, which is scanned, or a data set.
    """
    chosen = verbs.options("quick", _values(options, quiet))
    from medgraft import firstlook

    with _without_script():
        return RunResult(firstlook.quick(Path(source), chosen, say=_say(say, quiet)))


@_keys_of("run")
def run(recipe: Place | None = None, /, *, say: Say = print, quiet: bool = False, **options: Any) -> RunResult:
    """Compare ways of transfer on a data set, and write the report. Killed? Run it again: it goes on.

    ``recipe`` is a YAML file; keyword arguments win over it, and suffice without one.
    """
    chosen = verbs.recipe(None if recipe is None else Path(recipe), _values(options))
    from medgraft import flow

    with _without_script():
        return RunResult(flow.run(chosen, say=_say(say, quiet)))


@_keys_of("predict")
def predict(
    run: Place, files: Place | Sequence[Place], /, *, say: Say = print, quiet: bool = False, **options: Any
) -> PredictResult:
    """Predict new studies, files or folders, with the model that the inner scores of a run chose, by the same path."""
    chosen = verbs.options("predict", _values(options))
    from medgraft import serve

    some = [files] if isinstance(files, (str, os.PathLike)) else files
    with _without_script():
        served = serve.predict(Path(run), [Path(file) for file in some], chosen)
    _say(say, quiet)(served.text())
    return PredictResult(served)


@_keys_of("report")
def report(run: Place, /, *, say: Say = print, quiet: bool = False, **options: Any) -> Path:
    """Write the report of a finished run again, in English or Chinese (``lang="zh"``); its path."""
    chosen = verbs.options("report", _values(options))
    from medgraft.report import page

    path = page.build(Path(run), lang=chosen.lang)
    _say(say, quiet)(f"report {path}")
    return path


def _values(options: Mapping[str, Any], quiet: bool = False) -> dict[str, Any]:
    """Keyword arguments as keys of the command line. ``quiet`` hides a bar that was not asked for."""
    found = {key.removesuffix("_"): _plain(value) for key, value in options.items()}
    return {"progress": False, **found} if quiet else found


def _plain(value: Any) -> Any:
    """Paths and results as text, within lists and dicts too; tuples stay."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return type(value)(_plain(each) for each in value) if type(value) in (list, tuple) else value


def _say(say: Say, quiet: bool) -> Say:
    return (lambda line: None) if quiet else say


@contextlib.contextmanager
def _without_script() -> Iterator[None]:
    """Let new processes start without the caller's script.

    A started process imports the script that is ``__main__`` once more: one without ``if __name__ == "__main__"`` would
    begin anew in each of them, and one from stdin has no file. The work of medgraft's own processes needs neither.
    """
    main = sys.modules["__main__"]
    kept = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    try:
        main.__dict__.pop("__file__", None)
        main.__spec__ = None
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)


def _table(path: Path, name: str) -> pl.DataFrame:
    from medgraft import tables

    return tables.read(path, name)


def _csv(path: Path, name: str) -> pl.DataFrame:
    """A small table of text; empty where there is no file."""
    import polars as pl

    from medgraft import tables

    if not path.is_file():
        return tables.empty(name)
    with open(path, newline="", encoding="utf-8") as stream:
        return pl.DataFrame(list(csv.DictReader(stream)), schema=tables.SCHEMAS[name])
