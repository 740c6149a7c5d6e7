"""The recipe resolved once: nothing is left to choose, and every fault of a recipe is found here.

A ``Plan`` is plain values, written to ``runs/NAME/plan.json``. Training, status and serving read it and no recipe, so
what is served is what was judged. A cell is a function of one arm, one of its settings, a fold and a seed; its hash
covers everything that decides its numbers and nothing else: neither the arm's other settings, nor its label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from medgraft import files, runs, splits
from medgraft.config import ArmConfig, Recipe, SelectConfig, SettingConfig, TrainConfig, WindowConfig
from medgraft.data import select, spacing, transforms
from medgraft.data.transforms import Augment
from medgraft.data.windows import WindowSpec
from medgraft.datasets import EXTERNAL, Dataset
from medgraft.engine import fields, mirror
from medgraft.engine.device import device_type, thread_count
from medgraft.engine.fields import Common
from medgraft.errors import UserError
from medgraft.models import registry, weights
from medgraft.models.registry import BackboneInfo
from medgraft.tasks import linear
from medgraft.tasks.choose import describe, make
from medgraft.tasks.task import Task, TaskSpec, refuse

FORMAT = 2  # of plan.json; 1 had no plan
PRESETS = {"image": "light", "video": "ultrasound", "volume": "volume"}
CLIP_LENGTH = 8
VOLUME_SIDE = 64
STILL = ("frozen", "frozen_logistic")  # ways of transfer that leave the body as it is


@dataclass(frozen=True)
class Normalise:
    """How stored values become inputs: ``hu_window`` is black and white of Hounsfield units, ``kind`` says whose mean
    and deviation are taken: the start's ``card``, or those of the training part's ``data``, fitted and kept in the
    checkpoint.
    """

    kind: str = "card"
    hu_window: tuple[float, float] = (-1000.0, 1000.0)


@dataclass(frozen=True)
class Setting:
    """What a grid may range over, resolved."""

    window: WindowSpec
    select: SelectConfig
    train: TrainConfig
    normalise: Normalise

    @property
    def augment(self) -> Augment:
        """The augmentation of training batches, and of views when predicting."""
        found = transforms.preset(self.train.augment)
        return found if self.train.mirror else transforms.without_mirror(found)

    def to_json(self) -> dict[str, Any]:
        """Plain values; what does not act (foreground, spacing, components) is left out, so that older cells keep
        their names.
        """
        train = self.train.model_dump(mode="json")
        return {
            "window": {k: v for k, v in asdict(self.window).items() if k not in ("foreground", "spacing") or v},
            "select": self.select.model_dump(mode="json"),
            "train": {k: v for k, v in train.items() if k != "components" or v != "all"},
            "normalise": asdict(self.normalise),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Setting:
        window = dict(value["window"])
        size = window["size"]
        window["size"] = size if isinstance(size, int) else (int(size[0]), int(size[1]))
        if window.get("spacing"):
            window["spacing"] = tuple(float(side) for side in window["spacing"])
        low, high = value["normalise"]["hu_window"]
        return cls(
            WindowSpec(**window),
            SelectConfig(**value["select"]),
            TrainConfig(**{"components": "all", **value["train"]}),
            Normalise(value["normalise"]["kind"], (float(low), float(high))),
        )


@dataclass(frozen=True)
class HeadSpec:
    """What stands on the body: how frames become one (``mean``, ``bert``), and the width of a hidden layer (0 =
    none).
    """

    join: str = "mean"
    hidden: int = 0


@dataclass(frozen=True)
class Arm:
    """A way of transfer with nothing left to choose.

    ``printed`` is its strategy as tables name it; it decides no number.
    """

    id: str
    model: str
    start: str
    strategy: str
    printed: str
    head: HeadSpec
    options: dict[str, Any]
    card: dict[str, str]  # name and sha256 of the start's weights; empty for a random one
    settings: tuple[Setting, ...]

    @property
    def facts(self) -> BackboneInfo:
        return registry.info(self.model)

    def on_features(self, setting: Setting, task: Task) -> bool:
        """Whether it trains on cached features: a still body, and no augmentation asked for."""
        if task.joins != "case" or self.strategy not in STILL:
            return False
        return self.strategy == "frozen_logistic" or setting.augment.idle

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Arm:
        settings = tuple(Setting.from_json(s) for s in value["settings"])
        return cls(**{**value, "head": HeadSpec(**value["head"]), "settings": settings})


@dataclass(frozen=True)
class Part:
    """Who trains and who selects, by patient id."""

    train: tuple[str, ...]
    select: tuple[str, ...]


@dataclass(frozen=True)
class Fold:
    """Who learns and who is tested, by patient id, and the inner parts of those who learn."""

    outer: int
    learns: tuple[str, ...]
    test: tuple[str, ...]
    inner: dict[int, Part]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Fold:
        inner = {int(k): Part(tuple(p["train"]), tuple(p["select"])) for k, p in value["inner"].items()}
        return cls(value["outer"], tuple(value["learns"]), tuple(value["test"]), inner)


@dataclass(frozen=True)
class Means:
    """With what the work is done; none of it changes a number."""

    weights: tuple[str, ...] = ()
    download: bool = False
    memory_gb: float = 4.0
    workers: int | None = None
    stage: str | None = None
    checkpoint_seconds: float = 60.0
    keep_windows: bool = False


@dataclass(frozen=True)
class Plan:
    """See the module's docstring.

    ``cases`` are (case, patient, digest) of all usable cases, in the manifest's order. ``notes`` decide no number.
    """

    task: TaskSpec
    kind: str  # of the data: image, video, volume
    channels: int
    arms: tuple[Arm, ...]
    folds: tuple[Fold, ...]
    seeds: tuple[int, ...]
    cases: tuple[tuple[str, str, str], ...]
    selected: dict[str, str]  # kept frames of a training part where some are left out: "outer.inner.rule" -> digest
    split_hash: str
    device: str
    precision: str
    threads: int
    explain: int = 0
    compat: tuple[str, ...] = ()
    means: Means = field(default=Means(), compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)  # what was decided for the user, a line each
    budget: dict[str, Any] = field(default_factory=dict, compare=False)  # seconds turned into steps (engine.pace)
    spacings: dict[str, tuple[float, float, float]] = field(default_factory=dict)  # of cases, where any is resampled

    def make_task(self, setting: Setting | None = None, *, inner: int = -1, largest: Sequence[str] = ()) -> Task:
        """The task under a setting, of a refit or of an inner part (``task_of``)."""
        spec = self.task if setting is None else self.task_of(setting, inner=inner, largest=largest)
        return make(spec, None if setting is None else setting.train)

    def task_of(self, setting: Setting, *, inner: int, largest: Sequence[str] = ()) -> TaskSpec:
        """What is asked under a setting. Where clean-up is open an inner part weighs it, and a refit does what was
        chosen there: ``largest`` structures.
        """
        rule = setting.train.components
        if rule == "largest":
            return replace(self.task, largest=self.task.structures)
        if rule == "auto" and inner >= 0:
            return replace(self.task, weighs=True)
        return replace(self.task, largest=tuple(largest))

    @cached_property
    def places(self) -> dict[int, Fold]:
        return {fold.outer: fold for fold in self.folds}

    @cached_property
    def data_hash(self) -> str:
        return runs.digest([digest for _, _, digest in self.cases])

    def part(self, outer: int, inner: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(patients that train, patients that are judged) of an inner part, or of the refit (``inner`` -1)."""
        fold = self.places[outer]
        if inner < 0:
            return fold.learns, fold.test
        return fold.inner[inner].train, fold.inner[inner].select

    def digest_of(self, patients: Iterable[str]) -> str:
        """Name of the cases of some patients: what they are and in which order they are drawn."""
        wanted = set(patients)
        return runs.digest([digest for _, patient, digest in self.cases if patient in wanted])[:16]

    def _spacing_digest(self, *parts: Iterable[str]) -> str:
        """Name of the spacings of the cases of some parts."""
        wanted = [set(part) for part in parts]
        cases = [[self.spacings[case] for case, patient, _ in self.cases if patient in part] for part in wanted]
        return runs.digest(cases)[:16]

    @cached_property
    def _digests(self) -> dict[tuple[int, int], tuple[str, str]]:
        parts = [(fold.outer, inner) for fold in self.folds for inner in (-1, *fold.inner)]
        return {
            place: (self.digest_of(who[0]), self.digest_of(who[1])) for place in parts if (who := self.part(*place))
        }

    def cell(
        self,
        arm: Arm,
        setting: Setting,
        *,
        outer: int,
        inner: int,
        seed: int,
        steps: int | None = None,
        largest: Sequence[str] = (),
    ) -> runs.Cell:
        """The cell of one training. ``steps`` is the share of the horizon, in thousandths, that the search found, and
        ``largest`` are the structures that it found better cleaned.
        """
        trains, judged = self._digests[outer, inner]
        named = setting.to_json()
        named["train"].pop("components", None)  # what of it acts stands in the task
        context: dict[str, Any] = {
            "how": arm.strategy,
            "head": asdict(arm.head),
            "options": arm.options,
            "card": arm.card,
            "task": self.task_of(setting, inner=inner, largest=largest).to_json(),
            "kind": self.kind,
            "channels": self.channels,
            "augment": asdict(setting.augment),
            "trains": trains,
            "judged": judged,
            "selected": self.selected.get(selection_key(outer, inner, setting.select)),
            "steps": steps,
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads if self.device == "cpu" else 0,  # other devices add up in an order of their own
            "explain": self.explain if inner < 0 else 0,
            "compat": list(self.compat),
        }
        if arm.strategy == "frozen_logistic":
            context["linear"] = linear.VERSION
        if setting.window.spacing is not None:  # only there the size of a case's voxels decides a number
            context["spacings"] = self._spacing_digest(*self.part(outer, inner))
        return runs.Cell(
            arm=arm.id,
            model=arm.model,
            start=arm.start,
            strategy=arm.printed,
            setting=named,
            outer=outer,
            inner=inner,
            seed=seed,
            data_hash=self.data_hash,
            context=context,
        )

    def searches(self, arm: Arm, outer: int) -> list[tuple[Setting, list[runs.Cell]]]:
        """The cells of a search: every setting on every inner part, with the first seed."""
        inner = sorted(self.places[outer].inner)
        return [(s, [self.cell(arm, s, outer=outer, inner=i, seed=self.seeds[0]) for i in inner]) for s in arm.settings]

    @property
    def inner_cells(self) -> list[runs.Cell]:
        """Every cell of every search."""
        every = [found for arm in self.arms for fold in self.folds for found in self.searches(arm, fold.outer)]
        return [cell for _, cells in every for cell in cells]

    @property
    def size(self) -> int:
        """How many cells the whole plan has."""
        return sum(len(arm.settings) * len(fold.inner) + len(self.seeds) for arm in self.arms for fold in self.folds)

    def to_json(self) -> dict[str, Any]:
        found = {name: value for name, value in vars(self).items() if name in self.__dataclass_fields__}
        if not self.spacings:
            found.pop("spacings")
        arms = [{**asdict(arm), "settings": [s.to_json() for s in arm.settings]} for arm in self.arms]
        folds = [asdict(fold) for fold in self.folds]
        return {"format": FORMAT, **found, "task": self.task.to_json(), "arms": arms, "folds": folds} | {
            "means": asdict(self.means)
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        value = {k: v for k, v in value.items() if k != "format"}
        means = value["means"]
        return cls(
            **{
                **value,
                "task": TaskSpec.from_json(value["task"]),
                "arms": tuple(Arm.from_json(a) for a in value["arms"]),
                "folds": tuple(Fold.from_json(f) for f in value["folds"]),
                "seeds": tuple(value["seeds"]),
                "cases": tuple((str(c), str(p), str(d)) for c, p, d in value["cases"]),
                "compat": tuple(value["compat"]),
                "means": Means(**{**means, "weights": tuple(means["weights"])}),
                "notes": tuple(value.get("notes", ())),
                "spacings": {case: (d, h, w) for case, (d, h, w) in value.get("spacings", {}).items()},
            }
        )


def write(plan: Plan, root: Path) -> Path:
    """Write ``plan.json`` of a run folder."""
    return files.write_json(root / "plan.json", plan.to_json())


def read(root: Path) -> Plan:
    """The last plan of a run folder.

    Raises ``UserError`` for a run that has none, or one that this version cannot read.
    """
    if not (root / "plan.json").is_file():
        old = (root / "run.json").is_file()
        raise UserError(
            "the run was made by an older medgraft, without a plan" if old else "not a run folder (no run.json)",
            case=str(root),
            fix="run its recipe again with name=NAME" if old else "give the folder that `medgraft run` printed",
        )
    value = files.read_json(root / "plan.json")
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise UserError(
            f"plan.json is of format {value.get('format') if isinstance(value, dict) else '?'}, this version reads "
            f"{FORMAT}",
            case=str(root),
            fix="use the medgraft that made the run, or run its recipe again with name=NAME",
        )
    try:
        return Plan.from_json(value)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"plan.json is not whole ({type(error).__name__}: {error})", case=str(root), fix="run the recipe again"
        ) from error


def last(root: Path) -> Plan | None:
    """The last plan of a run folder, or None where there is none, or none that this version reads."""
    try:
        return read(root)
    except UserError:
        return None


def resolve(recipe: Recipe, dataset: Dataset) -> Plan:
    """A recipe and a data set as a plan. Every fault of a recipe is found here, before anything is written."""
    kinds = sorted(dataset.manifest["kind"].unique().to_list())
    if len(kinds) != 1:
        raise UserError(
            f"the data set mixes {', '.join(kinds)}",
            case=str(dataset.root),
            fix="scan each kind into a data set of its own",
        )
    spec = describe(dataset, recipe.task, recipe.target, recipe.classes)
    task = make(spec)
    rows = usable_rows(dataset, task)
    manifest = dataset.manifest[rows]
    still = mirror.why_not(task, spec)
    found = split_rows(recipe, dataset, rows, task)
    folds = _folds(found)
    common = _common_spacing(dataset, rows, folds) if kinds[0] == "volume" and task.joins == "field" else Common()
    arms = tuple(
        _arm(recipe, arm, task, kinds[0], dataset, mirrors=not still, common=common.target) for arm in recipe.models
    )
    alike: dict[str, str] = {}
    for arm in arms:
        same = runs.digest({**asdict(arm), "id": "", "printed": "", "settings": [s.to_json() for s in arm.settings]})
        if alike.setdefault(same, arm.id) != arm.id:
            raise UserError(
                f"differs from {alike[same]} by its label alone", case=arm.id, fix="leave one of them out, or change it"
            )
    for arm in arms:
        for setting in arm.settings:
            if recipe.split.inner == 0 and (setting.train.patience or len(arm.settings) > 1):
                raise UserError(
                    "a search or early stopping needs inner parts", case=arm.id, fix="set split.inner=1 or more"
                )
    notes = [spec.told] if spec.told else []
    if still and any(
        _leaves_mirror_open(recipe, arm) and _would_mirror(arm_) for arm, arm_ in zip(recipe.models, arms)
    ):
        notes.append(f"no mirror images: {still} (train.mirror=true shows them)")
    if not _chooses(recipe, arms, task):
        folds = tuple(replace(fold, inner={}) for fold in folds)
        notes.append("one way with one setting: nothing to choose, so no search is trained and no patient selects")
    if not any(fold.inner for fold in folds) and any(_open(s) for arm in arms for s in arm.settings):
        arms = tuple(replace(arm, settings=tuple(map(_called_whole, arm.settings))) for arm in arms)
        notes.append(
            "no patient selects, so no clean-up of components is chosen (train.components=largest keeps the largest "
            "of each structure)"
        )
    pairs = [pair for way, arm in zip(recipe.models, arms) for pair in zip(recipe.arm_settings(way), arm.settings)]
    windows = [(said.window, made.window) for said, made in pairs]
    if common.told and any(said.spacing == "auto" and made.kind == "cubes" for said, made in windows):
        notes.append(common.told)
    digests = runs.case_digests(dataset, [t.name for t in spec.targets])
    plan = Plan(
        task=spec,
        kind=kinds[0],
        channels=int(dataset.info.get("channels", 1)),
        arms=arms,
        folds=folds,
        seeds=tuple(recipe.seeds),
        cases=tuple((c, p, digests[c]) for c, p in manifest.select("case_id", "patient_id").iter_rows()),
        selected=_selected(dataset, manifest, arms, folds),
        split_hash=runs.digest(found),
        device=device_type(recipe.device),
        precision=recipe.precision,
        threads=thread_count(recipe.threads),
        explain=recipe.explain,
        compat=tuple(sorted(recipe.compat)),
        means=Means(
            weights=tuple(str(folder) for folder in recipe.weights),
            download=recipe.download,
            memory_gb=recipe.memory_gb,
            workers=recipe.workers,
            stage=None if recipe.stage is None else str(recipe.stage),
            checkpoint_seconds=recipe.checkpoint_seconds,
            keep_windows=recipe.keep_windows,
        ),
        notes=tuple(notes),
        spacings=_spacings(dataset, rows, [made for _, made in windows]),
    )
    if recipe.negatives:
        kinds_of_negatives(recipe, dataset, task)
    return plan


def usable_rows(dataset: Dataset, task: Task) -> list[int]:
    """Manifest rows that can be used for the task, in manifest order."""
    return [row for row, fit in enumerate(task.usable(dataset.manifest)) if fit]


def _common_spacing(dataset: Dataset, rows: Sequence[int], folds: Sequence[Fold]) -> Common:
    """What ``auto`` means, by the cases that train in some fold."""
    who = {patient for fold in folds for patient in fold.learns}
    patients = dataset.manifest["patient_id"].to_list()
    return fields.common_spacing(dataset, rows, [row for row in rows if patients[row] in who])


def common_spacing(recipe: Recipe, dataset: Dataset, task: Task) -> tuple[float, float, float] | None:
    """The spacing that the windows of a recipe's default arm have: as it says itself, or by the data; None as
    stored.
    """
    said = recipe.window.spacing
    if said == "none" or task.joins != "field" or dataset.manifest["kind"][0] != "volume":
        return None
    if said != "auto":
        d, h, w = said
        return float(d), float(h), float(w)
    rows = usable_rows(dataset, task)
    if fields.common_spacing(dataset, rows, rows).target is None:
        return None  # whoever trains
    return _common_spacing(dataset, rows, _folds(split_rows(recipe, dataset, rows, task))).target


def _spacings(
    dataset: Dataset, rows: Sequence[int], windows: Iterable[WindowSpec]
) -> dict[str, tuple[float, float, float]]:
    """Spacing of each usable case, where any window is cut at another; refused where a case has none."""
    targets = {window.spacing for window in windows if window.spacing is not None}
    if not targets:
        return {}
    found = {}
    for line in dataset.manifest[list(rows)].iter_rows(named=True):
        for target in sorted(targets):
            spacing.grid_for(line["case_id"], line["shape"][1:], line["spacing"], target)
        d, h, w = line["spacing"]
        found[line["case_id"]] = (float(d), float(h), float(w))
    return found


def _open(setting: Setting) -> bool:
    """Whether clean-up is to be chosen."""
    return setting.train.components == "auto"


def _called_whole(setting: Setting) -> Setting:
    """Without a choice of clean-up."""
    return replace(setting, train=setting.train.model_copy(update={"components": "all"})) if _open(setting) else setting


def _leaves_mirror_open(recipe: Recipe, arm: ArmConfig) -> bool:
    return any(config.train.mirror == "auto" for config in recipe.arm_settings(arm))


def _would_mirror(arm: Arm) -> bool:
    """Whether the augmentation of an arm holds mirror images, shown or not."""
    presets = (transforms.preset(setting.train.augment) for setting in arm.settings)
    return any(found.flip_lr > 0 or found.flip_axes for found in presets)


def _chooses(recipe: Recipe, arms: Sequence[Arm], task: Task) -> bool:
    """Whether a search has anything to find: a setting, a step, an arm to be served, or a threshold of labels."""
    if task.joins != "field" or len(arms) > 1 or recipe.compat:
        return True
    settings = arms[0].settings if arms else ()
    return len(settings) > 1 or any(s.train.patience or s.train.keep_every for s in settings)


def _arm(
    recipe: Recipe,
    arm: ArmConfig,
    task: Task,
    kind: str,
    dataset: Dataset,
    *,
    mirrors: bool,
    common: tuple[float, float, float] | None,
) -> Arm:
    facts = registry.info(arm.model)
    if arm.join == "bert" and (facts.dims != 2 or facts.dense):
        raise UserError(
            "BERT joins the frames of an image network that gives features", case=arm.id, fix="leave out join"
        )
    depths = [int(shape[1]) for shape in dataset.manifest["shape"].to_list()]
    settings = []
    for config in recipe.arm_settings(arm):
        try:
            refuse(task, config.train, config.window.join)
        except UserError as error:
            raise UserError(error.cause, case=arm.id, fix=error.fix) from error
        settings.append(_setting(config, arm, facts, task, kind, depths, mirrors=mirrors, common=common))
    card = weights.find_card(arm.model, arm.start, recipe.weights)
    return Arm(
        id=arm.id,
        model=arm.model,
        start=arm.start,
        strategy=arm.strategy,
        printed=arm.strategy_name,
        head=HeadSpec(arm.join, arm.hidden),
        options=dict(arm.options),
        card={} if card is None else {"name": card.name, "sha256": card.sha256},
        settings=tuple(settings),
    )


def _setting(
    config: SettingConfig,
    arm: ArmConfig,
    facts: BackboneInfo,
    task: Task,
    kind: str,
    depths: Sequence[int],
    *,
    mirrors: bool,
    common: tuple[float, float, float] | None,
) -> Setting:
    """``mirrors`` is what ``auto`` means for mirror images, ``common`` for the spacing of cubes."""
    augment, components = config.train.augment, config.train.components
    if augment == "auto":  # a still body sees its cases once, as they are
        augment = "none" if arm.strategy in STILL and task.joins == "case" else PRESETS[kind]
    if components == "largest" and (task.joins != "field" or kind == "video"):
        raise UserError(
            "components are of masks of pictures and volumes", case=arm.id, fix="leave out train.components"
        )
    if components == "auto" and (task.joins != "field" or kind != "volume"):
        components = "all"
    window = resolve_window(config.window, facts, kind, task.joins == "field", depths)
    if isinstance(config.window.spacing, list):
        if task.joins != "field" or kind != "volume":
            raise UserError("spacing is for masks of volumes", case=arm.id, fix="leave out window.spacing")
        d, h, w = config.window.spacing
        common = (float(d), float(h), float(w))
    elif config.window.spacing == "none" or window.kind != "cubes":
        common = None
    if common is not None and config.select != SelectConfig():
        raise UserError("frames cannot be selected where volumes are resampled", case=arm.id, fix="leave out select")
    return Setting(
        replace(window, spacing=common),
        config.select,
        config.train.model_copy(
            update={
                "augment": augment,
                "mirror": mirrors if config.train.mirror == "auto" else config.train.mirror,
                "components": components,
            }
        ),
        Normalise(config.normalise, config.window.hu_window),
    )


def resolve_window(
    config: WindowConfig, info: BackboneInfo, kind: str, field: bool, depths: Sequence[int]
) -> WindowSpec:
    """Fill in what the recipe leaves to medgraft.

    Images: the whole image. Videos: a clip of 8 frames, one from each eighth. Volumes: for an image
    network 8 slices, one from each eighth; for a 3D network the whole volume resampled to 64 a side.
    Where a field is the answer: the marked frames; of volumes, blocks for a 3D network and slices for a 2D one.
    """
    size: int | tuple[int, int] = (
        config.size if isinstance(config.size, int) else (int(config.size[0]), int(config.size[1]))
    )
    chosen, length = config.kind, config.length
    flat = info.dims == 2
    if chosen == "auto":
        if field:
            chosen = "cubes" if kind == "volume" and not flat else "marked"
        elif kind == "image":
            chosen = "centre"
        elif kind == "volume" and not flat:
            chosen = "whole"
        else:
            chosen = "uniform"
    if not length:
        if kind == "image" or chosen == "marked":
            length = 1
        elif chosen in ("whole", "cubes"):
            length = VOLUME_SIDE if chosen == "whole" else 32
        else:
            length = 1 if chosen == "slices" else CLIP_LENGTH
    if not size:
        size = VOLUME_SIDE if kind == "volume" and not flat else int(info.default_size[-1])
    if max(depths, default=1) == 1:
        length = 1
    views = None if chosen in ("all", "cubes", "marked", "slices", "whole", "centre") else config.views
    single = kind == "image" or config.together  # the whole of what there is, wherever a structure lies
    acts = field and (chosen == "cubes" or (chosen in ("slices", "marked") and not single))
    foreground = config.foreground if acts else 0.0
    return WindowSpec(
        chosen, length, size, config.stride, config.overlap, views, config.join, config.together, foreground
    )


def split_rows(recipe: Recipe, dataset: Dataset, rows: Sequence[int], task: Task) -> list[splits.Row]:
    """Rows of ``splits.json``: a function of the recipe and the data set."""
    external = recipe.split.kind == "external"
    return splits.make_splits(
        Dataset(dataset.root, dataset.info, dataset.manifest[list(rows)], dataset.frames),
        kind="column" if external else recipe.split.kind,
        folds=recipe.split.folds,
        inner=recipe.split.inner,
        test_share=recipe.split.test_share,
        select_share=recipe.split.selects,
        column=EXTERNAL if external else recipe.split.column,
        target=task.stratify,
        seed=recipe.split.seed,
        compat=recipe.compat,
    )


def _folds(rows: Sequence[splits.Row]) -> tuple[Fold, ...]:
    """Rows of ``splits.json`` as folds; a tested patient learns in no part, but under ``split_80_20`` may select."""
    found = []
    for outer in sorted({row["outer"] for row in rows}):
        own = [row for row in rows if row["outer"] == outer]
        test = {row["patient_id"] for row in own if row["role"] == "test"}
        learns = {row["patient_id"] for row in own if row["role"] != "test"} - test
        inner = {
            number: Part(
                *(
                    tuple(sorted(r["patient_id"] for r in own if r["inner"] == number and r["role"] == role))
                    for role in ("train", "select")
                )
            )
            for number in sorted({row["inner"] for row in own if row["inner"] >= 0})
        }
        found.append(Fold(outer, tuple(sorted(learns)), tuple(sorted(test)), inner))
    return tuple(found)


def split_rows_of(plan: Plan) -> list[splits.Row]:
    """The folds of a plan as rows of ``splits.json``."""
    rows: list[splits.Row] = []
    for fold in plan.folds:
        rows += [{"outer": fold.outer, "inner": -1, "patient_id": p, "role": "test"} for p in fold.test]
        if not fold.inner:
            rows += [{"outer": fold.outer, "inner": -1, "patient_id": p, "role": "train"} for p in fold.learns]
        for number, part in fold.inner.items():
            who = [*((p, "train") for p in part.train), *((p, "select") for p in part.select)]
            rows += [{"outer": fold.outer, "inner": number, "patient_id": p, "role": role} for p, role in sorted(who)]
    return rows


def selection_key(outer: int, inner: int, rule: SelectConfig) -> str:
    """Name of a selection of frames: of which training part, by which rule."""
    return f"{outer}.{inner}.{runs.digest(rule.model_dump(mode='json'))[:8]}"


def kept_frames(
    dataset: Dataset, manifest: pl.DataFrame, patients: Iterable[str], rule: SelectConfig, *, outer: int, inner: int
) -> dict[str, Any] | None:
    """Kept frame indices of the arrays of a training part by array id; None where every frame stays."""
    if rule == SelectConfig():
        return None
    part = manifest.filter(pl.col("patient_id").is_in(list(patients)))
    frames = dataset.frames.filter(pl.col("array_id").is_in(part["array_id"].unique().to_list()))
    return select.select(frames, "train", outer * 1000 + inner + 1, select.Rules(rule.max_per_second))


def _selected(dataset: Dataset, manifest: pl.DataFrame, arms: Sequence[Arm], folds: Sequence[Fold]) -> dict[str, str]:
    """Digest of the kept frames of every training part and rule that leaves some out."""
    rules = {runs.digest(s.select.model_dump(mode="json")): s.select for arm in arms for s in arm.settings}
    found: dict[str, str] = {}
    for rule in rules.values():
        for fold in folds:
            for inner, patients in [(-1, fold.learns), *((i, part.train) for i, part in fold.inner.items())]:
                kept = kept_frames(dataset, manifest, patients, rule, outer=fold.outer, inner=inner)
                if kept is not None:
                    text = {array: indices.tolist() for array, indices in sorted(kept.items())}
                    found[selection_key(fold.outer, inner, rule)] = runs.digest(text)[:16]
    return found


def kinds_of_negatives(recipe: Recipe, dataset: Dataset, task: Task) -> dict[str, Any]:
    """``{column, kinds: {case: kind}}`` of the negative cases.

    Raises ``UserError`` where the question is not yes/no or the column is absent.
    """
    column = str(recipe.negatives)
    manifest = dataset.manifest[usable_rows(dataset, task)]
    if not task.yes_no:
        raise UserError(
            "kinds of negatives need one yes/no target",
            case=f"negatives={column}",
            fix="leave it out, or choose one target",
        )
    if f"label.{column}" not in manifest.columns:
        raise UserError(f"no label column {column!r}; there are {', '.join(dataset.targets)}", case="negatives")
    target = task.targets[0]
    rows = manifest.filter(pl.col(f"label.{target.name}").cast(pl.String) != target.positive)
    rows = rows.drop_nulls(f"label.{column}")
    return {
        "column": column,
        "kinds": dict(zip(rows["case_id"].to_list(), rows[f"label.{column}"].cast(pl.String).to_list())),
    }
