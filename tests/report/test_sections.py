"""The page as sections: each with its own strings and template, and a kind of question that no file of it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import pytest
from test_report import _Page, made, section, written

from medgraft.report import audit_text, figures, page, text, words
from medgraft.report.audit_text import AUDIT
from medgraft.report.sections import SECTIONS
from medgraft.report.text import STRINGS, Text
from medgraft.report.view import View

FOLDER = Path(page.__file__).parent
PARTS = {s.__name__.rpartition(".")[2]: s for s in SECTIONS}


def _said(paths: list[Path]) -> tuple[set[str], list[re.Pattern[str]]]:
    """Keys that files name in full, and patterns of those that they put together (``f"unit_{...}"``)."""
    whole: set[str] = set()
    patterns: list[re.Pattern[str]] = []
    for path in paths:
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".html":
            whole |= set(re.findall(r"'(\w+)'", content))
            continue
        tree = ast.parse(content)
        tables = {
            id(key)
            for node in ast.walk(tree)
            if isinstance(node, ast.Dict) and any(isinstance(v, ast.Tuple) for v in node.values)
            for key in node.keys
        }  # the keys of a table of strings: it defines, it does not say
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in tables:
                whole.add(node.value)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "count":
                word = ast.unparse(node.args[0]).strip("'") if node.args else ""
                whole |= {f"count_{word}", f"count_{word}_one"}
            elif isinstance(node, ast.JoinedStr):
                pieces = [re.escape(v.value) if isinstance(v, ast.Constant) else r"[\w ]+" for v in node.values]  # type: ignore[arg-type]
                if re.match(r"[a-z]{2,}_", "".join(pieces)) or "".join(pieces).startswith(r"[\w ]+_"):
                    patterns.append(re.compile("".join(pieces)))
    return whole, patterns


def _says(key: str, said: tuple[set[str], list[re.Pattern[str]]]) -> bool:
    return key in said[0] or any(p.fullmatch(key) for p in said[1])


def _files(name: str) -> list[Path]:
    return [FOLDER / "sections" / f"{name}.py", FOLDER / "templates" / "sections" / f"{name}.html"]


def test_a_section_is_a_file_with_its_strings_its_template_and_its_place() -> None:
    python = {p.stem for p in (FOLDER / "sections").glob("*.py")} - {"__init__"}
    templates = {p.stem for p in (FOLDER / "templates" / "sections").glob("*.html")} - {"_shared"}
    assert set(PARTS) == python == templates and len(SECTIONS) == len(PARTS)


def test_no_string_stands_twice_and_every_one_is_said_by_its_own_section() -> None:
    own = {name: s.STRINGS for name, s in PARTS.items()}  # type: ignore[attr-defined]
    rest = {"figures": figures.STRINGS, "audit": AUDIT, "words": words.TASKS}
    common = set(STRINGS) - {k for table in [*own.values(), *rest.values()] for k in table}
    counted = [k for table in [*own.values(), *rest.values(), common] for k in table]
    assert len(counted) == len(set(counted)) == len(STRINGS)
    with pytest.raises(ValueError, match="stand twice: nav"):
        text.take({"nav": ("again", "又")})
    by_kind = _said([FOLDER / "words.py"])
    said = {name: _said(_files(name)) for name in PARTS}
    for name, table in own.items():
        silent = [k for k in table if not _says(k, said[name]) and k not in by_kind[0]]
        assert not silent, (name, silent)
        borrowed = [
            k for k in table for other in PARTS if other != name and k in said[other][0] and k not in own[other]
        ]
        assert not borrowed, (name, borrowed)
    everything = _said(
        [*FOLDER.glob("*.py"), *(FOLDER / "templates").rglob("*.html"), *(FOLDER / "sections").glob("*.py")]
    )
    silent = [k for k in STRINGS if not _says(k, everything)]
    assert not silent, silent
    for key, pair in STRINGS.items():
        fields = [{name for _, name, _, _ in Formatter().parse(s) if name} for s in pair]
        assert fields[0] == fields[1], key
    assert audit_text.AUDIT.keys() <= STRINGS.keys()


def test_no_file_but_the_table_of_words_names_a_task() -> None:
    tasks = set(words.QUESTIONS)
    for path in [*FOLDER.rglob("*.py"), *FOLDER.rglob("*.html")]:
        if path.name not in ("words.py", "audit.py"):  # an audit knows the type of a target, not a task
            assert not tasks & _said([path])[0], path.name


def test_a_section_without_content_is_absent_from_the_page_and_from_the_menu(tmp_path: Path) -> None:
    bare = made() | {"roc": {}, "calibration": {}, "heatmap": {"models": [], "cases": [], "values": []}}
    html = written(tmp_path, bare)
    for name in ("roc", "calibration", "heatmap", "claims", "ways", "agreement", "distribution"):
        assert f'id="{name}"' not in html and f'href="#{name}"' not in html
    found = re.findall(r'<a href="#([\w-]+)">', html.partition("</nav>")[0])
    assert found == ["leaderboard", "pairs", "missed", "learning", "made", "limits", "glossary"]
    curved = written(tmp_path / "b", made() | {"calibration": {}})
    assert 'href="#roc"' in curved and "calibration" not in re.findall(r' id="([\w-]+)"', curved)


def landmarks(direction: str = "lower") -> dict[str, Any]:
    """A run of a kind that medgraft does not know: one landmark an image, judged by its distance in pixels."""
    summary = made("regress")
    ids = [m["id"] for m in summary["models"]]
    for k, model in enumerate(summary["models"]):
        entry = model["metrics"].pop("case.mae") | {"value": 4.04 + k, "low": 3.52 + k, "high": 5.58 + k}
        model["metrics"] = {"case.distance": entry}
        model["rank"] = None  # so that the page orders by the direction of the measure
    rng = np.random.default_rng(3)
    cases = [c | {"label": ""} for c in summary["heatmap"]["cases"]]
    values = rng.uniform(1, 9, (len(ids), len(cases)))
    summary["run"] |= {
        "task": "landmarks",
        "targets": ["tip"],
        "units": {},
        "primary_metric": "case.distance",
        "measures": {"distance": {"direction": direction, "decimals": 1, "unit": "px"}},
        "warnings": ["3 landmarks lie outside their image"],
    }
    summary["pairs"] = [
        p | {"metric": "case.distance", "difference": -1.02, "low": -1.9, "high": -0.2, "p": 0.001, "p_adjusted": 0.003}
        for p in summary["pairs"]
    ]
    summary["heatmap"] = {"models": ids, "cases": cases, "values": values}
    summary["missed"] = [cases[i] | {"values": {k: float(values[j, i]) for j, k in enumerate(ids)}} for i in (1, 4)]
    return summary | {"scatter": {}, "roc": {}, "calibration": {}}


def test_a_kind_that_the_page_does_not_know_is_told_whole(tmp_path: Path) -> None:
    html = written(tmp_path, landmarks())
    page, said = _Page(html), _Page(html).said.replace("\xa0", " ")
    assert "ranks first: distance 4.0 px (95 % interval 3.5 to 5.6 px; 40 cases, 20 patients)" in said
    assert "difference −1.0 px (95 % interval −1.9 to −0.2 px), p = 0.003 (corrected): shown." in said
    assert re.search(r"In the worst tenth of the cases distance is above \d\.\d px \(95 % interval", said)
    assert section(html, "pairs").count('class="verdict shown">shown<') == 3  # less is better, so the first is
    menu = re.findall(r'<a href="#([\w-]+)">', html.partition("</nav>")[0])
    assert menu == [
        *("leaderboard", "pairs", "distribution", "heatmap", "missed", "learning", "made", "limits", "glossary")
    ]
    assert "Distance case by case" in said and "Cases on which the models do worst" in said
    assert "Numbers are each model's distance." in said and "<dd>" in section(html, "missed")
    assert re.search(r"<dd>\d\.\d\xa0px</dd>", section(html, "missed"))  # a number, and no bar of a share
    assert '"reverse": true' in section(html, "heatmap") and "distance [px]" in section(html, "heatmap")
    assert "judged (landmarks; target: tip;" in said
    assert "The reference is taken as the truth." in said and "every model misses" not in said
    assert "defined by the program that computed it" in section(html, "glossary")
    for name in ("leaderboard", "heatmap", "missed", "limits"):
        assert "With care: 3 landmarks lie outside their image" in section(html, name)
    assert not re.search(r"\b(nan|None|null|undefined|inf)\b", page.said)
    chinese = written(tmp_path / "zh", landmarks(), lang="zh")
    assert "在最差的十分之一病例中，distance 高于" in chinese and "参考标准被视为真值" in chinese
    assert (tmp_path / "figures" / "distribution.svg").is_file()


def test_the_direction_of_an_own_measure_turns_order_verdict_and_colours(tmp_path: Path) -> None:
    lower, higher = View(landmarks(), Text()), View(landmarks("higher"), Text())
    assert [m["id"] for m in lower.judged] == [m["id"] for m in higher.judged][::-1]
    row = lower.summary["pairs"][0]
    assert (lower.verdict(row), higher.verdict(row)) == ("shown", "worse")
    html = written(tmp_path, landmarks("higher"))
    assert '"reverse": false' in section(html, "heatmap") and "distance is below" in _Page(html).said
    assert "≤" in section(html, "heatmap") and "≥" not in section(html, "heatmap")
    below = landmarks("higher")
    below["heatmap"]["values"] = below["heatmap"]["values"] - 5.0  # values below zero keep their place on the scale
    data = section(written(tmp_path / "b", below), "heatmap")
    origin, span = (float(re.search(rf'"{k}": ([-\d.]+)', data).group(1)) for k in ("origin", "span"))  # type: ignore[union-attr]
    values = below["heatmap"]["values"]
    assert (origin, origin + span) == pytest.approx((values.min(), values.max()))


def test_an_own_measure_without_a_record_is_still_reported(tmp_path: Path) -> None:
    bare = landmarks()
    del bare["run"]["measures"]
    said = _Page(written(tmp_path, bare)).said
    assert "distance 6.04 (95" in said and "px" not in said  # taken for a measure of which more is better


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_an_arm_that_stopped_before_it_learned_is_marked_in_the_table(tmp_path: Path, lang: str) -> None:
    summary = made(models=4)
    ids = [m["id"] for m in summary["models"]]
    summary["run"]["warnings"] = [
        {"kind": "few_steps", "values": {"model": ids[1], "n": 25, "few": 200}},
        {"kind": "loss_stays", "values": {"model": ids[2], "first": 1.0, "last": 0.99}},
        {"kind": "tied_scores", "values": {"model": ids[0], "n": 3, "all": 40}},
    ]
    html = written(tmp_path, summary, lang=lang)
    board = section(html, "leaderboard")
    mark = Text(lang)("unlearnt")
    rows = re.findall(r"<tr>\s*<td class=\"rank\">.*?</tr>", board, re.DOTALL)
    marked = [k for k, row in enumerate(rows) if mark in row]
    assert len(rows) == 4 and len(marked) == 2
    ranked = [m["id"] for m in sorted(summary["models"], key=lambda m: m["rank"]["best"])]
    assert {ranked[k] for k in marked} == {ids[1], ids[2]}


@pytest.mark.parametrize(
    ("start", "strategy", "short", "phrase"),
    [
        ("random", "finetune", "Net, from scratch", "Net trained from scratch"),
        ("random", "finetune+l2sp", "Net, from scratch, L2-SP", None),
        ("random", "frozen", "Net, random start, frozen body", "Net started from random weights, with a frozen body"),
        ("imagenet", "finetune", "Net, ImageNet, fine-tuned", "Net started from ImageNet and fine-tuned"),
    ],
)
def test_nothing_is_fine_tuned_that_starts_from_nothing(start: str, strategy: str, short: str, phrase: str) -> None:
    model = {"model": "Net", "start": start, "strategy": strategy}
    assert Text("en").model_short(model) == short
    assert phrase is None or Text("en").model_phrase(model) == phrase
    assert ("从头训练" in Text("zh").model_short(model)) == (short.split(", ")[1] == "from scratch")
