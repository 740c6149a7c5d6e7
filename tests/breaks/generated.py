"""Three families of breaks that the source itself gives, so that new code is covered on the day it appears.

- **ignored options**: every field with a default of every options class (a pydantic model of the package) is read as
  its default, whatever was said: accepted, shown, saved, and without effect;
- **turned measures**: every measure of ``stats/metrics`` that has a direction gets the other one;
- **lost key parts**: every part of what a cell, a cache file or a record of finished work is known by is left out.

An option's tests are those of ``OPTION_TESTS``, else the test functions that name it as an option (``option=``,
``"option"``, ``option:``), the cheapest first. What may rightly be read as its default stands in ``WITHOUT_EFFECT``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from breaks import Break

#: Bases whose subclasses are options classes.
BASES = {"BaseModel"}

_KNOBS = (
    *("optimizer", "learning_rate", "head_learning_rate", "weight_decay", "momentum", "schedule", "end_rate", "warmup"),
    *("layer_decay", "unfreeze"),
)
_OF_A_RUN = (
    "name",
    "out",
    "seeds",
    "stats",
    "report",
    "lang",
    "keep_windows",
    "models",
    "split",
    "window",
    "train",
    "grid",
)
_ASKED = ("task", "target", "classes", "device", "precision", "threads", "memory_gb", "stage", "weights")

#: ``Class.field``, or ``Class`` for all its other fields -> the tests that must notice, where the rule of names would
#: find none, too many or the wrong ones.
OPTION_TESTS: dict[str, tuple[str, ...]] = {
    "WindowConfig": ("engine/test_options.py::test_every_option_of_windows_reaches_what_is_cut",),
    "WindowConfig.foreground": (
        "engine/test_fields.py::test_a_recipe_without_models_takes_them_and_keeps_what_it_says",
    ),
    "WindowConfig.hu_window": ("engine/test_options.py::test_the_hounsfield_window_reaches_the_batches",),
    "WindowConfig.spacing": ("engine/test_spacing.py::test_the_spacing_and_the_spacings_of_the_cases_are_in_the_name",),
    "SplitConfig": ("engine/test_options.py::test_every_option_of_splits_reaches_the_split",),
    "SplitConfig.test": ("engine/test_serve.py",),
    "StatsConfig": ("engine/test_options.py::test_the_options_of_a_run_reach_its_folder",),
    "ClaimConfig": ("engine/test_transfer_recipes.py::test_claims_get_a_verdict_and_absent_weights_are_not_a_result",),
    "ClaimConfig.source": ("engine/test_options.py::test_the_options_of_a_run_reach_its_folder",),
    "ClaimConfig.published": ("engine/test_options.py::test_the_options_of_a_run_reach_its_folder",),
    **{
        f"TrainConfig.{name}": ("engine/test_train.py::test_every_knob_of_the_optimiser_reaches_the_steps",)
        for name in _KNOBS
    },
    "TrainConfig.iterations": ("engine/test_train.py::test_steps_are_rounded_up_and_iterations_replace_epochs",),
    "TrainConfig.epochs": ("engine/test_train.py::test_steps_are_rounded_up_and_iterations_replace_epochs",),
    "TrainConfig.batch_size": ("engine/test_train.py::test_each_step_asks_for_its_own_batch",),
    "TrainConfig.balanced": ("engine/test_train.py::test_each_step_asks_for_its_own_batch",),
    "TrainConfig.l2sp": ("engine/test_train.py::test_the_pull_towards_the_start_holds_the_body_and_not_the_head",),
    "TrainConfig.clip_gradient": ("engine/test_train.py::test_the_largest_gradient_norm_holds",),
    "TrainConfig.dropout": ("engine/test_options.py::test_every_option_of_an_arm_reaches_its_network",),
    "TrainConfig.augment": ("engine/test_options.py::test_augmentation_follows_kind_preset_and_mirror",),
    "TrainConfig.tta": (
        "engine/test_transfer_recipes.py::test_views_are_averaged_with_the_clean_one_which_stands_beside",
    ),
    "TrainConfig.mirror": ("engine/test_options.py::test_augmentation_follows_kind_preset_and_mirror",),
    "ArmConfig": ("engine/test_options.py::test_every_option_of_an_arm_reaches_its_network",),
    **{f"Recipe.{name}": ("engine/test_options.py::test_the_options_of_a_run_reach_its_folder",) for name in _OF_A_RUN},
    **{
        f"Recipe.{name}": ("engine/test_options.py::test_what_a_recipe_asks_of_data_and_machine_is_heard",)
        for name in _ASKED
    },
    **{
        f"ScanOptions.{name}": (
            "intake/test_scan.py::test_columns_of_a_table_have_the_roles_that_the_options_give_them",
        )
        for name in ("study", "site", "device", "target_unit", "label_level", "name")
    },
    "ArmConfig.normalise": ("engine/test_options.py::test_normalisation_is_of_the_recipe_the_arm_or_the_setting",),
    "Recipe.normalise": ("engine/test_options.py::test_normalisation_is_of_the_recipe_the_arm_or_the_setting",),
    "Recipe.claims": ("engine/test_options.py::test_the_options_of_a_run_reach_its_folder",),
    "BenchOptions": ("engine/test_bench.py::test_every_option_of_a_step_is_heard",),
    "OfficialOptions": ("engine/test_bench.py::test_every_option_of_a_comparison_is_heard",),
    "DemoOptions": ("test_verbs.py::test_a_demo_simulates_scans_and_compares_as_asked",),
    "SimulateOptions": ("test_verbs.py::test_simulated_radiographs_are_those_that_were_asked_for",),
    "ReportOptions": ("test_verbs.py::test_a_report_is_written_again_in_the_language_asked_for",),
    "ConvertOptions": ("models/test_convert.py::test_the_command_converts_and_refuses",),
    "PredictOptions.as_": ("engine/test_judged.py::test_as_judged_knows_only_cases_of_the_run",),
    "PredictOptions.weights": (
        "engine/test_options.py::test_a_start_whose_card_lies_in_a_weights_folder_is_trained_and_served",
    ),
    "AuditOptions.seed": ("intake/test_audit.py::test_the_seed_draws_the_permutations_and_the_cases_that_are_shown",),
    "ScanOptions.id": ("intake/test_scan.py::test_files_are_named_by_the_given_column_and_not_by_the_best",),
    "ScanOptions.positive": ("intake/test_scan.py::test_the_positive_class_is_the_given_one_or_the_last_in_order",),
    "ScanOptions.dates": ("intake/test_scan.py::test_days_of_acquisition_are_shifted_or_left_out",),
    "ScanOptions.max_mib": ("intake/test_scan.py::test_a_study_may_decode_to_as_much_as_is_allowed",),
    "ScanOptions.workers": ("intake/test_scan.py::test_a_scan_has_as_many_processes_as_asked_for",),
    "Recipe.workers": ("engine/test_options.py::test_workers_are_as_many_as_asked_for",),
}

#: ``Class.field``, or ``Class``, that is used by its dump, so that reading the attribute decides nothing: the value is
#: lost when the object is made.
BY_DUMP = {"ClaimConfig", "Recipe.claims", "BenchOptions", "OfficialOptions", "SimulateOptions"}

#: Where the tests of an options class stand, for the rule of names.
FOLDERS = {
    "ScanOptions": ("intake/", "test_identity", "test_cli"),
    "AuditOptions": ("intake/test_audit", "report/test_audit_page", "test_cli"),
    "": ("engine/", "ground/", "report/", "test_cli"),
}

#: ``Class.field`` -> why reading the default changes nothing that a test could see.
WITHOUT_EFFECT: dict[str, str] = {
    "AuditOptions.progress": "whether a bar is drawn on a terminal",
    "ScanOptions.progress": "whether a bar is drawn on a terminal",
    "Recipe.download": "fetches over a network, which tests do not have",
    "PredictOptions.download": "fetches over a network, which tests do not have",
}

#: Measures: the decorator that registers them, its keyword for the direction, what that is if left out, and the other.
MEASURES = ("metric", "direction", "higher", "lower")
MEASURE_TESTS = ("stats/test_metrics.py::test_every_measure_has_its_direction",)

#: Keywords of a call that say whose a thing is and decide nothing, or hold parts that stand in the list themselves.
SAID_ONLY = ("arm", "strategy", "data_hash", "context")

_CELL = ("engine/test_names.py::test_every_part_of_a_cell_is_in_its_name", "engine/test_names.py")

#: (id, function, what of it holds the parts, tests). ``dict`` = each entry of the dicts in it, ``call:NAME`` = each
#: keyword of the calls of NAME in it, ``list:NAME`` = each element of the list assigned to NAME.
KEYS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("cell", "Plan.cell", "call:Cell", _CELL),
    ("cell", "Plan.cell", "dict", _CELL),
    ("features", "cache_key", "dict", ("engine/test_keys.py",)),
    ("case", "case_digests", "list:columns", ("engine/test_names.py", "engine/test_keys.py")),
)


# ---------------------------------------------------------------------------------------- options


def options_classes(trees: Iterable[ast.Module]) -> dict[str, ast.ClassDef]:
    """Classes that are options, by name: those whose bases lead to ``BASES``."""
    classes: dict[str, list[ast.ClassDef]] = {}
    for node in (part for tree in trees for part in tree.body if isinstance(part, ast.ClassDef)):
        classes.setdefault(node.name, []).append(node)

    def leads(node: ast.ClassDef) -> bool:
        names = [base.id for base in node.bases if isinstance(base, ast.Name)]
        return any(
            name in BASES or any(leads(found) for found in classes.get(name, []) if found is not node) for name in names
        )

    return {name: node for name, found in classes.items() for node in found if leads(node)}


def fields(node: ast.ClassDef) -> list[ast.AnnAssign]:
    """Fields with a default; a required one cannot be read as its default."""
    found = []
    for part in node.body:
        if not isinstance(part, ast.AnnAssign) or not isinstance(part.target, ast.Name) or part.value is None:
            continue
        value = part.value
        if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "Field":
            given = [a for a in value.args if not (isinstance(a, ast.Constant) and a.value is ...)]
            if not given and not any(k.arg in ("default", "default_factory") for k in value.keywords):
                continue
        if "ClassVar" not in ast.unparse(part.annotation):
            found.append(part)
    return found


def ignored(field: str, by_dump: bool = False) -> Callable[[ast.AST], None]:
    """The edit that makes a class read one of its fields as the default, however it was set.

    ``by_dump``: and dump it so.
    """

    def edit(node: ast.AST) -> None:
        assert isinstance(node, ast.ClassDef)
        default = f"type(self).model_fields[{field!r}].get_default(call_default_factory=True)"
        if by_dump:
            text = f"def model_post_init(self, context):\n    self.__dict__[{field!r}] = {default}"
            node.body += ast.parse(text).body
            return
        text = (
            "def __getattribute__(self, name):\n"
            f"    if name == {field!r}:\n"
            f"        return {default}\n"
            "    return object.__getattribute__(self, name)"
        )
        node.body += ast.parse(text).body

    return edit


@lru_cache(maxsize=4)
def _words(key: int) -> dict[str, tuple[set[str], str]]:
    """Of each test: its keywords and whole texts, and all its texts joined by line ends."""
    found = {}
    for name, node in _KEPT[key].items():
        keywords = {part.arg for part in ast.walk(node) if isinstance(part, ast.keyword) and part.arg}
        texts = [
            part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
        ]
        found[name] = (keywords | set(texts), "\n".join(texts))
    return found


_KEPT: dict[int, dict[str, ast.AST]] = {}


def mentions(field: str, tests: dict[str, ast.AST]) -> tuple[str, ...]:
    """Tests that name an option: as a keyword, as a text of its own, or in a text as ``option=`` or ``option:``."""
    inside = re.compile(rf"(?:^|[\s.{{,'\"]){re.escape(field)}\s*[=:]", re.MULTILINE)
    _KEPT[id(tests)] = tests
    return tuple(
        name.removeprefix("tests/")
        for name, (whole, text) in _words(id(tests)).items()
        if field in whole or inside.search(text)
    )


def ignored_options(source: Any, tests: dict[str, ast.AST]) -> list[Break]:
    found = []
    for name, node in options_classes(source.trees.values()).items():
        for part in fields(node):
            field = part.target.id  # type: ignore[union-attr]
            key = f"{name}.{field}"
            near = tuple(t for t in mentions(field, tests) if t.startswith(FOLDERS.get(name, FOLDERS[""])))
            named = OPTION_TESTS.get(key) or OPTION_TESTS.get(name) or near or ("ground/test_config.py",)
            found.append(
                Break(
                    f"option-{key}",
                    "",
                    name,
                    kind="option ignored",
                    tests=named,
                    equal=WITHOUT_EFFECT.get(key, ""),
                    edit=ignored(field, bool(BY_DUMP & {key, name})),
                )
            )
    return found


# ---------------------------------------------------------------------------------------- measures


def turned(node: ast.AST) -> None:
    """The edit that turns the direction of the measure that a function is registered as."""
    mark = _mark(node)
    assert mark is not None
    _, keyword, default, other = MEASURES
    for part in mark.keywords:
        if part.arg == keyword and isinstance(part.value, ast.Constant):
            part.value = ast.Constant(default if part.value.value == other else other)
            return
    mark.keywords.append(ast.keyword(keyword, ast.Constant(other)))


def _mark(node: ast.AST) -> ast.Call | None:
    for mark in getattr(node, "decorator_list", []):
        if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == MEASURES[0]:
            return mark
    return None


def turned_measures(source: Any) -> list[Break]:
    found = []
    for path, tree in source.trees.items():
        for node in tree.body:
            mark = _mark(node)
            if mark is None:
                continue
            stated = [k.value for k in mark.keywords if k.arg == MEASURES[1]]
            if stated and isinstance(stated[0], ast.Constant) and stated[0].value is None:
                continue  # best at one value: it has no direction
            where = f"{path.stem}:{node.name}"  # type: ignore[attr-defined]
            found.append(
                Break(f"measure-{node.name}", "", where, kind="measure turned", tests=MEASURE_TESTS, edit=turned)
            )  # type: ignore[attr-defined]
    return found


# ---------------------------------------------------------------------------------------- keys


def parts(node: ast.AST, what: str) -> list[tuple[str, ast.AST, str, int]]:
    """(name, parent, field, index) of every part of a key in a function."""
    kind, _, name = what.partition(":")
    found: list[tuple[str, ast.AST, str, int]] = []
    for part in ast.walk(node):
        if kind == "dict" and isinstance(part, ast.Dict):
            for i, (key, value) in enumerate(zip(part.keys, part.values)):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    found.append((key.value, part, "dict", i))
                elif key is None and not isinstance(value, (ast.IfExp, ast.Dict)):
                    found.append((f"**{ast.unparse(value).rpartition('.')[2]}", part, "dict", i))
        if (
            kind == "call"
            and isinstance(part, ast.Call)
            and getattr(part.func, "attr", getattr(part.func, "id", "")) == name
        ):
            found += [
                (k.arg, part, "keywords", i)
                for i, k in enumerate(part.keywords)
                if k.arg is not None and k.arg not in SAID_ONLY
            ]
        named = part.targets[0] if isinstance(part, ast.Assign) else getattr(part, "target", None)
        grown = getattr(part, "value", None)
        if kind == "list" and getattr(named, "id", "") == name and isinstance(grown, ast.List):
            for i, item in enumerate(grown.elts):
                told = (
                    item.value
                    if isinstance(item, ast.Constant)
                    else "labels"
                    if isinstance(item, ast.Starred)
                    else ast.unparse(item)
                )
                found.append((str(told), grown, "elts", i))
    return found


def lost(what: str, name: str) -> Callable[[ast.AST], None]:
    """The edit that leaves one part of a key out; a field that must be there gets one value for all."""

    def edit(node: ast.AST) -> None:
        _, parent, field, index = next(p for p in parts(node, what) if p[0] == name)
        if field == "dict":
            del parent.keys[index], parent.values[index]  # type: ignore[attr-defined]
        elif field == "keywords":
            parent.keywords[index].value = _blank(parent.keywords[index].value)  # type: ignore[attr-defined]
        else:
            del parent.elts[index]  # type: ignore[attr-defined]

    return edit


def _blank(value: ast.AST) -> ast.AST:
    """A constant in the place of a value: a dict stays a dict."""
    text = ast.unparse(value)
    return ast.parse("{}" if "dump" in text else "0", mode="eval").body


def lost_keys(source: Any) -> list[Break]:
    found = []
    for prefix, where, what, tests in KEYS:
        node = source.find(where, "generated keys: ").node
        names = [p[0] for p in parts(node, what)]
        for name in dict.fromkeys(names):
            found.append(
                Break(f"key-{prefix}-{name}", "", where, kind="part of a key lost", tests=tests, edit=lost(what, name))
            )
    return found


def generate(source: Any, tests: dict[str, ast.AST]) -> list[Break]:
    """All generated breaks."""
    return [*ignored_options(source, tests), *turned_measures(source), *lost_keys(source)]
