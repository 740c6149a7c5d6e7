"""The two languages of a page: strings side by side, and how numbers are written.

``STRINGS[key]`` is a pair (English, Chinese); both hold the same ``{placeholders}``. Here stand those that several
parts of a page say; a part takes its own in (``take``). ``Text("zh")`` looks keys up, fills them and formats numbers.
An unknown key is a programming error and raises.
"""

# ruff: noqa: E501 - a table of sentences reads better unbroken

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from medgraft import notices
from medgraft.errors import UserError
from medgraft.report.audit_text import AUDIT
from medgraft.report.words import AVERAGES, FAMILIES, METRICS, MODEL_NAMES, STARTS, TASKS
from medgraft.stats import metrics
from medgraft.stats.metrics import Scale

LANGUAGES = ("en", "zh")

STRINGS: dict[str, tuple[str, str]] = {
    **AUDIT,
    **TASKS,
    # --- frame of the page ---
    "language": ("en", "zh-Hans"),
    "skip": ("Skip to the results", "跳到结果"),
    "theme": ("Light or dark", "浅色或深色"),
    "nav": ("Sections", "章节"),
    "warnings_title": ("Read these results with care", "请谨慎解读本结果"),
    "warnings_line": ("With care: {first}", "注意：{first}"),
    "warnings_more": (" (and {more} more, listed at the top)", "（另有 {more} 条，见页首）"),
    "none": ("none", "无"),
    "unknown": ("not recorded", "未记录"),
    "footer": (
        "Made by medgraft {version} from summary.json. This file holds everything it shows and asks nothing of a network.",
        "由 medgraft {version} 根据 summary.json 生成。所有内容均在本文件中，不访问任何网络。",
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
    "count_models": ("{n} models", "{n} 个模型"),
    "count_models_one": ("1 model", "1 个模型"),
    # --- numbers ---
    "ranked_within": (
        ", cases of one fold being ranked against each other only, for each fold has a network of its own",
        "（病例仅在同一折内相互排序，因为每一折都有各自的网络）",
    ),
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
    "reason_any": ("no judged case gives it a value", "没有受评病例可给出该值"),
    "reason_fit": ("the logistic fit does not settle on these cases", "在这些病例上逻辑拟合不收敛"),
    "reason_empty": ("no case was judged", "没有受评病例"),
    "reason_not_computed": ("it was not computed for this model", "未对该模型计算"),
    # --- verdicts, thresholds, what acquisition and trivial answers tell ---
    "verdict_shown": ("shown", "已证明有差异"),
    "verdict_worse": ("shown, and in favour of the other", "已证明有差异，且另一方更好"),
    "verdict_not_shown": ("not shown", "未能证明有差异"),
    "threshold_range": ("{low} to {high}", "{low} 至 {high}"),
    "baseline_image": ("image size and brightness alone", "仅用图像尺寸与亮度"),
    "baseline_video": ("frame size, brightness and length alone", "仅用帧尺寸、亮度与时长"),
    "baseline_volume": ("volume size and brightness alone", "仅用体数据尺寸与亮度"),
    "baseline_any": ("size, brightness and length alone", "仅用尺寸、亮度与时长"),
    "baseline_note": (
        "The acquisition baseline takes no part in the ranking: a logistic regression on {facts}, cross-validated over all cases of the data set; whether it is more than chance is told by a permutation of patients.",
        "采集信息基线不参与排名：{facts}的逻辑回归，在数据集全部病例上交叉验证；是否高于随机水平由对患者的置换检验判定。",
    ),
    "trivial_detail": ("looks at no picture", "不看图像"),
    "trivial_note": (
        "Answers that look at no picture ({answers}) were found on each training part and judged on the same cases by the same rules; they take no rank.",
        "不看图像的回答（{answers}）在各训练部分上得出，并在相同病例上以相同规则评估；它们不参与排名。",
    ),
    "patients_unknown": ("patients not known", "患者未知"),
    "unit_sd": ("SD", "个标准差"),
    "unit_patients": ("patients", "患者"),
    "unit_cases": ("cases", "病例"),
    # --- naming a model ---
    "model_phrase": ("{model} {start} and {strategy}", "{model}（{start}，{strategy}）"),
    "model_phrase_with": ("{model} {start}, {strategy}", "{model}（{start}，{strategy}）"),
    "model_phrase_start": ("{model} {start}", "{model}（{start}）"),
    "start_random": ("started from random weights", "随机初始化"),
    "start_scratch": ("trained from scratch", "从头训练"),
    "start_short_scratch": ("from scratch", "从头训练"),
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
    # --- tables ---
    "col_model": ("Model", "模型"),
    "col_n": ("Judged on", "受评数量"),
    "not_run": ("not run", "未运行"),
    "not_run_because": ("not run: {reason}", "未运行：{reason}"),
    "state_failed": ("failed", "失败"),
    "state_failed_because": ("failed: {reason}", "失败：{reason}"),
    "state_unfinished": ("not finished", "未完成"),
    "state_unfinished_because": ("not finished: {reason}", "未完成：{reason}"),
    "col_measure": ("Measure", "指标"),
    "seconds": ("{n} s", "{n} 秒"),
    "minutes": ("{n} min", "{n} 分钟"),
    "hours": ("{n} h", "{n} 小时"),
    "col_pair": ("Comparison", "比较"),
    "col_p": ("p", "p"),
    "col_p_adjusted": ("p (corrected)", "p（校正后）"),
    # --- figures ---
    "first_shown": (
        "The first {n} by rank are shown; figures/{file}.svg shows up to {most}.",
        "此处显示排名前 {n} 的模型；figures/{file}.svg 最多显示 {most} 个。",
    ),
    "axis_reference": ("Reference", "参考值"),
    "figure_alt": ("{title}: {models}.", "{title}：{models}。"),
    "missed_label": ("Label", "标签"),
    "fact_positive": ("Positive class", "阳性类别"),
    "glossary_own": (
        "defined by the program that computed it; no description is at hand.",
        "由计算程序定义，暂无说明。",
    ),
    # --- levels ---
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
}


def take(strings: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Take the strings of one part of a page into the one lookup; they are given back.

    Raises ``ValueError`` for a key that stands already, since one of the two would never be said.
    """
    if twice := sorted(STRINGS.keys() & strings.keys()):
        raise ValueError(f"strings that stand twice: {', '.join(twice)}")
    STRINGS.update(strings)
    return strings


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
        self._measures: dict[str, dict[str, Any]] = {}

    def __call__(self, key: str, **values: Any) -> str:
        text = STRINGS[key][self._index]
        return text.format(**values) if values else text

    def has(self, key: str) -> bool:
        return key in STRINGS

    # --- measures ---

    def learn(self, measures: Any) -> None:
        """Take what a run says of its measures (``run.measures``), so that one which only its task knows is told too."""
        if isinstance(measures, dict):
            self._measures |= {str(k): v for k, v in measures.items() if isinstance(v, dict)}

    def scale(self, name: str) -> Scale:
        """Direction, decimals and unit of a measure by its printed name; by size and more is better where none says."""
        base = split_metric(name)[1]
        average, _, stem = base.partition("_")
        for candidate in (base, stem if average in AVERAGES else base):
            if candidate in self._measures:
                told = self._measures[candidate]
                return Scale(told.get("direction"), told.get("decimals"), str(told.get("unit") or ""))
            if (known := metrics.scale(candidate)) is not None:
                return known
        return Scale()

    # --- numbers ---

    def count(self, what: str, n: Any) -> str:
        """``count("patients", 325)`` -> '325 patients'."""
        if not finite(n):
            return self("unknown")
        return self(f"count_{what}_one") if n == 1 else self(f"count_{what}", n=f"{int(n):,}".replace(",", "\u202f"))

    def decimals(self, values: Sequence[float], metric: str = "") -> int:
        """Decimals that numbers shown together share: by their measure, else by the largest; one more where a bound would print as zero."""
        found, size = self.scale(metric).decimals, max(abs(v) for v in values)
        if found is None:
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
        own = (self._measures.get(base) or {}).get("title") or (base, base)  # of a measure that only its task knows
        title = known[self._index] if known else clean(own[self._index], 40)
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
        found = registry.get(base) or registry.get(name) or (self._measures.get(base) or {}).get("description")
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
        return self.joined([self.model_name(model.get("model") or model.get("id", "?")), *self.way(model)])

    def way(self, model: dict[str, Any]) -> list[str]:
        """Start and strategy in short: 'ImageNet', 'fine-tuned'; a random start that trains whole is 'from scratch'."""
        start, strategy = model.get("start"), model.get("strategy")
        if scratch(start, strategy):
            more = str(strategy).partition("+")[2]
            return [self("start_short_scratch"), *([self.strategy_short(more)] if more else [])]
        return [
            *([self.start_short(start)] if start else []),
            *([self.strategy_short(strategy)] if strategy else []),
        ]

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
        if scratch(start, strategy) and "+" not in str(strategy):
            return self("model_phrase_start", model=name, start=self("start_scratch"))
        if not strategy:
            return self("model_phrase_start", model=name, start=begun)
        key = f"strategy_{_strategy(strategy)}"
        how = self(key) if self.has(key) else self.strategy_short(strategy)
        form = "model_phrase_with" if how.startswith("with ") or not self.has(key) else "model_phrase"
        return self(form, model=name, start=begun, strategy=how)

    def say(self, given: Any, models: Mapping[str, str] | None = None) -> str:
        """A notice (a reason, a warning), as such or as a file holds it, in this language.

        ``models`` (id -> printed name) puts the names of models in place of their ids.
        """
        return clean(notices.say(notices.from_json(given), self.language, models, self.metric))

    def joined(self, parts: Sequence[str]) -> str:
        """Parts of one list, with this language's comma."""
        return ("，" if self.language == "zh" else ", ").join(parts)


def scratch(start: Any, strategy: Any) -> bool:
    """Whether a way is training from scratch, for which nothing is fine-tuned."""
    return start == "random" and str(strategy).partition("+")[0] == "finetune"


def _strategy(name: Any) -> str:
    text = str(name)
    return "logistic" if "logistic" in text else text
