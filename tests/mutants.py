"""Ticks that prove themselves: plant one fault at a time and see whether a named test notices.

    make mutants                     all breaks, one after the other
    make mutants rows=CEUS-P         those of the rows that begin so
    make mutants list=1              a line a break with its rows, then the rows that have none
    make mutants ids=a,b             these alone (key-* and the like may be said)
    make mutants changed=COMMIT      breaks whose function or tests differ from that commit
                                     (auto: the newest that is a day older than the last)
    make mutants share=.1            a rotating share; beside `changed` of the others, and then it only warns
    make mutants minutes=4           stop then, and say what was left out
    make mutants again=1             those that were not caught when they were last run
    make mutants write=1             write into docs/rows.md which ticks are weak
    make mutants jobs=2 seconds=120  breaks at once; the time of one break

A break names a function by qualified name and a snippet that is matched as syntax inside it, so that moves, line
breaks and comments do not lose it. One process imports the libraries once and no medgraft; each break runs in a
fork of it, with a copy of the package (links, and the one changed file) in front of the path, so that subprocesses
and loader workers see the fault too. A break of a row is caught when a test *named by the row* fails in its own body,
by an assertion or by an error that it does not expect, while a smoke test passes and while that same test passes
without the break. A crash at import, an error in a fixture, a timeout or a collection error is no catch.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import fnmatch
import gc
import hashlib
import importlib
import json
import os
import py_compile
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
WORK = ROOT / ".mutants"
sys.path.insert(0, str(TESTS))

from breaks import Break  # noqa: E402  (the folder of this file must be on the path first)

SECONDS = 120.0
EQUAL_SHARE = 0.03  # of all breaks may change nothing
DAY = 24 * 3600.0
ROW = re.compile(r"\| [A-Z]+-")
#: Errors by which a test is no judge of the fault: the break does not run at all.
CRASHES = (
    "ImportError",
    "ModuleNotFoundError",
    "SyntaxError",
    "IndentationError",
    "NameError",
    "UnboundLocalError",
    "MemoryError",
)
LIBRARIES = (
    "numpy",
    "scipy.stats",
    "scipy.sparse",
    "torch",
    "torch.nn.functional",
    "torchvision",
    "torchvision.models",
    "timm",
    "polars",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.model_selection",
    "statsmodels.stats.multitest",
    "statsmodels.stats.contingency_tables",
    "lightning_fabric",
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
    "matplotlib.backends.backend_agg",
    "PIL.Image",
    "SimpleITK",
    "av",
    "pydicom",
    "pydantic",
    "yaml",
    "rich.progress",
    "typer",
    "jinja2",
    "safetensors.torch",
)


class Fault(Exception):
    """What whoever wrote a break, or called this file, can mend; one line."""


# ---------------------------------------------------------------------------------------- definitions


@dataclass(frozen=True)
class Definition:
    """A function, class or module constant of the package."""

    module: str  # dotted, without the package's name
    path: Path
    name: str  # qualified
    node: ast.AST


class Source:
    """The definitions of a package folder, by qualified name; ``texts`` stands in for the files (another commit)."""

    def __init__(self, folder: Path, texts: dict[Path, str] | None = None) -> None:
        self.folder = folder
        self.texts = (
            {p: p.read_text(encoding="utf-8") for p in sorted(folder.rglob("*.py"))} if texts is None else texts
        )
        self.trees = {path: ast.parse(text) for path, text in self.texts.items()}
        self.by_name: dict[str, list[Definition]] = {}
        for path, tree in self.trees.items():
            module = ".".join(path.relative_to(folder).with_suffix("").parts)
            for name, node in _definitions(tree, ""):
                self.by_name.setdefault(name, []).append(Definition(module, path, name, node))

    def find(self, where: str, who: str = "") -> Definition:
        """The one definition of that name; ``part:name`` narrows it to modules that end in ``part``."""
        part, _, name = where.rpartition(":")
        found = [
            d
            for d in self.by_name.get(name, [])
            if not part or f".{d.module}".removesuffix(".__init__").endswith(f".{part}")
        ]
        if not found:
            raise Fault(f"{who}{where} matches nowhere")
        if len(found) > 1:
            raise Fault(f"{who}{where} matches twice: in {found[0].module} and in {found[1].module}")
        return found[0]


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    """Qualified names below a module, class or function; also names assigned at the top of a module."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield prefix + child.name, child
            yield from _definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, (ast.Assign, ast.AnnAssign)) and not prefix:
            for target in child.targets if isinstance(child, ast.Assign) else [child.target]:
                if isinstance(target, ast.Name):
                    yield target.id, child
        elif isinstance(child, (ast.If, ast.Try, ast.With)):
            yield from _definitions(child, prefix)


# ---------------------------------------------------------------------------------------- syntax


def same(a: Any, b: Any) -> bool:
    """Whether two pieces of syntax are equal whatever their lines, brackets and comments."""
    if type(a) is not type(b):
        return False
    if isinstance(a, ast.AST):
        return all(same(getattr(a, name, None), getattr(b, name, None)) for name in a._fields if name != "type_comment")
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def snippet(text: str) -> tuple[str, Any]:
    """Parse a snippet: (``expression``, node), (``entry``, (key, value)) or (``statements``, list)."""
    try:
        return "expression", ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        pass
    try:
        return "statements", ast.parse(text).body
    except SyntaxError:
        pass
    try:
        made = ast.parse("{" + text.strip() + "}", mode="eval").body
    except SyntaxError as error:
        raise Fault(f"the snippet {text!r} is no Python ({error.msg})") from error
    if isinstance(made, ast.Dict) and len(made.keys) == 1:
        return "entry", (made.keys[0], made.values[0])
    raise Fault(f"the snippet {text!r} is neither an expression, statements nor one entry of a dict")


def plant(node: ast.AST, old: str, new: str) -> None:
    """Replace the one place below ``node`` that equals ``old``. Raises ``Fault`` when there is none or another."""
    sort, wanted = snippet(old)
    if sort == "expression" and new.strip() and snippet(new)[0] != "expression":
        sort, wanted = "statements", [ast.Expr(wanted)]
    places = list(_places(node, sort, wanted))
    if not places and sort == "expression":
        places = list(_places(node, "statements", [ast.Expr(wanted)]))
    if len(places) != 1:
        raise Fault(f"{' '.join(old.split())!r} matches {'nowhere' if not places else 'twice'}")
    parent, name, index, length = places[0]
    _put(parent, name, index, length, new)


def _places(node: ast.AST, sort: str, wanted: Any) -> Iterator[tuple[ast.AST, str, int | None, int]]:
    """(parent, field, index or None, length) of every place that equals the snippet."""
    assign = wanted[0] if sort == "statements" and len(wanted) == 1 and isinstance(wanted[0], ast.Assign) else None
    named = (
        assign.targets[0].id
        if assign is not None and isinstance(assign.targets[0], ast.Name) and len(assign.targets) == 1
        else ""
    )
    for parent in ast.walk(node):
        if sort == "entry" and isinstance(parent, ast.Dict):
            for i, (key, value) in enumerate(zip(parent.keys, parent.values)):
                if key is not None and same(key, wanted[0]) and same(value, wanted[1]):
                    yield parent, "values", i, 1
        if named and assign is not None:
            if isinstance(parent, ast.Call):
                for i, keyword in enumerate(parent.keywords):
                    if keyword.arg == named and same(keyword.value, assign.value):
                        yield parent, "keywords", i, 1
            if isinstance(parent, ast.arguments):
                positional = [*parent.posonlyargs, *parent.args]
                for i, (argument, default) in enumerate(
                    zip(positional[len(positional) - len(parent.defaults) :], parent.defaults)
                ):
                    if argument.arg == named and same(default, assign.value):
                        yield parent, "defaults", i, 1
                for i, (argument, value) in enumerate(zip(parent.kwonlyargs, parent.kw_defaults)):
                    if argument.arg == named and value is not None and same(value, assign.value):
                        yield parent, "kw_defaults", i, 1
            declares = isinstance(parent, ast.AnnAssign) and getattr(parent.target, "id", "") == named
            if declares and same(getattr(parent, "value", None), assign.value):
                yield parent, "value", None, 1
        for name, value in ast.iter_fields(parent):
            if isinstance(value, list):
                if sort == "expression":
                    for i, item in enumerate(value):
                        if same(item, wanted):
                            yield parent, name, i, 1
                elif sort == "statements":
                    for i in range(len(value) - len(wanted) + 1):
                        if all(same(a, b) for a, b in zip(value[i : i + len(wanted)], wanted)):
                            yield parent, name, i, len(wanted)
            elif sort == "expression" and same(value, wanted):
                yield parent, name, None, 1


def _put(parent: ast.AST, name: str, index: int | None, length: int, new: str) -> None:
    value = getattr(parent, name)
    if isinstance(parent, ast.Dict) and name == "values" and isinstance(index, int):
        if not new.strip():
            del parent.keys[index], parent.values[index]
            return
        sort, made = snippet(new)
        if sort == "entry":
            parent.keys[index], parent.values[index] = made
            return
    if (
        not new.strip()
        and isinstance(value, list)
        and index is not None
        and name in ("keywords", "elts", "args", "values")
    ):
        del value[index : index + length]
        return
    sort, made = snippet(new or "pass")
    if (
        isinstance(made, list)
        and len(made) == 1
        and isinstance(made[0], ast.Assign)
        and name in ("keywords", "defaults", "kw_defaults", "value")
    ):
        target = made[0].targets[0]
        assert isinstance(target, ast.Name)
        replacement: Any = ast.keyword(target.id, made[0].value) if name == "keywords" else made[0].value
    elif sort == "expression" and index is not None and isinstance(value[index], ast.stmt):
        replacement = ast.Expr(made)
    else:
        replacement = made
    if index is None:
        setattr(parent, name, replacement)
    elif isinstance(replacement, list):
        value[index : index + length] = replacement
    else:
        value[index : index + length] = [replacement]


def change(fault: Break, node: ast.AST) -> None:
    """Plant a break into the node of its definition. Raises ``Fault`` where it does not fit."""
    who = f"break {fault.id}: "
    before = copy.deepcopy(node)
    try:
        if fault.edit is not None:
            fault.edit(node)
        else:
            plant(node, fault.old, fault.new)
    except Fault as error:
        raise Fault(f"{who}in {fault.where} {error}") from error
    if same(node, before):
        raise Fault(f"{who}changes nothing in {fault.where}")


def fits(source: Source, fault: Break) -> None:
    """Raise ``Fault`` where a break does not fit the package as it stands."""
    change(fault, copy.deepcopy(source.find(fault.where, f"break {fault.id}: ").node))


def mutated(source: Source, fault: Break) -> tuple[Definition, str]:
    """The definition that a break changes and the whole text of its module with the fault in it."""
    who = f"break {fault.id}: "
    found = source.find(fault.where, who)
    tree = ast.parse(source.texts[found.path])
    change(fault, [node for name, node in _definitions(tree, "") if name == found.name][-1])
    text = ast.unparse(tree) + "\n"
    try:
        compile(text, str(found.path), "exec")
    except SyntaxError as error:
        raise Fault(f"{who}the changed {fault.where} is no Python ({error.msg})") from error
    return found, text


# ---------------------------------------------------------------------------------------- rows, tests, breaks


@dataclass
class Row:
    """A line of docs/rows.md."""

    name: str
    tests: list[str]  # tests/...::...
    state: str

    @property
    def ticked(self) -> bool:
        return self.state == "done" or self.state.startswith("weak: ")


def read_rows(path: Path = ROOT / "docs" / "rows.md") -> dict[str, Row]:
    """Every row of the specification, by name."""
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if ROW.match(line):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows[cells[0]] = Row(cells[0], [t.strip("` ") for t in cells[3].split("<br>") if t.strip("` ")], cells[4])
    return rows


def weak_ids(state: str) -> list[str]:
    """Breaks named by a state ``weak: a, b``."""
    return [word.strip() for word in state.removeprefix("weak: ").split(",")] if state.startswith("weak: ") else []


@lru_cache(maxsize=1)
def test_sources(folder: Path = TESTS) -> dict[str, ast.AST]:
    """Test functions by id (``tests/x/test_y.py::test_z``), methods as ``file::Class::test``."""
    found: dict[str, ast.AST] = {}
    for path in sorted(folder.rglob("test_*.py")):
        found.update(_tests_in(ast.parse(path.read_text(encoding="utf-8")), path.relative_to(folder.parent).as_posix()))
    return found


def _tests_in(tree: ast.Module, file: str) -> dict[str, ast.AST]:
    found: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found[f"{file}::{node.name}"] = node
        elif isinstance(node, ast.ClassDef):
            found |= {
                f"{file}::{node.name}::{p.name}": p
                for p in node.body
                if isinstance(p, ast.FunctionDef) and p.name.startswith("test_")
            }
    return found


def own_tests(fault: Break) -> list[str]:
    """The tests that a break names itself, as ids; a file stands for all its tests."""
    found: list[str] = []
    for name in fault.tests:
        path = f"tests/{name}"
        matching = [t for t in test_sources() if t == path or t.startswith(path + "::")]
        if not matching:
            raise Fault(f"break {fault.id}: no such test: {name}")
        found += matching
    return found


def needed(fault: Break, rows: dict[str, Row]) -> list[tuple[str, list[str]]]:
    """(row, tests of which one must fail), for each row of a break; ('', its own tests) for a break of no row."""
    own = own_tests(fault)
    if not fault.rows:
        if not own:
            raise Fault(f"break {fault.id}: names neither rows nor tests")
        return [("", own)]
    found = []
    for name in fault.row_names:
        if name not in rows:
            raise Fault(f"break {fault.id}: no row {name}")
        tests = [t for t in rows[name].tests if not own or t in own]
        if not tests:
            raise Fault(f"break {fault.id}: row {name} names no test{' of these' if own else ''}")
        found.append((name, tests))
    return found


def load_breaks(source: Source) -> list[Break]:
    """All breaks: those written by hand, in the order of their files, then the generated ones."""
    found: list[Break] = []
    for path in sorted((TESTS / "breaks").glob("*.py")):
        if path.stem not in ("__init__", "generated"):
            found += importlib.import_module(f"breaks.{path.stem}").BREAKS
    found += importlib.import_module("breaks.generated").generate(source, test_sources())
    seen: set[str] = set()
    for fault in found:
        if fault.id in seen:
            raise Fault(f"break {fault.id} stands twice")
        seen.add(fault.id)
    equal = sum(bool(fault.equal) for fault in found)
    if equal > EQUAL_SHARE * len(found):
        raise Fault(f"{equal} of {len(found)} breaks are said to change nothing; at most {EQUAL_SHARE:.0%} may")
    return found


# ---------------------------------------------------------------------------------------- what a commit touched


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Fault(f"git {words[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


def yesterday() -> str:
    """The newest commit of the first parents that is a day older than the last one, else the oldest that is here."""
    lines = [line.split() for line in git("log", "--first-parent", "--format=%H %ct").splitlines()]
    newest = int(lines[0][1])
    return next((name for name, when in lines if newest - int(when) > DAY), lines[-1][0])


def at_commit(commit: str) -> tuple[dict[Path, str], dict[str, ast.AST]]:
    """Texts of the package and the test functions as they stood at a commit."""
    texts: dict[Path, str] = {}
    tests: dict[str, ast.AST] = {}
    names = [
        n
        for n in git("ls-tree", "-r", "--name-only", commit, "--", "src/medgraft", "tests").splitlines()
        if n.endswith(".py")
    ]
    batch = subprocess.run(
        ["git", "cat-file", "--batch"],
        cwd=ROOT,
        capture_output=True,
        input="".join(f"{commit}:{n}\n" for n in names).encode(),
    ).stdout
    for name in names:
        head, _, batch = batch.partition(b"\n")
        size = int(head.split()[-1])
        text, batch = batch[:size].decode(), batch[size + 1 :]
        if name.startswith("src/"):
            texts[ROOT / name] = text
        elif Path(name).name.startswith("test_"):
            tests.update(_tests_in(ast.parse(text), name))
    return texts, tests


def touched(faults: Sequence[Break], rows: dict[str, Row], source: Source, commit: str) -> set[str]:
    """Ids of the breaks whose function, or one of whose tests, is not what it was at ``commit``."""
    texts, old_tests = at_commit(commit)
    before = Source(source.folder, texts)
    found = set()
    for fault in faults:
        now = source.find(fault.where)
        then = before.by_name.get(now.name, [])
        tests = [t for _, names in needed(fault, rows) for t in names]
        moved = not any(_meaning(d.node) == _meaning(now.node) for d in then)
        if moved or any(t not in old_tests or not same(old_tests[t], test_sources().get(t)) for t in tests):
            found.add(fault.id)
    return found


def _meaning(node: ast.AST) -> str:
    """A definition without its docstring."""
    body = getattr(node, "body", None)
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        node = copy.copy(node)
        node.body = body[1:]  # type: ignore[attr-defined]
    return ast.dump(node)


# ---------------------------------------------------------------------------------------- running


class Overlay:
    """A copy of the package made of links, in which one file at a time is replaced."""

    def __init__(self, folder: Path, source: Source) -> None:
        self.folder, self.package = folder, source.folder
        shutil.rmtree(folder, ignore_errors=True)
        for path in sorted(self.package.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                place = self.place(path)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(path)
                if path.suffix == ".py":
                    py_compile.compile(str(place), quiet=1)

    def place(self, path: Path) -> Path:
        return self.folder / self.package.name / path.relative_to(self.package)

    def set(self, path: Path, text: str | None) -> None:
        """Put a changed text in the place of a file of the package; None brings the link back."""
        place = self.place(path)
        place.unlink()
        Path(importlib.util.cache_from_source(str(place))).unlink(missing_ok=True)
        if text is None:
            place.symlink_to(path)
        else:
            place.write_text(text, encoding="utf-8")


class Recorder:
    """A pytest plugin: one line of JSON a finished test, and an end as soon as every row has its failure."""

    def __init__(self, path: Path, groups: Sequence[Sequence[str]]) -> None:
        self.stream = open(path, "a", encoding="utf-8")  # noqa: SIM115  (it lives as long as the fork)
        self.groups = [set(group) for group in groups]
        self.seconds: dict[str, float] = {}
        self.why: dict[str, tuple[str, str]] = {}
        self.session: Any = None

    def note(self, **facts: Any) -> None:
        self.stream.write(json.dumps(facts) + "\n")
        self.stream.flush()

    def pytest_sessionstart(self, session: Any) -> None:
        self.session = session

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.note(
                test=report.nodeid, outcome="collection", error=str(report.longrepr).strip().splitlines()[-1][:200]
            )

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        if call.excinfo is not None:
            self.why[item.nodeid] = (call.excinfo.typename, " ".join(str(call.excinfo.value).split())[:200])

    def pytest_runtest_logreport(self, report: Any) -> None:
        test = report.nodeid.partition("[")[0]
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.when == "teardown":
            self.note(test=test, outcome="ended", seconds=self.seconds[report.nodeid])
        if report.skipped:
            self.note(test=test, outcome="skipped")
        if report.failed:
            kind, words = self.why.get(report.nodeid, ("", ""))
            fails = report.when == "call" and kind not in CRASHES
            self.note(test=test, outcome="failed" if fails else "crashed", when=report.when, kind=kind, error=words)
            if fails:
                self.groups = [group for group in self.groups if test not in group]
                if not self.groups and self.session is not None:
                    self.session.shouldstop = "every row has its failure"
        elif report.when == "call":
            self.note(test=test, outcome="passed")


def smoke() -> None:
    """Every module can be imported, and a tiny network can be built, asked and taught once."""
    import pkgutil

    import medgraft

    for found in pkgutil.walk_packages(medgraft.__path__, "medgraft."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    import torch

    from medgraft.data.dataset import TargetSpec
    from medgraft.models.model import make_model
    from medgraft.tasks.classify import Classify

    model, _ = make_model("timm:test_efficientnet", outputs=1, channels=1, size=(32, 32))
    batch = {
        "x": torch.randint(0, 255, (2, 1, 1, 32, 32)),
        "value_range": torch.tensor([[0.0, 255.0]] * 2),
        "y": torch.tensor([[0.0], [1.0]]),
    }
    Classify([TargetSpec("finding", "binary", ("no", "yes"), "yes")]).loss(model(batch), batch)["loss"].backward()


def _child(overlay: Path, tests: Sequence[str], groups: Sequence[Sequence[str]], record: Path, log: Path) -> None:
    """In the fork: run the tests against the overlay, then the smoke test; never returns."""
    status = 3
    try:
        os.setsid()
        sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os.chdir(ROOT)
        sys.path.insert(0, str(overlay))
        os.environ["PYTHONPATH"] = str(overlay)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        import pytest

        recorder = Recorder(record, groups)
        pytest.main(
            [
                *tests,
                "-p",
                "no:cacheprovider",
                "-p",
                "pytest_timeout",
                "--tb=short",
                "-W",
                "ignore::pytest.PytestAssertRewriteWarning",
                "--rootdir",
                str(ROOT),
            ],
            [recorder],
        )
        import medgraft

        if not str(medgraft.__file__).startswith(str(overlay)):
            recorder.note(outcome="smoke", error=f"the tests read {medgraft.__file__}, not the changed package")
        else:
            try:
                smoke()
                recorder.note(outcome="smoke", error="")
            except BaseException as error:
                traceback.print_exc()
                recorder.note(outcome="smoke", error=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@dataclass
class Task:
    """A fork at work: a break, or (``fault`` None) tests that must pass without one."""

    tests: list[str]
    groups: list[list[str]]
    fault: Break | None = None
    path: Path | None = None
    pid: int = 0
    began: float = 0.0
    record: Path = Path()
    slot: int = 0


@dataclass
class Verdict:
    """How a break fared. ``state``: caught, survived, crashed, timeout, skipped, equal."""

    id: str
    state: str
    told: str = ""
    seconds: float = 0.0
    weak_rows: list[str] = field(default_factory=list)


class Runner:
    """Runs breaks in forks, remembers what tests cost and which of them pass as the package stands."""

    def __init__(self, source: Source, rows: dict[str, Row], *, jobs: int = 1, seconds: float = SECONDS) -> None:
        WORK.mkdir(exist_ok=True)
        (WORK / ".gitignore").write_text("*\n")
        self.source, self.rows, self.jobs, self.limit = source, rows, jobs, seconds
        self.costs: dict[str, float] = _read(WORK / "seconds.json")
        self.green: dict[str, str] = _read(WORK / "green.json")
        self.results: dict[str, Any] = _read(WORK / "results.json")
        self.known = {"seconds": dict(self.costs), "green": dict(self.green), "results": dict(self.results)}  # as read
        text = "".join(source.texts[p] for p in sorted(source.texts)) + "".join(
            p.read_text(encoding="utf-8")
            for p in sorted(TESTS.rglob("*.py"))
            if not p.name.startswith("test_") and "breaks" not in p.parts
        )
        self.package = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.overlays = [Overlay(WORK / f"package-{os.getpid()}-{slot}", source) for slot in range(jobs)]

    def cost(self, test: str) -> float:
        """Seconds of a test; a guess by its folder where it was never run."""
        guess = (
            30.0
            if "/engine/" in test or "test_cli" in test or "test_real" in test
            else 3.0
            if "/models/" in test
            else 1.0
        )
        return float(self.costs.get(test, guess))

    def start(self, task: Task) -> None:
        task.record = WORK / f"record-{os.getpid()}-{task.slot}.jsonl"
        task.record.unlink(missing_ok=True)
        task.record.touch()
        name = task.fault.id if task.fault is not None else "clean"
        log = WORK / "logs" / f"{name}.txt"
        log.parent.mkdir(exist_ok=True)
        task.began = time.monotonic()
        sys.stdout.flush()
        task.pid = os.fork()
        if not task.pid:
            _child(self.overlays[task.slot].folder, task.tests, task.groups, task.record, log)

    def wait(self, task: Task) -> tuple[bool, list[dict[str, Any]]]:
        """(whether it ended in time, its notes)."""
        ended = True
        while os.waitpid(task.pid, os.WNOHANG)[0] == 0:
            if time.monotonic() - task.began > self.limit:
                ended = False
                break
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(task.pid, signal.SIGKILL)  # what the tests started and left
        if not ended:
            os.waitpid(task.pid, 0)
        notes = [
            json.loads(line) for line in task.record.read_text(encoding="utf-8").splitlines() if line.endswith("}")
        ]
        spent: dict[str, float] = {}
        for note in notes:
            if note["outcome"] == "ended":
                spent[note["test"]] = spent.get(note["test"], 0.0) + note["seconds"]
        if ended:
            self.costs.update({test: round(seconds, 2) for test, seconds in spent.items()})
        return ended, notes

    def passes(self, test: str, slot: int) -> bool:
        """Whether a test passes as the package stands; asked once for each state of package and test file."""
        key = hashlib.sha256(
            (self.package + (ROOT / test.partition("::")[0]).read_text(encoding="utf-8")).encode()
        ).hexdigest()[:16]
        if self.green.get(test) != key:
            task = Task([test], [[]], slot=slot)
            self.start(task)
            ended, notes = self.wait(task)
            bad = [
                n
                for n in notes
                if n["outcome"] in ("failed", "crashed", "collection") or (n["outcome"] == "smoke" and n["error"])
            ]
            if not ended or bad or not any(n["outcome"] == "passed" for n in notes):
                return False
            self.green[test] = key
        return True

    def run(self, fault: Break, slot: int = 0) -> Verdict:
        """Plant one break, run the tests that its rows name, cheapest first, and judge."""
        if fault.equal:
            return Verdict(fault.id, "equal", fault.equal)
        found, text = mutated(self.source, fault)
        groups = needed(fault, self.rows)
        tests = sorted({t for _, names in groups for t in names}, key=self.cost)
        overlay = self.overlays[slot]
        overlay.set(found.path, text)
        task = Task(tests, [names for _, names in groups], fault, slot=slot)
        try:
            self.start(task)
            ended, notes = self.wait(task)
        finally:
            overlay.set(found.path, None)
        return self.judge(fault, groups, ended, notes, time.monotonic() - task.began, slot)

    def judge(
        self,
        fault: Break,
        groups: list[tuple[str, list[str]]],
        ended: bool,
        notes: list[dict[str, Any]],
        seconds: float,
        slot: int,
    ) -> Verdict:
        verdict = Verdict(fault.id, "survived", seconds=round(seconds, 1))
        failed = {n["test"]: f"{n['kind']}: {n['error']}" for n in notes if n["outcome"] == "failed"}
        smoked = next((n["error"] for n in notes if n["outcome"] == "smoke"), "did not come to its end")
        crashed = [n for n in notes if n["outcome"] in ("crashed", "collection")]
        skipped = [n["test"] for n in notes if n["outcome"] == "skipped"]
        ran = {n["test"] for n in notes if n["outcome"] in ("passed", "failed")}
        caught = {row: next((t for t in names if t in failed), "") for row, names in groups}
        open_rows = [row for row, test in caught.items() if not test]
        if not ended and open_rows:
            verdict.state, verdict.told = "timeout", f"after {seconds:.0f} s"
        elif crashed and open_rows:
            verdict.state, verdict.told = (
                "crashed",
                f"{crashed[0].get('when', 'collection')} of {crashed[0]['test']}: {crashed[0].get('error', '')}",
            )
        elif open_rows and not skipped and not all(ran & set(names) for row, names in groups if row in open_rows):
            verdict.state, verdict.told = "crashed", "none of its tests ran"
        elif open_rows and skipped:
            verdict.state, verdict.told = "skipped", f"{skipped[0]} was skipped here"
        elif not open_rows and smoked and ended:
            verdict.state, verdict.told = "crashed", f"smoke test: {smoked}"
        elif not open_rows:
            red = [t for t in dict.fromkeys(caught.values()) if not self.passes(t, slot)]
            if red:
                verdict.state, verdict.told = "crashed", f"{red[0]} fails without the break too"
            else:
                test = next(iter(caught.values()))
                verdict.state, verdict.told = "caught", f"{test.removeprefix('tests/')} ({failed[test][:100]})"
        verdict.weak_rows = (
            [row for row in (open_rows if verdict.state != "crashed" else caught) if row]
            if verdict.state != "caught"
            else []
        )
        return verdict

    def close(self) -> None:
        """Remember what was learnt and remove the copies of the package."""
        self.save()
        for overlay in self.overlays:
            shutil.rmtree(overlay.folder, ignore_errors=True)
        for record in WORK.glob(f"record-{os.getpid()}-*.jsonl"):
            record.unlink()

    def save(self) -> None:
        """Write what was learnt beside what others wrote meanwhile."""
        for name, value in (("seconds", self.costs), ("green", self.green), ("results", self.results)):
            place = WORK / f"{name}.json"
            known = self.known[name]
            value.update({key: v for key, v in _read(place).items() if value.get(key) == known.get(key)})
            known.clear()
            known.update(value)
            temporary = place.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(value, indent=0, sort_keys=True))
            temporary.replace(place)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def import_libraries() -> None:
    """Once, in the parent: what takes seconds to import, and no medgraft."""
    os.environ.update(
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
        OPENBLAS_NUM_THREADS="1",
        POLARS_MAX_THREADS="1",
    )
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # pytest rewrites test files once and keeps the result
    sys.dont_write_bytecode = False
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    if any(name == "medgraft" or name.startswith("medgraft.") for name in sys.modules):
        raise Fault("medgraft was imported before the breaks were planted")
    gc.collect()
    gc.freeze()  # a fork that walks through all of this would copy it


# ---------------------------------------------------------------------------------------- commands


@dataclass
class Options:
    """The words of the command line."""

    rows: str = ""
    list: bool = False
    ids: str = ""
    changed: str = ""
    share: float = 0.0
    minutes: float = 0.0
    again: bool = False
    write: bool = False
    jobs: int = 1
    seconds: float = SECONDS


def parse(words: Sequence[str]) -> Options:
    options = Options()
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or key not in Options.__dataclass_fields__:
            raise Fault(
                f"{word!r} is no option; known are {', '.join(f'{name}=' for name in Options.__dataclass_fields__)}"
            )
        kind = type(getattr(options, key))
        try:
            setattr(options, key, text.lower() not in ("", "0", "no", "false") if kind is bool else kind(text))
        except ValueError as error:
            raise Fault(f"{key}={text}: not a number") from error
    if options.jobs < 1:
        raise Fault("jobs must be at least 1")
    return options


def show_list(faults: Sequence[Break], rows: dict[str, Row], source: Source) -> None:
    """A line a break with its rows; then the rows that have none."""
    for fault in faults:
        place = source.find(fault.where, f"break {fault.id}: ")
        mark = f"  (changes nothing: {fault.equal})" if fault.equal else ""
        print(f"{fault.id:<34} {fault.rows or '-':<28} {fault.kind:<22} {place.module}:{place.name}{mark}")
    have = {row for fault in faults if not fault.equal for row in fault.row_names}
    bare = [name for name, row in rows.items() if row.ticked and name not in have]
    other = [name for name, row in rows.items() if not row.ticked and row.state != "reference" and name not in have]
    print(f"{len(faults)} breaks of {len(have)} rows")
    print(f"ticked rows without a break: {', '.join(bare) or 'none'}")
    print(f"rows that are not ticked and have none: {', '.join(other) or 'none'}")


def write_rows(
    verdicts: dict[str, Verdict], faults: Sequence[Break], path: Path = ROOT / "docs" / "rows.md"
) -> list[str]:
    """Put ``weak: ids`` where a ticked row has an uncaught break, the tick back where all of a row's breaks are caught.

    A row changes only when every one of its breaks was run. Returns the rows that changed.
    """
    by_row: dict[str, list[str]] = {}
    for fault in faults:
        if not fault.equal:
            for row in fault.row_names:
                by_row.setdefault(row, []).append(fault.id)
    lines, changed = path.read_text(encoding="utf-8").splitlines(keepends=True), []
    for i, line in enumerate(lines):
        if not ROW.match(line):
            continue
        cells = line.rstrip("\n").strip("|").split("|")
        name, state = cells[0].strip(), cells[4].strip()
        ids = by_row.get(name, [])
        if (
            (state != "done" and not state.startswith("weak: "))
            or not ids
            or any(i not in verdicts or verdicts[i].state == "skipped" for i in ids)
        ):
            continue
        weak = [i for i in ids if name in verdicts[i].weak_rows]
        wanted = f"weak: {', '.join(weak)}" if weak else "done"
        if wanted != state:
            cells[4] = f" {wanted} "
            lines[i] = "|" + "|".join(cells) + "|\n"
            changed.append(name)
    path.write_text("".join(lines), encoding="utf-8")
    return changed


def choose(
    faults: list[Break], options: Options, rows: dict[str, Row], source: Source, results: dict[str, Any]
) -> tuple[list[Break], set[str]]:
    """The breaks to run, and the ids of those whose survival fails the command."""
    if options.ids:
        wanted = [i.strip() for i in options.ids.split(",")]
        unknown = [i for i in wanted if not fnmatch.filter([f.id for f in faults], i)]
        if unknown:
            raise Fault(f"no break {unknown[0]}")
        faults = [f for f in faults if any(fnmatch.fnmatch(f.id, i) for i in wanted)]
    if options.rows:
        prefixes = [p.strip() for p in options.rows.split(",")]
        faults = [f for f in faults if any(row.startswith(p) for row in f.row_names for p in prefixes)]
        if not faults:
            raise Fault(f"no break has a row that begins with {options.rows}")
    if options.again:
        faults = [f for f in faults if results.get(f.id, {}).get("state") not in ("caught", "equal")]
    must = {f.id for f in faults}
    if options.changed or options.share:
        if options.changed:
            must = touched(faults, rows, source, yesterday() if options.changed == "auto" else options.changed)
        rest = [f for f in faults if not options.changed or f.id not in must]
        day = int(time.time() // DAY)
        random.Random(day).shuffle(rest)
        part = rest[: round(options.share * len(rest))]
        if not options.changed:
            must = {f.id for f in part}
        faults = [f for f in faults if f.id in must] * bool(options.changed) + part
        must -= {i for row in rows.values() for i in weak_ids(row.state)}  # known, and said in docs/rows.md
    return faults, must


def work(options: Options) -> int:
    """Run what the options ask for; 1 where a break that counts was not caught."""
    source, rows = Source(ROOT / "src" / "medgraft"), read_rows()
    everything = load_breaks(source)
    faults, must = choose(everything, options, rows, source, _read(WORK / "results.json"))
    for fault in faults:
        fits(source, fault)
        needed(fault, rows)
    if options.list:
        show_list(faults, rows, source)
        return 0
    began = time.monotonic()
    import_libraries()
    runner = Runner(source, rows, jobs=options.jobs, seconds=options.seconds)
    if options.minutes:  # cheap ones first, so that the time reaches far
        faults = [
            *sorted((f for f in faults if f.id in must), key=lambda f: _dear(f, runner)),
            *(f for f in faults if f.id not in must),
        ]
    verdicts: dict[str, Verdict] = {}
    left: list[Break] = []

    def one(fault: Break, slot: int) -> None:
        verdict = runner.run(fault, slot)
        verdicts[fault.id] = verdict
        runner.results[fault.id] = {
            "state": verdict.state,
            "told": verdict.told,
            "seconds": verdict.seconds,
            "rows": verdict.weak_rows,
        }
        runner.save()
        warn = (
            ""
            if fault.id in must or verdict.state in ("caught", "equal", "skipped")
            else " (warning: not of this change)"
        )
        print(f"{verdict.state:<9} {fault.id:<34} {verdict.seconds:5.1f} s  {verdict.told}{warn}", flush=True)

    queue = list(faults)
    if options.jobs == 1:
        while queue:
            if options.minutes and time.monotonic() - began > 60 * options.minutes:
                left = queue
                break
            one(queue.pop(0), 0)
    else:
        import threading

        lock = threading.Lock()

        def serve(slot: int) -> None:
            while True:
                with lock:
                    if not queue or (options.minutes and time.monotonic() - began > 60 * options.minutes):
                        return
                    fault = queue.pop(0)
                one(fault, slot)

        threads = [threading.Thread(target=serve, args=(slot,)) for slot in range(options.jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        left = queue
    runner.close()
    return conclude(options, everything, verdicts, left, must)


def _dear(fault: Break, runner: Runner) -> float:
    return sum(runner.cost(t) for t in {t for _, names in needed(fault, runner.rows) for t in names})


def conclude(
    options: Options, everything: Sequence[Break], verdicts: dict[str, Verdict], left: Sequence[Break], must: set[str]
) -> int:
    """Say what came out; 1 where a break that counts was not caught."""
    states = {
        state: [v for v in verdicts.values() if v.state == state]
        for state in ("caught", "survived", "crashed", "timeout", "skipped", "equal")
    }
    told = ", ".join(f"{len(found)} {state}" for state, found in states.items() if found) or "none"
    judged = sum(len(states[s]) for s in ("caught", "survived", "crashed", "timeout"))
    share = f"; {len(states['caught']) / judged:.1%} caught" if judged else ""
    print(f"{len(verdicts)} breaks run: {told}{share}")
    if left:
        first = ", ".join(f.id for f in left[:20]) + (", ..." if len(left) > 20 else "")
        print(f"left out, the time was up: {len(left)} ({first})")
    if options.write:
        changed = write_rows(verdicts, everything)
        print(f"docs/rows.md: {', '.join(changed) or 'nothing'} changed")
    open_ids = [v.id for v in verdicts.values() if v.state in ("survived", "crashed", "timeout")]
    if weak := sorted({row for v in verdicts.values() for row in v.weak_rows if v.state != "skipped"}):
        print(f"weak rows: {', '.join(weak)}")
    return 1 if any(i in must for i in open_ids) else 0


def main(words: Iterable[str]) -> int:
    words = list(words)
    if any(word in ("-h", "--help", "help") for word in words):
        print(__doc__)
        return 0
    try:
        return work(parse(words))
    except Fault as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.modules["mutants"] = sys.modules["__main__"]
    sys.exit(main(sys.argv[1:]))
