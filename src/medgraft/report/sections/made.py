"""How it was made: methods, facts, splits, looks at the test part, recipe."""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

from collections import Counter
from typing import Any

import yaml

from medgraft.files import read_json
from medgraft.report.drawn import Drawn
from medgraft.report.sections.pairs import method_name
from medgraft.report.text import clean, finite, take
from medgraft.report.view import View, count_of, listed, public

STRINGS = take(
    {
        "nav_made": ("How it was made", "制作过程"),
        "col_seed_one": ("seed", "种子"),
        "made_title": ("How it was made", "制作过程"),
        "methods_title": ("Methods, a draft", "方法（草稿）"),
        "methods_data": (
            "{cases} of {patients} were judged ({task}; target: {targets}; labels live on the {level}).",
            "共评估{patients}的 {cases}（任务：{task}；目标：{targets}；标签属于{level}层面）。",
        ),
        "methods_data_no_patients": (
            "{cases} were judged ({task}; target: {targets}; labels live on the {level}). Patients were not identified, so several cases may come from "
            "one patient and intervals may be too narrow.",
            "共评估 {cases}（任务：{task}；目标：{targets}；标签属于{level}层面）。未识别患者身份，同一患者可能有多个病例，置信区间可能偏窄。",
        ),
        "methods_folds": (
            "They were divided by {unit} into {folds}; no {unit_one} stands in two roles.",
            "按{unit}划分为 {folds}；没有任何{unit_one}同时担任两个角色。",
        ),
        "methods_one_part": (
            "One part of the {unit} was held out as the test part; no {unit_one} stands in two roles.",
            "留出一部分{unit}作为测试部分；没有任何{unit_one}同时担任两个角色。",
        ),
        "methods_selection": (
            "Within each outer training part, settings were chosen on inner parts alone; the chosen setting was trained again on the whole training part and "
            "looked at its test part once. Each training was repeated with {seeds}.",
            "在每个外层训练部分内，仅用内层部分选择设置；选定的设置在整个训练部分上重新训练，并只查看一次测试部分。每次训练以 {seeds} 重复。",
        ),
        "methods_metric": (
            "The primary measure was {metric} {level}, over all outer test folds and averaged over the seeds{ranked}, with {confidence} intervals "
            "over {unit}.",
            "主要指标为 {metric}（{level}），涵盖所有外层测试折并对种子取平均{ranked}；附 {confidence} 置信区间（以{unit}计）。",
        ),
        "methods_metric_one": (
            "The primary measure was {metric} {level}, averaged over the seeds, with {confidence} intervals over {unit}.",
            "主要指标为 {metric}（{level}），对种子取平均；附 {confidence} 置信区间（以{unit}计）。",
        ),
        "methods_threshold": (
            "Thresholds were chosen on the inner parts by Youden's index, one for each outer fold.",
            "阈值按约登指数在内层部分选定，每个外层折一个。",
        ),
        "methods_threshold_fixed": ("The threshold was fixed at {values}.", "阈值固定为 {values}。"),
        "methods_vote": (
            "A case is called by the majority vote of its windows for {models}; the AUC takes their mean probability.",
            "对 {models}，病例由其各窗口多数投票判定；AUC 取平均概率。",
        ),
        "methods_pair": ("Models were compared by {methods}.", "模型间比较采用 {methods}。"),
        "methods_pairs": (
            "Models were compared by {methods}; p values were corrected over the {n} comparisons taken together (step-down).",
            "模型间比较采用 {methods}；p 值按 {n} 次比较的联合分布逐步校正。",
        ),
        "methods_software": ("Software: {versions}.", "软件：{versions}。"),
        "methods_model": ("One model was judged: {models}.", "评估了一个模型：{models}。"),
        "methods_models": ("{n} were compared: {models}.", "比较了 {n}：{models}。"),
        "facts_title": ("Facts of the run", "运行概况"),
        "fact_name": ("Run", "运行"),
        "fact_dataset": ("Data set", "数据集"),
        "fact_task": ("Task", "任务"),
        "fact_targets": ("Targets", "目标"),
        "fact_structures": ("Structures", "结构"),
        "fact_classes": ("Classes", "类别"),
        "fact_level": ("Level of the labels", "标签层面"),
        "fact_unit": ("Resampled unit", "重抽样单位"),
        "fact_cases": ("Cases", "病例"),
        "fact_patients": ("Patients", "患者"),
        "fact_labels": ("Cases by label", "各标签病例数"),
        "fact_resamples": ("Bootstrap resamples", "自助重抽样次数"),
        "fact_identity": ("Names of patients and cases", "患者与病例的名称"),
        "identity_code": ("keyed codes", "密钥编码"),
        "identity_keep": ("as in the source, declared public", "与来源一致（已声明为公开数据）"),
        "fact_data_hash": ("Hash of the data", "数据哈希"),
        "fact_split_hash": ("Hash of the split", "划分哈希"),
        "splits_title": ("Splits", "数据划分"),
        "splits_note": ("Number of {unit} in each role of each outer fold.", "每个外层折中各角色的{unit}数量。"),
        "splits_absent": ("No table of splits lies beside this report.", "本报告旁没有划分表。"),
        "col_fold": ("Outer fold", "外层折"),
        "role_train": ("Training and selection", "训练与选择"),
        "role_test": ("Test", "测试"),
        "role_overlap": ("In both", "同属二者"),
        "looks_title": ("Looks at the test part", "查看测试部分的记录"),
        "looks_note": (
            "{n} looked at a test part, each once. Every look is listed.",
            "{n}查看过测试部分，每次训练仅一次。每次查看均列出。",
        ),
        "looks_note_more": (
            "{n} looked at a test part, some more than once. Every look is listed.",
            "{n}查看过测试部分，其中有的不止一次。每次查看均列出。",
        ),
        "looks_open": ("All looks", "全部查看记录"),
        "recipe_open": ("The whole recipe", "完整配方"),
        "looks_none": ("No look at the test part is on record.", "没有查看测试部分的记录。"),
        "count_trainings": ("{n} trainings", "{n} 次训练"),
        "count_trainings_one": ("1 training", "1 次训练"),
        "col_cell": ("Training", "训练"),
        "col_time": ("Time", "时间"),
        "recipe_title": ("Recipe", "配方"),
    }
)


def make(view: View, drawn: Drawn) -> dict[str, Any]:
    """Everything of the section."""
    recipe = view.run.get("recipe")
    told = yaml.safe_dump(public(recipe), allow_unicode=True, sort_keys=False, width=100).strip() if recipe else ""
    return {
        "nav": [("made", view.text("nav_made"))],
        "methods": methods(view),
        "facts": facts(view),
        "splits": splits(view),
        "split_unit": view.text(f"unit_{view.unit}"),
        "looks": looks(view),
        "recipe": told,
    }


def methods(view: View) -> list[str]:
    """Sentences of the Methods draft."""
    return [*_judged(view), *_divided(view), *_measured(view), *_compared(view), *_software(view)]


def _judged(view: View) -> list[str]:
    text, run = view.text, view.run
    data = {
        "cases": text.count("cases", run.get("n_cases")),
        "task": task_name(view),
        "targets": ", ".join(clean(t, 60) for t in listed(run.get(view.asked.asked))) or text("unknown"),
        "level": text(f"level_{view.level}") if text.has(f"level_{view.level}") else clean(view.level, 20),
    }
    models = [view.names[m["id"]] for m in view.judged]
    return [
        text("methods_data_no_patients", **data)
        if view.patients_unknown
        else text("methods_data", patients=text.count("patients", run.get("n_patients")), **data),
        text("methods_model", models=models[0])
        if len(models) == 1
        else text("methods_models", n=text.count("models", len(models)), models="; ".join(models) or text("none")),
    ]


def _divided(view: View) -> list[str]:
    text, lines = view.text, []
    folds, seeds = count_of(view.run.get("folds")), count_of(view.run.get("seeds"))
    units = {"unit": text(f"unit_{view.unit}"), "unit_one": text(f"level_{view.unit.removesuffix('s')}")}
    if folds == 1:
        lines.append(text("methods_one_part", **units))
    elif folds:
        lines.append(text("methods_folds", folds=text.count("folds", folds), **units))
    return [*lines, text("methods_selection", seeds=text.count("seeds", seeds) if seeds else text("unknown"))]


def _measured(view: View) -> list[str]:
    text = view.text
    lines = [
        text(
            "methods_metric_one" if view.one_part else "methods_metric",
            metric=text.metric(view.primary),
            level=text.metric_level(view.primary) or text(f"per_{view.level}"),
            confidence=view.confidence_text,
            ranked=view.ranked,
            unit=text(f"unit_{view.unit}"),
        )
    ]
    rules = {view.rule(m) for m in view.judged} - {""}
    if "youden" in rules:
        lines.append(text("methods_threshold"))
    elif rules == {"fixed"}:
        lines.append(text("methods_threshold_fixed", values=view.thresholds(view.judged[0])))
    if "vote" in rules:
        voting = [view.names[m["id"]] for m in view.judged if view.rule(m) == "vote"]
        lines.append(text("methods_vote", models=view.join(voting)))
    if view.trivial:
        lines.append(view.trivial_note)
    if view.baseline is not None:
        lines.append(text("baseline_note", facts=view.baseline_facts))
    return lines


def _compared(view: View) -> list[str]:
    rows = view.summary.get("pairs") or []
    if not rows:
        return []
    names = ", ".join(sorted({method_name(r.get("method"), view.text) for r in rows}))
    if len(rows) == 1:
        return [view.text("methods_pair", methods=names)]
    return [view.text("methods_pairs", methods=names, n=len(rows))]


def _software(view: View) -> list[str]:
    versions = view.run.get("versions")
    if not isinstance(versions, dict) or not versions:
        return []
    told = ", ".join(f"{clean(k, 40)} {clean(v, 40)}" for k, v in versions.items())
    return [view.text("methods_software", versions=told)]


def task_name(view: View) -> str:
    """The task in words; one that the page does not know as the run writes it."""
    return view.text(view.asked.name) if view.asked.name else clean(view.run.get("task"), 30)


def facts(view: View) -> list[tuple[str, str]]:
    """(name, value) of the run's facts."""
    text, run = view.text, view.run
    positive = run.get("positive")
    if isinstance(positive, dict):
        positive = ", ".join(str(v) for v in positive.values() if v)
    dataset = view.dataset.info.get("name") if view.dataset is not None else None
    rows = [
        ("name", run.get("name")),
        ("dataset", clean(dataset, 120) if dataset else None),
        ("task", task_name(view)),
        ("targets", ", ".join(str(t) for t in listed(run.get("targets")))),
        ("structures", ", ".join(str(s) for s in listed(run.get("structures")))),
        ("classes", _classes(run.get("classes"))),
        ("positive", positive),
        ("level", text(f"level_{view.level}") if text.has(f"level_{view.level}") else view.level),
        ("unit", text(f"unit_{view.unit}")),
        (
            "patients",
            text("patients_unknown") if view.patients_unknown else text.count("patients", run.get("n_patients")),
        ),
        ("cases", text.count("cases", run.get("n_cases"))),
        ("labels", _labels(view)),
        ("resamples", view.resamples),
        ("identity", text(f"identity_{run['identity']}") if run.get("identity") in ("code", "keep") else None),
        ("data_hash", run.get("data_hash")),
        ("split_hash", run.get("split_hash")),
    ]
    return [(text(f"fact_{k}"), clean(v, 300)) for k, v in rows if v not in (None, "")]


def _classes(classes: Any) -> str:
    """'no, yes', or with its target in front where there are several."""
    if isinstance(classes, dict):
        told = {k: ", ".join(str(c) for c in listed(v)) for k, v in classes.items() if v}
        classes = [v if len(classes) == 1 else f"{k}: {v}" for k, v in told.items()]
    return "; ".join(str(c) for c in listed(classes))


def _labels(view: View) -> str:
    """Cases of each label, where cases have classes and these can be told."""
    labels = Counter(str(c.get("label")) for c in view.cases)
    few = view.asked.classes and len(labels) <= 12
    return ", ".join(f"{k} {n}" for k, n in sorted(labels.items())) if few else ""


def splits(view: View) -> list[dict[str, int]]:
    """Patients per role of each outer fold: ``{fold, train, test, both}``."""
    path = view.folder / "splits.json" if view.folder is not None else None
    found = read_json(path) if path is not None and path.is_file() else view.run.get("splits")
    rows = found.get("rows") if isinstance(found, dict) else found
    members: dict[int, dict[str, set[str]]] = {}
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict):
            outer, patient, role = row.get("outer"), row.get("patient_id"), row.get("role")
        elif isinstance(row, (list, tuple)) and len(row) == 4:
            outer, _, patient, role = row
        else:
            continue
        if finite(outer):
            members.setdefault(int(outer), {"train": set(), "test": set()})["test" if role == "test" else "train"].add(
                str(patient)
            )
    return [
        {"fold": fold + 1, "train": len(r["train"]), "test": len(r["test"]), "both": len(r["train"] & r["test"])}
        for fold, r in sorted(members.items())
    ]


def looks(view: View) -> dict[str, Any]:
    """Every look at a test part that is on record."""
    text, rows = view.text, []
    found = [look for look in listed(view.run.get("looks")) if isinstance(look, dict)]
    for look in found:
        where = f" · {text('col_fold')} {int(look['outer']) + 1}" if finite(look.get("outer")) else ""
        seed = f" · {text('col_seed_one')} {look['seed']}" if finite(look.get("seed")) else ""
        arm = f"{view.names.get(str(look['arm']), clean(look['arm'], 100))}{where}{seed} · " if look.get("arm") else ""
        rows.append({"cell": f"{arm}{clean(look.get('cell'), 60)}", "time": clean(look.get("time"), 40)})
    cells = {str(look.get("cell")) for look in found}
    key = "looks_note" if len(cells) == len(found) else "looks_note_more"
    note = text(key, n=text.count("trainings", len(cells))) if found else text("looks_none")
    return {"note": note, "rows": rows}
