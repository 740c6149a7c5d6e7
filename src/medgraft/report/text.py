"""Every string of the report, English and Chinese side by side, and how numbers are written.

``STRINGS[key]`` is a pair (English, Chinese); both hold the same ``{placeholders}``. ``Text("zh")``
looks keys up, fills them and formats numbers. An unknown key is a programming error and raises.
"""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from medgraft.errors import UserError
from medgraft.report.audit_text import AUDIT
from medgraft.report.words import AVERAGES, FAMILIES, METRICS, MODEL_NAMES, STARTS

LANGUAGES = ("en", "zh")

STRINGS: dict[str, tuple[str, str]] = {
    **AUDIT,
    # --- frame of the page ---
    "language": ("en", "zh-Hans"),
    "title_transfer": ("{name}: which model transfers best", "{name}：哪个模型迁移效果最好"),
    "title_best": ("{name}: which model does best", "{name}：哪个模型表现最好"),
    "title_one": ("{name}: how well one model does", "{name}：单个模型的表现"),
    "kicker": ("Model comparison report", "模型比较报告"),
    "skip": ("Skip to the results", "跳到结果"),
    "theme": ("Light or dark", "浅色或深色"),
    "nav": ("Sections", "章节"),
    "nav_leaderboard": ("Leaderboard", "排行榜"),
    "nav_pairs": ("Comparisons", "两两比较"),
    "nav_curves": ("ROC", "ROC 曲线"),
    "nav_calibration": ("Calibration", "校准"),
    "nav_agreement": ("Agreement", "一致性"),
    "nav_distribution": ("Distribution", "分布"),
    "nav_heatmap": ("Case by case", "逐例结果"),
    "nav_missed": ("Missed cases", "漏判病例"),
    "nav_worst": ("Worst cases", "最差病例"),
    "nav_claims": ("Claims", "论断"),
    "nav_looks_at": ("Where it looks", "关注区域"),
    "nav_learning": ("Learning curves", "学习曲线"),
    "nav_made": ("How it was made", "制作过程"),
    "nav_limits": ("Limits", "局限"),
    "nav_glossary": ("Glossary", "术语表"),
    "warnings_title": ("Read these results with care", "请谨慎解读本结果"),
    "warnings_line": ("With care: {first}", "注意：{first}"),
    "warnings_more": (" (and {more} more, listed at the top)", "（另有 {more} 条，见页首）"),
    "created": ("Made {time}", "生成于 {time}"),
    "none": ("none", "无"),
    "unknown": ("not recorded", "未记录"),
    "footer": (
        "Made by medgraft {version} from summary.json. This file holds everything it shows and asks nothing of a network.",
        "由 medgraft {version} 根据 summary.json 生成。所有内容均在本文件中，不访问任何网络。",
    ),
    "facts_line": (
        "{patients} · {cases} · {folds} · {seeds} · {confidence} intervals",
        "{patients} · {cases} · {folds} · {seeds} · {confidence} 置信区间",
    ),
    # --- counts ---
    "count_patients": ("{n} patients", "{n} 名患者"),
    "count_patients_one": ("1 patient", "1 名患者"),
    "count_cases": ("{n} cases", "{n} 个病例"),
    "count_cases_one": ("1 case", "1 个病例"),
    "count_folds": ("{n} outer folds", "{n} 个外层折"),
    "count_folds_one": ("1 held-out test part", "1 个留出测试部分"),
    "count_seeds": ("{n} seeds", "{n} 个随机种子"),
    "count_seeds_one": ("1 seed", "1 个随机种子"),
    "count_windows": ("{n} windows", "{n} 个窗口"),
    "count_windows_one": ("1 window", "1 个窗口"),
    "count_models": ("{n} models", "{n} 个模型"),
    "count_models_one": ("1 model", "1 个模型"),
    # --- numbers ---
    "interval": ("{value} ({low} to {high})", "{value}（{low} 至 {high}）"),
    "interval_full": (
        "{value} ({confidence} interval {low} to {high}; {n})",
        "{value}（{confidence} 置信区间 {low} 至 {high}；{n}）",
    ),
    "interval_plain": (
        "{value} ({confidence} interval {low} to {high})",
        "{value}（{confidence} 置信区间 {low} 至 {high}）",
    ),
    "interval_absent": ("{value} (interval not defined)", "{value}（区间无定义）"),
    "undefined": ("not defined", "无定义"),
    "undefined_because": ("not defined: {reason}", "无定义：{reason}"),
    "reason_classes": (
        "it needs both classes and scores that are numbers among the judged cases",
        "受评病例中须同时有两个类别，且评分须为数值",
    ),
    "reason_values": (
        "it needs at least two judged cases whose values are numbers and differ",
        "至少需要两个数值有效且不相同的受评病例",
    ),
    "reason_masks": ("no judged case has a traced structure", "受评病例中没有已勾画的结构"),
    "reason_fit": ("the logistic fit does not settle on these cases", "在这些病例上逻辑拟合不收敛"),
    "reason_empty": ("no case was judged", "没有受评病例"),
    "reason_not_computed": ("it was not computed for this model", "未对该模型计算"),
    # --- the first screen ---
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
    "after_holm": (" after Holm", "（Holm 校正后）"),
    "verdict_shown": ("shown", "已证明有差异"),
    "verdict_worse": ("shown, and in favour of the other", "已证明有差异，且另一方更好"),
    "verdict_not_shown": ("not shown", "未能证明有差异"),
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
    "rule_youden_short": (
        "chosen on inner folds by Youden's index, one for each outer fold",
        "按约登指数在内层折上选定，每个外层折一个",
    ),
    "rule_fixed": ("threshold fixed at {values}", "固定阈值 {values}"),
    "rule_fixed_short": ("fixed beforehand", "事先固定"),
    "rule_vote": ("majority vote of its windows, each at {values}", "各窗口以 {values} 为界投票，多数决定"),
    "rule_vote_short": ("majority vote of the windows of a case", "病例各窗口多数投票"),
    "rule_other": ("threshold by the rule “{rule}” ({values})", "按规则“{rule}”得到的阈值（{values}）"),
    "threshold": ("Threshold", "阈值"),
    "threshold_range": ("{low} to {high}", "{low} 至 {high}"),
    "q_trivial": ("Beyond the obvious", "是否超越表面信息"),
    "baseline_name": ("Trivial baseline", "简单基线"),
    "baseline_image": ("image size and brightness alone", "仅用图像尺寸与亮度"),
    "baseline_video": ("frame size, brightness and length alone", "仅用帧尺寸、亮度与时长"),
    "baseline_volume": ("volume size and brightness alone", "仅用体数据尺寸与亮度"),
    "baseline_any": ("size, brightness and length alone", "仅用尺寸、亮度与时长"),
    "baseline_fact": ("A model that sees {facts} reaches AUC {estimate}.", "{facts}的模型即可达到 AUC {estimate}。"),
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
    "baseline_note": (
        "The trivial baseline takes no part in the ranking: a logistic regression on {facts}, cross-validated over all cases of the data set.",
        "简单基线不参与排名：{facts}的逻辑回归，在数据集全部病例上交叉验证。",
    ),
    "baseline_judged": ("all cases, cross-validated", "全部病例，交叉验证"),
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
    "patients_unknown": ("patients not known", "患者未知"),
    "unit_sd": ("SD", "个标准差"),
    "unit_patients": ("patients", "患者"),
    "unit_cases": ("cases", "病例"),
    "q_which": ("Which model", "哪个模型"),
    "q_much": ("By how much", "好多少"),
    "q_sure": ("How sure", "把握多大"),
    "q_fail": ("For whom does it fail", "对谁失效"),
    # --- naming a model ---
    "model_phrase": ("{model} {start} and {strategy}", "{model}（{start}，{strategy}）"),
    "model_phrase_with": ("{model} {start}, {strategy}", "{model}（{start}，{strategy}）"),
    "model_phrase_start": ("{model} {start}", "{model}（{start}）"),
    "start_random": ("started from random weights", "随机初始化"),
    "start_other": ("started from {start}", "以 {start} 权重初始化"),
    "start_card": ("started from its pretrained weights", "以其预训练权重初始化"),
    "start_short_random": ("random start", "随机初始化"),
    "start_short_card": ("pretrained", "预训练"),
    "strategy_finetune": ("fine-tuned", "全部微调"),
    "strategy_frozen": ("with a frozen body", "主干冻结"),
    "strategy_logistic": ("with a frozen body and a logistic head", "主干冻结，逻辑回归头"),
    "strategy_gradual": ("unfrozen layer by layer", "逐层解冻"),
    "strategy_layer_decay": ("fine-tuned with smaller steps in early layers", "分层学习率微调"),
    "strategy_l2sp": ("fine-tuned but held near its start", "带 L2-SP 约束的微调"),
    "short_finetune": ("fine-tuned", "微调"),
    "short_frozen": ("frozen body", "主干冻结"),
    "short_logistic": ("frozen body, logistic head", "主干冻结，逻辑回归头"),
    "short_gradual": ("gradual unfreezing", "逐层解冻"),
    "short_layer_decay": ("layer-wise decay", "分层学习率"),
    "short_l2sp": ("L2-SP", "L2-SP"),
    # --- leaderboard ---
    "leaderboard_title": ("Leaderboard", "排行榜"),
    "leaderboard_note_one": (
        "Ordered by {metric}, {level}, on the one held-out test part, averaged over the seeds. Brackets are {confidence} intervals from "
        "{resamples} bootstrap resamples of {unit}. Seed spread is the standard deviation between trainings that differ in the seed alone; "
        "it is not part of the interval.",
        "按 {metric}（{level}）排序，取自唯一的留出测试部分并对随机种子取平均。括号内为 {confidence} 置信区间，由对{unit}的 {resamples} 次自助重抽样得到。"
        "种子离散度是仅随机种子不同的训练之间的标准差，不包含在置信区间内。",
    ),
    "leaderboard_note": (
        "Ordered by {metric}, {level}, pooled over the outer test folds and averaged over the seeds. Brackets are {confidence} intervals from "
        "{resamples} bootstrap resamples of {unit}. Seed spread is the standard deviation between trainings that differ in the seed alone; "
        "it is not part of the interval.",
        "按 {metric}（{level}）排序，合并所有外层测试折并对随机种子取平均。括号内为 {confidence} 置信区间，由对{unit}的 {resamples} 次自助重抽样得到。"
        "种子离散度是仅随机种子不同的训练之间的标准差，不包含在置信区间内。",
    ),
    "col_rank": ("Rank", "名次"),
    "col_rank_interval": ("{low} to {high}", "{low} 至 {high}"),
    "col_model": ("Model", "模型"),
    "col_seed_one": ("seed", "种子"),
    "col_interval": ("Interval", "区间"),
    "col_n": ("Judged on", "受评数量"),
    "col_seed": ("Seed spread (SD)", "种子离散度（标准差）"),
    "seed_spread": ("{sd} ({seeds})", "{sd}（{seeds}）"),
    "seed_single": ("not known: one seed", "未知：仅一个种子"),
    "not_run": ("not run", "未运行"),
    "not_run_because": ("not run: {reason}", "未运行：{reason}"),
    "state_failed": ("failed", "失败"),
    "state_failed_because": ("failed: {reason}", "失败：{reason}"),
    "state_unfinished": ("not finished", "未完成"),
    "state_unfinished_because": ("not finished: {reason}", "未完成：{reason}"),
    "metrics_title": ("All measures", "全部指标"),
    "metrics_note": (
        "Each number stands with its {confidence} interval, {unit} resampled.",
        "每个数值均附 {confidence} 置信区间（对{unit}重抽样）。",
    ),
    "col_measure": ("Measure", "指标"),
    "cost_title": ("Size, weights and time", "规模、权重与耗时"),
    "col_parameters": ("Parameters", "参数量"),
    "col_loaded": ("Weights loaded", "已载入权重"),
    "col_source": ("Trained on (published accuracy there)", "预训练数据（其上发表的准确率）"),
    "col_seconds": ("Training time", "训练时间"),
    "col_inner": ("Selection score", "选择得分"),
    "inner_note": (
        "The selection score is what the inner parts said while settings were being chosen. It is optimistic and no result.",
        "选择得分是挑选设置时内层部分给出的得分，偏乐观，不能当作结果。",
    ),
    "million": ("{n} million", "{n} 百万"),
    "loaded_share": ("{share} of the body's parameters", "主干参数的 {share}"),
    "loaded_none": ("none (random start)", "无（随机初始化）"),
    "seconds": ("{n} s", "{n} 秒"),
    "minutes": ("{n} min", "{n} 分钟"),
    "hours": ("{n} h", "{n} 小时"),
    # --- pairs ---
    "pairs_title": ("Is one model better than another?", "一个模型是否优于另一个？"),
    "pairs_note": (
        "Differences are first minus second on the same {unit}, with {confidence} intervals. p values are corrected for the {n} comparisons by Holm's "
        "method. “Not shown” means that these data cannot tell; it does not mean that the two perform alike.",
        "差值为同一批{unit}上前者减后者，附 {confidence} 置信区间。p 值按 Holm 方法对 {n} 次比较作校正。“未能证明”表示现有数据无法判断，并不表示二者表现相同。",
    ),
    "pairs_note_one": (
        "The difference is first minus second on the same {unit}, with its {confidence} interval. “Not shown” means that these data cannot tell; "
        "it does not mean that the two perform alike.",
        "差值为同一批{unit}上前者减后者，附 {confidence} 置信区间。“未能证明”表示现有数据无法判断，并不表示二者表现相同。",
    ),
    "pairs_none": ("There is one judged model only, so there is nothing to compare.", "只有一个受评模型，无从比较。"),
    "pairs_rest": ("All other comparisons ({n})", "其余全部比较（{n}）"),
    "col_pair": ("Comparison", "比较"),
    "col_difference": ("Difference in {metric}", "{metric} 差值"),
    "col_p": ("p", "p"),
    "col_p_holm": ("p (Holm)", "p（Holm）"),
    "col_superior": ("Chance the first is better", "前者更好的概率"),
    "col_method": ("Method", "方法"),
    "col_verdict": ("A difference is", "差异"),
    "pair_other": ("against {b}", "对 {b}"),
    "method_delong": ("DeLong's test", "DeLong 检验"),
    "method_delong_clustered": ("DeLong's test with variance clustered by patient", "DeLong 检验（按患者聚类方差）"),
    "method_clustered_delong": ("DeLong's test with variance clustered by patient", "DeLong 检验（按患者聚类方差）"),
    "method_paired_bootstrap": ("paired bootstrap", "配对自助法"),
    "method_bootstrap": ("paired bootstrap", "配对自助法"),
    "method_permutation": ("paired permutation by patient", "按患者配对置换检验"),
    # --- figures ---
    "roc_title": ("Receiver operating characteristic", "受试者工作特征曲线"),
    "roc_note": (
        "Each curve with its {confidence} band; the other models in grey. {shown}",
        "每条曲线附 {confidence} 区间带；灰色为其他模型。{shown}",
    ),
    "roc_macro": (
        "Curves are means over the classes or targets, each against the rest. ",
        "曲线为各类别（或目标）对其余之曲线的平均。",
    ),
    "first_shown": (
        "The first {n} by rank are shown; figures/{file}.svg shows up to {most}.",
        "此处显示排名前 {n} 的模型；figures/{file}.svg 最多显示 {most} 个。",
    ),
    "axis_fpr": ("False positive rate (1 − specificity)", "假阳性率（1 − 特异度）"),
    "axis_tpr": ("Sensitivity", "灵敏度"),
    "calibration_title": ("Calibration", "校准"),
    "calibration_note": (
        "Of the cases given a probability, how many had the disease or class? On the diagonal the probability can be taken at its word. "
        "Bars are {confidence} intervals; the area of a dot grows with its number of cases. {shown}",
        "在获得某一预测概率的病例中，实际有多少属于该类别？落在对角线上表示概率可信。竖线为 {confidence} 置信区间；点的面积随病例数增大。{shown}",
    ),
    "axis_predicted": ("Predicted probability", "预测概率"),
    "axis_observed": ("Observed share", "实际比例"),
    "scatter_title": ("Agreement with the reference", "与参考值的一致性"),
    "scatter_note": (
        "Left: prediction against reference. Right: Bland-Altman, the difference against the mean of both, with the bias and the limits between which "
        "19 of 20 differences are expected to lie. {shown}",
        "左：预测值对参考值。右：Bland-Altman 图，差值对二者均值，附偏差及预期 20 个差值中有 19 个落入的一致性界限。{shown}",
    ),
    "axis_reference": ("Reference", "参考值"),
    "axis_prediction": ("Prediction", "预测值"),
    "axis_mean": ("Mean of both", "二者均值"),
    "axis_difference": ("Prediction − reference", "预测值 − 参考值"),
    "agreement_facts": (
        "Bias {bias}; limits of agreement {lower} and {upper}.",
        "偏差 {bias}；一致性界限 {lower} 与 {upper}。",
    ),
    "distribution_title": ("Dice case by case", "逐例 Dice 分布"),
    "distribution_note": (
        "One dot a case; the box holds the middle half of the cases, its line is the median. {shown}",
        "每点为一个病例；方框包含中间一半病例，框内线为中位数。{shown}",
    ),
    "heatmap_title": ("Every model on every case", "每个模型在每个病例上的表现"),
    "heatmap_probability": ("Mean probability given to the true class", "对真实类别的平均预测概率"),
    "heatmap_dice": ("Dice", "Dice"),
    "heatmap_error": ("Absolute error", "绝对误差"),
    "heatmap_note": (
        "A column is a case, a row a model. Orange columns through all rows are cases that no model understands. "
        "Point at a cell, or use the arrow keys, to read it.",
        "每列为一个病例，每行为一个模型。贯穿所有行的橙色列是所有模型都无法识别的病例。指向单元格或用方向键即可读取数值。",
    ),
    "heatmap_absent": ("not judged", "未受评"),
    "heatmap_sort": ("Order of cases", "病例顺序"),
    "heatmap_hardest": ("hardest first", "最难在前"),
    "heatmap_label": ("by label, then hardest", "按标签，再按难度"),
    "heatmap_id": ("by case id", "按病例编号"),
    "heatmap_canvas": (
        "Heat map of {models} by {cases}. Arrow keys move between cells; the line above reads the cell.",
        "{models} × {cases} 的热图。用方向键在单元格间移动；上方一行显示该单元格内容。",
    ),
    "heatmap_read": ("Point at a cell to read it.", "指向单元格以读取。"),
    "heatmap_mean": ("mean over models", "各模型均值"),
    "axis_cases": ("Cases, hardest first", "病例（最难在前）"),
    "figure_alt": ("{title}: {models}.", "{title}：{models}。"),
    "forest_alt": (
        "{metric} of each model with its {confidence} interval.",
        "各模型的 {metric} 及其 {confidence} 置信区间。",
    ),
    "forest_title": ("{metric} with {confidence} interval", "{metric} 及其 {confidence} 置信区间"),
    "missed_title": ("Cases that every model misses", "所有模型都漏判的病例"),
    "missed_targets": ("Wrong on", "判错目标"),
    "worst_note": (
        "The cases to look at first: a wrong reference, a poor image or unusual anatomy. Numbers are each model's {quantity}.",
        "最值得先看的病例：可能是参考标注有误、图像质量差或解剖不典型。数字为各模型的{quantity}。",
    ),
    "missed_note": (
        "The cases to look at first: a wrong label, a poor image or a hard disease. Numbers are each model's {quantity}.",
        "最值得先看的病例：可能是标签有误、图像质量差或病情疑难。数字为各模型的{quantity}。",
    ),
    "worst_title": ("Cases on which the models do worst", "各模型表现最差的病例"),
    "worst_none": ("No case was judged.", "没有受评病例。"),
    "missed_none": ("No case was missed by every model.", "没有病例被所有模型漏判。"),
    "missed_shown": (
        "The first {n} of {total} are shown; summary.json lists all.",
        "此处显示 {total} 例中的前 {n} 例；summary.json 列出全部。",
    ),
    "missed_alt_image": ("Image of case {case}.", "病例 {case} 的图像。"),
    "missed_alt_strip": ("Frames or slices of case {case}.", "病例 {case} 的数帧或数层。"),
    "missed_no_image": ("image not at hand", "图像不可用"),
    "missed_masked": (
        "not shown: its pixels were not cleared of text (scan with text=black)",
        "未显示：像素中的文字尚未核查（扫描时用 text=black）",
    ),
    "missed_label": ("Label", "标签"),
    "missed_patient": ("Patient", "患者"),
    "missed_contour": ("Outlines are the reference contours.", "轮廓线为参考勾画。"),
    "learning_title": ("Learning curves", "学习曲线"),
    "learning_note": (
        "One line a training (fold and seed); a dot by itself is a training of which one value was kept. Upper panel: training loss; lower panel: score on the "
        "selection part, on which the choice of settings rests. {shown}",
        "每条线为一次训练（折与种子）；孤立的点表示该训练只记录了一个值。上图：训练损失；下图：选择部分上的得分，设置即据此选定。{shown}",
    ),
    "axis_step": ("Training step", "训练步数"),
    "axis_loss": ("Training loss", "训练损失"),
    "axis_score": ("Selection score", "选择得分"),
    "learning_none": ("No learning curves were kept.", "未保存学习曲线。"),
    # --- how it was made ---
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
        "The primary measure was {metric} {level}, pooled over the outer test folds and averaged over the seeds, with {confidence} intervals from "
        "{resamples} bootstrap resamples of {unit}.",
        "主要指标为 {metric}（{level}），合并所有外层测试折并对种子取平均；{confidence} 置信区间由对{unit}的 {resamples} 次自助重抽样得到。",
    ),
    "methods_metric_one": (
        "The primary measure was {metric} {level}, averaged over the seeds, with {confidence} intervals from {resamples} bootstrap resamples of {unit}.",
        "主要指标为 {metric}（{level}），对种子取平均；{confidence} 置信区间由对{unit}的 {resamples} 次自助重抽样得到。",
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
        "Models were compared by {methods}; p values were corrected by Holm's method over {n} comparisons.",
        "模型间比较采用 {methods}；p 值按 Holm 方法对 {n} 次比较作校正。",
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
    "fact_positive": ("Positive class", "阳性类别"),
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
    "fact_versions": ("Versions", "版本"),
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
    # --- limits ---
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
    "limit_few_seeds": ("The seed spread rests on {n}; it is a rough figure.", "种子离散度仅基于 {n}，只是粗略数值。"),
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
    # --- glossary ---
    "glossary_title": ("Glossary", "术语表"),
    "glossary_own": (
        "defined by the program that computed it; no description is at hand.",
        "由计算程序定义，暂无说明。",
    ),
    "term_interval": ("Interval", "置信区间"),
    "about_interval": (
        "The range of values that agree with these data at the stated confidence, found by drawing the judged patients again and again.",
        "在给定置信水平下与数据相容的取值范围，通过反复重抽受评患者得到。",
    ),
    "term_holm": ("Holm", "Holm 校正"),
    "term_macro": ("Macro", "宏平均"),
    "about_macro": (
        "The mean over the classes or targets, each of which counts the same.",
        "对各类别（或目标）取平均，权重相同。",
    ),
    "term_threshold": ("Threshold", "阈值"),
    "about_threshold": (
        "The score from which a case is called positive. Youden's index takes the one with the largest sum of sensitivity and specificity, here on inner "
        "parts alone, so that the tested cases have no say in it.",
        "得分达到该值即判为阳性。约登指数取灵敏度与特异度之和最大的阈值，此处仅在内层部分上选定，与受测病例无关。",
    ),
    "about_holm": (
        "Comparing many models finds some difference by luck alone. Holm's method raises each p value so that one false finding in the whole family stays unlikely.",
        "比较许多模型时，仅凭运气也会出现差异。Holm 方法提高每个 p 值，使整组比较中出现任何一个假发现的可能性保持很低。",
    ),
    "term_seed": ("Seed spread", "种子离散度"),
    "about_seed": (
        "How far the result moves when the same training is repeated with other random numbers.",
        "以不同随机数重复同一训练时，结果变动的幅度。",
    ),
    "term_fold": ("Outer fold", "外层折"),
    "about_fold": (
        "The patients are divided into parts; each part is once the test part of models trained on the others.",
        "将患者分为若干部分；每一部分轮流作为测试部分，由在其余部分上训练的模型预测。",
    ),
    # --- beside the leaderboard ---
    "claims_title": ("Sentences of the sources, put to the test", "对来源论断的检验"),
    "claims_note": (
        "Each sentence names networks that should do better than others. Every such pair is compared on the same cases by resampling patients, "
        "and p values are corrected within the sentence (Holm). Not shown is not the same as wrong.",
        "每条论断都指明哪些网络应优于其他网络。每一对均在相同病例上按患者重抽样比较，p 值在该论断内校正（Holm）。“未证实”不等于“错误”。",
    ),
    "claim_quoted": ("“{text}”", "“{text}”"),
    "claim_published": ("published value: {value}", "发表数值：{value}"),
    "claim_unpublished": ("no published value", "无发表数值"),
    "claim_pair": ("{a} against {b}", "{a} 对比 {b}"),
    "claim_difference": ("Difference (positive: in its favour)", "差值（正值支持论断）"),
    "claim_supported": ("Supported: shown in every pair.", "得到支持：每一对均已证实。"),
    "claim_partly": (
        "Partly supported: shown in some pairs, against it in none.",
        "部分支持：部分对已证实，无相反结果。",
    ),
    "claim_mixed": (
        "Mixed: shown in some pairs, and the opposite in others.",
        "结果不一：部分对已证实，另一部分证实了相反结果。",
    ),
    "claim_contradicted": (
        "Contradicted: the opposite is shown, and nothing in its favour.",
        "被反驳：证实了相反结果，且无支持证据。",
    ),
    "claim_not_shown": ("Not shown: the data cannot tell.", "未证实：数据无法判断。"),
    "claim_not_run": ("Not tested:", "未检验："),
    "ways_title": ("Fine-tuning or frozen features", "微调还是冻结特征"),
    "ways_note": (
        "The same networks used in different ways. Bars are the main measure, lines its interval.",
        "同一网络的不同使用方式。条形为主要指标，线段为其置信区间。",
    ),
    "kinds_title": ("Against each kind of negative", "按阴性类型分别评估"),
    "kinds_note": (
        "All positive cases against the negative cases of one kind alone ({column}), AUC with {confidence} interval. What looks easy against the "
        "healthy may fail against other disease.",
        "所有阳性病例仅与某一类阴性病例（{column}）相比较，给出 AUC 及 {confidence} 置信区间。与健康者相比容易区分的，与其他疾病相比未必。",
    ),
    "kinds_specificity": ("specificity {value}", "特异度 {value}"),
    "clean_title": ("With and without test-time augmentation", "有无测试时增强"),
    "clean_note": (
        "The numbers above are means over the picture and random views of it, with a fixed seed. Here is what the picture alone gives.",
        "以上数值为原图与若干固定种子随机视图预测的平均。此处列出仅用原图的结果。",
    ),
    "clean_with": ("With views", "含随机视图"),
    "clean_without": ("Picture alone", "仅原图"),
    "clean_change": ("Change (with minus without)", "变化（有减无）"),
    "looks_at_title": ("Where the network looks", "网络关注何处"),
    "looks_at_note": (
        "Positive test cases with boxes that people drew: how often the brightest place of the network's map (Grad-CAM) lies in a box, with {confidence} "
        "interval, and how often a blindly chosen place would. A map shows what moved the score, not what is ill.",
        "对带有人工标注框的阳性测试病例：网络热图（Grad-CAM）最亮处落在框内的比例及 {confidence} 置信区间，并列出盲选位置的命中率。热图显示影响得分之处，而非病变本身。",
    ),
    "looks_at_hit": ("In a box", "落在框内"),
    "looks_at_chance": ("Blindly", "盲选"),
    "looks_at_whose": (
        "Maps of {model}: warm where the score rises, blue outlines are the boxes.",
        "{model} 的热图：暖色处提高得分，蓝框为标注框。",
    ),
    "looks_at_masked": (
        "The maps are not shown over their pictures: the pixels were not cleared of text (scan with text=black).",
        "未显示热图叠加图像：像素中的文字尚未核查（扫描时用 text=black）。",
    ),
    "looks_alt": ("Picture of {case} with the network's map and the boxes", "{case} 的图像，含网络热图与标注框"),
    "majority_row": ("always naming the larger class", "始终判为较多的类别"),
    # --- tasks, levels ---
    "task_classify": ("classification", "分类"),
    "task_regress": ("regression", "回归"),
    "task_segment": ("segmentation", "分割"),
    "level_case": ("case", "病例"),
    "level_patient": ("patient", "患者"),
    "level_window": ("window", "窗口"),
    "level_study": ("study", "检查"),
    "level_pixel": ("pixel", "像素"),
    "per_case": ("per case", "按病例"),
    "per_patient": ("per patient", "按患者"),
    "per_window": ("per window", "按窗口"),
    "per_study": ("per study", "按检查"),
    "per_pixel": ("over all pixels", "按全部像素"),
    "per_pooled": ("pixels of all cases pooled", "合并全部病例像素"),
    # --- sayings of the pipeline that have no translation ---
    "say_original": ("{text}", "程序原文：“{text}”"),
}

#: Warnings and reasons that the pipeline writes, as patterns, with what the page says (English, Chinese; None = as written).
#: Groups named ``fold`` are counted from 1 on the page; ``model``, ``metric`` and ``reason`` are put into words.
SAYINGS: tuple[tuple[str, str | None, str], ...] = (
    (r"compat split_80_20: the part held out chose the settings and is reported too, so these numbers are too good",
     None, "compat split_80_20：留出部分既用于选择设置又用于报告结果，因此数值偏高"),
    (r"the run holds no such arms", None, "本次运行没有此类模型"),
    (r"no measure (?P<target>\w+) here", None, "此处没有指标 {target}"),
    (r"the measure is not taken here: (?P<target>.+)", None, "此处未计算该指标：{target}"),
    (r"weights absent", None, "缺少权重文件"),
    (r"patient ?= ?none: one person may stand in training and test, and intervals are by case",
     None, "patient=none：同一人可能同时出现在训练与测试中，置信区间按病例计算"),
    (r"patient ?= ?none.*", None, "patient=none：患者身份未知，按病例重抽样；若同一患者有多个病例，置信区间会偏窄"),
    (r"patientId names an image, not a person: one person may stand in training and test",
     None, "patientId 标识的是图像而非人：同一人可能同时出现在训练与测试中"),
    (r"1 cases have the same pixels as another", "1 case has the same pixels as another", "1 个病例与另一病例的像素完全相同"),
    (r"(?P<n>\d+) cases have the same pixels as another", None, "{n} 个病例与其他病例的像素完全相同"),
    (r"1 pictures stand in training and test under two patients: see medgraft audit",
     "1 picture stands in training and test under two patients, so results may be too good: see medgraft audit",
     "1 幅图像分属两名患者并同时出现在训练与测试中，结果可能虚高：见 medgraft audit"),
    (r"(?P<n>\d+) pictures stand in training and test under two patients: see medgraft audit",
     "{n} pictures stand in training and test under two patients, so results may be too good: see medgraft audit",
     "{n} 幅图像分属两名患者并同时出现在训练与测试中，结果可能虚高：见 medgraft audit"),
    (r"1 cases have no value of (?P<target>.+)", "1 case has no value of {target}", "1 个病例缺少 {target} 的取值"),
    (r"(?P<n>\d+) cases have no value of (?P<target>.+)", None, "{n} 个病例缺少 {target} 的取值"),
    (r"only (?P<n>\d+) patients were judged: too few for any interval or test", None, "仅有 {n} 名患者受评：不足以计算任何区间或检验"),
    (r"only (?P<n>\d+) cases were judged: too few for any interval or test", None, "仅有 {n} 个病例受评：不足以计算任何区间或检验"),
    (r"only (?P<n>\d+) patients were judged: intervals and p values are rough below (?P<few>\d+)",
     None, "仅有 {n} 名患者受评：少于 {few} 时，置信区间与 p 值较粗略"),
    (r"only (?P<n>\d+) cases were judged: intervals and p values are rough below (?P<few>\d+)",
     None, "仅有 {n} 个病例受评：少于 {few} 时，置信区间与 p 值较粗略"),
    (r"labels are said to live on patients but differ within some patient, so the numbers stand at the level of cases",
     None, "标签标注为患者层面，但有患者的各病例标签不一致，因此数值按病例层面计算"),
    (r"labels live on studies; every number stands at the level of cases", None, "标签属于检查层面；所有数值按病例层面计算"),
    (r"no case was judged by every model, so there are no ranks", None, "没有病例被所有模型评估，因此没有名次"),
    (r"models were judged on different cases, so their own numbers do not compare; pairs and ranks use the cases in common",
     None, "各模型受评的病例不同，其各自数值不可直接比较；两两比较与名次仅使用共同病例"),
    (r"(?P<target>.+): all judged cases have one class \((?P<label>.*)\), so nothing can be told apart",
     None, "{target}：所有受评病例同属一个类别（{label}），无从区分"),
    (r"(?P<target>.+): no judged case has class (?P<label>.+); means over the classes leave it out",
     None, "{target}：没有受评病例属于类别 {label}；类别平均中不含该类别"),
    (r"(?P<target>.+): fold (?P<fold>\d+) lacks a class in its test part, so its own metrics and fold means leave it out",
     "{target}: outer fold {fold} lacks a class in its test part, so its own metrics and fold means leave it out",
     "{target}：外层折 {fold} 的测试部分缺少某一类别，其自身指标及折均值不含该折"),
    (r"(?P<model>.+): fold (?P<fold>\d+) was refitted (?P<n>\d+) times with seed (?P<seed>\S+); the refits are averaged like seeds",
     "{model}: outer fold {fold} was refitted {n} times with seed {seed}; the refits are averaged like seeds",
     "{model}：外层折 {fold} 以种子 {seed} 重新训练了 {n} 次；各次结果按种子方式取平均"),
    (r"(?P<model>.+): seed (?P<seed>\d+)(?: \(repeat (?P<again>\d+)\))? judged (?P<n>\d+) of (?P<all>\d+) cases and is left out",
     None, "{model}：种子 {seed} 仅评估了 {all} 个病例中的 {n} 个，不予计入"),
    (r"(?P<model>.+): (?P<n>\d+) cases were not judged by every seed and are left out", None, "{model}：有 {n} 个病例未被所有种子评估，不予计入"),
    (r"(?P<model>.+): no labelled case was judged", None, "{model}：没有带标签的病例受评"),
    (r"(?P<model>.+): the score of (?P<n>\d+) cases is not a number \(cells (?P<cells>.*); first case (?P<case>.*)\), so no metric is given",
     None, "{model}：有 {n} 个病例的得分不是数值（训练 {cells}；首个病例 {case}），因此不给出指标"),
    (r"(?P<model>.+): (?P<n>\d+) cases have no single true class among (?P<label>.+) and are left out",
     None, "{model}：有 {n} 个病例在 {label} 中没有唯一的真实类别，不予计入"),
    (r"(?P<model>.+): (?P<n>\d+) of (?P<all>\d+) refits are done; the others: (?P<reason>.+)",
     "{model}: {n} of {all} trainings are done; the others: {reason}", "{model}：{all} 次训练中完成 {n} 次；其余：{reason}"),
    (r"(?P<n>\d+) of (?P<all>\d+) refits are done; the others: (?P<reason>.+)",
     "{n} of {all} trainings are done; the others: {reason}", "{all} 次训练中完成 {n} 次；其余：{reason}"),
    (r"(?P<model>.+) was judged on (?P<n>\d+) of (?P<all>\d+) cases", None, "{model}：{all} 个病例中有 {n} 个受评"),
    (r"(?P<model>.+) was judged on (?P<n>\d+) of (?P<all>\d+) cases \(no result for fold (?P<fold>[\d, ]+)\)",
     "{model} was judged on {n} of {all} cases (no result for outer fold {fold})", "{model}：{all} 个病例中有 {n} 个受评（外层折 {fold} 无结果）"),
    (r"(?P<model>.+): every case has the same score \(seed (?P<seed>.*)\), so it tells nothing apart",
     None, "{model}：所有病例得分相同（种子 {seed}），无从区分"),
    (r"(?P<model>.+): only (?P<n>\d+) different scores for (?P<all>\d+) cases; tied pairs count half in the AUC",
     None, "{model}：{all} 个病例仅有 {n} 个不同得分；计算 AUC 时得分相同的病例对按一半计"),
    (r"(?P<model>.+): (?P<metric>\w+) is not defined on its cases", "{model}: {metric} is not defined on its cases", "{model}：{metric} 在其病例上无定义"),
    (r"(?P<model>.+): (?P<metric>\w+) is (?P<n>\S+) in every resample, so resampling cannot tell how sure that is",
     "{model}: {metric} is {n} in every resample, so resampling cannot tell how sure that is",
     "{model}：{metric} 在每次重抽样中均为 {n}，重抽样无法说明其不确定性"),
    (r"(?P<model>.+): (?P<metric>\w+) is not defined in (?P<n>\S+) of the resamples \(a class with very few \w+\)",
     "{model}: {metric} is not defined in {n} of the resamples, because a class is very rare",
     "{model}：{metric} 在 {n} 的重抽样中无定义，因为某一类别非常少"),
    (r"no labelled case of its test parts was judged", None, "其测试部分中没有带标签的病例受评"),
    (r"not run(?:: (?P<reason>.+))?", None, "未运行"),
    (r"failed(?:: (?P<reason>.+))?", None, "失败"),
    (r"running", None, "进行中"),
    (r"planned|waiting", None, "等待中"),
)  # fmt: skip

#: Measures of which a smaller value is better.
LOWER_IS_BETTER = {"brier", "ece", "mae", "rmse", "hd95", "log_loss"}
#: Measures that live between 0 and 1 (R2 below) and are written with two decimals.
_TWO_DECIMALS = {
    "squared_correlation",
    "auc",
    "auprc",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "precision",
    "f1",
    "r2",
    "dice",
    "iou",
    "correlation",
    "calibration_slope",
    "calibration_intercept",
}
_THREE_DECIMALS = {"brier", "ece"}

_LEVELS = ("window", "case", "patient", "study", "pixel", "pooled")


def clean(value: Any, most: int = 0) -> str:
    """A user's string made printable: control characters out, at most ``most`` characters (0 = no limit)."""
    text = re.sub(
        r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]", " ", str(value)
    ).strip()
    return text if not most or len(text) <= most else text[: most - 1] + "…"


def finite(value: Any) -> TypeGuard[float]:
    """Whether ``value`` is a number that can be printed."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def split_metric(name: str) -> tuple[str, str, str]:
    """``case.auc.left`` -> (level ``case``, measure ``auc``, part ``left``); level or part may be empty."""
    level, _, rest = name.partition(".")
    if level not in _LEVELS:
        level, rest = "", name
    base, _, part = rest.partition(".")
    return level, base, part


class Text:
    """Strings and numbers in one language. ``text("key", name=value)`` fills a string."""

    def __init__(self, language: str = "en") -> None:
        if language not in LANGUAGES:
            raise UserError(
                f"no report language {clean(language, 20)}", fix=f"choose lang={' or lang='.join(LANGUAGES)}"
            )
        self.language = language
        self._index = LANGUAGES.index(language)

    def __call__(self, key: str, **values: Any) -> str:
        text = STRINGS[key][self._index]
        return text.format(**values) if values else text

    def has(self, key: str) -> bool:
        return key in STRINGS

    # --- numbers ---

    def count(self, what: str, n: Any) -> str:
        """``count("patients", 325)`` -> '325 patients'."""
        if not finite(n):
            return self("unknown")
        return self(f"count_{what}_one") if n == 1 else self(f"count_{what}", n=f"{int(n):,}".replace(",", "\u202f"))

    def decimals(self, values: Sequence[float], metric: str = "") -> int:
        """Decimals that numbers shown together share: by their measure, else by the largest; one more where a bound would print as zero."""
        base = split_metric(metric)[1]

        def among(names: set[str]) -> bool:
            return any(base == n or base.endswith(f"_{n}") or base.startswith(f"{n}_") for n in names)

        size = max(abs(v) for v in values)
        if among(_THREE_DECIMALS):
            found = 3
        elif among(_TWO_DECIMALS):
            found = 2
        else:
            found = (
                0
                if size >= 1000
                else 1
                if size >= 100
                else 2
                if size >= 0.1 or size == 0
                else min(8, 1 - math.floor(math.log10(size)))
            )
        close = 0 < max(values) - min(values) < 0.01  # bounds that differ are not printed alike
        return found + (found == 2 and (close or any(0 < abs(v) < 0.005 for v in values)))

    def number(self, value: float, metric: str = "", decimals: int | None = None) -> str:
        """A number with the decimals its measure is printed with and a true minus sign."""
        text = f"{value:.{self.decimals([value], metric) if decimals is None else decimals}f}"
        if float(text) == 0:
            text = text.lstrip("-")
        return text.replace("-", "\u2212")

    def percent(self, value: float, decimals: int = 0) -> str:
        text = f"{100 * value:.{decimals}f}".replace("-", "\u2212")
        return f"{text}\u00a0%" if self.language == "en" else f"{text}%"

    def confidence(self, value: Any) -> str:
        level = value if finite(value) else 0.95
        return self.percent(level, 0 if abs(100 * level - round(100 * level)) < 1e-9 else 1)

    def p(self, value: Any) -> str:
        if not finite(value):
            return self("undefined")
        if value < 0.001:
            return "<\u00a00.001"
        return f"{value:.4f}" if abs(value - 0.05) < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"

    def duration(self, seconds: Any) -> str:
        if not finite(seconds):
            return self("unknown")
        if seconds < 120:
            return self("seconds", n=f"{seconds:.0f}")
        return self("minutes", n=f"{seconds / 60:.0f}") if seconds < 7200 else self("hours", n=f"{seconds / 3600:.1f}")

    # --- names ---

    def metric(self, name: str) -> str:
        """Printed name of a measure: ``case.auc`` -> 'AUC'; parts (structures, classes) follow in brackets."""
        _, base, part = split_metric(name)
        known, word = METRICS.get(base), ""
        if known is None and base.partition("_")[0] in AVERAGES:
            word, _, stem = base.partition("_")
            known = METRICS.get(stem)
        title = known[self._index] if known else clean(base, 40)
        if known and word:
            title = f"{AVERAGES[word][self._index]} {title}"
        return (
            title
            if not part
            else f"{title} ({clean(part, 60)})"
            if self.language == "en"
            else f"{title}（{clean(part, 60)}）"
        )

    def metric_level(self, name: str) -> str:
        level = split_metric(name)[0]
        return self(f"per_{level}") if level else ""

    def describe(self, name: str, registry: dict[str, str]) -> str:
        """Plain description of a measure; ``registry`` (name -> English text) is asked for measures unknown here."""
        _, base, _ = split_metric(name)
        for candidate in (base, *(re.sub(f"^{word}_|_{word}$", "", base) for word in ("pooled", "macro", "micro"))):
            if candidate in METRICS:
                return METRICS[candidate][2 + self._index]
        found = registry.get(base) or registry.get(name)
        return clean(found) if found and self.language == "en" else self("glossary_own")

    def model_name(self, model: Any) -> str:
        """'resnet3d_10' -> '3D ResNet-10'; a library in front ('timm:resnet18') is left out, an unknown name stays as it is."""
        name = str(model).rpartition(":")[2].removesuffix(".")
        for pattern, written in FAMILIES:
            if found := re.fullmatch(pattern, name):
                return clean(found.expand(written), 60)
        return MODEL_NAMES.get(name, clean(model, 60))

    def start_short(self, start: Any) -> str:
        key = f"start_short_{start}"
        return self(key) if self.has(key) else STARTS.get(str(start), clean(start, 40))

    def strategy_short(self, strategy: Any) -> str:
        parts = str(strategy).split("+")  # 'finetune+layer_decay': the strategy with its modifiers
        names = [self(f"short_{_strategy(p)}") if self.has(f"short_{_strategy(p)}") else clean(p, 40) for p in parts]
        return " + ".join(names)

    def model_short(self, model: dict[str, Any]) -> str:
        """One line for tables and figures: 'EfficientNet-Lite0, ImageNet, fine-tuned'."""
        parts = [self.model_name(model.get("model") or model.get("id", "?"))]
        if model.get("start"):
            parts.append(self.start_short(model["start"]))
        if model.get("strategy"):
            parts.append(self.strategy_short(model["strategy"]))
        return ("，" if self.language == "zh" else ", ").join(parts)

    def model_phrase(self, model: dict[str, Any]) -> str:
        """The model in prose: 'EfficientNet-Lite0 started from ImageNet and fine-tuned'."""
        name, start, strategy = (
            self.model_name(model.get("model") or model.get("id", "?")),
            model.get("start"),
            model.get("strategy"),
        )
        if not start:
            return name
        begun = (
            self(f"start_{start}")
            if start in ("random", "card")
            else self("start_other", start=STARTS.get(str(start), clean(start, 40)))
        )
        if not strategy:
            return self("model_phrase_start", model=name, start=begun)
        key = f"strategy_{_strategy(strategy)}"
        how = self(key) if self.has(key) else self.strategy_short(strategy)
        form = "model_phrase_with" if how.startswith("with ") or not self.has(key) else "model_phrase"
        return self(form, model=name, start=begun, strategy=how)

    def say(self, phrase: Any, models: Mapping[str, str] | None = None) -> str:
        """A saying of the pipeline (a reason, a warning) in this language; one that is not known is quoted as it came.

        ``models`` (id -> printed name) puts the names of models in place of their ids.
        """
        text = clean(phrase).removeprefix("not run:").strip()
        for pattern, *written in SAYINGS:
            found = re.fullmatch(pattern, text.rstrip("."), re.IGNORECASE)
            if found is None:
                continue
            words = {k: v or "" for k, v in found.groupdict().items()}
            words["model"] = (models or {}).get(words.get("model", ""), words.get("model", ""))
            words["metric"] = self.metric(words.get("metric", ""))
            words["fold"] = re.sub(r"\d+", lambda number: str(int(number.group()) + 1), words.get("fold", ""))
            words["reason"] = self.join_states(words.get("reason", ""))
            form = written[self._index]
            return (
                form.format(**words)
                if form is not None
                else text
                if not words["model"]
                else text.replace(found["model"], words["model"], 1)
            )
        return self("say_original", text=text)

    def joined(self, parts: Sequence[str]) -> str:
        """Parts of one list, with this language's comma."""
        return ("，" if self.language == "zh" else ", ").join(parts)

    def join_states(self, states: str) -> str:
        """States of trainings ('failed: out of memory, running') in this language."""
        return (
            states
            if self.language == "en" or not states
            else "；".join(self.say(s) for s in re.split(r", (?=failed|not run|running)", states))
        )


def _strategy(name: Any) -> str:
    text = str(name)
    return "logistic" if "logistic" in text else text
