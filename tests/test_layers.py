"""The picture in docs/architecture.md, kept true: who may import whom, and who never touches torch.

Imports inside functions count too: a late import hides a dependency, it does not remove it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "medgraft"
#: The ground, each part on what stands before it.
GROUND_ORDER = [
    {"errors", "notices", "knobs"},
    {"files", "progress"},
    {"config", "tables", "store", "options"},
    {"datasets"},
    {"runs", "splits"},
]
GROUND = set().union(*GROUND_ORDER)
ACTS = {"simulate", "export", "intake", "data", "models", "tasks", "engine", "stats", "report"}

#: layer -> the parts of medgraft (dotted prefixes) it may import, besides itself
MAY_IMPORT: dict[str, set[str]] = {
    **{part: set().union(*GROUND_ORDER[: k + 1]) for k, parts in enumerate(GROUND_ORDER) for part in parts},
    "simulate": GROUND,
    "intake": GROUND | {"export"},  # a scan hands its frames out where it is asked to
    "export": GROUND,
    "data": GROUND,
    "models": {"errors", "files", "progress"},
    "tasks": GROUND | {"models.heads", "data", "stats.metrics"},
    "engine": GROUND | {"data", "models", "tasks", "stats.metrics"},
    "stats": GROUND,
    "report": GROUND | {"stats", "export"},
    "audit": GROUND | {"stats", "report"},  # from a data set to the page of its faults
    "serve": GROUND | {"intake", "data", "models", "tasks", "engine", "export", "stats"},  # new studies -> answers
    "flow": GROUND | ACTS,  # the whole way, from a recipe to a report
    "firstlook": GROUND | ACTS | {"flow"},  # a scan where needed, the flow with its first arms, and what comes next
    "verbs": GROUND | ACTS | {"audit"},  # their options classes alone
    "api": GROUND | ACTS | {"verbs", "flow", "firstlook", "serve", "audit"},  # a Python entry for each verb
    "cli": GROUND | ACTS | {"verbs", "flow", "firstlook", "serve", "audit"},
    "__main__": GROUND | {"cli"},
    "__init__": {"api"},  # its verbs, when they are named
}
#: Where names of tasks and of kinds of question stand as string literals: the tasks, the kinds, the tables of words,
#: and the types of a label column as recipes and data sets write them; which kinds a metric is of is said beside it.
NAMING = {"tasks", "stats.kinds", "report.words", "datasets", "data.dataset", "intake.options"}
#: A module, a class in one, or the beginning of both, as text.
MODULE = re.compile(r"medgraft(\.\w+)+(\.|:\w+)?")
TORCH = {
    "torch",
    "torchvision",
    "timm",
    "monai",
    "segmentation_models_pytorch",
    "lightning",
    "lightning_fabric",
    "torchmetrics",
    "transformers",
    "captum",
}
WITHOUT_TORCH = GROUND | {
    "simulate",
    "intake",
    "export",
    "stats",
    "report",
    "audit",
    "data.random",
    "__init__",
    "__main__",
}


def module_of(path: Path, source: Path) -> tuple[str, str]:
    """Dotted names of a file and of the package that its relative imports start from."""
    parts = ["medgraft", *path.relative_to(source).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts), ".".join(parts[:-1])


def imported(path: Path, package: str, *, typed: bool = True) -> set[str]:
    """Every dotted name a file imports, anywhere in it; relative names are made absolute.

    Without ``typed`` what only a type checker imports is left out.
    """
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    unread = {id(n) for block in blocks for n in ast.walk(block)} if not typed else set()
    for node in ast.walk(tree):
        if id(node) in unread:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base]).rstrip(".")
            names |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            names |= {
                argument.value
                for argument in node.args[:1]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            }
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE.fullmatch(node.value):
            names.add(node.value.replace(":", ".").rstrip("."))  # a class by name, imported when it is asked for
    return names


def within(name: str, prefixes: set[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def violations(source: Path) -> list[str]:
    """Imports against the direction, as "importer -> imported"."""
    found = []
    for path in sorted(source.rglob("*.py")):
        dotted, package = module_of(path, source)
        module = dotted.removeprefix("medgraft").lstrip(".") or "__init__"
        layer = module.partition(".")[0]
        for name in sorted(imported(path, package)):
            if within(name, TORCH) and within(module, WITHOUT_TORCH):
                found.append(f"{module} -> {name}")
            if within(name, {"lightning", "lightning_fabric"}) and layer != "engine":
                found.append(f"{module} -> {name}")
            if name == "medgraft" or not name.startswith("medgraft."):
                continue
            inner = name.removeprefix("medgraft.")
            if inner == "__version__" or within(inner, {layer}):
                continue
            if layer not in MAY_IMPORT or not within(inner, MAY_IMPORT[layer]):
                found.append(f"{module} -> {name}")
    return found


def circles(source: Path) -> list[list[str]]:
    """Modules that import each other; late imports and names in strings count, those of a type checker not."""
    paths = {module_of(path, source)[0]: path for path in source.rglob("*.py")}
    graph = {name: _reached(path, source, set(paths)) for name, path in paths.items()}
    found: list[list[str]] = []
    while graph:  # what nobody imports, or what imports nobody, stands in no circle
        leaves = [n for n, to in graph.items() if not to & set(graph) - {n}]
        roots = [n for n in graph if not any(n in to for other, to in graph.items() if other != n)]
        if not leaves and not roots:
            return [*found, sorted(graph)]
        graph = {n: to for n, to in graph.items() if n not in {*leaves, *roots}}
    return found


def _reached(path: Path, source: Path, known: set[str]) -> set[str]:
    """The modules among ``known`` that a file reaches."""
    name, package = module_of(path, source)
    reached = set()
    for dotted in imported(path, package, typed=False):
        while dotted and dotted not in known:
            dotted = dotted.rpartition(".")[0]
        reached |= {dotted} - {"", "medgraft", name}
    return reached


def literals(source: Path) -> list[str]:
    """Names of tasks and kinds of question that stand as string literals elsewhere than ``NAMING``."""
    from medgraft.stats.kinds import KINDS

    names = {*KINDS, *(kind.task for kind in KINDS.values())}
    assert names >= {"binary", "segmentation", "classify", "segment"}
    found = []
    for path in sorted(source.rglob("*.py")):
        module = ".".join(path.relative_to(source).with_suffix("").parts)
        if within(module, NAMING):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tables = {
            id(word)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "metric"
            for word in node.args[:1]  # which kinds a metric is of
        }
        found += [
            f"{module}:{node.lineno} {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node.value in names and id(node) not in tables
        ]
    return found


def test_imports_follow_the_architecture() -> None:
    assert violations(SOURCE) == []


def test_no_circle() -> None:
    assert circles(SOURCE) == []


def test_names_of_tasks_and_kinds_stand_where_they_belong() -> None:
    assert literals(SOURCE) == []


def test_a_planted_circle_and_a_planted_name_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    from medgraft import b\n")
    (tmp_path / "b.py").write_text("import importlib\nx = importlib.import_module('medgraft.c')\n")
    (tmp_path / "c.py").write_text("from medgraft.a import f\n")
    (tmp_path / "d.py").write_text("from medgraft.a import f\ny = 'segment'\nmetric('regression', 'x')\n")
    assert circles(tmp_path) == [["medgraft.a", "medgraft.b", "medgraft.c"]]
    assert literals(tmp_path) == ["d:2 segment"]
    (tmp_path / "c.py").write_text("from . import a\n")
    assert circles(tmp_path) == [["medgraft.a", "medgraft.b", "medgraft.c"]]
    (tmp_path / "c.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from medgraft.a import f\n"
    )
    assert circles(tmp_path) == []


def test_a_planted_import_is_found(tmp_path: Path) -> None:
    planted = {
        "tables.py": "def f():\n    import torch\n",
        "intake/video.py": "from medgraft.data import windows\n",
        "report/html.py": "from ..engine import loop\n",
        "stats/metrics.py": "import importlib\nimportlib.import_module('timm')\n",
        "models/model.py": "import lightning_fabric\n",
        "engine/loop.py": "from medgraft import cli\nimport lightning_fabric\n",
        "data/random.py": "from torch import nn\n",
        "data/batch.py": "import torch\nfrom . import random\nfrom medgraft.store import open_array\n",
        "oddment.py": "from medgraft.errors import UserError\n",
        "runs.py": "ACTS = {'serve': 'medgraft.serve:predict'}\n",
    }
    for name, text in planted.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert violations(tmp_path) == [
        "data.random -> torch.nn",
        "engine.loop -> medgraft.cli",
        "intake.video -> medgraft.data.windows",
        "models.model -> lightning_fabric",
        "oddment -> medgraft.errors.UserError",
        "report.html -> medgraft.engine.loop",
        "runs -> medgraft.serve.predict",
        "stats.metrics -> timm",
        "tables -> torch",
    ]
