"""The audit page: findings first, pictures where they may be seen, nothing of a user's that runs, small for any
size.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "intake"))
from planted import Planted, body, jpeg, mirrored
from typer.testing import CliRunner

from medgraft import audit, cli, tables
from medgraft.errors import UserError
from medgraft.files import read_json
from medgraft.report import audit as page

HOSTILE = '<script>alert(1)</script>{{7*7}}"><img src=x onerror=alert(2)> http://evil.example/x'


class Parser(HTMLParser):
    """Every start tag with its attributes, and the text outside script and style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.inside and tag == self.inside[-1]:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.words.append(data)


def made(root: Path, lang: str = "en", **options: Any) -> tuple[str, Parser, str]:
    """Page, parsed, and its text in one line."""
    report = audit.audit(root, audit.AuditOptions(permutations=99, lang=lang, **options))
    html = report.page.read_text(encoding="utf-8")
    parsed = Parser(html)
    return html, parsed, " ".join(" ".join(parsed.words).split())


@pytest.fixture
def kit(tmp_path: Path) -> Planted:
    kit = Planted(tmp_path)
    for n in range(24):
        kit.add(
            f"c{n:02d}",
            f"p{n:02d}",
            body(n, 96),
            "ab"[n % 2],
            device="maker " + "xy"[n % 2],
            **{"split.part": "test" if n > 17 else "train"},
        )
    kit.add("twin", "q0", body(20, 96), "b", device="maker x", **{"split.part": "train"})
    kit.add("near", "q1", jpeg(body(1, 96)), "b", device="maker x", **{"split.part": "train"})
    kit.add("mirror", "q2", mirrored(body(2, 96)), "a", device="maker x", **{"split.part": "train"})
    return kit


def test_findings_come_first_in_plain_words_with_their_pictures(kit: Planted) -> None:
    kit.write()
    html, parsed, words = made(kit.root)
    order = [
        words.index(w)
        for w in (
            "The same picture stands under two patients: 1 pair",
            "Almost the same picture",
            "A mirrored picture",
            "Contact sheet A few",
        )
    ]
    assert order == sorted(order)
    assert "findings need you: 2 leaks that would make every result too good" in words
    assert "part: test and train" in words and "identical pixels" in words and "at least one must be wrong" in words
    pictures = [a for t, a in parsed.tags if t == "img"]
    assert len(pictures) == 3 * 2 + 2 * (6 + 3) and all(
        (a["src"] or "").startswith("data:image/jpeg;base64,") and a["alt"] for a in pictures
    )
    assert "device: strongly tied" in words.lower() and "strongly tied to finding" in words
    assert not re.search(r"https?:|src=\"(?!data:)|url\(|@import", html)


def test_in_chinese_no_english_sentence_is_left(kit: Planted) -> None:
    kit.write(patient="none")
    _, parsed, words = made(kit.root, lang="zh")
    assert (kit.root / "audit.zh.html").is_file() and ("lang", "zh-Hans") in [
        next(iter(a.items())) for t, a in parsed.tags if t == "html"
    ]
    assert "同一图像属于两名患者：1 对" in words and "患者身份未知" in words
    english = re.findall(r"[A-Za-z][A-Za-z' ]{24,}", words.replace("medgraft audit DATASET run", ""))
    assert english == []


def test_strings_of_the_user_stay_text(tmp_path: Path) -> None:
    kit = Planted(tmp_path)
    for n in range(12):
        kit.add(
            f"{HOSTILE}{n}",
            f"{HOSTILE}{n}",
            body(n, 64),
            f"{HOSTILE}{n % 2}",
            device=f"{HOSTILE}{n % 2}",
            **{f"fact.{HOSTILE}": HOSTILE + "ab"[n % 2]},
        )
    kit.add(f"{HOSTILE}copy", "x", body(0, 64), f"{HOSTILE}1")
    kit.write(name=HOSTILE, warnings=[HOSTILE], patient="none")
    html, parsed, words = made(tmp_path)
    assert sum(t == "script" for t, _ in parsed.tags) == 1 and not any("onerror" in a for _, a in parsed.tags)
    assert all((a.get("src") or "data:").startswith("data:") for _, a in parsed.tags)
    assert "{{7*7}}" in words and "http://" not in html


@pytest.mark.parametrize("state", ["unchecked", "clear"])
def test_pictures_are_withheld_until_their_text_was_checked(kit: Planted, state: str) -> None:
    kit.rows = [{**row, "pixel_text": state} for row in kit.rows]
    kit.write()
    _, parsed, words = made(kit.root)
    hidden = state == "unchecked"
    assert (not any(t == "img" for t, _ in parsed.tags), "hidden: text not checked" in words) == (hidden, hidden)


def test_a_large_set_full_of_copies_stays_small_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kit = Planted(tmp_path)
    for n in range(20):
        kit.add(f"c{n}", f"p{n}", rng.integers(0, 255, (256, 256), dtype=np.uint8), "ab"[n % 2])
    base = kit.rows
    kit.rows = [{**base[n % 20], "case_id": f"c{n}", "patient_id": f"p{n}"} for n in range(3000)]
    kit.write()
    html, parsed, words = made(tmp_path, near=False)
    assert len(html) < 3_000_000 and sum(t == "img" for t, _ in parsed.tags) == 24 * 2 + 12
    assert "24 of 2980 are shown; audit.json lists up to 500" in words
    content = read_json(tmp_path / "audit.json")
    assert content["findings"][0]["n"] == 2980 and len(content["findings"][0]["pairs"]) == 500


def test_an_external_set_shows_its_own_pictures(tmp_path: Path) -> None:
    home, away = Planted(tmp_path / "home"), Planted(tmp_path / "away")
    for n in range(12):
        home.add(f"c{n}", f"p{n}", body(n, 64), "ab"[n % 2])
        away.add(f"c{n}", f"q{n}", jpeg(body(0, 64), 75) if n == 7 else body(50 + n, 64), "ab"[n % 2])
    home.write()
    away.write(name="elsewhere")
    _, _, words = made(tmp_path / "home", test=tmp_path / "away")
    assert (
        "against elsewhere as external test set" in words
        and "external: train and test" in words
        and "patient q7" in words
    )


def test_no_audit_no_page(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no audit\.json"):
        page.build(tmp_path)


def test_the_command_says_what_was_found_and_a_leak_is_status_3(kit: Planted) -> None:
    kit.write()
    done = CliRunner().invoke(cli.app, ["audit", str(kit.root), "permutations=99"])
    assert done.exit_code == 3
    assert (
        "leak   The same picture stands under two patients: 1 pair" in done.output
        and f"open {kit.root / 'audit.html'}" in done.output
    )
    kit.rows = kit.rows[:24]
    manifest = kit.write().manifest.drop("split.part")
    tables.write(manifest.with_columns(pl.lit("one").alias("device")), kit.root / "manifest.parquet", "manifest")
    done = CliRunner().invoke(cli.app, ["audit", str(kit.root), "permutations=99"])
    assert done.exit_code == 0 and "0 findings need you" in done.output
    helped = CliRunner().invoke(cli.app, ["audit", "--help"]).output
    assert "run=runs/xrays" in helped and "near" in helped and "alike" in helped
