"""What the numbers do not say, from the facts of the run."""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

from collections import Counter
from typing import Any

from medgraft.report.drawn import Drawn
from medgraft.report.text import clean, finite, take
from medgraft.report.view import View, count_of, listed
from medgraft.stats.caveats import FEW_PATIENTS

STRINGS = take(
    {
        "nav_limits": ("Limits", "局限"),
        "limits_title": ("What these numbers do not say", "这些数字不能说明什么"),
        "limit_one_dataset": (
            "All cases come from one data set. How the models do at another hospital, on another device or in another population is not known from this page.",
            "所有病例来自同一数据集。在其他医院、其他设备或其他人群中的表现，本页无从得知。",
        ),
        "limit_labels": (
            "Labels are taken as the truth. Where labels are wrong, a right answer counts as a miss; the cases above that every model misses are the place to check.",
            "标签被视为真值。若标签有误，正确的回答也会计为错误；应首先核对上文所有模型都漏判的病例。",
        ),
        "limit_labels_regress": (
            "The reference values are taken as the truth. Where a reference is wrong, a right answer counts as an error; the cases above on which all models "
            "are far off are the place to check.",
            "参考值被视为真值。若参考值有误，正确的回答也会计为误差；应首先核对上文所有模型误差都大的病例。",
        ),
        "limit_labels_segment": (
            "The traced contours are taken as the truth. Where a contour is wrong, a right answer counts as an error; the cases above on which the models do "
            "worst are the place to check. Another reader would have drawn other contours.",
            "勾画的轮廓被视为真值。若轮廓有误，正确的回答也会计为误差；应首先核对上文模型表现最差的病例。不同阅片者勾画的轮廓也会不同。",
        ),
        "limit_plain_facts": (
            "Size and brightness alone tell the classes apart better than chance here. A model may lean on them; where they come from the scanner and not from "
            "the disease, that will not hold elsewhere.",
            "此处仅凭尺寸与亮度即可在高于随机的水平上区分类别。模型可能依赖这些信息；若它们来自设备而非疾病，则在别处不成立。",
        ),
        "limit_few": (
            "Only {n}: intervals are wide, and their true coverage may be below {confidence}.",
            "仅有 {n}：置信区间较宽，且其实际覆盖率可能低于 {confidence}。",
        ),
        "limit_rare": (
            "The rarest label has {n} only ({label}); what is said about it rests on those.",
            "最少见的标签仅有 {n}（{label}）；有关该标签的结论仅以此为据。",
        ),
        "limit_no_patients": (
            "Patients are not known in this data set. If several cases come from one patient, the scores are too high and the intervals too narrow.",
            "本数据集的患者身份未知。若多个病例来自同一患者，得分会偏高，区间会偏窄。",
        ),
        "limit_one_seed": (
            "Each model was trained with one seed. How far the result moves with another seed is not known.",
            "每个模型仅用一个随机种子训练。换用其他种子时结果会变动多少，尚不可知。",
        ),
        "limit_few_seeds": (
            "The seed spread rests on {n}; it is a rough figure.",
            "种子离散度仅基于 {n}，只是粗略数值。",
        ),
        "limit_one_fold": (
            "There is one held-out part, so the numbers hang on how the cases happened to be divided.",
            "只有一个留出部分，因此数值取决于病例恰好如何划分。",
        ),
        "limit_folds": (
            "Intervals come from resampling judged {unit}. They do not hold the spread that comes from training on other cases; the {folds} share most of their training cases.",
            "置信区间来自对受评{unit}的重抽样，不包含换用其他训练病例所带来的变动；{folds} 共用了大部分训练病例。",
        ),
        "limit_not_run": (
            "{n} not judged: {models}. The ranking is silent about them.",
            "{n}未受评：{models}。排名与其无关。",
        ),
        "limit_looks": (
            "A training was looked at on its test part more than once; what was chosen after the first look is no longer independent of it.",
            "有训练在其测试部分上被查看了不止一次；首次查看之后作出的选择不再独立于测试部分。",
        ),
        "limit_not_shown": (
            "For {n} of the {total} comparisons no difference is shown. That is what these data can tell, and no proof that those models perform alike.",
            "{total} 次比较中有 {n} 次未能证明差异。这只是现有数据所能说明的，并不证明这些模型表现相同。",
        ),
        "limit_not_shown_one": (
            "The one comparison shows no difference. That is what these data can tell, and no proof that the two models perform alike.",
            "唯一的一次比较未能证明差异。这只是现有数据所能说明的，并不证明两个模型表现相同。",
        ),
        "limit_clinic": (
            "A score on stored studies is not a benefit to patients. This page is for research and no basis for care.",
            "在存档检查上的得分不等于对患者的获益。本页仅供研究，不能作为诊疗依据。",
        ),
        "limit_labels_any": (
            "The reference is taken as the truth. Where it is wrong, a right answer counts as an error; the cases above on which the models do worst are "
            "the place to check.",
            "参考标准被视为真值。若参考有误，正确的回答也会计为误差；应首先核对上文模型表现最差的病例。",
        ),
    }
)


def make(view: View, drawn: Drawn) -> dict[str, Any]:
    """The list of limits."""
    return {"nav": [("limits", view.text("nav_limits"))], "rows": limitations(view)}


def limitations(view: View) -> list[str]:
    """What the numbers do not say."""
    text = view.text
    found = [text("limit_one_dataset"), text(view.asked.limit)]
    if view.baseline_tells:
        found.append(text("limit_plain_facts"))
    return [*found, *_size(view), *_training(view), *_models(view), text("limit_clinic")]


def _size(view: View) -> list[str]:
    """Too few patients, patients not known, a rare label."""
    text, run, found = view.text, view.run, []
    few = run.get("n_cases") if view.patients_unknown else run.get("n_patients")
    if view.patients_unknown:
        found.append(text("limit_no_patients"))
    if finite(few) and few < FEW_PATIENTS:
        found.append(text("limit_few", n=text.count(view.unit, few), confidence=view.confidence_text))
    labels = Counter(str(c.get("label")) for c in view.cases)
    if view.asked.classes and len(labels) > 1 and not view.several_targets:
        rare, number = min(labels.items(), key=lambda item: (item[1], item[0]))
        if number < 30:
            found.append(text("limit_rare", n=text.count("cases", number), label=clean(rare, 40)))
    return found


def _training(view: View) -> list[str]:
    """What few seeds and few parts leave open."""
    text, found = view.text, []
    folds, seeds = count_of(view.run.get("folds")), count_of(view.run.get("seeds"))
    if seeds == 1:
        found.append(text("limit_one_seed"))
    elif 1 < seeds < 5:
        found.append(text("limit_few_seeds", n=text.count("seeds", seeds)))
    if folds == 1:
        found.append(text("limit_one_fold"))
    elif folds > 1:
        found.append(text("limit_folds", folds=text.count("folds", folds), unit=text(f"unit_{view.unit}")))
    return found


def _models(view: View) -> list[str]:
    """Comparisons that show nothing, models without a result, parts looked at again."""
    text, found = view.text, []
    silent, total = sum(view.verdict(row) == "not_shown" for row in view.compared), len(view.compared)
    if silent and total == 1:
        found.append(text("limit_not_shown_one"))
    elif silent:
        found.append(text("limit_not_shown", n=silent, total=total))
    if view.not_judged:
        names = "; ".join(f"{view.names[m['id']]} ({view.state(m)})" for m in view.not_judged)
        found.append(text("limit_not_run", n=text.count("models", len(view.not_judged)), models=names))
    looks = Counter(str(look.get("cell")) for look in listed(view.run.get("looks")) if isinstance(look, dict))
    if any(n > 1 for n in looks.values()):
        found.append(text("limit_looks"))
    return found
