"""Every knob of a run: typed, with units; load, save, override, diff.

A recipe is a YAML file of these fields. ``key=value`` overrides everywhere, with dots for nested
fields (``train.epochs=5``). Unknown keys fail with the nearest match, and all faults are reported
at once. Config stops at the builders: below them, named arguments with defaults.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medgraft import knobs
from medgraft.errors import UserError, did_you_mean
from medgraft.notices import Notice, notice

#: Faults of the sources that can be brought back, and what the report then opens with.
COMPAT: dict[str, Notice] = {"split_80_20": notice("split_80_20")}

Strategy = Literal["finetune", "frozen", "frozen_logistic", "gradual"]
WindowKind = Literal["auto", "uniform", "tsn", "dense", "centre", "all", "slices", "cubes", "whole", "marked"]
SplitKind = Literal["kfold", "nested", "holdout", "column", "external"]


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class WindowConfig(Section):
    """How windows are cut from a case."""

    kind: WindowKind = Field(
        "auto", description="auto: the image, a uniform clip, slices or the whole volume, by kind and network"
    )
    length: int = Field(
        0,
        ge=0,
        description="frames or slices in a window; 0 = 1 for images, 8 for videos and slices, the axis for volumes",
    )
    size: int | list[int] = Field(0, description="height and width of the window in pixels; 0 = the network's own size")
    stride: int = Field(1, ge=1, description="frames between neighbours (dense)")
    overlap: float = Field(0.5, ge=0, lt=1, description="share by which neighbouring cubes overlap when predicting")
    views: int = Field(1, ge=1, description="windows a case when predicting (uniform, dense)")
    foreground: float = Field(
        0.34,
        ge=0,
        le=1,
        description="masks: share of the training windows drawn about a voxel of a structure (cubes, slices, marked)",
    )
    together: bool = Field(False, description="one window holds the frames about every mark of a case (marked)")
    join: Literal["mean", "vote"] = Field(
        "mean",
        description="how windows become a case: mean probability; vote decides by the majority of the windows, ranks "
        "by the mean",
    )
    hu_window: tuple[float, float] = Field(
        (-1000.0, 1000.0), description="Hounsfield units shown as black and white (CT)"
    )
    spacing: Literal["auto", "none"] | list[float] = Field(
        "auto",
        description="masks of volumes: voxels (d, h, w, in mm) that cubes are cut from; answers are brought back to "
        "the source. none: as stored; auto: the median of the cases that train where their spacings differ",
    )

    @field_validator("kind", mode="before")
    @classmethod
    def _old_word(cls, value: object) -> object:
        return "marked" if value == "labelled" else value  # as recipes said it before marks could be other than traced

    @field_validator("spacing")
    @classmethod
    def _three_sides(cls, value: str | list[float]) -> str | list[float]:
        if isinstance(value, list) and not (len(value) == 3 and all(0 < side < math.inf for side in value)):
            raise ValueError("three sides of a voxel in mm, d, h and w, each above 0")
        return value


class SelectConfig(Section):
    """Which frames of the training part take part. Arrays stay whole; kept frames are computed for each part."""

    max_per_second: int | None = Field(
        None, ge=1, description="frames of any one second that train; which ones is drawn; default: all"
    )


class SplitConfig(Section):
    """Who trains, who selects, who tests. Patients never cross."""

    kind: SplitKind = "kfold"
    folds: int = Field(5, ge=2, description="outer folds (kfold, nested)")
    inner: int = Field(
        1, ge=0, description="inner parts: 1 = one hold-out, k = k folds, 0 = no selection (only with one setting)"
    )
    test_share: float = Field(0.2, gt=0, lt=1, description="share of patients tested (holdout)")
    select_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the training patients used for selection (inner=1); default .2, with holdout .125: "
        "70/10/20 in all",
    )
    column: str | None = Field(None, description="split column of the data set (column)")
    test: Path | None = Field(None, description="external data set folder (external)")
    seed: int = 0

    @property
    def selects(self) -> float:
        """``select_share``, resolved."""
        return self.select_share or (0.125 if self.kind == "holdout" else 0.2)


class TrainConfig(Section):
    """How one fit runs: the setting of a cell."""

    epochs: float = Field(12, gt=0, description="passes over the training part")
    iterations: int | None = Field(None, ge=1, description="optimiser steps; replaces epochs")
    batch_size: int = Field(16, ge=1)
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(1e-4, gt=0)
    head_learning_rate: float | None = Field(
        None, gt=0, description="learning rate of the new head; default: that of the body"
    )
    weight_decay: float = Field(1e-2, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD only")
    schedule: Literal["constant", "cosine", "linear", "step"] = "cosine"
    end_rate: float | None = Field(
        None, gt=0, description="learning rate at the end of a cosine or linear schedule; default: 1 % of the peak"
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps with a linear rise")
    warmup_epochs: float | None = Field(None, ge=0, description="epochs with a linear rise; replaces warmup")
    augment: str = Field(
        "auto", description="augmentation preset: auto (by kind), none, light, xray, xray_geometry, ultrasound, volume"
    )
    mirror: bool | Literal["auto"] = Field(
        "auto",
        description="let the augmentation mirror; false where the side matters (a mirrored heart is not real). auto: "
        "not for masks, nor where names of classes or structures carry a side (left, right, anterior, ...)",
    )
    tta: int = Field(
        0,
        ge=0,
        le=64,
        description="test-time augmentation: random views of a fixed seed, averaged with the clean one, whose result "
        "stands beside",
    )
    components: Literal["auto", "largest", "all"] = Field(
        "auto",
        description="masks: what of a structure is called: all of it, or its largest connected component alone. auto "
        "(volumes): the largest where that does not lower the Dice on the select parts; without one, all",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="before the head")
    balanced: bool = Field(False, description="draw classes equally often")
    label_center: float | None = Field(
        None,
        description="quantity that an untrained network answers, in the label's unit: the bias of the last layer; "
        "default: the training part's mean",
    )
    label_scale: float | None = Field(
        None,
        gt=0,
        description="unit in which the loss sees a quantity; 1 = the label's own; default: the training part's "
        "standard deviation",
    )
    positive_weight: float | Literal["balanced"] = Field(
        1.0,
        description="weight of positive cases in the loss of yes/no targets; balanced: negatives over positives of "
        "the training part",
    )
    auxiliary_weight: float = Field(
        0.4,
        ge=0,
        description="weight of an auxiliary head's loss in training, for networks that have one (Inception v3); 0 "
        "leaves the head out",
    )
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="learning rate factor per layer group, towards the input"
    )
    l2sp: float = Field(0.0, ge=0, description="strength of the pull towards the starting weights")
    unfreeze: float = Field(0.5, gt=0, le=1, description="share of the steps after which all groups train (gradual)")
    clip_gradient: float | None = Field(None, gt=0, description="largest gradient norm")
    logits: Literal[1, 2] = Field(
        1, description="outputs for a yes/no target: 1 (sigmoid), or 2 (softmax and cross-entropy)"
    )
    patience: int | None = Field(
        None, ge=1, description="evaluations without improvement before stopping; the refit takes the best step"
    )
    evaluations: int = Field(4, ge=1, description="looks at the select part during a search fit")
    keep_every: float | None = Field(
        None, gt=0, description="epochs after which a search fit keeps the best weights so far as best-<epoch>.ckpt"
    )
    logistic_c: float | None = Field(
        None, gt=0, description="inverse regularisation of a logistic head; default: chosen on the training part"
    )


class ArmConfig(Section):
    """One way of transfer: a model, a start and a strategy; may override window and training."""

    model: str
    start: str = Field("imagenet", description="random, imagenet, kinetics, a tag or the name of a weight card")
    strategy: Strategy = "finetune"
    join: Literal["mean", "bert"] = Field(
        "mean", description="how the frames of a clip become one in an image network: mean of features, or BERT"
    )
    window: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    select: dict[str, Any] = Field(default_factory=dict)
    normalise: Literal["card", "data"] | None = Field(None, description="as of the recipe, for this arm")
    grid: dict[str, list[Any]] | None = None
    options: dict[str, Any] = Field(
        default_factory=dict, description="arguments of this network beyond its input, such as bn_mode or width"
    )
    hidden: int = Field(
        0,
        ge=0,
        description="width of a dense layer with ReLU before the last one, 0 = none; of BERT with join=bert, 0 = 1000",
    )
    label: str | None = Field(
        None, description="a name of its own for this arm's strategy, when two arms differ by setting alone"
    )

    @property
    def id(self) -> str:
        return f"{self.model} · {self.start} · {self.strategy_name}"

    @property
    def strategy_name(self) -> str:
        """Strategy with its modifiers: ``finetune+layer_decay``, ``finetune+bert``."""
        if self.label:
            return self.label
        extra = [key for key in ("layer_decay", "l2sp") if self.train.get(key)]
        return "+".join([self.strategy, *self.join_facts.values(), *extra])

    @property
    def join_facts(self) -> dict[str, str]:
        """How frames are joined, where not by the mean: part of the arm's name and of its cells."""
        return {} if self.join == "mean" else {"join": self.join + (f"{self.hidden}" if self.hidden else "")}


class ClaimConfig(Section):
    """A sentence of a source, put to the test: arms chosen by ``better`` against those chosen by ``than``.

    A chooser is a mapping of ``model``, ``start``, ``strategy`` (the printed name) to a value or a list of values. What
    ``better`` and ``than`` share in ``within`` (``model``: within each network) is compared pair by pair; else every
    chosen arm with every other.
    """

    text: str
    source: str = Field("", description="where the sentence stands")
    published: str = Field("", description="the number that the source gives for it, as printed; empty: none")
    better: dict[str, str | list[str]]
    than: dict[str, str | list[str]] = Field(default_factory=dict, description="empty: all other arms")
    within: list[Literal["model", "start", "strategy"]] = Field(default_factory=list)
    metrics: list[str] = Field(
        default_factory=list, description="measures by plain name (auc, accuracy, f1); default: the primary one"
    )

    @model_validator(mode="after")
    def _check(self) -> ClaimConfig:
        for chooser in (self.better, self.than):
            for key in chooser:
                if key not in ("model", "start", "strategy"):
                    raise ValueError(
                        f"claims: unknown field {key!r} of an arm; {did_you_mean(key, ('model', 'start', 'strategy'))}"
                    )
        if not self.better:
            raise ValueError(f"claims: {self.text!r} says of no arm that it is better (better: {{model: NAME}})")
        return self


class StatsConfig(Section):
    """How sure can I be."""

    resamples: int = Field(2000, ge=100, description="patient-level bootstrap resamples")
    confidence: float = Field(0.95, gt=0.5, lt=1)
    seed: int = 0


LENGTHS = ("epochs", "iterations")  # keys of train that say how long


def seconds_of(text: str) -> float | None:
    """``90``, ``90s``, ``10min``, ``1.5 h`` in seconds; None where it is no time above 0."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|min|m|h)?\s*", text)
    value = float(found[1]) * {"m": 60, "h": 3600}.get((found[2] or "s")[0], 1) if found else 0.0
    return value or None


S = TypeVar("S", bound=Section)


class Recipe(Section):
    """A whole run: data, task, split, the arms to compare, and how to judge them."""

    name: str = "run"
    data: Path = Field(description="data set folder written by `medgraft scan`")
    out: Path = Field(Path("runs"), description="folder that holds runs")
    task: str = Field("auto", description="classify, regress or segment; default: told from labels and masks")
    target: str | list[str] | None = Field(
        None, description="label column or columns; default: the only one, or the masks"
    )
    classes: list[str] | None = Field(
        None, description="classes that take part; cases of other classes are left out and counted"
    )
    split: SplitConfig = SplitConfig()
    window: WindowConfig = WindowConfig()
    train: TrainConfig = TrainConfig()
    select: SelectConfig = SelectConfig()
    normalise: Literal["card", "data"] = Field(
        "card",
        description="mean and deviation of the inputs: the start's card, or measured on 128 cases of each training "
        "part",
    )
    grid: dict[str, list[Any]] = Field(
        default_factory=dict,
        description="settings to search on inner parts: field of train, window.FIELD, select.FIELD or normalise "
        "-> values",
    )
    models: list[ArmConfig] = Field(default_factory=list)
    seeds: list[int] = Field(default_factory=lambda: [0, 1, 2])
    negatives: str | None = Field(
        None,
        description="label column that tells kinds of negatives apart: positives are also judged against each kind "
        "alone",
    )
    claims: list[ClaimConfig] = Field(
        default_factory=list, description="sentences of a source to be tested: text, better, than, within, metrics"
    )
    explain: int = Field(
        0,
        ge=0,
        description="positive test cases with boxes, of each refitted image network, whose Grad-CAM is held against "
        "the boxes; 0 = none",
    )
    stats: StatsConfig = StatsConfig()
    budget: str | None = Field(
        None,
        description="time that the whole may take here, such as 90s, 10min or 2h: turned into optimiser steps once, "
        "before the first fit; default: epochs and steps as they are set",
    )
    weights: list[Path] = Field(default_factory=list, description="folders with weight files")
    download: bool = Field(False, description="fetch absent weights from their address")
    device: str = Field("auto", description="auto, cpu, cuda, mps")
    precision: Literal["32", "bf16", "16"] = "32"
    threads: int = Field(0, ge=0, description="CPU threads; 0 = all cores. Part of every cell")
    memory_gb: float = Field(4.0, gt=0, description="memory that loading may take; workers and prefetch follow from it")
    workers: int | None = Field(None, ge=0, description="loader processes; default: from memory_gb and the cores")
    stage: Path | None = Field(None, description="fast local folder to which arrays are copied first")
    checkpoint_seconds: float = Field(60.0, ge=0)
    keep_windows: bool = Field(False, description="keep window rows of the predictions too")
    compat: list[str] = Field(
        default_factory=list, description="faults of a source to reproduce, by name (docs/compat.md)"
    )
    report: bool = Field(True, description="write report.html at the end; `medgraft report RUN` does it later")
    lang: Literal["en", "zh"] = "en"

    @field_validator("precision", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        return str(value)  # precision=32 reads as a number

    @field_validator("budget", mode="before")
    @classmethod
    def _time(cls, value: object) -> object:
        text = f"{value}s" if isinstance(value, (int, float)) and not isinstance(value, bool) else value
        if isinstance(text, str) and not seconds_of(text):
            raise ValueError(f"{value!r} is not a time; write 90s, 10min or 2h")
        return text

    @property
    def seconds(self) -> float | None:
        """``budget`` in seconds."""
        return None if self.budget is None else seconds_of(self.budget)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        ids = [arm.id for arm in self.models]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"two models of one name: {twice[0]} (give one of them a label)")
        for grid in [self.grid, *(arm.grid for arm in self.models if arm.grid is not None)]:
            for key, values in grid.items():
                if key not in GRID_KEYS:
                    raise ValueError(f"grid: unknown field {key!r}; {did_you_mean(key, GRID_KEYS)}")
                if not values:
                    raise ValueError(f"grid: {key} has no values, so there is nothing to search")
        if self.budget:
            places = [
                ("train.", self.train.model_fields_set),
                *((f"{a.id}: train.", set(a.train)) for a in self.models),
            ]
            places += [("grid: ", set(grid)) for grid in (self.grid, *(arm.grid or {} for arm in self.models))]
            if both := [where + key for where, keys in places for key in LENGTHS if key in keys]:
                raise ValueError(f"budget: says how long to train, and so does {both[0]}; leave one of them out")
        if not self.seeds:
            raise ValueError("seeds: at least one is needed")
        for arm in self.models:
            if arm.join == "bert" and arm.strategy == "frozen_logistic":
                raise ValueError(f"models: {arm.id}: a logistic head cannot read a sequence (use strategy: frozen)")
            if arm.join == "bert" and arm.hidden % 5:
                raise ValueError(f"models: {arm.id}: BERT has 5 heads, so hidden is a multiple of 5, not {arm.hidden}")
            for name, section in (("window", WindowConfig), ("train", TrainConfig), ("select", SelectConfig)):
                for key in getattr(arm, name):
                    if key not in section.model_fields:
                        raise ValueError(
                            f"models: {arm.id}: unknown {name} field {key!r}; {did_you_mean(key, section.model_fields)}"
                        )
        for arm in self.models:
            if arm.hidden and arm.strategy == "frozen_logistic":
                raise ValueError(
                    f"models: {arm.id}: a logistic head stands on the body itself, hidden goes with the other "
                    f"strategies"
                )
        for name in self.compat:
            if name not in COMPAT:
                raise ValueError(f"compat: unknown name {name!r}; {did_you_mean(name, COMPAT)}")
        if "split_80_20" in self.compat and (self.split.kind != "holdout" or self.split.inner != 1):
            raise ValueError("compat: split_80_20 goes with split.kind=holdout and split.inner=1")
        return self

    def arm_settings(self, arm: ArmConfig) -> list[SettingConfig]:
        """All settings of an arm, the recipe's under the arm's own, in the order of its grid; one where there is
        none.
        """
        over: list[dict[str, Any]] = [{}]
        for key, values in (self.grid if arm.grid is None else arm.grid).items():
            over = [{**s, key: v} for s in over for v in values]
        return [self._setting(arm, some) for some in over]

    def _setting(self, arm: ArmConfig, over: Mapping[str, Any]) -> SettingConfig:
        """``over`` maps keys of a grid to values: a field of train, ``window.FIELD``, ``select.FIELD``,
        ``normalise``.
        """
        where = f"models: {arm.id}: " if not over else f"grid: {arm.id}: "

        def section(kind: type[S], name: str, base: Section, own: Mapping[str, Any]) -> S:
            drawn = {k.rpartition(".")[2]: v for k, v in over.items() if _section_of(k) == name}
            return build(kind, {**base.model_dump(), **own, **drawn}, where=f"{where}{name}")

        return SettingConfig(
            window=section(WindowConfig, "window", self.window, arm.window),
            select=section(SelectConfig, "select", self.select, arm.select),
            train=section(TrainConfig, "train", self.train, arm.train),
            normalise=over.get("normalise", arm.normalise or self.normalise),
        )


class SettingConfig(Section):
    """One setting of an arm as the recipe says it: what a grid ranges over, nothing resolved yet."""

    window: WindowConfig
    select: SelectConfig
    train: TrainConfig
    normalise: Literal["card", "data"]


GRID_KEYS = (
    *TrainConfig.model_fields,
    *(f"window.{name}" for name in WindowConfig.model_fields),
    *(f"select.{name}" for name in SelectConfig.model_fields),
    "normalise",
)


def _section_of(key: str) -> str:
    """The section of a setting that a key of a grid belongs to."""
    return key.partition(".")[0] if "." in key else "" if key == "normalise" else "train"


M = TypeVar("M", bound=BaseModel)


def build(
    model: type[M], values: Mapping[str, Any], *, where: str = "", elsewhere: Callable[[str], str] = lambda key: ""
) -> M:
    """Make a config from plain values. Raises ``UserError`` that lists every fault with its dotted path.

    ``where`` says what is built: a verb, or a place in a recipe. ``elsewhere`` is asked about an unknown key: whose it
    is, or nothing.
    """
    verb = "run" if issubclass(model, Section) else where
    fix = f"see `medgraft {verb} --help`" if verb else ""
    wrong = knobs.truths(model, values)
    try:
        made = model(**values)
    except ValidationError as error:
        told = {fault.partition(":")[0] for fault in wrong}
        wrong += [f for f in knobs.faults(model, error, elsewhere) if f.partition(":")[0] not in told]
        raise UserError("; ".join(wrong), case=where, fix=fix) from error
    if wrong:
        raise UserError("; ".join(wrong), case=where, fix=fix)
    return made


def parse_overrides(words: Iterable[str]) -> dict[str, Any]:
    """``["train.epochs=5", "models=[a, b]"]`` -> nested dict; values are YAML. A word without ``=`` is refused."""
    result: dict[str, Any] = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not key.strip():
            raise UserError("not of the form key=value", case=word, fix="write e.g. train.epochs=5")
        try:
            value = _numbers(_loaded(text)) if text.strip() else None
        except yaml.YAMLError:
            value = text  # a plain path with characters that YAML does not like
        place = result
        *parents, last = key.strip().split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UserError("is given twice, once as a value and once as a section", case=key)
        if isinstance(place.get(last), dict) and not isinstance(value, dict):
            raise UserError("is given twice, once as a section and once as a value", case=key)
        place[last] = value
    return result


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as text; people mean a number."""
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items()}
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def expanded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as sections: ``{"train.epochs": 2}`` becomes ``{"train": {"epochs": 2}}``."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        for step in reversed(key.split(".")):
            value = {step: value}
        result = merge(result, value)
    return result


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested update; lists are replaced."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merge(result[key], value)
        else:
            result[key] = value
    return result


def load_recipe(
    path: Path | None,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    elsewhere: Callable[[str], str] = lambda key: "",
) -> Recipe:
    """Read a recipe and apply overrides: words of a command line, or values with dotted keys or sections.

    ``models`` entries may be plain names. Paths in it are relative to the working folder. ``elsewhere`` as in
    ``build``.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = _loaded(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            cause = "no such recipe" if isinstance(error, FileNotFoundError) else "not a readable file"
            raise UserError(cause, case=str(path), fix="give a YAML file, or only key=value words") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"not readable YAML: {error}", case=str(path)) from error
        if not isinstance(loaded, dict):
            raise UserError("a recipe is a list of key: value", case=str(path))
        values = _numbers(loaded)
        values.setdefault("name", Path(path).stem)
    over = expanded(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    values = merge(values, over)
    if isinstance(values.get("models"), (str, dict)):
        values["models"] = [values["models"]]
    if "models" in values and isinstance(values["models"], list):
        values["models"] = [{"model": m} if isinstance(m, str) else m for m in values["models"]]
    for key in ("seeds", "weights"):
        if key in values and not isinstance(values[key], list):
            values[key] = [values[key]]
    return build(Recipe, values, where=str(path) if path else "run", elsewhere=elsewhere)


class _Once(yaml.SafeLoader):
    """YAML that refuses a key said twice; the library takes the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise UserError(
                    "is given twice", case=f"{name} (line {key.start_mark.line + 1})", fix="keep one of them"
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def _loaded(text: str) -> Any:
    return yaml.load(text, Loader=_Once)


def dump_recipe(recipe: Recipe, *, said: bool = False) -> str:
    """The recipe as YAML, complete with defaults, ready to be run again; or only what was ``said``, so that the rest
    is chosen anew.
    """
    values = recipe.model_dump(mode="json", exclude_unset=said)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted paths at which two configs differ, with both values."""
    found: list[str] = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += difference(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return found
