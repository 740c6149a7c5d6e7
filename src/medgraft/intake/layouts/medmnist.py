"""MedMNIST archives: one ``.npz`` with ``train_images``, ``train_labels`` and the same for val and test.

Images are (N, H, W), (N, H, W, 3) or, for volumes, (N, D, H, W). Labels are (N, 1) class numbers or
(N, L) zeros and ones, one column a target. The parts become the split column ``official_split``.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from medgraft.errors import UserError
from medgraft.intake import npz
from medgraft.intake.options import ScanOptions
from medgraft.intake.plan import Item, Plan
from medgraft.intake.read import SUFFIXES, Reject, Unreadable, suffix_of

PARTS = ("train", "val", "test")
SPLIT = "official_split"


def archives(source: Path) -> list[Path]:
    """The archives that a source names: itself, or those in the folder."""
    return (
        [source]
        if source.suffix.lower() == ".npz"
        else sorted(p for p in source.glob("*.npz") if p.is_file() and not p.is_symlink())
    )


def detect(source: Path) -> bool:
    """An ``.npz`` file, or a folder whose only studies are ``.npz`` files."""
    if source.is_file():
        return source.suffix.lower() == ".npz"
    others = (p for p in source.iterdir() if not p.name.startswith("."))
    return bool(archives(source)) and not any(
        p.is_dir() or (suffix_of(p) in SUFFIXES and suffix_of(p) != ".npz") for p in others
    )


def plan(source: Path, options: ScanOptions) -> Plan:
    """One item a row. Raises ``UserError`` when no archive holds images."""
    items: list[Item] = []
    rows: list[dict[str, str | None]] = []
    rejects: list[Reject] = []
    found = archives(source)
    if not found:
        raise UserError("holds no .npz archive", case=str(source), fix="use layout=folder")
    for path in found:
        try:
            _add(path, len(found) > 1, items, rows)
        except Unreadable as error:
            rejects.append(Reject(path.name, error.cause, error.fix))
    targets = [c for c in rows[0] if c not in ("case", SPLIT)] if rows else []
    table = pl.DataFrame(rows, infer_schema_length=None) if rows else None
    return Plan(
        items, table, {"id": "case", "target": targets, "split": [SPLIT], "patient": "none"} if rows else {}, rejects
    )


def _add(path: Path, several: bool, items: list[Item], rows: list[dict[str, str | None]]) -> None:
    members = npz.members(path)
    parts = [p for p in PARTS if f"{p}_images" in members]
    if not parts:
        raise Unreadable(
            "holds no array named train_images, val_images or test_images", fix="name the arrays as MedMNIST does"
        )
    for part in parts:
        member = members[f"{part}_images"]
        if len(member.shape) not in (3, 4) or member.dtype.kind not in "uif":
            raise Unreadable(
                f"{part}_images is {member.dtype} {member.shape}",
                fix="give (N, H, W), (N, H, W, 3) or (N, D, H, W) numbers",
            )
        values = npz.load_small(path, f"{part}_labels") if f"{part}_labels" in members else None
        if values is not None and len(values) != member.shape[0]:
            raise Unreadable(
                f"{member.shape[0]} images but {len(values)} labels in {part}", fix="give one label row an image"
            )
        for row in range(member.shape[0]):
            stem = f"{path.stem}_{part}_{row:05d}" if several else f"{part}_{row:05d}"
            items.append(
                Item(f"{path.name}#{part}#{row:07d}", (str(path),), "npz", stem, (), (stem,), f"{part}_images", row)
            )
            cells: dict[str, str | None] = {"case": stem, SPLIT: part}
            if values is not None:
                flat = values[row].reshape(-1)
                for column, value in enumerate(flat):
                    cells["label" if len(flat) == 1 else f"label_{column}"] = (
                        None if value != value else str(value.item())
                    )
            rows.append(cells)
