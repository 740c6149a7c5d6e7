"""The tool that plants breaks: what it finds, what it refuses, and what it does not take for a catch."""

# ruff: noqa: E501  (planted faults stand on one line)
from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mutants
from breaks import Break
from breaks.generated import fields, options_classes

ROOT = Path(__file__).resolve().parents[1]
CODE = '''
"""A module."""
RATES = {"low": 1, "high": 2}

class Mean:
    scale: float = 2.0

    def of(self, values, weights=None):
        """Mean of values."""
        total = sum(
            values  # all of them
        )
        count = len(values)
        return (total / count) * self.scale

def shifted(values, by=1):
    if by < 0:
        raise ValueError("by")
    moved = values[by:]
    moved.sort(key=abs, reverse=False)
    return moved
'''


@pytest.fixture
def source(tmp_path: Path) -> mutants.Source:
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "inner" / "code.py").write_text(CODE, encoding="utf-8")
    (package / "other.py").write_text("def of():\n    return 1\n", encoding="utf-8")
    return mutants.Source(package)


def changed(source: mutants.Source, where: str, old: str, new: str) -> str:
    """The changed definition as text."""
    found, text = mutants.mutated(source, Break("x", "", where, old, new))
    return next(ast.unparse(n) for name, n in mutants._definitions(ast.parse(text), "") if name == found.name)


@pytest.mark.parametrize(
    ("where", "old", "new", "has"),
    [
        ("Mean.of", "total/count * self.scale", "total", "return total"),  # brackets and blanks do not count
        ("Mean.of", "total = sum(values)", "total = 0", "total = 0"),  # nor do lines and comments
        ("Mean.of", "total = sum(values)\ncount = len(values)", "total = count = 1", "total = count = 1"),
        ("shifted", "by=1", "by=2", "by=2"),  # a default
        ("shifted", "reverse=False", "reverse=True", "reverse=True"),  # a keyword
        ("shifted", "reverse=False", "", "moved.sort(key=abs)"),
        ("shifted", "moved.sort(key=abs, reverse=False)", "pass", "pass"),
        ("shifted", "if by < 0:\n    raise ValueError('by')", "pass", "pass"),
        ("shifted", "by < 0", "False", "if False"),
        ("RATES", "'high': 2", "'high': 3", "'high': 3"),
        ("RATES", "'high': 2", "", "{'low': 1}"),
        ("Mean", "scale = 2.0", "scale = 3.0", "scale: float = 3.0"),
        ("code:Mean.of", "len(values)", "1", "count = 1"),
    ],
)
def test_snippets_match_as_syntax(source: mutants.Source, where: str, old: str, new: str, has: str) -> None:
    assert has in changed(source, where, old, new)


def test_a_function_is_found_wherever_it_moves(source: mutants.Source, tmp_path: Path) -> None:
    before = changed(source, "shifted", "values[by:]", "values")
    (tmp_path / "package" / "new").mkdir()
    (tmp_path / "package" / "inner" / "code.py").rename(tmp_path / "package" / "new" / "place.py")
    assert changed(mutants.Source(tmp_path / "package"), "shifted", "values[by:]", "values") == before


@pytest.mark.parametrize(
    ("where", "old", "says"),
    [
        ("nothing", "x", "break x: nothing matches nowhere"),
        ("Mean.of", "median(values)", "break x: in Mean.of 'median(values)' matches nowhere"),
        ("Mean.of", "values", "break x: in Mean.of 'values' matches twice"),
        ("shifted", "by +", "is no Python"),
        ("elsewhere:shifted", "by", "matches nowhere"),
    ],
)
def test_a_break_that_fits_nowhere_or_twice_is_one_line(
    source: mutants.Source, where: str, old: str, says: str
) -> None:
    with pytest.raises(mutants.Fault) as error:
        mutants.mutated(source, Break("x", "", where, old, "0"))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_namesakes_need_their_module(source: mutants.Source, tmp_path: Path) -> None:
    (tmp_path / "package" / "third.py").write_text("def shifted(values):\n    return values[1:]\n", encoding="utf-8")
    both = mutants.Source(tmp_path / "package")
    with pytest.raises(mutants.Fault, match=r"shifted matches twice: in inner\.code and in third"):
        mutants.mutated(both, Break("x", "", "shifted", "values[1:]", "values"))
    assert changed(both, "third:shifted", "values[1:]", "values").endswith("return values")


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests" / "mutants.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})})


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("rows=NO-SUCH", "no break has a row"),
        ("ids=nothing", "no break nothing"),
        ("nonsense=1", "is no option"),
        ("jobs=x", "not a number"),
    ],
)
def test_a_wrong_word_is_one_line_and_exit_2(word: str, says: str) -> None:
    done = run(word, "list=1")
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


# ---------------------------------------------------------------------------------------- forks

PLANTED = """
from breaks import Break
TESTS = ("planted/test_planted.py",)
BREAKS = [
    Break("t-caught", "", "join_votes", "np.asarray(scores) > 0.5", "np.asarray(scores) >= 0.5", tests=TESTS),
    Break("t-survivor", "", "_even", "wanted >= count", "wanted > count", tests=TESTS),
    Break("t-import", "", "windows:KINDS", "'uniform'", "no_such_name", tests=TESTS),
    Break("t-error", "", "join_scores", "total / count.reshape(-1, *[1] * (total.ndim - 1))", "total[99]", tests=TESTS),
    Break("t-fixture", "", "_dense_starts", "max(1, depth - spec.length * spec.stride + 1)", "depth / 0", tests=("planted/test_fixture.py",)),
    Break("t-slow", "", "_all_starts", "max(1, depth - (spec.length - 1) * spec.stride)", "__import__('time').sleep(60)", tests=TESTS),
    Break("t-process", "", "torch_seed", "f'torch\\\\x00{int(seed)}\\\\x00{int(step)}'", "''", tests=("planted/test_process.py",)),
    Break("t-red", "", "join_votes", "np.asarray(scores) > 0.5", "np.asarray(scores) > 0.4", tests=("planted/test_red.py",)),
]
"""
TESTS = {
    "test_planted.py": """
import numpy as np
from medgraft.data.windows import WindowSpec, eval_windows, join_scores, join_votes
def test_votes():
    assert join_votes(np.array([0.5, 0.6]), np.array([1, 1]))[1].tolist() == [1]
def test_scores():
    assert join_scores(np.array([0.5, 0.6]), np.array([1, 1]))[1].tolist() == [0.55]
def test_all():
    assert len(eval_windows(WindowSpec("all", 2, 8), (1, 5, 8, 8))) == 4
""",
    "test_fixture.py": """
import pytest
from medgraft.data.windows import WindowSpec, eval_windows
@pytest.fixture
def windows():
    return eval_windows(WindowSpec("dense", 2, 8), (1, 5, 8, 8))
def test_one(windows):
    assert len(windows) == 1
""",
    "test_process.py": """
import subprocess, sys
def test_a_process_of_its_own_sees_it():
    text = "from medgraft.data.random import torch_seed; assert torch_seed(1, 2) != torch_seed(1, 3)"
    assert subprocess.run([sys.executable, "-c", text]).returncode == 0
""",
    "test_red.py": """
def test_that_never_passes():
    assert False
""",
}


@pytest.fixture(scope="module")
def verdicts() -> dict[str, mutants.Verdict]:
    """Planted breaks, run for real against planted tests, in a process of its own that has not imported medgraft."""
    folder = ROOT / "tests" / "planted"
    program = (
        "import sys, json, types; sys.path.insert(0, {tests!r})\n"
        "import mutants\n"
        "faults = types.ModuleType('planted_breaks'); exec({planted!r}, faults.__dict__)\n"
        "source = mutants.Source(mutants.ROOT / 'src' / 'medgraft')\n"
        "mutants.import_libraries()\n"
        "runner = mutants.Runner(source, {{}}, seconds=20)\n"
        "print(json.dumps({{f.id: vars(runner.run(f)) for f in faults.BREAKS}}))\n"
        "runner.close()\n"
    ).format(tests=str(ROOT / "tests"), planted=PLANTED)
    folder.mkdir(exist_ok=True)
    try:
        for name, text in TESTS.items():
            (folder / name).write_text(text, encoding="utf-8")
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
    finally:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
    return {name: mutants.Verdict(**facts) for name, facts in json.loads(done.stdout.splitlines()[-1]).items()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="breaks run in forks")
@pytest.mark.parametrize(
    ("name", "state", "says"),
    [
        ("t-caught", "caught", "test_votes"),
        ("t-survivor", "survived", ""),
        ("t-import", "crashed", ""),  # nothing can be imported: no test was there to judge
        ("t-error", "caught", "IndexError"),  # an error that the test does not expect
        ("t-fixture", "crashed", "setup"),
        ("t-slow", "timeout", ""),
        ("t-process", "caught", "test_a_process_of_its_own_sees_it"),
        ("t-red", "crashed", "fails without the break too"),
    ],
)
def test_what_is_a_catch_and_what_is_none(
    verdicts: dict[str, mutants.Verdict], name: str, state: str, says: str
) -> None:
    assert (verdicts[name].state, says in verdicts[name].told) == (state, True), verdicts[name]


# ---------------------------------------------------------------------------------------- rows and the list


def judged(fault: Break, groups: list[tuple[str, list[str]]], notes: list[dict]) -> mutants.Verdict:
    """The verdict of a run that left these notes, all tests passing without the break."""
    runner = mutants.Runner.__new__(mutants.Runner)
    runner.passes = lambda test, slot: True  # type: ignore[method-assign]
    return runner.judge(fault, groups, True, notes, 1.0, 0)


def test_every_row_of_a_break_needs_a_failing_test_of_its_own() -> None:
    groups = [("A-1", ["tests/a.py::t", "tests/b.py::t"]), ("A-2", ["tests/b.py::t"])]
    smoke = {"outcome": "smoke", "error": ""}
    failed = {"test": "tests/a.py::t", "outcome": "failed", "when": "call", "kind": "AssertionError", "error": ""}
    passed = {"test": "tests/b.py::t", "outcome": "passed"}
    half = judged(Break("x", "A-1 A-2", "f"), groups, [failed, passed, smoke])
    assert (half.state, half.weak_rows) == ("survived", ["A-2"])
    both = judged(Break("x", "A-1 A-2", "f"), groups, [failed, {**failed, "test": "tests/b.py::t"}, smoke])
    assert (both.state, both.weak_rows) == ("caught", [])
    crash = judged(Break("x", "A-1", "f"), groups[:1], [failed, {"outcome": "smoke", "error": "ImportError: x"}])
    assert crash.state == "crashed" and crash.weak_rows == ["A-1"]
    skipped = judged(Break("x", "A-2", "f"), groups[1:], [{"test": "tests/b.py::t", "outcome": "skipped"}, smoke])
    assert skipped.state == "skipped"


def test_weak_rows_are_written_and_mended(tmp_path: Path) -> None:
    path = tmp_path / "rows.md"
    path.write_text(
        "# Rows\n\n| A-1 | x | y | `t` | done |\n| A-2 | x | y | `t` | weak: p |\n| A-3 | x | y |  | open |\n| A-4 | x | y | `t` | done |\n"
    )
    faults = [Break("p", "A-1 A-2", "f"), Break("q", "A-1", "f"), Break("r", "A-4", "f")]
    found = {
        "p": mutants.Verdict("p", "survived", weak_rows=["A-1"]),
        "q": mutants.Verdict("q", "timeout", weak_rows=["A-1"]),
    }
    assert mutants.write_rows(found, faults, path) == ["A-1", "A-2"]  # r was not run, so A-4 stands as it was
    assert [line.split("|")[5].strip() for line in path.read_text().splitlines()[2:]] == [
        "weak: p, q",
        "done",
        "open",
        "done",
    ]


@pytest.fixture(scope="module")
def package() -> mutants.Source:
    return mutants.Source(ROOT / "src" / "medgraft")


def test_every_break_fits_the_package_and_every_tick_has_one(package: mutants.Source) -> None:
    rows, faults = mutants.read_rows(), mutants.load_breaks(package)
    for fault in faults:
        mutants.fits(package, fault)
        mutants.needed(fault, rows)
    assert len(faults) >= 300
    covered = {row for fault in faults if not fault.equal for row in fault.row_names}
    assert [name for name, row in rows.items() if row.ticked and name not in covered] == []


def test_the_families_grow_with_the_package(package: mutants.Source) -> None:
    ids = {fault.id for fault in mutants.load_breaks(package)}
    classes = options_classes(package.trees.values())
    assert {"Recipe", "TrainConfig", "ScanOptions", "AuditOptions"} <= set(classes)
    for name, node in classes.items():
        assert {f"option-{name}.{f.target.id}" for f in fields(node)} <= ids  # type: ignore[union-attr]
    assert {"measure-auc", "measure-mae", "key-cell-seed", "key-case-labels"} <= ids


def test_what_a_commit_touched(monkeypatch: pytest.MonkeyPatch, source: mutants.Source) -> None:
    """A function that moved is the same; one that changed, or whose test changed, is touched."""
    where = source.folder / "elsewhere.py"

    def moved(text: str) -> dict[Path, str]:
        return {where: text, source.folder / "other.py": "def of():\n    return 1\n"}

    test = ast.parse("def test_x():\n    assert 1\n").body[0]
    other = ast.parse("def test_x():\n    assert 2\n").body[0]
    faults = [
        Break("s", "", "shifted", "by < 0", "False", tests=("t.py::test_x",)),
        Break("m", "", "Mean.of", "len(values)", "1", tests=("t.py::test_x",)),
    ]
    monkeypatch.setattr(mutants, "test_sources", lambda: {"tests/t.py::test_x": test})
    for before, tests, expected in (
        (CODE.replace("A module", "Another text"), test, set()),
        (CODE.replace("by < 0", "by <= 0"), test, {"s"}),
        (CODE.replace("Mean of values", "The mean"), test, set()),
        (CODE, other, {"s", "m"}),
    ):
        monkeypatch.setattr(
            mutants, "at_commit", lambda commit, b=before, t=tests: (moved(b), {"tests/t.py::test_x": t})
        )
        assert mutants.touched(faults, {}, source, "commit") == expected
