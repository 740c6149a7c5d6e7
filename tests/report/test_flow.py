"""The drawn flow of cases, the rows of the trivial answers, and what the page says of acquisition alone."""

from __future__ import annotations

import re
import xml.etree.ElementTree as tree
from pathlib import Path
from typing import Any

import pytest
from test_report import HOSTILE, _Page, made, section, written

from medgraft.report import diagram, figures
from medgraft.report.diagram import Box, Step, extent, wrapped
from medgraft.report.sections.flow import REASONS

SVG = "{http://www.w3.org/2000/svg}"


def _flow(**found: Any) -> dict[str, Any]:
    """A flow of 60 found, 50 read, 45 used in three folds."""
    size = {"cases": 45, "patients": 30}
    refused = [{"reason": f"reason {n} {HOSTILE}", "n": 1} for n in range(8)]
    scan = {"studies": 60, "read": 50, "waiting": 2, "refused": refused, "ignored": 1}
    source = {"role": "", "name": "set", "found": scan | found, "read": {"cases": 50, "patients": 33}, "same_pixels": 0}
    source |= {"unlabelled": 5, "left_out": 0, "used": size, "targets": {"finding": 45}}
    fold = {"learns": {"cases": 30, "patients": 20}, "select": [{"cases": 6, "patients": 4}], "targets": {}}
    folds = [{"outer": n, "test": {"cases": 15, "patients": 10}, **fold} for n in range(3)]
    flow = {"sources": [source], "used": size, "targets": ["finding"], "folds": folds, "tested": size}
    return flow | {"idle": {"cases": 0, "patients": 0}, "judged": {**size, "targets": {}, "models": {"a": 45, "b": 30}}}


@pytest.mark.parametrize("narrow", [False, True])
def test_every_box_lies_in_the_figure_and_none_on_another(narrow: bool) -> None:
    beside = (Box("out", ("a line that is much too long for the box " * 3,), "out"), Box("learn", (), "learn"))
    column = [Step(Box("中文" * 40, ("x" * 90,)), beside), Step(Box("next"), beside[:1]), Step(Box("last"))]
    for columns in ([column], [column, column]):
        svg = figures.standalone(diagram.flow(columns, narrow=narrow))
        root = tree.fromstring(svg.encode())
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        boxes = [
            tuple(float(r.attrib[k]) for k in ("x", "y", "width", "height"))
            for r in root.iter(f"{SVG}rect")
            if "x" in r.attrib
        ]
        assert len(boxes) == 6 * len(columns)
        for n, (x, y, w, h) in enumerate(boxes):
            assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
            for a, b, c, d in boxes[:n]:
                assert x >= a + c or a >= x + w or y >= b + d or b >= y + h
        for text in root.iter(f"{SVG}text"):
            x, y = float(text.attrib["x"]), float(text.attrib["y"])
            bold = "600" in text.attrib["style"]
            assert any(
                a < x and x + extent(text.text or "", bold) <= a + c and b < y < b + d for a, b, c, d in boxes
            ), text.text


def test_lines_break_between_words_and_lose_nothing() -> None:
    text = "a longer sentence with an_extraordinarily_long_word_that_fits_nowhere and 中文文字 beside it"
    lines = wrapped(text, 120)
    assert all(extent(line) <= 120 for line in lines) and len(lines) > 4
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", text) and wrapped("", 50) == [""]


def test_the_page_draws_the_flow_in_both_languages_with_a_table_beside(tmp_path: Path) -> None:
    summary = made()
    summary["run"] |= {"flow": _flow()}
    html = written(tmp_path, summary)
    flow = section(html, "flow")
    assert HOSTILE not in html and flow.count("<svg") == 2 and 'href="#flow"' in html
    assert not re.search(r"#[0-9a-f]{6}", flow) and "var(--blue)" in flow  # it follows the theme
    said = _Page(html).said.replace("\xa0", " ")
    for line in ("60 studies or files found", "8 refused", "2 not read yet", "50 cases of 33 patients read"):
        assert said.count(line) == 3, line  # wide, narrow, and in the table
    assert f"{8 - REASONS + 1} × other reasons" in said  # what is not listed is counted
    assert "5 cases without a label" in said and "30 cases trained on in each fold" in said
    assert "1 model on fewer of them" in said
    alt = re.findall(r'aria-label="(Flow of cases[^"]*)"', flow)
    assert len(alt) == 2 and "45 cases of 30 patients judged" in alt[0]
    assert (tmp_path / "figures" / "flow.svg").is_file()
    chinese = section(written(tmp_path, summary, lang="zh"), "flow")
    assert "找到 60 个检查或文件" in chinese and "studies" not in chinese


def test_trivial_rows_are_muted_and_take_no_place(tmp_path: Path) -> None:
    summary = made()
    entry = {"value": 0.5, "low": None, "high": None, "n": 40, "unit": "patient", "n_units": 20}
    accuracy = {"value": 0.95, "low": 0.9, "high": 0.99, "n": 40, "unit": "patient", "n_units": 20}
    title = {"en": "Most frequent class", "zh": "最常见的类别"}
    metrics = {"case.auc": entry, "case.sensitivity": accuracy}
    summary["trivial"] = [{"id": "trivial · majority", "name": "majority", "title": title, "metrics": metrics}]
    lead = {"id": "trivial · majority", "difference": 0.4, "low": 0.3, "high": 0.45, "p_adjusted": 0.001, "shown": True}
    summary["models"][0]["beyond"] = lead
    html = written(tmp_path / "a", summary)
    board = section(html, "leaderboard")
    (row,) = re.findall(r'<tr class="trivial">.*?</tr>', board, re.DOTALL)
    assert "Most frequent class" in row and '<td class="rank">–' in row and "looks at no picture" in row
    assert board.index("net1") < board.index('<tr class="trivial">')
    said = _Page(html).said.replace("\xa0", " ")
    assert "Without looking at any picture (most frequent class) one gets AUC 0.50" in said
    assert "The best model is clearly better: difference 0.40 (0.30 to 0.45)." in said
    assert "0.95 (0.90 to 0.99)" in board and "ranks first" in said and "Most frequent class ranks" not in said
    for name in ("pairs", "heatmap", "ways", "missed"):
        assert f'id="{name}"' not in html or "Most frequent class" not in section(html, name)
    summary["models"][0]["beyond"] |= {"shown": False}
    assert "The best model is not clearly better" in _Page(written(tmp_path / "b", summary)).said
    assert "最常见的类别" in written(tmp_path / "b", summary, lang="zh")


def test_what_is_said_of_acquisition_rests_on_its_permutation(tmp_path: Path) -> None:
    summary = made()
    baseline = {"facts": ["height"], "auc": 0.60, "low": 0.55, "high": 0.66}
    summary["run"] |= {"kind": "image", "baseline": baseline | {"p": 0.43}}
    said = _Page(written(tmp_path / "a", summary)).said.replace("\xa0", " ")
    assert "That is no better than chance (p = 0.43)." in said  # though its interval lies above .5
    assert "above chance" not in said and "lean on them" not in said
    summary["run"]["baseline"] = baseline | {"p": 0.005, "low": 0.49}
    said = _Page(written(tmp_path / "b", summary)).said.replace("\xa0", " ")
    assert "That is above chance (p = 0.005)" in said and "lean on them" in said
    summary["run"]["confidence"] = 0.999
    assert "above chance" not in _Page(written(tmp_path / "c", summary)).said  # at the run's confidence
