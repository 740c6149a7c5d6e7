"""The first screen: what was asked, which model, by how much, how sure, and for whom it fails."""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from medgraft.report.drawn import Drawn
from medgraft.report.text import clean, finite, split_metric, take
from medgraft.report.view import View, count_of
from medgraft.stats.agreement import patient_interval, weighted_mean, weighted_quantile

STRINGS = take(
    {
        "title_transfer": ("{name}: which model transfers best", "{name}：哪个模型迁移效果最好"),
        "title_best": ("{name}: which model does best", "{name}：哪个模型表现最好"),
        "title_one": ("{name}: how well one model does", "{name}：单个模型的表现"),
        "kicker": ("Model comparison report", "模型比较报告"),
        "created": ("Made {time}", "生成于 {time}"),
        "facts_line": (
            "{patients} · {cases} · {folds} · {seeds} · {confidence} intervals",
            "{patients} · {cases} · {folds} · {seeds} · {confidence} 置信区间",
        ),
        "answer_best": (
            "{model} ranks first: {metric} {estimate}.",
            "{model}排名第一：{metric} {estimate}。",
        ),
        "answer_only": (
            "{model} is the only model judged: {metric} {estimate}. Nothing stands beside it, so this says how good, not how much better.",
            "{model}是唯一受评的模型：{metric} {estimate}。没有可比对象，因此只能说明好到什么程度，不能说明优于谁。",
        ),
        "answer_none": ("No model was judged, so there is no ranking.", "没有模型受评，因此没有排名。"),
        "answer_undefined": (
            "No model can be ranked: {metric} is not defined for any of them ({reason}).",
            "无法排名：所有模型的 {metric} 均无定义（{reason}）。",
        ),
        "answer_rank": (
            "Its place among the {n} models is itself uncertain: {low} to {high} ({confidence} rank interval).",
            "它在 {n} 个模型中的名次本身也不确定：第 {low} 至第 {high} 名（{confidence} 名次区间）。",
        ),
        "answer_rank_firm": (
            "It holds first place among the {n} models throughout the {confidence} rank interval.",
            "在 {confidence} 名次区间内，它始终在 {n} 个模型中排名第一。",
        ),
        "against_random": ("the same network from a random start", "随机初始化的同一网络"),
        "answer_against": (
            "Against {other}: difference {difference}, p = {p}{holm}: {verdict}.",
            "与{other}相比：差值 {difference}，p = {p}{holm}：{verdict}。",
        ),
        "answer_against_less": (
            "Against {other}: difference {difference}, p {p}{holm}: {verdict}.",
            "与{other}相比：差值 {difference}，p {p}{holm}：{verdict}。",
        ),
        "answer_against_no_p": (
            "Against {other}: difference {difference}; no p value is defined, so no difference is shown.",
            "与{other}相比：差值 {difference}；p 值无定义，未能证明存在差异。",
        ),
        "answer_luck": (
            "The best of {n} is picked partly by luck: on new patients of the same kind expect {metric} {estimate}.",
            "{n} 个中的最佳者部分出于运气：在同类新患者上预期 {metric} 为 {estimate}。",
        ),
        "after_holm": (" (corrected)", "（校正后）"),
        "answer_fail_binary": (
            "With the {rule}, it finds {sensitivity} of the {positive} cases (sensitivity) and clears {specificity} of the others (specificity).",
            "采用{rule}时，它能检出 {positive} 病例中的 {sensitivity}（灵敏度），并正确排除其余病例中的 {specificity}（特异度）。",
        ),
        "answer_fail_target": (
            "It does worst on {target}: {metric} {estimate}.",
            "它在 {target} 上表现最差：{metric} {estimate}。",
        ),
        "answer_missed_any": (
            "On {count} of {cases} every model gets the same target wrong ({share}).",
            "{cases}中有 {count} 个病例，所有模型都在同一目标上判错（{share}）。",
        ),
        "rule_youden": (
            "threshold chosen on inner folds by Youden's index ({values})",
            "按约登指数在内层折上选定的阈值（{values}）",
        ),
        "rule_fixed": ("threshold fixed at {values}", "固定阈值 {values}"),
        "rule_vote": ("majority vote of its windows, each at {values}", "各窗口以 {values} 为界投票，多数决定"),
        "rule_other": ("threshold by the rule “{rule}” ({values})", "按规则“{rule}”得到的阈值（{values}）"),
        "q_trivial": ("Beyond the obvious", "是否超越表面信息"),
        "trivial_fact": (
            "Without looking at any picture ({answer}) one gets {metric} {estimate}.",
            "不看任何图像（{answer}）即可得到 {metric} {estimate}。",
        ),
        "trivial_beaten": (
            "The best model is clearly better: difference {difference}.",
            "最佳模型明显更好：差值 {difference}。",
        ),
        "trivial_not_beaten": (
            "The best model is not clearly better: difference {difference}.",
            "最佳模型并未明显更好：差值 {difference}。",
        ),
        "baseline_fact": (
            "A model that sees {facts} reaches AUC {estimate}.",
            "{facts}的模型即可达到 AUC {estimate}。",
        ),
        "baseline_beaten": (
            "The best model lies clearly above that: the two intervals do not overlap.",
            "最佳模型明显高于此值：两个区间不重叠。",
        ),
        "baseline_not_beaten": (
            "The best model does not clearly beat that: the two intervals overlap, so these data do not show that it reads more than that.",
            "最佳模型并未明显优于此值：两个区间重叠，现有数据未能证明它读出了更多信息。",
        ),
        "baseline_alarm": (
            "That is above chance: part of any score here may rest on facts as plain as these.",
            "这已高于随机水平：此处任何得分都可能部分依赖于这类表面信息。",
        ),
        "baseline_alarm_p": (
            "That is above chance (p = {p}): part of any score here may rest on facts as plain as these.",
            "这已高于随机水平（p = {p}）：此处任何得分都可能部分依赖于这类表面信息。",
        ),
        "baseline_chance": (
            "That is no better than chance (p = {p}).",
            "这并不优于随机水平（p = {p}）。",
        ),
        "answer_fail_class": (
            "It is least sure on {label}: the true class gets a mean probability of {estimate}.",
            "它对 {label} 最没有把握：真实类别的平均预测概率为 {estimate}。",
        ),
        "answer_fail_error": (
            "In the worst tenth of the cases it is off by more than {estimate}.",
            "在误差最大的十分之一病例中，误差超过 {estimate}。",
        ),
        "answer_fail_dice": (
            "In the worst tenth of the cases Dice is below {estimate}.",
            "在最差的十分之一病例中，Dice 低于 {estimate}。",
        ),
        "answer_missed": (
            "Every model misses {count} of {cases} ({share}){by_label}.",
            "{cases}中有 {count} 个被所有模型漏判（{share}）{by_label}。",
        ),
        "answer_missed_labels": (": {parts}", "：{parts}"),
        "answer_missed_label": ("{count} of {n} {label}", "{label} {n} 例中 {count} 例"),
        "answer_missed_none": (
            "No case is missed by every model (up to {high} of the {unit} could still be, at {confidence}).",
            "没有病例被所有模型漏判（在 {confidence} 置信水平下，仍可能有至多 {high} 的{unit}如此）。",
        ),
        "share_interval": (
            "{value}, {confidence} interval {low} to {high}",
            "{value}，{confidence} 置信区间 {low} 至 {high}",
        ),
        "q_which": ("Which model", "哪个模型"),
        "q_much": ("By how much", "好多少"),
        "q_sure": ("How sure", "把握多大"),
        "q_fail": ("For whom does it fail", "对谁失效"),
        "answer_fail_above": (
            "In the worst tenth of the cases {metric} is above {estimate}.",
            "在最差的十分之一病例中，{metric} 高于 {estimate}。",
        ),
        "answer_fail_below": (
            "In the worst tenth of the cases {metric} is below {estimate}.",
            "在最差的十分之一病例中，{metric} 低于 {estimate}。",
        ),
    }
)


def make(view: View, drawn: Drawn) -> dict[str, Any]:
    """Heading, warnings, and (question, answer) of the first screen."""
    created = view.run.get("created")
    return {
        "nav": [],
        "kicker": view.text("kicker"),
        "title": title(view),
        "facts_line": facts_line(view),
        "created": view.text("created", time=clean(created, 40)) if created else "",
        "warnings": view.warnings,
        "answers": answers(view),
    }


def title(view: View) -> str:
    """The heading of the page: what was asked of the run."""
    pretrained = any(m.get("start") not in (None, "random") for m in view.judged)
    key = "title_one" if len(view.judged) == 1 else "title_transfer" if pretrained or not view.judged else "title_best"
    return view.text(key, name=clean(view.run.get("name") or "medgraft", 80))


def facts_line(view: View) -> str:
    """Patients, cases, folds, seeds and confidence, in one line."""
    text, run = view.text, view.run
    return text(
        "facts_line",
        patients=text("patients_unknown") if view.patients_unknown else text.count("patients", run.get("n_patients")),
        cases=text.count("cases", run.get("n_cases")),
        confidence=view.confidence_text,
        **{what: text.count(what, count_of(run.get(what))) for what in ("folds", "seeds")},
    )


def answers(view: View) -> list[tuple[str, str]]:
    """(question, answer) of the first screen."""
    text, best = view.text, view.best
    if best is None:
        if not view.judged:
            return [(text("q_which"), text("answer_none"))]
        reason = view.reason(view.primary, view.estimate(view.judged[0], view.primary))
        return [(text("q_which"), text("answer_undefined", metric=text.metric(view.primary), reason=reason))]
    only = len(view.judged) == 1
    which = text(
        "answer_only" if only else "answer_best",
        model=text.model_phrase(best),
        metric=text.metric(view.primary),
        estimate=view.shown(best, view.primary, "interval_full"),
    )
    gap = " " if text.language == "en" else ""
    found = [
        ("q_which", which),
        ("q_much", "" if only else against(view, best)),
        ("q_sure", "" if only else how_sure(view, best)),
        ("q_trivial", beyond_the_obvious(view, best)),
        ("q_fail", gap.join(part for part in (weakness(view, best), missed(view)) if part)),
    ]
    return [(text(question), answer) for question, answer in found if answer]


def against(view: View, best: dict[str, Any]) -> str:
    """The best model against the same network from a random start, or else against the second."""
    text = view.text
    others = [m for m in view.judged if m["id"] != best["id"]]
    same = [
        m
        for m in others
        if m.get("model") == best.get("model") and m.get("start") == "random" and best.get("start") != "random"
    ]
    other, name = (same[0], text("against_random")) if same else (others[0], text.model_phrase(others[0]))
    row = view.pair(best["id"], other["id"])
    if row is None or not finite(row.get("difference")):
        return ""
    if text.language == "zh" and name[0].isascii():
        name = f" {name}"  # Latin letters stand off from Chinese
    difference = view.interval(row["difference"], row.get("low"), row.get("high"), view.primary, form="interval_plain")
    holm = finite(row.get("p_adjusted"))
    p = row.get("p_adjusted") if holm else row.get("p")
    if not finite(p):
        return text("answer_against_no_p", other=name, difference=difference)
    return text(
        "answer_against" if not text.p(p).startswith("<") else "answer_against_less",
        other=name,
        difference=difference,
        p=text.p(p),
        holm=text("after_holm") if holm and len(view.summary.get("pairs") or []) > 1 else "",
        verdict=text(f"verdict_{view.verdict(row)}"),
    )


def how_sure(view: View, best: dict[str, Any]) -> str:
    """The interval of the best model's rank."""
    rank = best.get("rank") or {}
    if not (finite(rank.get("low")) and finite(rank.get("high"))):
        return ""
    place = view.text(
        "answer_rank_firm" if rank["low"] == rank["high"] == 1 else "answer_rank",
        n=len(view.judged),
        low=rank["low"],
        high=rank["high"],
        confidence=view.confidence_text,
    )
    return f"{place}{' ' if view.text.language == 'en' else ''}{luck(view, best)}".strip()


def luck(view: View, best: dict[str, Any]) -> str:
    """What to expect of the best model once the luck of having been picked is taken off; none if little."""
    won = view.summary.get("winner") or {}
    known = won.get("id") == best["id"] and all(finite(won.get(k)) for k in ("value", "expected", "low", "high"))
    if not known or abs(won["optimism"]) < 0.05 * (won["high"] - won["low"]):
        return ""
    bounds = (won["expected"], won["low"], won["high"])
    estimate = view.interval(*bounds, view.primary, form="interval_plain")
    return view.text("answer_luck", n=len(view.judged), metric=view.text.metric(view.primary), estimate=estimate)


def beyond_the_obvious(view: View, best: dict[str, Any]) -> str:
    """What can be told without looking, and by acquisition alone, and whether the best model lies clearly above."""
    gap = " " if view.text.language == "en" else ""
    return gap.join(part for part in (without_looking(view, best), by_acquisition(view, best)) if part)


def without_looking(view: View, best: dict[str, Any]) -> str:
    """The trivial answer that the best model was held against, and its lead."""
    text, lead = view.text, best.get("beyond") or {}
    answer = next((a for a in view.trivial if a["id"] == lead.get("id")), None)
    if answer is None:
        return ""
    told = {"answer": answer["name"][:1].lower() + answer["name"][1:], "metric": text.metric(view.primary)}
    parts = [text("trivial_fact", estimate=view.shown(answer, view.primary), **told)]
    if finite(lead.get("difference")):
        bounds = (lead["difference"], lead.get("low"), lead.get("high"))
        difference = view.interval(*bounds, view.primary)
        parts.append(text("trivial_beaten" if lead.get("shown") else "trivial_not_beaten", difference=difference))
    return (" " if text.language == "en" else "").join(parts)


def by_acquisition(view: View, best: dict[str, Any]) -> str:
    """What acquisition alone can tell, whether that is more than chance, and whether the best model lies clearly above
    it (its interval above the other's).
    """
    text, found, entry = view.text, view.baseline, view.estimate(best, view.primary)
    if found is None:
        return ""
    estimate = view.interval(found["auc"], found.get("low"), found.get("high"), "case.auc", form="interval_plain")
    parts = [text("baseline_fact", facts=view.baseline_facts, estimate=estimate)]
    if finite(found.get("p")):
        parts.append(text("baseline_alarm_p" if view.baseline_tells else "baseline_chance", p=text.p(found["p"])))
    elif view.baseline_tells:
        parts.append(text("baseline_alarm"))
    if finite(entry.get("low")) and finite(found.get("high")):
        parts.append(text("baseline_beaten" if entry["low"] > found["high"] else "baseline_not_beaten"))
    return (" " if text.language == "en" else "").join(parts)


# --- for whom it fails ---


def weakness(view: View, best: dict[str, Any]) -> str:
    """Where the best model fails, in one sentence."""
    if view.several_targets:
        return worst_target(view, best)
    return (two_classes(view, best) or least_sure(view, best)) if view.asked.classes else worst_tenth(view, best)


def two_classes(view: View, best: dict[str, Any]) -> str:
    """Sensitivity and specificity at the model's threshold, where the run took them."""
    metrics = best.get("metrics") or {}
    named = {
        split_metric(k)[1]: k
        for k in reversed(list(metrics))
        if split_metric(k)[0] in ("", view.level) and not split_metric(k)[2]
    }
    both = ("sensitivity", "specificity")
    if not all(name in named and finite(metrics[named[name]].get("value")) for name in both):
        return ""
    positive = view.run.get("positive")
    label = next(iter(positive.values()), "") if isinstance(positive, dict) else positive
    return view.text(
        "answer_fail_binary",
        rule=rule_told(view, best),
        positive=clean(label or view.text("fact_positive"), 40),
        **{name: view.shown(best, named[name], "interval_plain") for name in both},
    )


def rule_told(view: View, model: dict[str, Any]) -> str:
    """'threshold chosen on inner folds by Youden's index (0.31 to 0.52)'."""
    kind = view.rule(model) or "fixed"
    values = view.thresholds(model) or view.text.number(0.5, "case.auc")
    rule = {"rule": clean(model.get("threshold_rule"), 80)} if kind == "other" else {}
    return view.text(f"rule_{kind}", values=values, **rule)


def _line(view: View, best: dict[str, Any]) -> np.ndarray | None:
    """The best model's value on each case (n,); None where no case has one."""
    ids = view.order((view.summary.get("heatmap") or {}).get("models") or [])
    line = view.matrix[ids.index(best["id"])] if best["id"] in ids else np.array([])
    return line if np.isfinite(line).any() else None


def least_sure(view: View, best: dict[str, Any]) -> str:
    """The class whose cases get the lowest probability."""
    text, line = view.text, _line(view, best)
    if line is None:
        return ""
    labels = np.array([str(c.get("label")) for c in view.cases])
    means = {str(k): np.nanmean(line[labels == k]) for k in np.unique(labels) if np.isfinite(line[labels == k]).any()}
    worst = min(means, key=lambda k: means[k])
    chosen = labels == worst
    patients = [p for p, c in zip(view.patients, chosen) if c]
    found = patient_interval(weighted_mean, line[chosen], patients, view.confidence)[0]
    n = text.count("cases", int(chosen.sum()))
    shown = view.interval(found.value, found.low, found.high, view.case_measure, form="interval_full", n=n)
    return text("answer_fail_class", label=clean(worst, 40), estimate=shown)


def worst_tenth(view: View, best: dict[str, Any]) -> str:
    """The value beyond which the worst tenth of the cases lies."""
    line = _line(view, best)
    if line is None:
        return ""
    share = 0.9 if view.case_less else 0.1
    found = patient_interval(weighted_quantile(share), line, view.patients, view.confidence)[0]
    shown = view.interval(found.value, found.low, found.high, view.case_measure, form="interval_plain")
    if view.asked.tenth:
        return view.text(view.asked.tenth, estimate=shown)
    key = "answer_fail_above" if view.case_less else "answer_fail_below"
    return view.text(key, metric=view.text.metric(view.case_measure), estimate=shown)


def worst_target(view: View, best: dict[str, Any]) -> str:
    """Of several targets the one on which the best model does worst."""
    base = view.asked.each
    found = {
        k: e["value"]
        for k, e in best["metrics"].items()
        if split_metric(k)[:2] == (view.level, base) and split_metric(k)[2] and finite(e.get("value"))
    }
    if not found:
        return ""
    worst = min(found, key=lambda k: found[k])
    target, metric = clean(split_metric(worst)[2], 40), view.text.metric(base)
    estimate = view.shown(best, worst, "interval_full")
    return view.text("answer_fail_target", target=target, metric=metric, estimate=estimate)


def missed(view: View) -> str:
    """How many cases every model misses, with the interval of the share, and of which label."""
    text = view.text
    if not view.asked.classes or "missed" not in view.summary or not view.cases or len(view.judged) < 2:
        return ""
    lost = {str(m.get("case_id")) for m in view.summary["missed"] or []}
    flags = np.array([str(c.get("case_id")) in lost for c in view.cases], dtype=float)
    if not flags.any():
        # No event among n independent units: the exact upper limit (Clopper and Pearson, Biometrika 1934).
        high = 1 - ((1 - view.confidence) / 2) ** (1 / len(set(view.patients)))
        return text(
            "answer_missed_none",
            high=text.percent(high, 1),
            unit=text(f"unit_{view.unit}"),
            confidence=view.confidence_text,
        )
    share = patient_interval(weighted_mean, flags, view.patients, view.confidence)[0]
    values = {k: text.percent(getattr(share, k), 1) for k in ("value", "low", "high")}
    shown = text("share_interval", confidence=view.confidence_text, **values)
    told = {"count": int(flags.sum()), "cases": text.count("cases", len(flags)), "share": shown}
    if view.several_targets:
        return text("answer_missed_any", **told)
    return text("answer_missed", by_label=_by_label(view, flags), **told)


def _by_label(view: View, flags: np.ndarray) -> str:
    """': 1 of 20 no, 1 of 20 yes'; empty where there are too many labels to tell."""
    text, labels = view.text, Counter(str(c.get("label")) for c in view.cases)
    if not 1 < len(labels) <= 4:
        return ""
    counts = Counter(str(c.get("label")) for c, flag in zip(view.cases, flags) if flag)
    parts = [text("answer_missed_label", count=counts[k], n=n, label=clean(k, 40)) for k, n in sorted(labels.items())]
    return text("answer_missed_labels", parts=view.join(parts))
