"""The Python entries: docs/notebook.md is run as it stands, and both meanings of a verb's name live together."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import medgraft
from medgraft import api, verbs
from medgraft.errors import UserError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "notebook.md"
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.M | re.S)


def test_the_notebook_page_runs_and_shows_what_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    shown = 0
    for number, (kind, text) in enumerate(blocks):
        if kind == "python":
            printed = StringIO()
            with redirect_stdout(printed):
                exec(compile(text, f"{PAGE.name}, block {number + 1}", "exec"), names)
            answers = (
                blocks[number + 1][1] if blocks[number + 1 : number + 2] and blocks[number + 1][0] == "text" else ""
            )
            assert printed.getvalue() == answers, text
            shown += bool(answers)
    assert shown >= 8
    result = names["result"]
    assert isinstance(result, api.RunResult) and result.summary["run"]["name"] == "first"
    assert (
        result.leaderboard.filter(pl.col("state") == "done").height == 2
        and result.pairs["difference"].dtype == pl.Float64
    )
    assert result.measures.height == 0 and set(result.predictions["split"]) == {"select", "test"}
    assert medgraft.api.RunResult(str(result.root)).leaderboard.equals(result.leaderboard)


@pytest.mark.parametrize(
    "lines",
    [
        "from medgraft import audit, report; import medgraft.audit, medgraft.report.options",
        "import medgraft.audit, medgraft.report.options; from medgraft import audit, report",
        "import medgraft; audit, report = medgraft.audit, medgraft.report",
        "from medgraft.audit import AuditOptions; import medgraft.audit as audit; from medgraft import report",
    ],
)
def test_a_name_is_verb_and_package_in_any_order_of_imports(lines: str, tmp_path: Path) -> None:
    code = (
        f"{lines}\nfrom medgraft.audit import AuditOptions\nfrom medgraft.report.options import ReportOptions\n"
        "from medgraft.errors import UserError\nimport medgraft\n"
        "assert audit is medgraft.audit and audit.AuditOptions is AuditOptions and report.options is not None\n"
        "for act in (audit, report):\n"
        "    try: act('nowhere', lang='fr')\n"
        "    except UserError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["audit", "report"]
    assert done.stdout.count("lang: fr is none of en, zh") == 2


def test_naming_a_verb_is_needed_to_import_anything_heavy(tmp_path: Path) -> None:
    code = "import sys, medgraft\nprint('numpy' in sys.modules, 'pydantic' in sys.modules, dir(medgraft).count('scan'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "1"]
    with pytest.raises(AttributeError, match="no attribute 'scam'"):
        _ = medgraft.scam  # type: ignore[attr-defined]


def _refusal(act: object) -> str:
    try:
        act("nowhere", lang="fr")  # type: ignore[operator]
    except UserError as error:
        return str(error)
    return ""


def test_verbs_travel_to_other_processes() -> None:
    for name in medgraft.__all__:
        act = getattr(medgraft, name)
        assert pickle.loads(pickle.dumps(act)) is act
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        said = pool.map(_refusal, [medgraft.audit, medgraft.report])
    assert [line.split(":")[0] for line in said] == ["audit", "report"]


@pytest.mark.parametrize("verb", medgraft.__all__)
def test_an_entry_shows_the_keys_of_its_verb(verb: str) -> None:
    act = getattr(medgraft, verb)
    fields = verbs.options_class(verb).model_fields
    shown = inspect.signature(act).parameters
    assert set(fields) | {"say", "quiet"} == {n for n, p in shown.items() if p.kind is p.KEYWORD_ONLY}
    assert all(f"    {field.alias or name}" in getattr(api, verb).__doc__ for name, field in fields.items())


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Four pictures of four patients."""
    (tmp_path / "in").mkdir()
    for n in range(4):
        pixels = np.random.default_rng(n).integers(0, 256, (9, 8), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{n}.png")
    return tmp_path


@pytest.mark.parametrize("way", ["script", "stdin"])
def test_a_script_needs_no_guard_though_the_scan_starts_processes(way: str, studies: Path) -> None:
    code = (
        "print('begun')\nfrom medgraft import scan\nfile = globals().get('__file__')\n"
        "found = scan('in', out='data', patient='none', workers=2)\n"
        "print(found.manifest.height, found.rejects.height, globals().get('__file__') == file)\n"
    )
    (studies / "script.py").write_text(code)
    words = [sys.executable, "script.py"] if way == "script" else [sys.executable, "-"]
    done = subprocess.run(
        words, input=None if way == "script" else code, cwd=studies, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines.count("begun") == 1 and lines[-1] == "4 0 True"
    assert any("4 cases" in line for line in lines)  # what the terminal shows is printed


def test_what_is_said_goes_where_it_is_sent(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    options = {"patient": "none", "workers": 1, "out": studies / "data"}
    (studies / "in" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    found = api.scan(studies / "in", say=said.append, **options)
    assert len(said) == 1 and said[0] == str(found) and found.counts.rejected == 1
    assert found.rejects.height == 1 and found.rejects.columns == ["source", "reason", "fix"]
    assert Path(found) == found.root == studies / "data" and os.fspath(found) == str(studies / "data")
    api.scan(studies / "in", quiet=True, **options)
    assert capsys.readouterr().out == "" and len(said) == 1
    with pytest.raises(UserError, match=r"train\.epochs: abc is not a number"):
        api.run(data=found, **{"train.epochs": "abc"})
    with pytest.raises(UserError, match="epochs: abc is not a number"):
        api.run(data=found, train={"epochs": "abc"})
