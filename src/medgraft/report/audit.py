"""Build ``audit.html`` from ``audit.json``: findings first, then a contact sheet, counts and acquisition facts.

One file without network, in the look of the report. Pictures come from ``gallery`` alone, so what may not be seen there
is not seen here.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from medgraft.datasets import Dataset, load_dataset
from medgraft.errors import UserError
from medgraft.files import read_json
from medgraft.report.gallery import Gallery
from medgraft.report.page import write_page
from medgraft.report.text import Text, clean, finite

PAIRS = {"leak": 24, "check": 12, "note": 6}  # pairs of a finding that the page shows
NAMES = 12  # names of a finding that the page lists
TILE = 150  # height of a picture of the contact sheet
_EVERY_PAIR = 120  # pairs on the page at most


def build(root: Path, *, lang: str = "en") -> Path:
    """Write the audit page of a data set beside its ``audit.json`` and return its path (``audit.html``,
    ``audit.zh.html``).

    Raises ``UserError`` when there is no audit yet, or the folder cannot be written.
    """
    text = Text(lang)
    if not (root / "audit.json").is_file():
        raise UserError("no audit.json, so there is nothing to show", case=str(root), fix="run `medgraft audit` first")
    content = read_json(root / "audit.json")
    page = Page(root, content, text)
    return write_page(root, "audit", text, page.everything(), ["audit.css"])


def lines(content: dict[str, Any]) -> list[str]:
    """One line a finding, for a terminal."""
    text = Text("en")
    return [f"{f['severity']:<6} {title(f, text, content)}" for f in content["findings"]]


def title(finding: dict[str, Any], text: Text, content: dict[str, Any]) -> str:
    """What was found, in one line."""
    kind = finding["kind"]
    words: dict[str, Any] = {"n": finding["n"]}
    if "pairs" in finding:
        words["n"] = _plural(text, "audit_pairs", finding["n"])
    elif kind in ("patient_two_roles", "patient_two_sets", "study_two_patients", "patient_two_labels"):
        words["n"] = text.count("patients", finding["n"]) if "roles" in kind or "sets" in kind else str(finding["n"])
        words["part"] = _part(finding.get("part"))
        words["target"] = clean(finding.get("target", ""), 60)
        words["level"] = text(f"audit_level_{finding['level']}") if "level" in finding else ""
    elif kind in ("patients_unknown", "blank", "two_labels_rejected"):
        words["n"] = text.count("cases", finding["n"])
    elif kind in ("fact_strong", "fact_weak"):
        names = [fact_name(f["fact"], text) for f in finding["facts"]]
        names[0] = fact_name(finding["facts"][0]["fact"], text, first=True)
        words = {
            "facts": text.joined([*names[:4], *(["…"] if len(names) > 4 else [])]),
            "target": clean(finding["target"], 60),
        }
    elif kind == "facts_together":
        words = {"target": clean(finding["target"], 60), **{k: _two(finding[k]) for k in ("auc", "low", "high")}}
    return text(f"audit_{kind}", **words)


def fact_name(name: str, text: Text, *, first: bool = False) -> str:
    """Printed name of an acquisition fact, with a capital where it comes first; a kept column keeps its own."""
    key = f"audit_fact_{name}"
    return (_capital(text(key)) if first else text(key)) if text.has(key) else clean(name, 40)


def _plural(text: Text, key: str, n: int) -> str:
    if n == 0 and text.has(f"{key}_zero"):
        return text(f"{key}_zero")
    return text(f"{key}_one") if n == 1 else text(key, n=f"{n:,}".replace(",", "\u202f"))


def _two(value: Any) -> str:
    return f"{value:.2f}" if finite(value) else "–"


def _part(name: Any) -> str:
    return clean(name or "", 60)


def _capital(word: str) -> str:
    return word[:1].upper() + word[1:]


def _is_class(content: dict[str, Any], target: str) -> bool:
    return any(t["name"] == target and t["type"] == "classify" for t in content["targets"])


class Page:
    """Turns ``audit.json`` into what the template shows."""

    def __init__(self, root: Path, content: dict[str, Any], text: Text) -> None:
        self.root, self.content, self.text = root, content, text
        self.galleries = [Gallery(_open(root / each["path"])) for each in content["sets"]]
        self.left, self.hidden = _EVERY_PAIR, False

    def everything(self) -> dict[str, Any]:
        text, content = self.text, self.content
        self._prepare()
        found = [self._finding(f) for f in content["findings"]]
        sheet = self._sheet()
        kinds = text.joined([f"{n} {text(f'audit_kind_{k}')}" for k, n in content["kinds"].items()])
        facts = [
            kinds,
            text.count("patients", content["patients"])
            if content["patients_known"]
            else text("audit_people_unknown_short"),
        ]
        if len(content["sets"]) > 1:
            facts.append(text("audit_against", name=clean(content["sets"][1]["name"], 80)))
        return {
            "kicker": text("audit_kicker"),
            "title": text("audit_title", name=clean(content["name"], 80)),
            "facts_line": " · ".join(facts),
            "created": content["created"],
            "warnings": [text.say(w) for w in content["warnings"]],
            "answers": self._answers(),
            "findings": [f for f in found if f["severity"] != "note"],
            "notes": [f for f in found if f["severity"] == "note"],
            "sheet": sheet,
            "targets": [self._target(t) for t in content["targets"]],
            "facts": self._facts(),
            "fact_targets": [clean(t["name"], 60) for t in content["targets"]],
            "how": self._how(),
            "hidden": text("audit_hidden_note") if self.hidden else "",
        }

    def _prepare(self) -> None:
        wanted: list[list[str]] = [[] for _ in self.galleries]
        for finding in self.content["findings"]:
            for pair in finding.get("pairs", [])[: PAIRS[finding["severity"]]]:
                for side in (pair["a"], pair["b"]):
                    wanted[side["set"]].append(side["case"])
            if finding["kind"] == "blank":
                for case in finding["cases"][:NAMES]:
                    wanted[case["set"]].append(case["case"])
        wanted[0] += [case for group in self.content["sample"] for case in group["cases"]]
        for gallery, names in zip(self.galleries, wanted):
            gallery.prepare(names)

    # --- the answer ---

    def _answers(self) -> list[tuple[str, str]]:
        text, found = self.text, self.content["findings"]
        counts = Counter(f["severity"] for f in found)
        n = counts["leak"] + counts["check"]
        need = text("audit_need_none")
        if n:
            leaks, checks = _plural(text, "audit_leaks", counts["leak"]), _plural(text, "audit_checks", counts["check"])
            need = text("audit_need_one") if n == 1 else text("audit_need", n=n, leaks=leaks, checks=checks)
            if n == 1:
                need += f" {title(next(f for f in found if f['severity'] != 'note'), text, self.content)}."
        return [
            (text("audit_question_need"), need),
            (text("audit_question_people"), self._people()),
            (text("audit_question_pictures"), self._pictures()),
            *([(text("audit_question_labels"), self._without_disease())] if self.content["targets"] else []),
        ]

    def _people(self) -> str:
        text = self.text
        twice = [f for f in self.content["findings"] if f["kind"] in ("patient_two_roles", "patient_two_sets")]
        parts = [_part(p["name"]) for p in self.content["parts"]]
        if twice:
            return text(
                "audit_people_yes",
                n=text.joined([f"{text.count('patients', f['n'])} ({_part(f['part'])})" for f in twice[:6]]),
            )
        if not self.content["patients_known"]:
            return text("audit_people_unknown")
        return text("audit_people_parts", parts=text.joined(parts[:8])) if parts else text("audit_people_no_parts")

    def _pictures(self) -> str:
        text = self.text
        pairs = {f["kind"]: f["n"] for f in self.content["findings"] if "pairs" in f}
        two = sum(n for k, n in pairs.items() if k.endswith("two_patients"))
        if not pairs:
            return text("audit_pictures_none" if self.content["search"]["near"] else "audit_pictures_none_exact")
        return text(
            "audit_pictures",
            two=_capital(_plural(text, "audit_pairs", two)),
            one=_plural(text, "audit_pairs", sum(pairs.values()) - two),
        )

    def _without_disease(self) -> str:
        text = self.text
        rows = [r for r in self.content["facts"] if r.get("together") and finite(r["together"].get("low"))]
        strongest = [
            e for f in self.content["findings"] if f["kind"] in ("fact_strong", "fact_weak") for e in f["facts"]
        ]
        if not rows and not strongest:
            varied = any(r.get("targets") for r in self.content["facts"])
            return text("audit_facts_unknown" if varied else "audit_facts_none")
        told = [
            text(
                "audit_facts_auc",
                target=clean(r["target"], 60),
                **{k: _two(r["together"][k]) for k in ("auc", "low", "high")},
            )
            for r in rows[:3]
        ]
        gap = " " if text.language == "en" else ""
        answer = gap.join(told)
        if strongest:
            names = list(dict.fromkeys(fact_name(f["fact"], text) for f in strongest))[:3]
            answer = (answer + text("audit_facts_strong", facts=text.joined(names))).strip()
        return answer

    # --- findings ---

    def _finding(self, finding: dict[str, Any]) -> dict[str, Any]:
        text, kind = self.text, finding["kind"]
        group = "fact" if kind in ("fact_strong", "fact_weak") else kind
        words: dict[str, Any] = {}
        if kind == "facts_together":
            words = {"facts": text.joined([fact_name(f, text) for f in finding["facts"]])}
        elif kind == "patient_two_labels":
            words = {"level": text(f"audit_level_{finding['level']}")}
        about = [text(f"audit_{group}_about", **words)]
        if "pairs" in finding:
            if "two_patients" in kind and not self.content["patients_known"]:
                about.append(text("audit_unknown_people"))
            if finding["labels_differ"]:
                about.append(_plural(text, "audit_labels_differ", finding["labels_differ"]))
            if self.content["parts"] and "two_patients" in kind:
                about.append(_plural(text, "audit_across", finding["across"]))
        pairs = [self._pair(p) for p in self._some(finding)]
        more = (
            text("audit_more", shown=len(pairs), n=finding["n"], listed=len(finding["pairs"]))
            if "pairs" in finding and finding["n"] > len(pairs)
            else ""
        )
        return {
            "severity": finding["severity"],
            "word": text(f"audit_{finding['severity']}"),
            "title": title(finding, text, self.content),
            "about": (" " if text.language == "en" else "").join(about),
            "todo": text(f"audit_{group}_todo"),
            "pairs": pairs,
            "more": more,
            "names": self._names(finding),
            "tiles": [self._tile(c["case"], c["set"]) for c in finding["cases"][:NAMES]] if kind == "blank" else [],
        }

    def _some(self, finding: dict[str, Any]) -> list[dict[str, Any]]:
        some = finding.get("pairs", [])[: min(PAIRS[finding["severity"]], self.left)]
        self.left -= len(some)
        return list(some)

    def _names(self, finding: dict[str, Any]) -> list[str]:
        text, found = self.text, []
        for entry in (finding.get("patients") or [])[:NAMES]:
            found.append(
                f"{clean(entry['patient'], 60)}: "
                f"{text.joined([f'{clean(r, 30)} {n}' for r, n in entry['roles'].items()])}"
            )
        for entry in (finding.get("studies") or [])[:NAMES]:
            found.append(f"{clean(entry['study'], 60)}: {text.joined([clean(p, 40) for p in entry['patients'][:6]])}")
        for entry in (finding.get("names") or [])[:NAMES]:
            found.append(f"{clean(entry['name'], 60)}: {text.joined([clean(v, 40) for v in entry['labels'][:6]])}")
        for entry in (finding["facts"] if finding["kind"] in ("fact_strong", "fact_weak") else [])[:NAMES]:
            shown = self._by_class(entry["by_class"], finding["target"])
            strength = text("audit_fact_strength", strength=_two(entry["strength"]), p=_p(entry["p"], text))
            found.append(
                text("audit_fact_line", fact=fact_name(entry["fact"], text, first=True), shown=shown, strength=strength)
            )
        total = finding["n"]
        return [*found, f"… {total - len(found)}"] if found and total > len(found) else found

    def _pair(self, pair: dict[str, Any]) -> dict[str, Any]:
        text = self.text
        relation = pair["relation"]
        words = text(f"audit_{relation}", likeness=_two(pair["likeness"]), margin=text.percent(pair["margin"]))
        if pair["mirrored"]:
            words = text("audit_mirrored", relation=words)
        facts = [words]
        videos = [s for s in ("a", "b") if self._kind(pair[s]) == "video"]
        if "place_a" in pair and len(videos) == 2:
            facts.append(text("audit_frames", a=pair["place_a"] + 1, b=pair["place_b"] + 1))
        roles = [
            text("audit_role_across", part=_part(a["part"]), a=clean(a["a"], 20), b=clean(a["b"], 20))
            for a in pair["across"][:2]
        ]
        if pair["roles_crossed"] > 2:
            roles.append(f"+{pair['roles_crossed'] - 2}")
        sides = [self._side(pair[s], pair.get(f"place_{s}", -1), pair["labels_differ"]) for s in ("a", "b")]
        return {
            "sides": sides,
            "facts": " · ".join(facts),
            "roles": " · ".join(roles),
            "differs": bool(pair["labels_differ"]),
        }

    def _kind(self, side: dict[str, Any]) -> str:
        row = self.galleries[side["set"]].rows.get(side["case"])
        return str(row["kind"]) if row else ""

    def _side(self, side: dict[str, Any], place: int, differs: list[str]) -> dict[str, Any]:
        labels = side["labels"]
        shown = differs or list(labels)
        told = [
            clean(labels[t], 40) if len(labels) == 1 else f"{clean(t, 30)} {clean(labels[t], 40)}" for t in shown[:3]
        ]
        return {
            **self._tile(side["case"], side["set"], place, None),
            "patient": self._patient(side["patient"]),
            "label": self.text.joined(told),
        }

    def _patient(self, name: str) -> str:
        """A patient with the word in front; a code such as patient-59f3 has it already."""
        shown = clean(name, 60)
        return shown if shown.lower().startswith("patient") else f"{self.text('audit_patient')} {shown}"

    def _tile(self, case: str, number: int = 0, place: int = -1, side: int | None = TILE) -> dict[str, Any]:
        gallery = self.galleries[number]
        picture = gallery.picture(case, frame=place, side=side)
        self.hidden |= gallery.masked(case)
        blank = "" if picture else self.text("audit_hidden" if gallery.masked(case) else "audit_no_image")
        return {
            "case": clean(case, 80),
            "picture": picture,
            "blank": blank,
            "alt": self.text("audit_alt", case=clean(case, 80)),
        }

    # --- sheet, counts, facts ---

    def _sheet(self) -> list[dict[str, Any]]:
        text, found = self.text, []
        labelled = any(g["label"] for g in self.content["sample"])
        for group in self.content["sample"]:
            name = clean(group["label"], 60) or (text("audit_sheet_no_label") if labelled else text("audit_sheet_all"))
            role = f"{clean(group['part'], 40)}: {clean(group['role'], 30)}" if group["role"] else ""
            count = text("audit_sheet_of", shown=len(group["cases"]), n=group["of"])
            found.append(
                {"name": name, "role": role, "count": count, "tiles": [self._tile(case) for case in group["cases"]]}
            )
        return found

    def _target(self, target: dict[str, Any]) -> dict[str, Any]:
        text = self.text
        result: dict[str, Any] = {"name": clean(target["name"], 60), "rows": [], "roles": [], "quantity": ""}
        if target["type"] == "regress":
            if target["quantiles"]:
                low, q1, median, q3, high = (_short(v) for v in target["quantiles"])
                result["quantity"] = text("audit_quantity", low=low, q1=q1, median=median, q3=q3, high=high)
            return result
        columns = list(
            dict.fromkeys((p, r) for row in target["classes"] for p, roles in row["roles"].items() for r in roles)
        )[:8]
        result["roles"] = [f"{clean(p, 30)}: {clean(r, 20)}" for p, r in columns]
        result["rows"] = [
            {
                "name": clean(c["name"], 60),
                "cases": c["cases"],
                "patients": c["patients"],
                "roles": [c["roles"].get(p, {}).get(r, 0) for p, r in columns],
            }
            for c in target["classes"]
        ]
        if target["missing"]:
            result["rows"].append(
                {
                    "name": text("audit_missing"),
                    "cases": target["missing"],
                    "patients": "",
                    "roles": [""] * len(columns),
                }
            )
        return result

    def _facts(self) -> list[dict[str, Any]]:
        rows = []
        for fact in self.content["facts"]:
            if not fact["name"]:
                continue
            entries = {e["target"]: e for e in fact["targets"]}
            cells = [self._cell(entries.get(t["name"])) for t in self.content["targets"]]
            shown = [self._by_class(e["by_class"], t) for t, e in entries.items()][:1]
            rows.append(
                {
                    "name": fact_name(fact["name"], self.text, first=True),
                    "what": self._values(fact),
                    "by_class": shown[0] if shown else "",
                    "cells": cells,
                }
            )
        return rows

    def _cell(self, entry: dict[str, Any] | None) -> dict[str, str]:
        if entry is None:
            return {"word": "–", "number": "", "loud": ""}
        text, strength = self.text, entry["strength"]
        if entry["p"] > 0.05 or strength < 0.1:  # strong, but of few patients: open
            word = "open" if entry["p"] <= 0.1 and strength >= 0.3 else "none"
        else:
            word = "weak" if strength < 0.3 else "some" if strength < 0.5 else "strong"
        number = text("audit_fact_strength", strength=_two(strength), p=_p(entry["p"], text))
        return {"word": text(f"audit_word_{word}"), "number": number, "loud": "1" if word in ("some", "strong") else ""}

    def _values(self, fact: dict[str, Any]) -> str:
        text = self.text
        unknown = self.content["cases"] - fact["known"]
        tail = [text("audit_unknown_of", n=unknown)] if unknown else []
        if fact["type"] == "number":
            low, _, median, _, high = (_short(v) for v in fact["quantiles"])
            told = (
                text("audit_constant", value=low)
                if fact["distinct"] == 1
                else text("audit_numbers", low=low, high=high, median=median)
            )
            return text.joined([told, *tail])
        values = fact["values"]
        if fact["distinct"] == 1:
            return text.joined([text("audit_constant", value=clean(values[0]["value"], 60)), *tail])
        listed = [f"{clean(v['value'], 40)} ({v['cases']})" for v in values[:6]]
        rest = fact["distinct"] - len(listed)
        return text.joined([*listed, *([text("audit_others", n=rest)] if rest > 0 else []), *tail])

    def _by_class(self, rows: list[dict[str, Any]], target: str) -> str:
        """The fact within each class, in words: the value whose share differs most, or the medians."""
        text, rows = self.text, sorted(rows, key=lambda r: -r["n"])[:5]
        halves = not _is_class(self.content, target)

        def named(row: dict[str, Any]) -> str:
            return (
                text(f"audit_half_{row['class']}")
                if halves and row["class"] in ("low", "high")
                else clean(row["class"], 40)
            )

        if "quartiles" in rows[0]:
            return text(
                "audit_medians",
                list=text.joined(
                    [text("audit_median_of", value=_short(r["quartiles"][1]), label=named(r)) for r in rows]
                ),
            )
        values = list(rows[0]["shares"])
        widest = max(
            values, key=lambda v: max(r["shares"].get(v, 0) for r in rows) - min(r["shares"].get(v, 0) for r in rows)
        )
        shares = [text("audit_share_of", share=text.percent(r["shares"].get(widest, 0)), label=named(r)) for r in rows]
        return text("audit_shares", value=clean(widest, 40), list=text.joined(shares))

    def _how(self) -> list[str]:
        text, search = self.text, self.content["search"]
        parts = [
            f"{_part(p['name'])} ({text.joined([f'{clean(r, 30)} {n}' for r, n in p['roles'].items()])})"
            for p in self.content["parts"]
        ]
        shown = text.joined(parts[:6]) + (f" … {len(parts) - 6}" if len(parts) > 6 else "")
        return [
            text("audit_how_same"),
            text("audit_how_near", n=search["parts"], alike=search["alike"])
            if search["near"]
            else text("audit_how_no_near"),
            text("audit_how_parts", parts=shown) if parts else text("audit_how_no_parts"),
            text("audit_how_not"),
            text("audit_how_time", seconds=f"{self.content['seconds']:.1f}"),
        ]


def _open(root: Path) -> Dataset | None:
    try:
        return load_dataset(root.resolve())
    except (UserError, OSError):
        return None


def _short(value: Any) -> str:
    """A number in at most four figures, without needless zeros."""
    if not finite(value):
        return "–"
    size = abs(value)
    text = f"{value:.0f}" if size >= 1000 or float(value).is_integer() else f"{value:.3g}"
    return text.replace("-", "\u2212")


def _p(value: Any, text: Text) -> str:
    shown = text.p(value)
    return shown if shown.startswith("<") else f"= {shown}"
