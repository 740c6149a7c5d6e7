#!/usr/bin/env python3
"""Write the reference from docstrings: every public module, class and function of the package, without importing it.

python scripts/reference.py            writes docs/reference.md
python scripts/reference.py FILE       writes FILE
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "medgraft"
Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules(package: Path) -> dict[str, Path]:
    """Dotted name -> file of every public module, packages before what they hold."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        if not any(part.startswith("_") for part in parts):
            found[".".join(parts)] = path
    return dict(sorted(found.items()))


def public(node: ast.stmt) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_")


def signature(node: Function, name: str) -> str:
    """The call as written, without ``self``, on one line."""
    arguments = ast.unparse(node.args).removeprefix("self, ").removeprefix("cls, ")
    arguments = "" if arguments in ("self", "cls") else arguments
    result = f" -> {ast.unparse(node.returns)}" if node.returns and ast.unparse(node.returns) != "None" else ""
    return f"{name}({arguments}){result}"


def fields(node: ast.ClassDef) -> list[str]:
    """Annotated public fields of a class, as written."""
    written = [part for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)]
    return [
        f"{ast.unparse(part.target)}: {ast.unparse(part.annotation)}"
        for part in written
        if not ast.unparse(part.target).startswith("_")
    ]


def decorated(node: Function, name: str) -> bool:
    return any(ast.unparse(decorator).split("(")[0] == name for decorator in node.decorator_list)


def section(name: str, path: Path) -> list[str]:
    """The lines of one module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lines = [f"## {name}", "", ast.get_docstring(tree) or "", ""]
    for node in tree.body:
        if not public(node):
            continue
        if isinstance(node, ast.ClassDef):
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            lines += [f"### class {node.name}{f'({bases})' if bases else ''}", "", ast.get_docstring(node) or "", ""]
            if fields(node):
                lines += ["```python", *fields(node), "```", ""]
            for part in node.body:
                if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)) and public(part):
                    shown = part.name if decorated(part, "property") else signature(part, part.name)
                    lines += [f"`{shown}`", "", ast.get_docstring(part) or "", ""]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines += [
                f"### {node.name}",
                "",
                "```python",
                signature(node, node.name),
                "```",
                "",
                ast.get_docstring(node) or "",
                "",
            ]
    return lines


def reference(package: Path = PACKAGE) -> str:
    """The whole reference as Markdown."""
    found = modules(package)
    lines = ["# Reference", "", "Written from the docstrings by `scripts/reference.py`; edit those, not this page.", ""]
    lines += [f"- [{name}](#{name.replace('.', '')})" for name in found] + [""]
    for name, path in found.items():
        lines += section(name, path)
    text = "\n".join(lines)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.rstrip() + "\n"


def main(arguments: list[str]) -> int:
    if arguments and arguments[0].startswith("-"):
        print(__doc__)
        return 0
    target = Path(arguments[0]) if arguments else ROOT / "docs" / "reference.md"
    target.write_text(reference(), encoding="utf-8", newline="\n")
    print(f"{target}: {len(modules(PACKAGE))} modules")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
