"""From ``summary.json`` to what the sections say: order, names, numbers with their intervals. No sentence, no drawing.

Numbers that the summary does not hold (a share of missed cases, limits of agreement) get their interval
here, by the same resampling of patients that the statistics use.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.datasets import Dataset
from medgraft.notices import from_json
from medgraft.report.text import Text, clean, finite, split_metric
from medgraft.report.words import question

_ABSOLUTE = re.compile(r"^(/|~|[A-Za-z]:[\\/]|\\\\|file:)")


def listed(value: Any) -> list[Any]:
    """A list as it is, anything else that is set as a list of one."""
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def count_of(value: Any) -> int:
    """How many: of a list its length, of a number the number, else 0."""
    return len(value) if isinstance(value, (list, tuple, dict)) else int(value) if finite(value) else 0


def public(value: Any) -> Any:
    """A setting that may be shown: absolute paths are cut to their last part, control characters go."""
    if isinstance(value, dict):
        return {clean(k): public(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(v) for v in value]
    if isinstance(value, str):
        text = clean(value)
        return re.split(r"[\\/]", text.rstrip("\\/"))[-1] if _ABSOLUTE.match(text) else text
    return value


class View:
    """The summary of a run in one language, with the folder of the run and its data set where they are at hand."""

    def __init__(
        self, summary: dict[str, Any], text: Text, folder: Path | None = None, dataset: Dataset | None = None
    ) -> None:
        self.summary, self.text, self.folder, self.dataset = summary, text, folder, dataset
        self.run: dict[str, Any] = summary.get("run") or {}
        text.learn(self.run.get("measures"))
        self.asked = question(self.run)
        self.models: list[dict[str, Any]] = list(summary.get("models") or [])
        self.level = str(self.run.get("level") or "case")
        self.confidence = float(self.run["confidence"]) if finite(self.run.get("confidence")) else 0.95
        self.primary = self._primary()

    # --- order ---

    def _primary(self) -> str:
        """Full name of the primary measure, with its level."""
        wanted = str(self.run.get("primary_metric") or "")
        have: list[str] = []
        for model in self.models:
            have += [name for name in model.get("metrics") or {} if name not in have]
        for candidate in (wanted, f"{self.level}.{wanted}"):
            if candidate in have:
                return candidate
        return next(
            (name for name in have if wanted and split_metric(name)[1] == wanted),
            wanted or (have[0] if have else "auc"),
        )

    @cached_property
    def several_targets(self) -> bool:
        """Whether a case holds several labels or quantities at once."""
        return self.asked.several and len(listed(self.run.get("targets"))) > 1

    @property
    def one_part(self) -> bool:
        """Whether there is a single test part, so that nothing was pooled over folds."""
        return count_of(self.run.get("folds")) == 1

    @property
    def ranked(self) -> str:
        """That cases are ranked within folds, where the primary measure ranks and there are several; else nothing."""
        known = (self.run.get("measures") or {}).get(split_metric(self.primary)[1]) or {}
        return self.text("ranked_within") if known.get("ranks") and not self.one_part else ""

    @property
    def lower_is_better(self) -> bool:
        """Direction of the primary measure, as the run says it."""
        return self.text.scale(self.primary).direction == "lower"

    def estimate(self, model: dict[str, Any], name: str) -> dict[str, Any]:
        return (model.get("metrics") or {}).get(name) or {}

    @cached_property
    def judged(self) -> list[dict[str, Any]]:
        """Models with a result, best first; those whose primary measure is not defined stand last."""

        def key(model: dict[str, Any]) -> tuple[bool, float, float]:
            value, rank = self.estimate(model, self.primary).get("value"), (model.get("rank") or {}).get("best")
            return (
                not finite(value),
                rank if finite(rank) else float("inf"),
                (value if self.lower_is_better else -value) if finite(value) else 0.0,
            )

        return sorted((m for m in self.models if m.get("metrics")), key=key)

    @cached_property
    def not_judged(self) -> list[dict[str, Any]]:
        return [m for m in self.models if not m.get("metrics")]

    @property
    def best(self) -> dict[str, Any] | None:
        return (
            self.judged[0] if self.judged and finite(self.estimate(self.judged[0], self.primary).get("value")) else None
        )

    def order(self, table: Any) -> list[str]:
        """Ids that have an entry in ``table`` (a dict by id, or a list of ids), best first."""
        return [
            m["id"] for m in self.judged if m["id"] in (table or {}) and (not isinstance(table, dict) or table[m["id"]])
        ]

    @cached_property
    def names(self) -> dict[str, str]:
        """Short printed names; models that would share one carry their id."""
        short = {m["id"]: self.text.model_short(m) for m in self.models}
        often = Counter(short.values())
        return {k: v if often[v] == 1 else clean(k, 80) for k, v in short.items()}

    @cached_property
    def unlearnt(self) -> set[str]:
        """Ids of models whose training stopped before it had learned (``stats.caveats``)."""
        found = [from_json(w) for w in listed(self.run.get("warnings"))]
        return {str(w.values.get("model")) for w in found if w.kind in ("few_steps", "loss_stays")}

    @cached_property
    def warnings(self) -> list[str]:
        """What every section must carry, in this language."""
        return [self.text.say(w, self.names) for w in listed(self.run.get("warnings"))]

    # --- numbers ---

    @property
    def confidence_text(self) -> str:
        return self.text.confidence(self.confidence)

    @property
    def unit(self) -> str:
        """'patients' or 'cases': what is resampled."""
        return "cases" if str(self.run.get("unit") or "").startswith("case") or self.patients_unknown else "patients"

    @cached_property
    def patients_unknown(self) -> bool:
        return self.run.get("patient") == "none" or any(
            from_json(w).kind in ("patient_none", "patients_unknown") for w in listed(self.run.get("warnings"))
        )

    @property
    def value_unit(self) -> str:
        """Unit of the quantity, where the run names one (regression)."""
        units = self.run.get("units")
        if self.several_targets:
            return ""  # each target has its own
        return (
            self.unit_of(next(iter(listed(self.run.get("targets"))), ""))
            if isinstance(units, dict)
            else clean(units or "", 20)
        )

    def unit_of(self, target: Any) -> str:
        units = self.run.get("units")
        return clean(units.get(target) or "", 20) if isinstance(units, dict) else ""

    def measure_unit(self, name: str) -> str:
        """The unit that numbers of a measure are followed by."""
        part, unit = split_metric(name)[2], clean(self.text.scale(name).unit, 20)
        if unit == "target":
            unit = self.unit_of(part) if part else self.value_unit
        return f"\u00a0{unit}" if unit else ""

    def judged_on(self, entry: dict[str, Any]) -> str:
        """'400 cases' or '325 patients': what an estimate rests on."""
        n, unit = entry.get("n"), str(entry.get("unit") or "")
        parts = []
        if finite(entry.get("n_units")):
            parts.append(self.text.count("cases", n))
            if not self.patients_unknown:
                parts.append(self.text.count("patients", entry["n_units"]))
        elif finite(n):
            too_many = finite(self.run.get("n_patients")) and int(n or 0) > int(self.run["n_patients"])
            parts.append(
                self.text.count(
                    "cases" if unit.startswith("case") or self.patients_unknown or too_many else "patients", n
                )
            )
        return self.join(parts)

    def reason(self, name: str, entry: dict[str, Any]) -> str:
        """Why a measure has no value."""
        if entry.get("reason"):
            return self.text.say(entry["reason"])
        if not entry:
            return self.text("reason_not_computed")
        if entry.get("n") == 0:
            return self.text("reason_empty")
        if split_metric(name)[1].startswith("calibration_"):
            return self.text("reason_fit")
        return self.text(self.asked.reason)

    def interval(self, value: Any, low: Any, high: Any, metric: str, *, form: str = "interval", n: str = "") -> str:
        """'0.91 (0.88 to 0.94)' in the form asked for; without bounds the text says so."""
        unit = self.measure_unit(metric)
        if not finite(value):
            return self.text("undefined")
        if not (finite(low) and finite(high)):
            return self.text("interval_absent", value=self.text.number(value, metric) + unit)
        decimals = self.text.decimals([value, low, high], metric)
        shown = self.text.number(value, metric, decimals)
        bounds = {
            "low": self.text.number(low, metric, decimals),
            "high": self.text.number(high, metric, decimals) + unit,
        }
        if form == "interval_full" and not n:
            form = "interval_plain"
        return self.text(form, value=shown + unit, confidence=self.confidence_text, n=n, **bounds)

    def shown(self, model: dict[str, Any], name: str, form: str = "interval") -> str:
        entry = self.estimate(model, name)
        if not finite(entry.get("value")):
            return self.text("undefined_because", reason=self.reason(name, entry))
        return self.interval(
            entry["value"], entry.get("low"), entry.get("high"), name, form=form, n=self.judged_on(entry)
        )

    def join(self, parts: list[str]) -> str:
        return self.text.joined(parts)

    def metric_label(self, name: str) -> str:
        """'AUC per case'."""
        level = self.text.metric_level(name)
        title = self.text.metric(name)
        return title if not level else f"{title}（{level}）" if self.text.language == "zh" else f"{title} {level}"

    # --- comparisons ---

    def pair(self, a: str, b: str) -> dict[str, Any] | None:
        """The comparison of a with b on the primary measure, first minus second, turned round where it was stored
        so.
        """
        base = split_metric(self.primary)[1]
        for row in self.summary.get("pairs") or []:
            if row.get("metric") and split_metric(str(row["metric"]))[1] != base:
                continue
            if (row.get("a"), row.get("b")) == (a, b):
                return row
            if (row.get("a"), row.get("b")) == (b, a):
                turned = {"difference": "difference", "low": "high", "high": "low"}
                new = {k: (-row[v] if finite(row.get(v)) else None) for k, v in turned.items()}
                superior = row.get("p_superior")
                return {**row, **new, "a": a, "b": b, "p_superior": 1 - superior if finite(superior) else None}
        return None

    def verdict(self, row: dict[str, Any]) -> str:
        """Whether a difference is shown at the run's confidence: 'shown', 'worse' (shown, for the second) or
        'not_shown'.
        """
        p = row.get("p_adjusted") if finite(row.get("p_adjusted")) else row.get("p")
        if not finite(p) or not finite(row.get("difference")) or p >= 1 - self.confidence:
            return "not_shown"
        better = row["difference"] < 0 if self.lower_is_better else row["difference"] > 0
        return "shown" if better else "worse"

    @cached_property
    def compared(self) -> list[dict[str, Any]]:
        """Comparisons of judged models on the primary measure, the better one first, in the order of the board."""
        place, base = {m["id"]: i for i, m in enumerate(self.judged)}, split_metric(self.primary)[1]
        found = []
        for row in self.summary.get("pairs") or []:
            if {row.get("a"), row.get("b")} <= place.keys() and split_metric(str(row.get("metric") or base))[1] == base:
                a, b = sorted((row["a"], row["b"]), key=lambda k: place[k])
                found.append(self.pair(a, b) or row)
        return sorted(found, key=lambda row: (place[row["a"]], place[row["b"]]))

    # --- trivial answers, the acquisition baseline and thresholds ---

    @cached_property
    def trivial(self) -> list[dict[str, Any]]:
        """The answers that look at no picture, best first, each with its printed ``name``: what a model must beat."""
        found = [a for a in listed(self.summary.get("trivial")) if isinstance(a, dict) and a.get("metrics")]
        return [{**a, "name": clean((a.get("title") or {}).get(self.text.language) or a.get("id"), 80)} for a in found]

    @property
    def trivial_note(self) -> str:
        """How the trivial answers came about; nothing where there are none."""
        names = self.join([a["name"] for a in self.trivial])
        if self.text.language == "en":
            names = names.lower()
        return self.text("trivial_note", answers=names) if names else ""

    @cached_property
    def baseline(self) -> dict[str, Any] | None:
        """``{facts, auc, low, high}``: what facts of acquisition alone can tell, where the run measured it."""
        found = self.run.get("baseline")
        known = isinstance(found, dict) and finite(found.get("auc")) and split_metric(self.primary)[1] == "auc"
        return found if known else None

    @property
    def baseline_facts(self) -> str:
        """'image size and brightness alone'."""
        key = f"baseline_{self.run.get('kind')}"
        return self.text(
            key if self.text.has(key) and self.run.get("kind") in ("image", "video", "volume") else "baseline_any"
        )

    @property
    def baseline_tells(self) -> bool:
        """Whether acquisition alone is shown to do better than chance: by its permutation, or by its interval where an
        older run has none.
        """
        if self.baseline is None:
            return False
        if finite(self.baseline.get("p")):
            return float(self.baseline["p"]) <= 1 - self.confidence + 1e-9
        return finite(self.baseline.get("low")) and float(self.baseline["low"]) > 0.5

    def thresholds(self, model: dict[str, Any]) -> str:
        """The thresholds of a model: '0.50', or '0.31 to 0.52' where each outer fold has its own."""
        given = model.get("threshold")
        values = [v for v in (given.values() if isinstance(given, dict) else [given]) if finite(v)]
        if not values:
            return ""
        low, high = self.text.number(min(values), "case.auc"), self.text.number(max(values), "case.auc")
        return low if low == high else self.text("threshold_range", low=low, high=high)

    def rule(self, model: dict[str, Any]) -> str:
        """How the thresholds were found: 'youden', 'fixed', 'vote', 'other' or '' (not recorded)."""
        rule = str(model.get("threshold_rule") or "").lower()
        return (
            ""
            if not rule
            else "youden"
            if "youden" in rule
            else "fixed"
            if "fixed" in rule
            else "vote"
            if "vote" in rule
            else "other"
        )

    # --- values case by case ---

    @cached_property
    def cases(self) -> list[dict[str, Any]]:
        return list((self.summary.get("heatmap") or {}).get("cases") or [])

    @cached_property
    def matrix(self) -> np.ndarray:
        """Heat map values in the order of ``order(heatmap.models)``: (models, cases), NaN where not judged."""
        heat = self.summary.get("heatmap") or {}
        rows = dict(zip(heat.get("models") or [], heat.get("values") or []))
        lines = [[v if finite(v) else np.nan for v in rows[k]] for k in self.order(list(rows))]
        return np.array(lines, dtype=float).reshape(len(lines), len(self.cases))

    @property
    def patients(self) -> list[str]:
        return [
            str(c.get("case_id") if self.patients_unknown else c.get("patient_id", c.get("case_id")))
            for c in self.cases
        ]

    @property
    def case_measure(self) -> str:
        """The measure that a case's value is printed like: of the kind of question, else the primary one."""
        return f"case.{self.asked.case or split_metric(self.primary)[1]}"

    @property
    def case_less(self) -> bool:
        """Whether a smaller value of a case is the better one."""
        return self.text.scale(self.case_measure).direction == "lower"

    @property
    def case_unit(self) -> str:
        """The unit of a case's value: several quantities are told in standard deviations of each."""
        unit = clean(self.text.scale(self.case_measure).unit, 20)
        if unit == "target":
            return self.text("unit_sd") if self.several_targets else self.value_unit
        return unit

    @property
    def quantity(self) -> str:
        """A case's value in words."""
        return self.text(self.asked.quantity) if self.asked.quantity else self.text.metric(self.case_measure)

    @property
    def case_word(self) -> str:
        """The key of what stands in front of a case's label: a label, or a reference where labels are numbers."""
        numbers = any(finite(c.get("label")) for c in self.cases)
        return self.asked.label or ("axis_reference" if numbers else "missed_label")

    def label(self, value: Any) -> str:
        """A case's label as printed."""
        if value is None:
            return self.text("none")
        return self.text.number(value) if finite(value) else clean(value, 60)

    # --- models ---

    def detail(self, model: dict[str, Any]) -> str:
        """'ImageNet, fine-tuned'."""
        return self.join(self.text.way(model))

    def state(self, model: dict[str, Any]) -> str:
        """'not run: weights absent' and its kin."""
        state, reason = str(model.get("state") or ""), model.get("reason")
        kind = (
            "state_failed"
            if state.startswith("failed")
            else "not_run"
            if state.startswith("not run") or not state
            else "state_unfinished"
        )
        if not reason and ":" in state:
            reason = state.partition(":")[2].strip()
        return self.text(f"{kind}_because", reason=self.text.say(reason, self.names)) if reason else self.text(kind)

    def metric_names(self) -> list[str]:
        """All measures in the order in which the models hold them, the primary one first."""
        names = [self.primary] if self.judged else []
        for model in self.judged:
            names += [n for n in model["metrics"] if n not in names]
        return names

    @property
    def resamples(self) -> str:
        n = self.run.get("resamples")
        return f"{int(n):,}".replace(",", "\u202f") if finite(n) else self.text("unknown")
