"""What the page says of each kind of question, and names as they are printed: measures, networks, starts. Tables only,
English and Chinese.
"""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TASKS: dict[str, tuple[str, str]] = {
    "heatmap_probability": ("Mean probability given to the true class", "对真实类别的平均预测概率"),
    "heatmap_error": ("Absolute error", "绝对误差"),
    "task_classify": ("classification", "分类"),
    "task_regress": ("regression", "回归"),
    "task_segment": ("segmentation", "分割"),
}


@dataclass(frozen=True)
class Question:
    """What a page says and shows of one kind of question; keys are keys of strings.

    The defaults serve a kind that the page does not know: it brings its own measure, whose direction, decimals and unit
    stand in the summary (``run["measures"][name]``), and each case has a value of that measure.
    """

    name: str = ""  # the task in words; "" as the run writes it
    asked: str = "targets"  # the fact of the run that names what was asked for
    several: bool = False  # whether several targets are several questions, each with its own numbers
    each: str = ""  # the measure that tells on which of several targets a model does worst
    classes: bool = False  # a case has a class as label: it can be missed, counted, rare
    case: str = ""  # the measure that a case's value is printed like; "" the primary one
    quantity: str = ""  # a case's value in words; "" the name of that measure
    share: bool = False  # a case's value lies between 0 and 1, and more is better
    label: str = ""  # what stands in front of a case's label; "" by what the labels are
    tenth: str = ""  # the sentence on the worst tenth of the cases
    spread: bool = True  # whether the values are shown as a distribution, too
    contours: bool = False  # whether pictures show the reference contours
    reason: str = "reason_any"  # why a measure has no value
    limit: str = "limit_labels_any"  # that the reference is taken as the truth


#: The kinds of question that the page knows, by the task of the run.
QUESTIONS: dict[str, Question] = {
    "classify": Question(
        name="task_classify",
        several=True,
        each="auc",
        classes=True,
        case="auc",
        quantity="heatmap_probability",
        share=True,
        label="missed_label",
        spread=False,
        reason="reason_classes",
        limit="limit_labels",
    ),
    "regress": Question(
        name="task_regress",
        several=True,
        each="r2",
        case="mae",
        quantity="heatmap_error",
        label="axis_reference",
        tenth="answer_fail_error",
        spread=False,
        reason="reason_values",
        limit="limit_labels_regress",
    ),
    "segment": Question(
        name="task_segment",
        asked="structures",
        case="dice",
        share=True,
        label="missed_label",
        tenth="answer_fail_dice",
        contours=True,
        reason="reason_masks",
        limit="limit_labels_segment",
    ),
}


def question(run: Mapping[str, Any]) -> Question:
    """What is said of the question of a run; a run that names none asks for classes."""
    return QUESTIONS.get(str(run.get("task") or "classify"), Question())


#: Short name and plain description of each measure: (English name, Chinese name, English, Chinese).
METRICS: dict[str, tuple[str, str, str, str]] = {
    "auc": (
        "AUC",
        "AUC",
        "The chance that a case with the class gets a higher score than a case without it. 0.5 is guessing, 1 is perfect.",
        "属于该类别的病例得分高于不属于该类别的病例的概率。0.5 相当于猜测，1 为完美。",
    ),
    "auprc": (
        "AUPRC",
        "AUPRC",
        "Mean precision over all sensitivities (area under the precision-recall curve). Guessing gives the share of positive cases.",
        "各灵敏度下精确率的平均值（精确率-召回率曲线下面积）。猜测时等于阳性病例的比例。",
    ),
    "accuracy": (
        "Accuracy",
        "准确率",
        "The share of cases that are classed rightly. Misleading where one class is common.",
        "分类正确的病例比例。某一类别很常见时会误导。",
    ),
    "balanced_accuracy": (
        "Balanced accuracy",
        "平衡准确率",
        "The mean over classes of the share classed rightly, so that a rare class counts as much as a common one.",
        "各类别正确比例的平均值，使罕见类别与常见类别权重相同。",
    ),
    "sensitivity": (
        "Sensitivity",
        "灵敏度",
        "Of the cases with the disease, the share that is found.",
        "患病病例中被检出的比例。",
    ),
    "specificity": (
        "Specificity",
        "特异度",
        "Of the cases without the disease, the share that is cleared.",
        "未患病病例中被正确排除的比例。",
    ),
    "precision": (
        "Precision",
        "精确率",
        "Of the cases called positive, the share that has the disease.",
        "判为阳性的病例中实际患病的比例。",
    ),
    "f1": ("F1", "F1", "The harmonic mean of precision and sensitivity.", "精确率与灵敏度的调和平均。"),
    "brier": (
        "Brier score",
        "Brier 分数",
        "The mean squared gap between predicted probability and outcome. Smaller is better.",
        "预测概率与结局之差的平方的平均值，越小越好。",
    ),
    "ece": (
        "ECE",
        "ECE",
        "Expected calibration error: the mean gap between predicted probability and observed share. Smaller is better. Resampling alone "
        "raises it; that shift is taken off its interval.",
        "期望校准误差：预测概率与实际比例之间的平均差距，越小越好。重抽样会使其偏大，区间已扣除这一偏移。",
    ),
    "r2": (
        "R²",
        "R²",
        "The share of the reference's spread that the prediction explains. 0 is no better than the mean.",
        "预测所解释的参考值变异比例。0 表示不优于均值。",
    ),
    "mae": (
        "MAE",
        "MAE",
        "Mean absolute error: how far off the prediction is on average. Smaller is better.",
        "平均绝对误差：预测平均偏离多少，越小越好。",
    ),
    "rmse": (
        "RMSE",
        "RMSE",
        "Root mean squared error: like MAE, but large errors weigh more. Smaller is better.",
        "均方根误差：类似 MAE，但大误差权重更高，越小越好。",
    ),
    "dice": (
        "Dice",
        "Dice",
        "Overlap of predicted and traced area: twice the shared area over the sum of both. 1 is perfect.",
        "预测区域与勾画区域的重叠：公共面积的两倍除以两者面积之和。1 为完美。",
    ),
    "iou": (
        "IoU",
        "IoU",
        "Shared area over the area covered by either. 1 is perfect, and always at or below Dice.",
        "公共面积除以两者的并集面积。1 为完美，且不高于 Dice。",
    ),
    "squared_correlation": (
        "r²",
        "r²",
        "Squared correlation of prediction and reference. It forgives a wrong scale or offset, which R² does not.",
        "预测值与参考值相关系数的平方。与 R² 不同，它不计入比例或偏移错误。",
    ),
    "bias": ("Bias", "偏差", "Mean of prediction minus reference.", "预测值减参考值的平均。"),
    "correlation": (
        "Correlation",
        "相关系数",
        "Pearson's correlation of prediction and reference.",
        "预测值与参考值的 Pearson 相关系数。",
    ),
    "calibration_slope": (
        "Calibration slope",
        "校准斜率",
        "1 when probabilities are neither too bold nor too timid; below 1 they are too bold.",
        "概率既不过激也不保守时为 1；小于 1 表示过激。",
    ),
    "calibration_intercept": (
        "Calibration intercept",
        "校准截距",
        "0 when the mean predicted probability fits the observed share.",
        "平均预测概率与实际比例相符时为 0。",
    ),
}

#: How names of networks are written in prose; anything else is written as the user named it.
MODEL_NAMES = {
    "efficientnet_lite0": "EfficientNet-Lite0",
    "efficientnet_lite1": "EfficientNet-Lite1",
    "efficientnet_lite2": "EfficientNet-Lite2",
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v2_folded": "MobileNetV2 without batch norm",
    "mobilenet_v3_large": "MobileNetV3-Large",
    "inception_v3": "Inception v3",
    "googlenet": "GoogLeNet",
    "alexnet": "AlexNet",
    "mobilenet_v3_small": "MobileNetV3-Small",
    "deeplabv3_resnet50": "DeepLabV3 (ResNet-50)",
    "deeplabv3_resnet101": "DeepLabV3 (ResNet-101)",
    "fcn_resnet50": "FCN (ResNet-50)",
    "fcn_resnet101": "FCN (ResNet-101)",
    "lraspp_mobilenet_v3_large": "LR-ASPP (MobileNetV3-Large)",
    "r2plus1d_18": "R(2+1)D-18",
    "r3d_18": "R3D-18",
    "mc3_18": "MC3-18",
    "mvit_v1_b": "MViTv1-B",
    "mvit_v2_s": "MViTv2-S",
    "swin3d_t": "Video Swin-T",
    "s3d": "S3D",
    "unet": "U-Net",
    "unet2d": "2D U-Net",
    "unet3d": "3D U-Net",
}
#: Families whose members differ by a number: ``resnet3d_10`` -> '3D ResNet-10'.
FAMILIES = (
    (r"resnet(\d+)", r"ResNet-\1"),
    (r"resnet3d_(\d+)", r"3D ResNet-\1"),
    (r"wide_resnet(\d+)_2", r"Wide ResNet-\1"),
    (r"densenet(\d+)", r"DenseNet-\1"),
    (r"vgg(\d+)(_bn)?", r"VGG-\1"),
    (r"efficientnet_b(\d)", r"EfficientNet-B\1"),
    (r"convnext_(tiny|small|base|large)", r"ConvNeXt (\1)"),
    (r"vit_(tiny|small|base|large)_patch(\d+).*", r"ViT (\1, patch \2)"),
)
#: Data that a start was trained on, as printed.
STARTS = {"imagenet": "ImageNet", "imagenet1k": "ImageNet", "kinetics": "Kinetics-400", "kinetics400": "Kinetics-400"}
#: Words that stand in front of a measure taken over classes or targets (English, Chinese).
AVERAGES = {"macro": ("Macro", "宏平均"), "micro": ("Micro", "微平均"), "pooled": ("Pooled", "合并")}
