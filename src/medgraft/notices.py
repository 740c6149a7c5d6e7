"""What a page must carry, as a kind with values: terminal, page and both languages say it, files hold it.

A warning or a reason is made where it is found (``notice("no_value", n=3, target="ef")``), lies in files as
``{"kind": "no_value", "values": {"n": 3, "target": "ef"}}`` and becomes a sentence only where somebody reads it. Nobody
reads a sentence back.
"""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

LANGUAGES = ("en", "zh")

#: kind -> (English, Chinese), filled by ``str.format``. ``KIND_one`` stands for ``KIND`` where ``n`` is 1.
#: ``{model}`` is printed by its name, ``{metric}`` too; ``{trivial}`` is a title in both languages; ``{fold}`` and ``{folds}`` are counted from 1; a list is written
#: with commas; ``{state}`` and ``{states}`` are states of trainings as ``cells.parquet`` holds them.
NOTICES: dict[str, tuple[str, str]] = {
    # --- what nobody foresaw: a fault in its own words ---
    "text": ("{text}", "程序原文：“{text}”"),
    # --- the data set ---
    "patient_none": (
        "patient=none: one person may stand in training and test, and intervals are by case",
        "patient=none：同一人可能同时出现在训练与测试中，置信区间按病例计算",
    ),
    "image_not_person": (
        "patientId names an image, not a person: one person may stand in training and test",
        "patientId 标识的是图像而非人：同一人可能同时出现在训练与测试中",
    ),
    "no_value_one": ("1 case has no value of {target}", "1 个病例缺少 {target} 的取值"),
    "no_value": ("{n} cases have no value of {target}", "{n} 个病例缺少 {target} 的取值"),
    "same_pixels_one": ("1 case has the same pixels as another", "1 个病例与另一病例的像素完全相同"),
    "same_pixels": ("{n} cases have the same pixels as another", "{n} 个病例与其他病例的像素完全相同"),
    # --- the split ---
    "split_80_20": (
        "compat split_80_20: the part held out chose the settings and is reported too, so these numbers are too good",
        "compat split_80_20：留出部分既用于选择设置又用于报告结果，因此数值偏高",
    ),
    "two_roles_one": (
        "1 picture stands in training and test under two patients, so results may be too good: see medgraft audit",
        "1 幅图像分属两名患者并同时出现在训练与测试中，结果可能虚高：见 medgraft audit",
    ),
    "two_roles": (
        "{n} pictures stand in training and test under two patients, so results may be too good: see medgraft audit",
        "{n} 幅图像分属两名患者并同时出现在训练与测试中，结果可能虚高：见 medgraft audit",
    ),
    "looked_at_before": (
        "these test parts were looked at {n} times before, by earlier plans of this run: what was changed after seeing those results makes these too good",
        "这些测试部分此前已被本次运行的旧方案查看过 {n} 次：看过结果后再作的改动会使现有数值偏高",
    ),
    "looked_at_by_others": (
        "these test parts were looked at {n} times before, by earlier plans or by other runs on this data set ({runs}): what was changed after seeing those results makes these too good",
        "这些测试部分此前已被查看过 {n} 次（包括旧方案或同一数据集上的 {runs} 次其他运行）：看过结果后再作的改动会使现有数值偏高",
    ),
    "select_lacks_class": (
        "{value}: no patient of this class stands in the selecting part of outer fold {folds}, so settings and thresholds were chosen there without it",
        "{value}：外层折 {folds} 的选择部分中没有该类患者，因此设置与阈值是在缺少该类的情况下选定的",
    ),
    "giant_patient": (
        "the test part of outer fold {fold} holds {size} cases ({mean} on average), {n} of them of one patient: its numbers speak for that patient",
        "外层折 {fold} 的测试部分有 {size} 个病例（平均 {mean} 个），其中 {n} 个属于同一患者：该部分的数值主要反映该患者",
    ),
    # --- what was judged ---
    "patients_unknown": (
        "patient=none: patients are unknown, so cases are resampled and intervals are too narrow if patients have several cases",
        "patient=none：患者身份未知，按病例重抽样；若同一患者有多个病例，置信区间会偏窄",
    ),
    "too_few": (
        "only {n} {units} were judged: too few for any interval or test",
        "仅有 {n} {units}受评：不足以计算任何区间或检验",
    ),
    "few": (
        "only {n} {units} were judged: intervals and p values are rough below {few}",
        "仅有 {n} {units}受评：少于 {few} 时，置信区间与 p 值较粗略",
    ),
    "too_few_of_class": (
        "the smallest class has {n} {units} among those judged: too few ({least} are needed) for any interval, test or rank",
        "受评对象中最小的类别仅有 {n} {units}：不足以计算区间、检验或名次（至少需要 {least}）",
    ),
    "few_of_class": (
        "the smallest class has {n} {units} among those judged: intervals and p values are rough below {few}",
        "受评对象中最小的类别仅有 {n} {units}：少于 {few} 时，置信区间与 p 值较粗略",
    ),
    "labels_differ": (
        "labels are said to live on patients but differ within some patient, so the numbers stand at the level of cases",
        "标签标注为患者层面，但有患者的各病例标签不一致，因此数值按病例层面计算",
    ),
    "labels_on_studies": (
        "labels live on studies; every number stands at the level of cases",
        "标签属于检查层面；所有数值按病例层面计算",
    ),
    "no_common_case": (
        "no case was judged by every model, so there are no ranks",
        "没有病例被所有模型评估，因此没有名次",
    ),
    "different_cases": (
        "models were judged on different cases, so their own numbers do not compare; pairs and ranks use the cases in common",
        "各模型受评的病例不同，其各自数值不可直接比较；两两比较与名次仅使用共同病例",
    ),
    "one_class": (
        "{target}: all judged cases have one class ({classes}), so nothing can be told apart",
        "{target}：所有受评病例同属一个类别（{classes}），无从区分",
    ),
    "class_absent": (
        "{target}: no judged case has class {classes}; means over the classes leave it out",
        "{target}：没有受评病例属于类别 {classes}；类别平均中不含该类别",
    ),
    "fold_lacks_class": (
        "{target}: outer fold {fold} lacks a class in its test part, so its own metrics and fold means leave it out",
        "{target}：外层折 {fold} 的测试部分缺少某一类别，其自身指标及折均值不含该折",
    ),
    # --- one model ---
    "refitted_again": (
        "{model}: outer fold {fold} was refitted {n} times with seed {seed}; the refits are averaged like seeds",
        "{model}：外层折 {fold} 以种子 {seed} 重新训练了 {n} 次；各次结果按种子方式取平均",
    ),
    "seed_left_out": (
        "{model}: seed {seed} judged {n} of {all} cases and is left out",
        "{model}：种子 {seed} 仅评估了 {all} 个病例中的 {n} 个，不予计入",
    ),
    "cases_left_out": (
        "{model}: {n} cases were not judged by every seed and are left out",
        "{model}：有 {n} 个病例未被所有种子评估，不予计入",
    ),
    "no_labelled_case": ("{model}: no labelled case was judged", "{model}：没有带标签的病例受评"),
    "not_a_number": (
        "{model}: the score of {n} cases is not a number (cells {cells}; first case {case}), so no metric is given",
        "{model}：有 {n} 个病例的得分不是数值（训练 {cells}；首个病例 {case}），因此不给出指标",
    ),
    "no_single_class": (
        "{model}: {n} cases have no single true class among {classes} and are left out",
        "{model}：有 {n} 个病例在 {classes} 中没有唯一的真实类别，不予计入",
    ),
    "model_part_done": (
        "{model}: {n} of {all} trainings are done; the others: {states}",
        "{model}：{all} 次训练中完成 {n} 次；其余：{states}",
    ),
    "part_judged": ("{model} was judged on {n} of {all} cases", "{model}：{all} 个病例中有 {n} 个受评"),
    "part_judged_folds": (
        "{model} was judged on {n} of {all} cases (no result for outer fold {folds})",
        "{model}：{all} 个病例中有 {n} 个受评（外层折 {folds} 无结果）",
    ),
    "same_score": (
        "{model}: every case has the same score (seed {seeds}), so it tells nothing apart",
        "{model}：所有病例得分相同（种子 {seeds}），无从区分",
    ),
    "tied_scores": (
        "{model}: only {n} different scores for {all} cases; tied pairs count half in the AUC",
        "{model}：{all} 个病例仅有 {n} 个不同得分；计算 AUC 时得分相同的病例对按一半计",
    ),
    "few_steps": (
        "{model}: its training took {n} steps; below {few} a network has rarely begun to learn, so a low score says "
        "little of this way",
        "{model}：仅训练了 {n} 步；少于 {few} 步时网络往往尚未开始学习，得分低并不说明该方式不佳",
    ),
    "few_steps_one": (
        "{model}: its training took one step; below {few} a network has rarely begun to learn, so a low score says "
        "little of this way",
        "{model}：仅训练了 1 步；少于 {few} 步时网络往往尚未开始学习，得分低并不说明该方式不佳",
    ),
    "loss_stays": (
        "{model}: the training loss hardly fell ({first:.3g} at first, {last:.3g} at the end), so it stopped before it "
        "had learned",
        "{model}：训练损失几乎没有下降（开始 {first:.3g}，结束 {last:.3g}），训练在学会之前即已停止",
    ),
    "not_beyond_trivial": (
        "{model} does not clearly beat the answer that looks at no picture ({trivial}): {metric} {value:.3g} against {reference:.3g}",
        "{model} 并未明显优于不看图像的回答（{trivial}）：{metric} {value:.3g}，后者为 {reference:.3g}",
    ),
    "undefined": ("{model}: {metric} is not defined on its cases", "{model}：{metric} 在其病例上无定义"),
    "never_varies": (
        "{model}: {metric} is {value:.3g} in every resample, so resampling cannot tell how sure that is",
        "{model}：{metric} 在每次重抽样中均为 {value:.3g}，重抽样无法说明其不确定性",
    ),
    "often_undefined": (
        "{model}: {metric} is not defined in {share:.0%} of the resamples, because a class is very rare",
        "{model}：{metric} 在 {share:.0%} 的重抽样中无定义，因为某一类别非常少",
    ),
    # --- why a model has no result, or not all of it ---
    "weights_absent": ("weights absent", "缺少权重文件"),
    "none_labelled": ("no labelled case of its test parts was judged", "其测试部分中没有带标签的病例受评"),
    "part_done": (
        "{n} of {all} trainings are done; the others: {states}",
        "{all} 次训练中完成 {n} 次；其余：{states}",
    ),
    # --- why a claim has no verdict ---
    "no_such_arms": ("the run holds no such arms", "本次运行没有此类模型"),
    "no_measure": ("no measure {measure} here", "此处没有指标 {measure}"),
    "measures_not_taken": ("the measure is not taken here: {measures}", "此处未计算该指标：{measures}"),
    "arm_without_result": ("{model}: {state}", "{model}: {state}"),
}  # fmt: skip

#: Reading old files: sentences that intake wrote into ``dataset.json`` before warnings were notices, and the words of a
#: state in ``cells.parquet``.
_OLD: tuple[tuple[str, str], ...] = (
    (r"patient ?= ?none: one person may stand in training and test, and intervals are by case", "patient_none"),
    (r"patientId names an image, not a person: one person may stand in training and test", "image_not_person"),
    (r"(?P<n>\d+) cases have no value of (?P<target>.+)", "no_value"),
    (r"(?P<n>\d+) cases have the same pixels as another", "same_pixels"),
    (r"weights absent", "weights_absent"),
)
_UNITS = {"patient": ("patients", "名患者"), "case": ("cases", "个病例")}
#: First words of a state that needs no reason on the Chinese page, where a fault is not quoted.
_STATES = {"not run": "未运行", "failed": "失败", "running": "进行中", "planned": "等待中", "waiting": "等待中"}


@dataclass(frozen=True)
class Notice:
    """A warning or a reason: its kind, and plain values (text, numbers, lists of them) by the names of its placeholders."""

    kind: str
    values: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return say(self)


def notice(kind: str, **values: Any) -> Notice:
    """Make a notice.

    Raises ``ValueError`` when there is no such kind or the values are not those that its sentence names.
    """
    if kind not in NOTICES:
        raise ValueError(f"no notice of kind {kind!r}; register it first")
    wanted = placeholders(NOTICES[kind][0])
    if set(values) != wanted:
        raise ValueError(
            f"a notice of kind {kind} holds {', '.join(sorted(wanted)) or 'nothing'}, not {sorted(values)}"
        )
    return Notice(kind, values)


def register(kind: str, english: str, chinese: str) -> None:
    """Add a kind of notice, in the file of the task that makes it.

    Raises ``ValueError`` when the kind stands already or the two sentences name different values.
    """
    if kind in NOTICES:
        raise ValueError(f"a notice of kind {kind} stands already")
    if placeholders(english) != placeholders(chinese):
        raise ValueError(f"the two sentences of {kind} name different values")
    NOTICES[kind] = (english, chinese)


def placeholders(sentence: str) -> set[str]:
    """Names of the values that a sentence holds."""
    return {name for _, name, _, _ in Formatter().parse(sentence) if name}


def say(
    given: Notice,
    language: str = "en",
    names: Mapping[str, str] | None = None,
    metric: Callable[[str], str] = str,
) -> str:
    """A notice as a sentence.

    ``names`` (model id -> printed name) and ``metric`` (plain name -> printed name) put words in place of ids. A kind
    that is not known here (of a task that is not loaded) is told by its name and values.
    """
    values = dict(given.values)
    kind = f"{given.kind}_one" if values.get("n") == 1 and f"{given.kind}_one" in NOTICES else given.kind
    texts = NOTICES.get(kind)
    if texts is None or not placeholders(texts[0]) <= set(values):
        return ", ".join([kind, *(f"{k} {_listed(v)}" for k, v in values.items())])
    place = LANGUAGES.index(language)
    words = {name: _word(name, value, place, names or {}, metric) for name, value in values.items()}
    return texts[place].format(**words)


def to_json(given: Iterable[Notice]) -> list[dict[str, Any]]:
    """Notices as files hold them, each once."""
    return [{"kind": n.kind, "values": dict(n.values)} for n in dict.fromkeys(given)]


def from_json(written: Any) -> Notice:
    """A notice from a file: ``{"kind", "values"}``, or a sentence of a file that is older than notices."""
    if isinstance(written, Notice):
        return written
    if isinstance(written, dict) and isinstance(written.get("kind"), str):
        values = written.get("values")
        return Notice(written["kind"], dict(values) if isinstance(values, dict) else {})
    return _old(str(written))


def of_state(state: str) -> tuple[str, Notice | None]:
    """A state of ``cells.parquet`` in two: ``not run: weights absent`` -> (``not run``, why it did not)."""
    word, _, reason = (part.strip() for part in state.partition(":"))
    return word, from_json(reason) if reason else None


def _old(sentence: str) -> Notice:
    """A sentence of an older file, or a fault in its own words."""
    for pattern, kind in _OLD:
        if (found := re.fullmatch(pattern, sentence.strip())) is not None:
            return Notice(kind, {k: int(v) if k == "n" else v for k, v in found.groupdict().items()})
    return Notice("text", {"text": sentence})


def _listed(value: Any) -> str:
    return ", ".join(str(v) for v in value) if isinstance(value, (list, tuple)) else str(value)


def _word(name: str, value: Any, place: int, names: Mapping[str, str], metric: Callable[[str], str]) -> Any:
    """A value as it is printed."""
    if name == "model":
        return names.get(str(value), str(value))
    if name == "metric":
        return metric(str(value))
    if name == "trivial":
        return str(value[place])
    if name in ("fold", "folds"):  # counted from 1 where a person reads
        return ", ".join(str(int(v) + 1) for v in (value if isinstance(value, (list, tuple)) else [value]))
    if name == "units":
        return _UNITS[value][place] if value in _UNITS else f"{value}s"
    if name == "seed" and place:
        return str(value).partition(" (")[0]  # '1 (repeat 2)': the repeat is told in English alone
    if name == "state":
        word, reason = of_state(str(value))
        return _state(str(value), place) if word != "not run" or reason is None else say(reason, LANGUAGES[place])
    if name == "states":
        return "；".join(_state(v, place) for v in value) if place else ", ".join(value)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else _listed(value)


def _state(state: str, place: int) -> str:
    """The state of a training: in English as it is, in Chinese by its first words."""
    if not place:
        return state
    word, reason = of_state(state)
    if word == "not run" and reason is not None:
        return say(reason, LANGUAGES[place])
    return _STATES[word] if word in _STATES else say(Notice("text", {"text": state}), LANGUAGES[place])
