"""Every warning and reason: made once as a kind with values, said in both languages as it always was."""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from medgraft import config, notices
from medgraft.datasets import load_dataset
from medgraft.files import write_json
from medgraft.notices import NOTICES, Notice, from_json, notice, placeholders, say, to_json
from medgraft.report.text import Text

SOURCE = Path(notices.__file__).parent
MODEL = "net · random · finetune"
NAMES = {MODEL: "Net, random start"}
#: What the page said before notices, to the letter: kind, values, English, Chinese.
SAID: list[tuple[str, dict[str, Any], str, str]] = [
    ('text', {'text': 'disk on fire'}, 'disk on fire', '程序原文：“disk on fire”'),
    ('patient_none', {}, 'patient=none: one person may stand in training and test, and intervals are by case', 'patient=none：同一人可能同时出现在训练与测试中，置信区间按病例计算'),
    ('image_not_person', {}, 'patientId names an image, not a person: one person may stand in training and test', 'patientId 标识的是图像而非人：同一人可能同时出现在训练与测试中'),
    ('no_value', {'n': 1, 'target': 'ef'}, '1 case has no value of ef', '1 个病例缺少 ef 的取值'),
    ('no_value', {'n': 12, 'target': 'ef of rest'}, '12 cases have no value of ef of rest', '12 个病例缺少 ef of rest 的取值'),
    ('same_pixels', {'n': 1}, '1 case has the same pixels as another', '1 个病例与另一病例的像素完全相同'),
    ('same_pixels', {'n': 4}, '4 cases have the same pixels as another', '4 个病例与其他病例的像素完全相同'),
    ('split_80_20', {}, 'compat split_80_20: the part held out chose the settings and is reported too, so these numbers are too good', 'compat split_80_20：留出部分既用于选择设置又用于报告结果，因此数值偏高'),
    ('two_roles', {'n': 1}, '1 picture stands in training and test under two patients, so results may be too good: see medgraft audit', '1 幅图像分属两名患者并同时出现在训练与测试中，结果可能虚高：见 medgraft audit'),
    ('two_roles', {'n': 7}, '7 pictures stand in training and test under two patients, so results may be too good: see medgraft audit', '7 幅图像分属两名患者并同时出现在训练与测试中，结果可能虚高：见 medgraft audit'),
    ('looked_at_before', {'n': 4}, 'these test parts were looked at 4 times before, by earlier plans of this run: what was changed after seeing those results makes these too good', '这些测试部分此前已被本次运行的旧方案查看过 4 次：看过结果后再作的改动会使现有数值偏高'),
    ('looked_at_by_others', {'n': 4, 'runs': 2}, 'these test parts were looked at 4 times before, by earlier plans or by other runs on this data set (2): what was changed after seeing those results makes these too good', '这些测试部分此前已被查看过 4 次（包括旧方案或同一数据集上的 2 次其他运行）：看过结果后再作的改动会使现有数值偏高'),
    ('patients_unknown', {}, 'patient=none: patients are unknown, so cases are resampled and intervals are too narrow if patients have several cases', 'patient=none：患者身份未知，按病例重抽样；若同一患者有多个病例，置信区间会偏窄'),
    ('too_few', {'n': 2, 'units': 'patient'}, 'only 2 patients were judged: too few for any interval or test', '仅有 2 名患者受评：不足以计算任何区间或检验'),
    ('too_few', {'n': 1, 'units': 'case'}, 'only 1 cases were judged: too few for any interval or test', '仅有 1 个病例受评：不足以计算任何区间或检验'),
    ('too_few_of_class', {'n': 2, 'units': 'patient', 'least': 3}, 'the smallest class has 2 patients among those judged: too few (3 are needed) for any interval, test or rank', '受评对象中最小的类别仅有 2 名患者：不足以计算区间、检验或名次（至少需要 3）'),
    ('few_of_class', {'n': 4, 'units': 'patient', 'few': 5}, 'the smallest class has 4 patients among those judged: intervals and p values are rough below 5', '受评对象中最小的类别仅有 4 名患者：少于 5 时，置信区间与 p 值较粗略'),
    ('select_lacks_class', {'value': 'ill', 'folds': [0, 2]}, 'ill: no patient of this class stands in the selecting part of outer fold 1, 3, so settings and thresholds were chosen there without it', 'ill：外层折 1, 3 的选择部分中没有该类患者，因此设置与阈值是在缺少该类的情况下选定的'),
    ('giant_patient', {'fold': 0, 'n': 500, 'size': 508, 'mean': 108}, 'the test part of outer fold 1 holds 508 cases (108 on average), 500 of them of one patient: its numbers speak for that patient', '外层折 1 的测试部分有 508 个病例（平均 108 个），其中 500 个属于同一患者：该部分的数值主要反映该患者'),
    ('few', {'n': 8, 'units': 'patient', 'few': 50}, 'only 8 patients were judged: intervals and p values are rough below 50', '仅有 8 名患者受评：少于 50 时，置信区间与 p 值较粗略'),
    ('few', {'n': 9, 'units': 'case', 'few': 50}, 'only 9 cases were judged: intervals and p values are rough below 50', '仅有 9 个病例受评：少于 50 时，置信区间与 p 值较粗略'),
    ('labels_differ', {}, 'labels are said to live on patients but differ within some patient, so the numbers stand at the level of cases', '标签标注为患者层面，但有患者的各病例标签不一致，因此数值按病例层面计算'),
    ('labels_on_studies', {}, 'labels live on studies; every number stands at the level of cases', '标签属于检查层面；所有数值按病例层面计算'),
    ('no_common_case', {}, 'no case was judged by every model, so there are no ranks', '没有病例被所有模型评估，因此没有名次'),
    ('different_cases', {}, 'models were judged on different cases, so their own numbers do not compare; pairs and ranks use the cases in common', '各模型受评的病例不同，其各自数值不可直接比较；两两比较与名次仅使用共同病例'),
    ('one_class', {'target': 'finding', 'classes': ['ill']}, 'finding: all judged cases have one class (ill), so nothing can be told apart', 'finding：所有受评病例同属一个类别（ill），无从区分'),
    ('class_absent', {'target': 'finding', 'classes': ['a', 'b']}, 'finding: no judged case has class a, b; means over the classes leave it out', 'finding：没有受评病例属于类别 a, b；类别平均中不含该类别'),
    ('fold_lacks_class', {'target': 'finding', 'fold': 0}, 'finding: outer fold 1 lacks a class in its test part, so its own metrics and fold means leave it out', 'finding：外层折 1 的测试部分缺少某一类别，其自身指标及折均值不含该折'),
    ('refitted_again', {'model': MODEL, 'fold': 1, 'n': 2, 'seed': 0}, 'Net, random start: outer fold 2 was refitted 2 times with seed 0; the refits are averaged like seeds', 'Net, random start：外层折 2 以种子 0 重新训练了 2 次；各次结果按种子方式取平均'),
    ('seed_left_out', {'model': MODEL, 'seed': '1', 'n': 3, 'all': 9}, 'Net, random start: seed 1 judged 3 of 9 cases and is left out', 'Net, random start：种子 1 仅评估了 9 个病例中的 3 个，不予计入'),
    ('seed_left_out', {'model': MODEL, 'seed': '1 (repeat 2)', 'n': 3, 'all': 9}, 'Net, random start: seed 1 (repeat 2) judged 3 of 9 cases and is left out', 'Net, random start：种子 1 仅评估了 9 个病例中的 3 个，不予计入'),
    ('cases_left_out', {'model': MODEL, 'n': 1}, 'Net, random start: 1 cases were not judged by every seed and are left out', 'Net, random start：有 1 个病例未被所有种子评估，不予计入'),
    ('no_labelled_case', {'model': MODEL}, 'Net, random start: no labelled case was judged', 'Net, random start：没有带标签的病例受评'),
    ('not_a_number', {'model': MODEL, 'n': 2, 'cells': ['aa', 'bb'], 'case': 'c1'}, 'Net, random start: the score of 2 cases is not a number (cells aa, bb; first case c1), so no metric is given', 'Net, random start：有 2 个病例的得分不是数值（训练 aa, bb；首个病例 c1），因此不给出指标'),
    ('no_single_class', {'model': MODEL, 'n': 3, 'classes': ['a', 'b', 'c']}, 'Net, random start: 3 cases have no single true class among a, b, c and are left out', 'Net, random start：有 3 个病例在 a, b, c 中没有唯一的真实类别，不予计入'),
    ('model_part_done', {'model': MODEL, 'n': 1, 'all': 4, 'states': ['failed: out of memory', 'not run: weights absent', 'running']}, 'Net, random start: 1 of 4 trainings are done; the others: failed: out of memory, not run: weights absent, running', 'Net, random start：4 次训练中完成 1 次；其余：失败；缺少权重文件；进行中'),
    ('part_judged', {'model': MODEL, 'n': 40, 'all': 60}, 'Net, random start was judged on 40 of 60 cases', 'Net, random start：60 个病例中有 40 个受评'),
    ('part_judged_folds', {'model': MODEL, 'n': 40, 'all': 60, 'folds': [0, 2]}, 'Net, random start was judged on 40 of 60 cases (no result for outer fold 1, 3)', 'Net, random start：60 个病例中有 40 个受评（外层折 1, 3 无结果）'),
    ('same_score', {'model': MODEL, 'seeds': ['0', '1 (repeat 2)']}, 'Net, random start: every case has the same score (seed 0, 1 (repeat 2)), so it tells nothing apart', 'Net, random start：所有病例得分相同（种子 0, 1 (repeat 2)），无从区分'),
    ('few_steps', {'model': MODEL, 'n': 1, 'few': 200}, 'Net, random start: its training took one step; below 200 a network has rarely begun to learn, so a low score says little of this way', 'Net, random start：仅训练了 1 步；少于 200 步时网络往往尚未开始学习，得分低并不说明该方式不佳'),
    ('few_steps', {'model': MODEL, 'n': 25, 'few': 200}, 'Net, random start: its training took 25 steps; below 200 a network has rarely begun to learn, so a low score says little of this way', 'Net, random start：仅训练了 25 步；少于 200 步时网络往往尚未开始学习，得分低并不说明该方式不佳'),
    ('loss_stays', {'model': MODEL, 'first': 1.25, 'last': 1.2}, 'Net, random start: the training loss hardly fell (1.25 at first, 1.2 at the end), so it stopped before it had learned', 'Net, random start：训练损失几乎没有下降（开始 1.25，结束 1.2），训练在学会之前即已停止'),
    ('tied_scores', {'model': MODEL, 'n': 5, 'all': 60}, 'Net, random start: only 5 different scores for 60 cases; tied pairs count half in the AUC', 'Net, random start：60 个病例仅有 5 个不同得分；计算 AUC 时得分相同的病例对按一半计'),
    ('not_beyond_trivial', {'model': MODEL, 'metric': 'dice', 'trivial': ['Mean shape', '平均形状'], 'value': 0.51234, 'reference': 0.5}, 'Net, random start does not clearly beat the answer that looks at no picture (Mean shape): Dice 0.512 against 0.5', 'Net, random start 并未明显优于不看图像的回答（平均形状）：Dice 0.512，后者为 0.5'),
    ('undefined', {'model': MODEL, 'metric': 'macro_r2'}, 'Net, random start: Macro R² is not defined on its cases', 'Net, random start：宏平均 R² 在其病例上无定义'),
    ('never_varies', {'model': MODEL, 'metric': 'auc', 'value': 1.0}, 'Net, random start: AUC is 1 in every resample, so resampling cannot tell how sure that is', 'Net, random start：AUC 在每次重抽样中均为 1，重抽样无法说明其不确定性'),
    ('often_undefined', {'model': MODEL, 'metric': 'auc', 'share': 0.0667}, 'Net, random start: AUC is not defined in 7% of the resamples, because a class is very rare', 'Net, random start：AUC 在 7% 的重抽样中无定义，因为某一类别非常少'),
    ('weights_absent', {}, 'weights absent', '缺少权重文件'),
    ('none_labelled', {}, 'no labelled case of its test parts was judged', '其测试部分中没有带标签的病例受评'),
    ('part_done', {'n': 2, 'all': 3, 'states': ['failed: loss, is not a number']}, '2 of 3 trainings are done; the others: failed: loss, is not a number', '3 次训练中完成 2 次；其余：失败'),
    ('no_such_arms', {}, 'the run holds no such arms', '本次运行没有此类模型'),
    ('no_measure', {'measure': 'dice'}, 'no measure dice here', '此处没有指标 dice'),
    ('measures_not_taken', {'measures': ['dice', 'iou']}, 'the measure is not taken here: dice, iou', '此处未计算该指标：dice, iou'),
    ('arm_without_result', {'model': MODEL, 'state': 'not run: weights absent'}, 'Net, random start: weights absent', 'Net, random start: 缺少权重文件'),
    ('arm_without_result', {'model': MODEL, 'state': 'failed: out of memory'}, 'Net, random start: failed: out of memory', 'Net, random start: 失败'),
    ('arm_without_result', {'model': MODEL, 'state': 'running'}, 'Net, random start: running', 'Net, random start: 进行中'),
]  # fmt: skip


def _made() -> dict[str, list[set[str]]]:
    """Kinds that the package makes, with the names of the values given (``**counts`` counts as what is missing)."""
    found: dict[str, list[set[str]]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or getattr(node.func, "attr", getattr(node.func, "id", "")) != "notice":
                continue
            kind = node.args[0]
            assert isinstance(kind, ast.Constant), f"{path.name}: a kind is written where its notice is made"
            given = {word.arg for word in node.keywords if word.arg}
            open_ended = any(word.arg is None for word in node.keywords)
            found.setdefault(str(kind.value), []).append(
                given | (placeholders(NOTICES[kind.value][0]) if open_ended else set())
            )
    return found


@pytest.mark.parametrize(("kind", "values", "english", "chinese"), SAID)
def test_the_page_says_what_it_said(kind: str, values: dict[str, Any], english: str, chinese: str) -> None:
    given = notice(kind, **values)
    through = json.loads(json.dumps(to_json([given])))[0]
    assert from_json(through) == given
    assert (Text("en").say(through, NAMES), Text("zh").say(given, NAMES)) == (english, chinese)


def test_every_kind_is_said_above_and_has_two_sentences_of_the_same_values() -> None:
    kinds = {k if not (k.endswith("_one") and k[:-4] in NOTICES) else k[:-4] for k in NOTICES}
    assert {kind for kind, *_ in SAID} == kinds
    for kind, (english, chinese) in NOTICES.items():
        assert english and chinese and placeholders(english) == placeholders(chinese), kind
        if kind.endswith("_one"):
            assert placeholders(english) | {"n"} == placeholders(NOTICES[kind[:-4]][0]), kind


def test_every_kind_is_made_somewhere_with_its_values() -> None:
    made = _made()
    read = {kind for _, kind in notices._OLD} | {"text"}  # what intake writes as sentences, and faults
    kinds = {k for k in NOTICES if not k.endswith("_one")}
    assert set(made) <= kinds and kinds - set(made) <= read, kinds - set(made) - read
    for kind, calls in made.items():
        for values in calls:
            assert values == placeholders(NOTICES[kind][0]), kind


def test_a_notice_is_made_whole_or_not_at_all() -> None:
    with pytest.raises(ValueError, match="no notice of kind 'new_kind'"):
        notice("new_kind")
    with pytest.raises(ValueError, match="holds n, target"):
        notice("no_value", n=3)
    assert str(notice("no_value", n=3, target="ef")) == "3 cases have no value of ef"  # a terminal says English


def test_a_task_registers_a_notice_in_its_own_file() -> None:
    notices.register("off_picture", "{n} marks lie off the picture", "{n} 个标志点在图像之外")
    try:
        assert say(notice("off_picture", n=2), "zh") == "2 个标志点在图像之外"
        with pytest.raises(ValueError, match="stands already"):
            notices.register("off_picture", "{n}", "{n}")
    finally:
        del NOTICES["off_picture"]
    with pytest.raises(ValueError, match="different values"):
        notices.register("off_picture", "{n} marks", "{m}")
    # a page in a process that has not loaded the task
    assert Text("zh").say({"kind": "off_picture", "values": {"n": 2}}) == "off_picture, n 2"
    assert Text().say({"kind": "few", "values": {}}) == "few"


def test_notices_in_a_list_stand_once_and_hold_plain_values() -> None:
    twice = [notice("two_roles", n=2), notice("two_roles", n=2), notice("two_roles", n=3)]
    assert [n["values"] for n in to_json(twice)] == [{"n": 2}, {"n": 3}]
    assert from_json(twice[0]) is twice[0]
    for kind, values, _, _ in SAID:
        assert json.loads(json.dumps(values)) == values, kind


def test_sentences_of_older_data_sets_are_still_told(tmp_path: Path) -> None:
    old = [
        "patient=none: one person may stand in training and test, and intervals are by case",
        "patientId names an image, not a person: one person may stand in training and test",
        "1 cases have no value of b",
        "17 cases have no value of a longer name",
        "burnt by hand",
    ]
    from medgraft import tables

    for name in ("manifest", "frames"):
        tables.write(tables.empty(name), tmp_path / f"{name}.parquet", name)
    write_json(tmp_path / "dataset.json", {"name": "old", "warnings": [*old, *to_json([notice("same_pixels", n=2)])]})
    read = load_dataset(tmp_path).warnings
    assert [n.kind for n in read] == [
        "patient_none",
        "image_not_person",
        "no_value",
        "no_value",
        "text",
        "same_pixels",
    ]
    assert [Text("zh").say(n) for n in read[2:5]] == [
        "1 个病例缺少 b 的取值",
        "17 个病例缺少 a longer name 的取值",
        "程序原文：“burnt by hand”",
    ]
    assert Text().say(old[2]) == "1 case has no value of b" and Text().say("burnt\x07 by hand") == "burnt  by hand"


def test_states_of_trainings_come_apart() -> None:
    assert notices.of_state("not run: weights absent") == ("not run", notice("weights_absent"))
    assert notices.of_state("failed: a: b") == ("failed", Notice("text", {"text": "a: b"}))
    assert notices.of_state("done") == ("done", None)


def test_no_sentence_is_read_back() -> None:
    """Patterns that read English stand in one small table, for old files; no other file matches what a notice says."""
    assert len(notices._OLD) <= 6
    openings = {NOTICES[kind][0].partition("{")[0] for kind in NOTICES}
    long = {words for words in openings if len(words) > 20}
    assert len(long) >= 8
    for path in [*(SOURCE / "stats").rglob("*.py"), *(SOURCE / "report").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert not [words for words in long if words in text], path.name
    assert all(isinstance(value, Notice) for value in config.COMPAT.values())
