"""From ``summary.json`` to what the page says: orders, sentences, rows. Strings only, no HTML, no drawing.

Numbers that the summary does not hold (a share of missed cases, limits of agreement) get their interval
here, by the same resampling of patients that the statistics use.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property
from typing import Any

import numpy as np

from medgraft.notices import from_json
from medgraft.report.text import Text, clean, finite, split_metric
from medgraft.stats.agreement import patient_interval, weighted_mean, weighted_quantile
from medgraft.stats.caveats import FEW_PATIENTS

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
    """The summary, ordered and put into words of one language."""

    def __init__(self, summary: dict[str, Any], text: Text) -> None:
        self.summary, self.text = summary, text
        self.run: dict[str, Any] = summary.get("run") or {}
        text.learn(self.run.get("measures"))
        self.models: list[dict[str, Any]] = list(summary.get("models") or [])
        self.by_id = {m["id"]: m for m in self.models}
        self.level = str(self.run.get("level") or "case")
        self.confidence = float(self.run["confidence"]) if finite(self.run.get("confidence")) else 0.95
        self.primary = self._primary()
        self.task = str(self.run.get("task") or "classify")

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
        return self.task != "segment" and len(listed(self.run.get("targets"))) > 1

    @property
    def title(self) -> str:
        """The heading of the page: what was asked of the run."""
        pretrained = any(m.get("start") not in (None, "random") for m in self.judged)
        key = (
            "title_one"
            if len(self.judged) == 1
            else "title_transfer"
            if pretrained or not self.judged
            else "title_best"
        )
        return self.text(key, name=clean(self.run.get("name") or "medgraft", 80))

    @property
    def one_part(self) -> bool:
        """Whether there is a single test part, so that nothing was pooled over folds."""
        return count_of(self.run.get("folds")) == 1

    @property
    def lower_is_better(self) -> bool:
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

    @property
    def error_unit(self) -> str:
        """The unit of the heat map's errors: several quantities are told in standard deviations of each."""
        return self.text("unit_sd") if self.several_targets else self.value_unit

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
        return self.text({"regress": "reason_values", "segment": "reason_masks"}.get(self.task, "reason_classes"))

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

    # --- the first screen ---

    def answers(self) -> list[tuple[str, str]]:
        """(question, answer) of the first screen."""
        text, best = self.text, self.best
        if best is None:
            if not self.judged:
                return [(text("q_which"), text("answer_none"))]
            reason = self.reason(self.primary, self.estimate(self.judged[0], self.primary))
            return [(text("q_which"), text("answer_undefined", metric=text.metric(self.primary), reason=reason))]
        answers = []
        phrase, estimate = text.model_phrase(best), self.shown(best, self.primary, "interval_full")
        only = len(self.judged) == 1
        answers.append(
            (
                text("q_which"),
                text(
                    "answer_only" if only else "answer_best",
                    model=phrase,
                    metric=text.metric(self.primary),
                    estimate=estimate,
                ),
            )
        )
        if not only:
            against = self.against(best)
            if against:
                answers.append((text("q_much"), against))
            rank = best.get("rank") or {}
            if finite(rank.get("low")) and finite(rank.get("high")):
                firm = rank["low"] == rank["high"] == 1
                values = {
                    "n": len(self.judged),
                    "low": rank["low"],
                    "high": rank["high"],
                    "confidence": self.confidence_text,
                }
                answers.append((text("q_sure"), text("answer_rank_firm" if firm else "answer_rank", **values)))
        trivial = self.trivial_sentence(best)
        if trivial:
            answers.append((text("q_trivial"), trivial))
        fails = [part for part in (self.weakness(best), self.missed_sentence()) if part]
        if fails:
            answers.append((text("q_fail"), (" " if text.language == "en" else "").join(fails)))
        return answers

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
        p = row.get("p_holm") if finite(row.get("p_holm")) else row.get("p")
        if not finite(p) or not finite(row.get("difference")) or p >= 1 - self.confidence:
            return "not_shown"
        better = row["difference"] < 0 if self.lower_is_better else row["difference"] > 0
        return "shown" if better else "worse"

    def against(self, best: dict[str, Any]) -> str:
        """The best model against the same network from a random start, or else against the second."""
        text = self.text
        others = [m for m in self.judged if m["id"] != best["id"]]
        same = [
            m
            for m in others
            if m.get("model") == best.get("model") and m.get("start") == "random" and best.get("start") != "random"
        ]
        other, name = (same[0], text("against_random")) if same else (others[0], text.model_phrase(others[0]))
        row = self.pair(best["id"], other["id"])
        if row is None or not finite(row.get("difference")):
            return ""
        if text.language == "zh" and name[0].isascii():
            name = f" {name}"  # Latin letters stand off from Chinese
        difference = self.interval(
            row["difference"], row.get("low"), row.get("high"), self.primary, form="interval_plain"
        )
        holm = finite(row.get("p_holm"))
        p = row.get("p_holm") if holm else row.get("p")
        if not finite(p):
            return text("answer_against_no_p", other=name, difference=difference)
        return text(
            "answer_against" if not text.p(p).startswith("<") else "answer_against_less",
            other=name,
            difference=difference,
            p=text.p(p),
            holm=text("after_holm") if holm and len(self.summary.get("pairs") or []) > 1 else "",
            verdict=text(f"verdict_{self.verdict(row)}"),
        )

    # --- the trivial baseline and thresholds ---

    @cached_property
    def baseline(self) -> dict[str, Any] | None:
        """``{facts, auc, low, high}``: what facts of acquisition alone can tell, where the run measured it."""
        found = self.run.get("baseline")
        known = (
            isinstance(found, dict)
            and finite(found.get("auc"))
            and self.task == "classify"
            and split_metric(self.primary)[1] == "auc"
        )
        return found if known else None

    @property
    def baseline_facts(self) -> str:
        """'image size and brightness alone'."""
        key = f"baseline_{self.run.get('kind')}"
        return self.text(
            key if self.text.has(key) and self.run.get("kind") in ("image", "video", "volume") else "baseline_any"
        )

    @property
    def baseline_shown(self) -> str:
        found = self.baseline or {}
        return self.interval(found.get("auc"), found.get("low"), found.get("high"), "case.auc")

    def trivial_sentence(self, best: dict[str, Any]) -> str:
        """What acquisition alone can tell, and whether the best model lies clearly above it (its interval above the
        other's).
        """
        text, found, entry = self.text, self.baseline, self.estimate(best, self.primary)
        if found is None:
            return ""
        estimate = self.interval(found["auc"], found.get("low"), found.get("high"), "case.auc", form="interval_plain")
        parts = [text("baseline_fact", facts=self.baseline_facts, estimate=estimate)]
        if self.baseline_tells:
            parts.append(text("baseline_alarm"))
        if finite(entry.get("low")) and finite(found.get("high")):
            parts.append(text("baseline_beaten" if entry["low"] > found["high"] else "baseline_not_beaten"))
        return (" " if text.language == "en" else "").join(parts)

    @property
    def baseline_tells(self) -> bool:
        """Whether acquisition alone is shown to do better than chance."""
        return self.baseline is not None and finite(self.baseline.get("low")) and float(self.baseline["low"]) > 0.5

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

    def weakness(self, best: dict[str, Any]) -> str:
        """Where the best model fails, in one sentence."""
        text, metrics = self.text, best.get("metrics") or {}
        if self.task == "classify" and self.several_targets:
            return self.worst_target(best)
        if self.task == "classify":
            named = {
                split_metric(k)[1]: k
                for k in reversed(list(metrics))
                if split_metric(k)[0] in ("", self.level) and not split_metric(k)[2]
            }
            if all(
                name in named and finite(metrics[named[name]].get("value")) for name in ("sensitivity", "specificity")
            ):
                positive = self.run.get("positive")
                label = next(iter(positive.values()), "") if isinstance(positive, dict) else positive
                values = {k: self.shown(best, named[k], "interval_plain") for k in ("sensitivity", "specificity")}
                return text(
                    "answer_fail_binary",
                    rule=self.rule_told(best),
                    positive=clean(label or text("fact_positive"), 40),
                    **values,
                )
        ids = self.order((self.summary.get("heatmap") or {}).get("models") or [])
        if best["id"] not in ids or not np.isfinite(self.matrix[ids.index(best["id"])]).any():
            return ""
        line = self.matrix[ids.index(best["id"])]
        if self.task == "classify":
            labels = np.array([str(c.get("label")) for c in self.cases])
            means = {
                str(k): np.nanmean(line[labels == k]) for k in np.unique(labels) if np.isfinite(line[labels == k]).any()
            }
            worst = min(means, key=lambda k: means[k])
            chosen = labels == worst
            found = patient_interval(
                weighted_mean, line[chosen], [p for p, c in zip(self.patients, chosen) if c], self.confidence
            )[0]
            shown = self.interval(
                found.value,
                found.low,
                found.high,
                "case.auc",
                form="interval_full",
                n=text.count("cases", int(chosen.sum())),
            )
            return text("answer_fail_class", label=clean(worst, 40), estimate=shown)
        error = self.task == "regress"
        if error and self.several_targets:
            return self.worst_target(best)
        found = patient_interval(weighted_quantile(0.9 if error else 0.1), line, self.patients, self.confidence)[0]
        shown = self.interval(
            found.value, found.low, found.high, "case.mae" if error else "case.dice", form="interval_plain"
        )
        return text("answer_fail_error" if error else "answer_fail_dice", estimate=shown)

    def rule_told(self, model: dict[str, Any]) -> str:
        """'threshold chosen on inner folds by Youden's index (0.31 to 0.52)'."""
        kind = self.rule(model) or "fixed"
        values = self.thresholds(model) or self.text.number(0.5, "case.auc")
        rule = {"rule": clean(model.get("threshold_rule"), 80)} if kind == "other" else {}
        return self.text(f"rule_{kind}", values=values, **rule)

    def worst_target(self, best: dict[str, Any]) -> str:
        """Of several targets the one on which the best model does worst, by AUC or R2."""
        base = {"classify": "auc", "regress": "r2"}[self.task]
        found = {
            k: e["value"]
            for k, e in best["metrics"].items()
            if split_metric(k)[:2] == (self.level, base) and finite(e.get("value"))
        }
        named = {k: v for k, v in found.items() if split_metric(k)[2]}
        if not named:
            return ""
        worst = min(named, key=lambda k: named[k])
        target, metric = clean(split_metric(worst)[2], 40), self.text.metric(base)
        return self.text(
            "answer_fail_target", target=target, metric=metric, estimate=self.shown(best, worst, "interval_full")
        )

    def missed_sentence(self) -> str:
        """How many cases every model misses, with the interval of the share, and of which label."""
        text = self.text
        if self.task != "classify" or "missed" not in self.summary or not self.cases or len(self.judged) < 2:
            return ""
        missed = {str(m.get("case_id")) for m in self.summary["missed"] or []}
        flags = np.array([str(c.get("case_id")) in missed for c in self.cases], dtype=float)
        if not flags.any():
            # No event among n independent units: the exact upper limit (Clopper and Pearson, Biometrika 1934).
            high = 1 - ((1 - self.confidence) / 2) ** (1 / len(set(self.patients)))
            return text(
                "answer_missed_none",
                high=text.percent(high, 1),
                unit=text(f"unit_{self.unit}"),
                confidence=self.confidence_text,
            )
        share = patient_interval(weighted_mean, flags, self.patients, self.confidence)[0]
        values = {
            "value": text.percent(share.value, 1),
            "low": text.percent(share.low, 1),
            "high": text.percent(share.high, 1),
        }
        shown = text("share_interval", confidence=self.confidence_text, **values)
        if self.several_targets:
            return text("answer_missed_any", count=int(flags.sum()), cases=text.count("cases", len(flags)), share=shown)
        by_label = ""
        labels = Counter(str(c.get("label")) for c in self.cases)
        if 1 < len(labels) <= 4:
            counts = Counter(str(c.get("label")) for c, flag in zip(self.cases, flags) if flag)
            parts = [
                text("answer_missed_label", count=counts[k], n=n, label=clean(k, 40)) for k, n in sorted(labels.items())
            ]
            by_label = text("answer_missed_labels", parts=self.join(parts))
        return text(
            "answer_missed",
            count=int(flags.sum()),
            cases=text.count("cases", len(flags)),
            share=shown,
            by_label=by_label,
        )

    def facts_line(self) -> str:
        counts = {w: self.text.count(w, count_of(self.run.get(k))) for w, k in (("folds", "folds"), ("seeds", "seeds"))}
        return self.text(
            "facts_line",
            patients=self.text.count("patients", self.run.get("n_patients"))
            if not self.patients_unknown
            else self.text("patients_unknown"),
            cases=self.text.count("cases", self.run.get("n_cases")),
            confidence=self.confidence_text,
            **counts,
        )

    # --- tables ---

    def leaderboard(self) -> list[dict[str, Any]]:
        """Rows of the leaderboard: judged models, then the others with their reason."""
        text, rows = self.text, []
        seeds = text.count("seeds", count_of(self.run.get("seeds")))
        for model in self.judged:
            entry, rank = self.estimate(model, self.primary), model.get("rank") or {}
            defined = finite(entry.get("value"))
            ranked = finite(rank.get("low")) and finite(rank.get("high")) and len(self.judged) > 1
            spread = entry.get("seed_sd")
            one = count_of(self.run.get("seeds")) == 1
            rows.append(
                {
                    "id": model["id"],
                    "rank": str(rank["best"]) if defined and finite(rank.get("best")) else "",
                    "rank_interval": text("col_rank_interval", low=rank["low"], high=rank["high"])
                    if defined and ranked
                    else "",
                    "name": text.model_name(model.get("model") or model["id"]),
                    "detail": self.detail(model),
                    "shown": self.shown(model, self.primary),
                    "value": entry.get("value") if defined else None,
                    "low": entry.get("low"),
                    "high": entry.get("high"),
                    "n": self.judged_on(entry),
                    "seed": text("seed_single")
                    if one
                    else text("seed_spread", sd=_spread(spread, text), seeds=seeds)
                    if finite(spread)
                    else text("undefined"),
                    "state": "",
                }
            )
        if self.baseline is not None:
            rows.append(
                {
                    "id": "",
                    "rank": "",
                    "rank_interval": "",
                    "name": text("baseline_name"),
                    "detail": self.baseline_facts,
                    "shown": self.baseline_shown,
                    "value": self.baseline["auc"],
                    "low": self.baseline.get("low"),
                    "high": self.baseline.get("high"),
                    "n": text("baseline_judged"),
                    "seed": "–",
                    "state": "",
                }
            )
        for model in self.not_judged:
            rows.append(
                {
                    "id": model["id"],
                    "name": text.model_name(model.get("model") or model["id"]),
                    "detail": self.detail(model),
                    "state": self.state(model),
                }
            )
        return rows

    def detail(self, model: dict[str, Any]) -> str:
        """'ImageNet, fine-tuned'."""
        parts = [self.text.start_short(model["start"])] if model.get("start") else []
        parts += [self.text.strategy_short(model["strategy"])] if model.get("strategy") else []
        return self.join(parts)

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

    def pairs(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Comparison rows: those that hold the best model, and the rest."""
        text = self.text
        first: list[dict[str, Any]] = []
        rest: list[dict[str, Any]] = []
        place = {m["id"]: i for i, m in enumerate(self.judged)}
        base = split_metric(self.primary)[1]
        for row in self.summary.get("pairs") or []:
            if (
                row.get("a") not in place
                or row.get("b") not in place
                or split_metric(str(row.get("metric") or base))[1] != base
            ):
                continue
            ids = sorted((row["a"], row["b"]), key=lambda k: place[k])
            turned = self.pair(*ids) or row
            superior = turned.get("p_superior")
            made = {
                "order": (place[ids[0]], place[ids[1]]),
                "a": self.names[ids[0]],
                "b": self.names[ids[1]],
                "difference": self.interval(
                    turned.get("difference"), turned.get("low"), turned.get("high"), self.primary
                ),
                "p": text.p(turned.get("p")),
                "p_holm": text.p(turned.get("p_holm")),
                "superior": text.percent(superior) if finite(superior) else text("undefined"),
                "method": method_name(turned.get("method"), text),
                "verdict": text(f"verdict_{self.verdict(turned)}"),
                "shown": self.verdict(turned) != "not_shown",
            }
            (first if place[ids[0]] == 0 else rest).append(made)
        return sorted(first, key=lambda r: r["order"]), sorted(rest, key=lambda r: r["order"])

    # --- how it was made ---

    def methods(self) -> list[str]:
        """Sentences of the Methods draft."""
        text, run = self.text, self.run
        unknown, folds, seeds = self.patients_unknown, count_of(run.get("folds")), count_of(run.get("seeds"))
        asked = run.get("structures") if self.task == "segment" else run.get("targets")
        targets = ", ".join(clean(t, 60) for t in listed(asked)) or text("unknown")
        unit, unit_one = text(f"unit_{self.unit}"), text(f"level_{self.unit.removesuffix('s')}")
        level = text(f"level_{self.level}") if text.has(f"level_{self.level}") else clean(self.level, 20)
        data = {
            "cases": text.count("cases", run.get("n_cases")),
            "task": self.task_name,
            "targets": targets,
            "level": level,
        }
        lines = [
            text("methods_data_no_patients", **data)
            if unknown
            else text("methods_data", patients=text.count("patients", run.get("n_patients")), **data),
            text("methods_model", models=self.names[self.judged[0]["id"]])
            if len(self.judged) == 1
            else text(
                "methods_models",
                n=text.count("models", len(self.judged)),
                models="; ".join(self.names[m["id"]] for m in self.judged) or text("none"),
            ),
        ]
        if folds == 1:
            lines.append(text("methods_one_part", unit=unit, unit_one=unit_one))
        elif folds:
            lines.append(text("methods_folds", unit=unit, unit_one=unit_one, folds=text.count("folds", folds)))
        lines.append(text("methods_selection", seeds=text.count("seeds", seeds) if seeds else text("unknown")))
        lines.append(
            text(
                "methods_metric_one" if self.one_part else "methods_metric",
                metric=text.metric(self.primary),
                level=text.metric_level(self.primary) or text(f"per_{self.level}"),
                confidence=self.confidence_text,
                resamples=self.resamples,
                unit=unit,
            )
        )
        rules = {self.rule(m) for m in self.judged} - {""}
        if "youden" in rules:
            lines.append(text("methods_threshold"))
        elif rules == {"fixed"}:
            lines.append(text("methods_threshold_fixed", values=self.thresholds(self.judged[0])))
        if "vote" in rules:
            voting = [self.names[m["id"]] for m in self.judged if self.rule(m) == "vote"]
            lines.append(text("methods_vote", models=self.join(voting)))
        if self.baseline is not None:
            lines.append(text("baseline_note", facts=self.baseline_facts))
        rows = self.summary.get("pairs") or []
        if len(rows) == 1:
            lines.append(text("methods_pair", methods=method_name(rows[0].get("method"), text)))
        elif rows:
            methods = sorted({method_name(r.get("method"), text) for r in rows})
            lines.append(text("methods_pairs", methods=", ".join(methods), n=len(rows)))
        versions = run.get("versions")
        if isinstance(versions, dict) and versions:
            lines.append(
                text(
                    "methods_software",
                    versions=", ".join(f"{clean(k, 40)} {clean(v, 40)}" for k, v in versions.items()),
                )
            )
        return lines

    @property
    def task_name(self) -> str:
        return self.text(f"task_{self.task}") if self.text.has(f"task_{self.task}") else clean(self.task, 30)

    @property
    def resamples(self) -> str:
        n = self.run.get("resamples")
        return f"{int(n):,}".replace(",", "\u202f") if finite(n) else self.text("unknown")

    def facts(self) -> list[tuple[str, str]]:
        """(name, value) of the run's facts."""
        text, run = self.text, self.run
        classes = run.get("classes")
        if isinstance(classes, dict):
            classes = [
                ", ".join(str(c) for c in listed(v))
                if len(classes) == 1
                else f"{k}: {', '.join(str(c) for c in listed(v))}"
                for k, v in classes.items()
                if v
            ]
        positive = run.get("positive")
        if isinstance(positive, dict):
            positive = ", ".join(str(v) for v in positive.values() if v)
        level = text(f"level_{self.level}") if text.has(f"level_{self.level}") else self.level
        labels = Counter(str(c.get("label")) for c in self.cases)
        rows = [
            ("name", run.get("name")),
            ("task", self.task_name),
            ("targets", ", ".join(str(t) for t in listed(run.get("targets")))),
            ("structures", ", ".join(str(s) for s in listed(run.get("structures")))),
            ("classes", "; ".join(str(c) for c in listed(classes))),
            ("positive", positive),
            ("level", level),
            ("unit", text(f"unit_{self.unit}")),
            (
                "patients",
                text("patients_unknown") if self.patients_unknown else text.count("patients", run.get("n_patients")),
            ),
            ("cases", text.count("cases", run.get("n_cases"))),
            (
                "labels",
                ", ".join(f"{k} {n}" for k, n in sorted(labels.items()))
                if self.task == "classify" and len(labels) <= 12
                else "",
            ),
            ("resamples", self.resamples),
            ("identity", text(f"identity_{run['identity']}") if run.get("identity") in ("code", "keep") else None),
            ("data_hash", run.get("data_hash")),
            ("split_hash", run.get("split_hash")),
        ]
        return [(text(f"fact_{k}"), clean(v, 300)) for k, v in rows if v not in (None, "")]

    def limitations(self) -> list[str]:
        """What the numbers do not say, from the facts of the run."""
        text, run = self.text, self.run
        labels_key = {"regress": "limit_labels_regress", "segment": "limit_labels_segment"}.get(
            self.task, "limit_labels"
        )
        found = [text("limit_one_dataset"), text(labels_key)]
        if self.baseline_tells:
            found.append(text("limit_plain_facts"))
        patients, folds, seeds = run.get("n_patients"), count_of(run.get("folds")), count_of(run.get("seeds"))
        few = run.get("n_cases") if self.patients_unknown else patients
        if self.patients_unknown:
            found.append(text("limit_no_patients"))
        if finite(few) and few < FEW_PATIENTS:
            found.append(text("limit_few", n=text.count(self.unit, few), confidence=self.confidence_text))
        labels = Counter(str(c.get("label")) for c in self.cases)
        if self.task == "classify" and len(labels) > 1 and not self.several_targets:
            rare, number = min(labels.items(), key=lambda item: (item[1], item[0]))
            if number < 30:
                found.append(text("limit_rare", n=text.count("cases", number), label=clean(rare, 40)))
        if seeds == 1:
            found.append(text("limit_one_seed"))
        elif 1 < seeds < 5:
            found.append(text("limit_few_seeds", n=text.count("seeds", seeds)))
        if folds == 1:
            found.append(text("limit_one_fold"))
        elif folds > 1:
            found.append(text("limit_folds", folds=text.count("folds", folds), unit=text(f"unit_{self.unit}")))
        first, rest = self.pairs()
        silent = sum(not r["shown"] for r in first + rest)
        if silent and len(first) + len(rest) == 1:
            found.append(text("limit_not_shown_one"))
        elif silent:
            found.append(text("limit_not_shown", n=silent, total=len(first) + len(rest)))
        if self.not_judged:
            names = "; ".join(f"{self.names[m['id']]} ({self.state(m)})" for m in self.not_judged)
            found.append(text("limit_not_run", n=text.count("models", len(self.not_judged)), models=names))
        looks = Counter(str(look.get("cell")) for look in listed(run.get("looks")) if isinstance(look, dict))
        if any(n > 1 for n in looks.values()):
            found.append(text("limit_looks"))
        found.append(text("limit_clinic"))
        return found

    def glossary(self, registry: dict[str, str]) -> list[tuple[str, str]]:
        """(term, description) of each measure that the page names, then of the other terms."""
        text, rows, seen = self.text, [], set()
        for name in self.metric_names():
            base = split_metric(name)[1]
            if base not in seen:
                seen.add(base)
                rows.append((text.metric(base), text.describe(name, registry)))
        terms = (
            ["interval", "seed"]
            + ["fold"] * (not self.one_part)
            + ["holm"] * (len(self.summary.get("pairs") or []) > 1)
        )
        terms += ["macro"] * any(split_metric(n)[1].startswith("macro_") for n in self.metric_names()) + [
            "threshold"
        ] * any(map(self.rule, self.judged))
        rows += [(text(f"term_{k}"), text(f"about_{k}")) for k in terms]
        return rows


def _spread(value: float, text: Text) -> str:
    """A seed spread; one that is not zero never prints as zero."""
    if value == 0:
        return "0"
    return "<\u00a00.001" if abs(value) < 0.0005 else f"{value:.3f}" if abs(value) < 10 else text.number(value)


def method_name(method: Any, text: Text) -> str:
    """A comparison method as printed."""
    key = f"method_{re.sub(r'[^a-z]+', '_', str(method).lower()).strip('_')}"
    return text(key) if text.has(key) else clean(method, 60) if method else text("unknown")
