"""The flow of cases: from what was found to what was judged, as a figure and as a table."""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medgraft.files import read_json
from medgraft.report import diagram
from medgraft.report.diagram import Box, Step
from medgraft.report.drawn import Drawn
from medgraft.report.text import clean, finite, take
from medgraft.report.view import View, listed

REASONS = 5  # that are drawn; the table lists as many

STRINGS = take(
    {
        "nav_flow": ("Flow of cases", "病例流程"),
        "flow_title": ("Flow of cases", "病例流程"),
        "flow_note": (
            "From what was found to what was judged. What leaves the flow stands in a dashed box, and what stays and what leaves add up; what is trained on stands in a blue box.",
            "从找到的检查到最终受评的病例。虚线框为退出流程者，留下者与退出者之和等于上一步；蓝色框为用于训练者。",
        ),
        "flow_absent": (
            "The flow of cases is not on record for this run, so it is not drawn.",
            "本次运行没有病例流程的记录，因此不绘制流程图。",
        ),
        "flow_older": (
            "How many studies were found and refused is not on record for this data set; another scan counts them.",
            "该数据集没有找到与拒绝数量的记录；重新扫描即可统计。",
        ),
        "flow_alt": (
            "Flow of cases: {told}. The table below holds every number.",
            "病例流程：{told}。下表列出全部数字。",
        ),
        "flow_table": ("The flow as a table", "以表格显示流程"),
        "flow_col_step": ("Step", "步骤"),
        "flow_col_parts": ("Of which, or why", "其中或原因"),
        "flow_source_train": ("Training set {name}: {what}", "训练集 {name}：{what}"),
        "flow_source_test": ("External set {name}: {what}", "外部集 {name}：{what}"),
        "flow_found": ("{n} studies or files found", "找到 {n} 个检查或文件"),
        "flow_found_one": ("1 study or file found", "找到 1 个检查或文件"),
        "flow_refused": ("{n} refused", "拒绝 {n} 个"),
        "flow_reason": ("{n} × {reason}", "{n} × 程序原文“{reason}”"),
        "flow_more": ("{n} × other reasons (see rejects.csv)", "{n} × 其他原因（见 rejects.csv）"),
        "flow_waiting": ("{n} not read yet", "{n} 个尚未读取"),
        "flow_read": ("{cases} read", "读取 {cases}"),
        "flow_of": ("{cases} of {patients}", "{patients}的 {cases}"),
        "flow_same_pixels": (
            "{cases} with the same pixels as another, counted here too",
            "其中 {cases}与其他病例像素相同，此处一并计入",
        ),
        "flow_unlabelled": ("{cases} without a label", "{cases}没有标签"),
        "flow_unlabelled_any": ("{cases} without a label of any target", "{cases}没有任何目标的标签"),
        "flow_unmasked": ("{cases} without a mask", "{cases}没有掩膜"),
        "flow_left_out": ("{cases} of classes that take no part", "{cases}属于不参与的类别"),
        "flow_used": ("{cases} used by the run", "本次运行使用 {cases}"),
        "flow_target": ("{target}: known in {n}, not in {rest}", "{target}：{n} 例已知，{rest} 例未知"),
        "flow_trained": ("{cases} trained on", "{cases}用于训练"),
        "flow_trained_folds": ("{cases} trained on in each fold", "每折 {cases}用于训练"),
        "flow_selecting": ("of these, {cases} choose settings and stop training", "其中 {cases}用于选择设置与停止训练"),
        "flow_range": ("{low} to {high}", "{low} 至 {high}"),
        "flow_tested": ("{cases} tested", "{cases}受测"),
        "flow_folds": ("in {folds}, each case once; {cases} a fold", "分属 {folds}，每例一次；每折 {cases}"),
        "flow_idle": ("{cases} in no part", "{cases}不属于任何部分"),
        "flow_judged": ("{cases} judged", "{cases}受评"),
        "flow_not_judged": ("{cases} tested, but not judged", "{cases}受测但未受评"),
        "flow_why_not": (
            "no training that tested them was finished, or their truth cannot be judged",
            "测试它们的训练未完成，或其真值无法评估",
        ),
        "flow_fewer": ("{models} on fewer of them", "其中 {models}仅在部分病例上受评"),
    }
)


def make(view: View, drawn: Drawn) -> dict[str, Any]:
    """The figure for a wide page and for a phone, and the table; a plain sentence where nothing is on record."""
    text, flow = view.text, on_record(view)
    if flow is None:
        return {"nav": [], "wide": "", "narrow": "", "rows": [], "note": text("flow_absent"), "columns": 0}
    columns = steps(view, flow)
    alt = text("flow_alt", told="; ".join(step.box.head for column in columns for step in column))
    wide = drawn.keep("flow", diagram.flow(columns))
    known = all(source.get("found") for source in flow["sources"])
    gap = " " if text.language == "en" else ""
    return {
        "nav": [("flow", text("nav_flow"))],
        "wide": drawn.inline(wide, alt),
        "narrow": drawn.inline(diagram.flow(columns, narrow=True), alt),
        "rows": rows(columns),
        "note": text("flow_note") + ("" if known else gap + text("flow_older")),
        "columns": len(columns),
    }


def on_record(view: View) -> dict[str, Any] | None:
    """The flow that the run keeps, or as much of it as an older run holds; None where it holds nothing."""
    flow = view.run.get("flow")
    if isinstance(flow, dict) and flow.get("sources"):
        return flow
    return _older(view, flow if isinstance(flow, dict) else {})


def _older(view: View, flow: dict[str, Any]) -> dict[str, Any] | None:
    """From the patients and the splits of a run that keeps no flow."""
    owner, path = view.run.get("patients"), view.folder / "splits.json" if view.folder is not None else None
    if not isinstance(owner, dict) or path is None or not path.is_file():
        return None
    found = read_json(path)
    parts: dict[int, dict[str, set[str]]] = {}
    selecting: dict[int, dict[int, set[str]]] = {}
    for row in found.get("rows") or [] if isinstance(found, dict) else []:
        roles = parts.setdefault(int(row["outer"]), {"learns": set(), "test": set()})
        roles["test" if row["role"] == "test" else "learns"].add(str(row["patient_id"]))
        if row["role"] == "select":
            selecting.setdefault(int(row["outer"]), {}).setdefault(int(row["inner"]), set()).add(str(row["patient_id"]))
    if not parts:
        return None

    def size(patients: set[str]) -> dict[str, int]:
        cases = [case for case, patient in owner.items() if patient in patients]
        return {"cases": len(cases), "patients": len({owner[case] for case in cases})}

    folds = [
        {"outer": outer, "learns": size(r["learns"] - r["test"]), "test": size(r["test"]), "targets": {}}
        | {"select": [size(who - r["test"]) for _, who in sorted(selecting.get(outer, {}).items())]}
        for outer, r in sorted(parts.items())
    ]
    everyone = set(owner.values())
    tested = set().union(*(r["test"] for r in parts.values()))
    inside = tested.union(*(r["learns"] for r in parts.values()))
    used, bare = size(everyone), view.run.get("unlabelled")
    bare = int(bare) if finite(bare) else 0
    source = {"role": "", "found": None, "read": {"cases": used["cases"] + bare}, "unlabelled": bare, "used": used}
    return {
        "sources": [source],
        "used": used,
        "folds": folds,
        "tested": size(tested),
        "idle": size(everyone - inside),
    } | ({"judged": flow["judged"]} if flow.get("judged") else {})


# --- steps ---


def steps(view: View, flow: dict[str, Any]) -> list[list[Step]]:
    """Columns of the figure: one, or training and test data set of an external split next to each other."""
    columns = []
    for source in flow["sources"]:
        column = [*_found(view, source), _read(view, source)]
        several = len(flow["sources"]) > 1
        if several:
            name = clean(source.get("name") or "", 60)
            first = column[0]
            named = view.text(f"flow_source_{source['role']}", name=name, what=first.box.head)
            column[0] = Step(Box(named, first.box.lines), first.beside)
        if source.get("role") == "train":
            column.append(Step(_trained(view, flow)))
        else:
            column += _tested(view, flow, source, several)
        columns.append(column)
    return columns


def rows(columns: Sequence[Sequence[Step]]) -> list[dict[str, Any]]:
    """Lines of the table, in the order of the flow."""
    return [
        {"head": box.head, "lines": list(box.lines), "sort": box.sort}
        for column in columns
        for step in column
        for box in (step.box, *step.beside)
    ]


def _cases(view: View, size: dict[str, Any]) -> str:
    """'80 cases of 40 patients'."""
    cases = view.text.count("cases", size.get("cases"))
    if view.patients_unknown or not finite(size.get("patients")):
        return cases
    return view.text("flow_of", cases=cases, patients=view.text.count("patients", size["patients"]))


def _found(view: View, source: dict[str, Any]) -> list[Step]:
    """What the scan found, and what it refused, by reason."""
    text, found = view.text, source.get("found")
    if not found:
        return []
    beside = []
    refused = listed(found.get("refused"))
    if refused:
        shown = refused if len(refused) <= REASONS else refused[: REASONS - 1]
        lines = [text("flow_reason", n=r["n"], reason=clean(r["reason"], 120)) for r in shown]
        if rest := sum(r["n"] for r in refused[len(shown) :]):
            lines.append(text("flow_more", n=rest))
        beside.append(Box(text("flow_refused", n=sum(r["n"] for r in refused)), tuple(lines), "out"))
    if found.get("waiting"):
        beside.append(Box(text("flow_waiting", n=found["waiting"]), (), "out"))
    head = text("flow_found_one") if found["studies"] == 1 else text("flow_found", n=found["studies"])
    return [Step(Box(head), tuple(beside))]


def _read(view: View, source: dict[str, Any]) -> Step:
    """What was read, and what of it the run cannot use."""
    text, same = view.text, source.get("same_pixels") or 0
    lines = (text("flow_same_pixels", cases=text.count("cases", same)),) if same else ()
    beside = []
    if source.get("unlabelled"):
        masks = not listed(view.run.get("targets"))
        key = "flow_unmasked" if masks else "flow_unlabelled_any" if view.several_targets else "flow_unlabelled"
        beside.append(Box(text(key, cases=text.count("cases", source["unlabelled"])), (), "out"))
    if source.get("left_out"):
        beside.append(Box(text("flow_left_out", cases=text.count("cases", source["left_out"])), (), "out"))
    return Step(Box(text("flow_read", cases=_cases(view, source["read"])), lines), tuple(beside))


def _targets(view: View, known: dict[str, int] | None, cases: int) -> tuple[str, ...]:
    """'ef: known in 40, not in 3', where there are several targets."""
    if not known or len(known) < 2:
        return ()
    return tuple(view.text("flow_target", target=clean(t, 40), n=n, rest=cases - n) for t, n in known.items())


def _range(view: View, sizes: Sequence[dict[str, int]]) -> str:
    """'64 to 66 cases'."""
    counts = [size["cases"] for size in sizes]
    low, high = min(counts, default=0), max(counts, default=0)
    if low == high:
        return view.text.count("cases", low)
    return view.text("count_cases", n=view.text("flow_range", low=low, high=high))


def _trained(view: View, flow: dict[str, Any]) -> Box:
    """What is trained on, and how many of it select."""
    text, folds = view.text, flow["folds"]
    select = [size for fold in folds for size in fold["select"] if size["cases"]]
    lines: tuple[str, ...] = (text("flow_selecting", cases=_range(view, select)),) if select else ()
    if len(folds) == 1:
        known = {t: n["learns"] for t, n in (folds[0].get("targets") or {}).items()}
        lines += _targets(view, known, folds[0]["learns"]["cases"])
        return Box(text("flow_trained", cases=_cases(view, folds[0]["learns"])), lines, "learn")
    return Box(text("flow_trained_folds", cases=_range(view, [f["learns"] for f in folds])), lines, "learn")


def _tested(view: View, flow: dict[str, Any], source: dict[str, Any], several: bool) -> list[Step]:
    """What is used, tested and judged."""
    text, folds, idle = view.text, flow["folds"], flow.get("idle") or {}
    used = Box(
        text("flow_used", cases=_cases(view, source["used"])),
        _targets(view, source.get("targets"), source["used"]["cases"]),
    )
    beside = [] if several else [_trained(view, flow)]
    if idle.get("cases"):
        beside.append(Box(text("flow_idle", cases=_cases(view, idle)), (), "out"))
    lines: tuple[str, ...] = ()
    if len(folds) > 1:
        sizes = _range(view, [fold["test"] for fold in folds])
        lines = (text("flow_folds", folds=text.count("folds", len(folds)), cases=sizes),)
    known = {t: n["test"] for t, n in (folds[0].get("targets") or {}).items()} if len(folds) == 1 else {}
    lines += _targets(view, known, folds[0]["test"]["cases"]) if known else ()
    tested = Box(text("flow_tested", cases=_cases(view, flow["tested"])), lines)
    return [Step(used, tuple(beside)), *_judged(view, flow, tested)]


def _judged(view: View, flow: dict[str, Any], tested: Box) -> list[Step]:
    """What was judged in the end."""
    text, judged = view.text, flow.get("judged")
    if not judged:
        return [Step(tested)]
    lost = flow["tested"]["cases"] - judged["cases"]
    beside = (
        [Box(text("flow_not_judged", cases=text.count("cases", lost)), (text("flow_why_not"),), "out")]
        if lost > 0
        else []
    )
    lines = _targets(view, judged.get("targets"), judged["cases"])
    fewer = sum(n < judged["cases"] for n in (judged.get("models") or {}).values())
    if fewer:
        lines += (text("flow_fewer", models=text.count("models", fewer)),)
    return [Step(tested, tuple(beside)), Step(Box(text("flow_judged", cases=_cases(view, judged)), lines))]
