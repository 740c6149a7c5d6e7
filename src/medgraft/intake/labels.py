"""Labels: from CSV, Excel or folder names to one row a case, with the matching shown.

Everything is read as text; ids such as ``007`` survive. Which column names the file is found by
counting matches (path, file name, stem) unless given. What cannot be matched becomes a reject row,
never a guess.
"""

from __future__ import annotations

import math
import re
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from medgraft.datasets import Box
from medgraft.errors import UserError
from medgraft.intake.private.keys import shape_of
from medgraft.intake.read import Reject, stem_of

TARGET_NAMES = ("label", "target", "class", "diagnosis", "outcome", "y")
PATIENT_NAMES = ("patient", "patient_id", "patientid", "subject", "subject_id", "pid", "person", "mrn")
PATH_NAMES = (
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "image",
    "video",
    "volume",
    "name",
    "id",
    "image_id",
    "patientid",
    "case",
    "case_id",
)
BOX_COLUMNS = ("x", "y", "width", "height")
_MOST_COLUMNS = 4096
_MOST_WORKBOOK = 256 << 20  # bytes of a workbook, packed or not
_MOST_CELLS = 20_000_000  # cells of the range that a sheet uses
_CELL = re.compile(rb'\br="([A-Z]{1,3})(\d{1,7})"')  # the address of a cell in a sheet (ECMA-376 18.3.1.4)
_REPEATED = re.compile(
    rb'number-(?:columns|rows)-repeated="(\d{1,12})"(?=[^>]*value-type)'
)  # a filled cell said many times (OpenDocument)
MOST_CLASSES_OF_NUMBERS = 10  # more distinct integers than this are a quantity


@dataclass(frozen=True)
class Target:
    """What one label column holds. ``classes`` are sorted; ``positive`` is the class that scores speak of."""

    name: str
    type: str  # classify, regress
    classes: list[str] = field(default_factory=list)
    positive: str | None = None
    unit: str | None = None


@dataclass(frozen=True)
class CaseLabels:
    """What the labels say of one case, as text, and the boxes drawn on it, in source pixels."""

    values: dict[str, str]
    row: int = 0  # of the table, as a spreadsheet counts
    boxes: list[Box] = field(default_factory=list)


@dataclass(frozen=True)
class Matched:
    """The label table matched to cases: ``rows[case key]``, rejects, and the mapping to show."""

    rows: dict[str, CaseLabels]
    rejects: list[Reject]
    mapping: list[dict[str, Any]]
    notes: list[str]


def find_table(source: Path, labels: str) -> Path:
    """The labels file: relative to SOURCE first, then to the working folder."""
    for candidate in (source / labels, Path(labels)):
        if candidate.is_file():
            return candidate
    raise UserError(
        "no such labels file", case=labels, fix="give labels=FILE relative to the source folder or the working folder"
    )


def read_table(path: Path) -> pl.DataFrame:
    """A CSV (comma, semicolon or tab) or Excel table, every cell as text, empty cells as null."""
    try:
        if path.suffix.lower() in (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods"):
            _check_workbook(path)
            table = pl.read_excel(path, engine="calamine", read_options={"dtypes": "string"})
        else:
            with path.open(encoding="utf-8-sig", errors="replace") as stream:
                first = stream.readline(1 << 16)
            separator = max(",;\t", key=first.count)
            if first.count(separator) >= _MOST_COLUMNS:
                raise UserError(
                    f"declares more than {_MOST_COLUMNS} columns",
                    case=path.name,
                    fix="keep the columns that are labels",
                )
            table = pl.read_csv(path, infer_schema=False, separator=separator, encoding="utf8-lossy")
    except UserError:
        raise
    except Exception as error:  # polars and calamine raise many kinds; each means the same to the user
        raise UserError(
            f"not a readable table ({type(error).__name__})",
            case=path.name,
            fix="save it as CSV (UTF-8) with one header line",
        ) from error
    table = table.rename({c: c.lstrip("\ufeff").strip() for c in table.columns})
    table = table.with_columns(pl.col(pl.String).str.strip_chars())
    table = table.with_columns(
        pl.when(pl.col(pl.String).str.to_lowercase().is_in(["", "nan", "na", "n/a", "null"]))
        .then(None)
        .otherwise(pl.col(pl.String))
        .name.keep()
    )
    if table.height == 0:
        raise UserError(
            "the labels table has no rows", case=path.name, fix="give a table with a header and one row a case"
        )
    return table


def _check_workbook(path: Path) -> None:
    """Refuse a workbook that would unfold to more than labels can be: calamine holds every cell of the range that is
    used.
    """
    too_much = UserError(
        "a workbook that unfolds to more than labels can be (decompression bomb?)",
        case=path.name,
        fix="save the columns that are labels as CSV",
    )
    if path.stat().st_size > _MOST_WORKBOOK:
        raise too_much
    if not zipfile.is_zipfile(path):
        return  # .xls holds no more cells than its bytes
    with zipfile.ZipFile(path) as book:
        parts = book.infolist()
        if len(parts) > 10_000 or sum(part.file_size for part in parts) > _MOST_WORKBOOK:
            raise too_much
        for part in parts:
            if not part.filename.endswith(".xml"):
                continue
            column = row = seen = 0
            with book.open(part) as stream:
                tail = b""
                while block := stream.read(1 << 20):
                    seen += len(block)
                    for letters, digits in _CELL.findall(tail + block):
                        column = max(column, sum((c - 64) * 26**i for i, c in enumerate(reversed(letters))))
                        row = max(row, int(digits))
                    if (
                        any(int(n) > 100_000 for n in _REPEATED.findall(tail + block))
                        or seen > _MOST_WORKBOOK
                        or column * row > _MOST_CELLS
                    ):
                        raise too_much
                    tail = block[-64:]


def normal(text: str) -> str:
    """One spelling for paths: composed Unicode, forward slashes, no leading ``./``."""
    text = unicodedata.normalize("NFC", text.replace("\\", "/"))
    return text[2:] if text.startswith("./") else text


def escapes(value: str) -> bool:
    """Whether a path would leave the source folder."""
    path = PurePosixPath(normal(value))
    return path.is_absolute() or ".." in path.parts or (len(value) > 1 and value[1] == ":" and value[0].isalpha())


class Index:
    """Names under which cases can be called: relative path, file name, stem, folder, and a known id."""

    def __init__(self) -> None:
        self.by: dict[str, dict[str, set[str]]] = {
            "path": defaultdict(set),
            "name": defaultdict(set),
            "stem": defaultdict(set),
            "id": defaultdict(set),
        }

    def add(self, key: str, paths: list[str], ids: list[str]) -> None:
        for path in map(normal, paths):
            self.by["path"][path].add(key)
            name = path.rsplit("/", 1)[-1]
            self.by["name"][name].add(key)
            self.by["stem"][stem_of(name)].add(key)
        for value in ids:
            self.by["id"][normal(value)].add(key)

    def find(self, value: str, how: str) -> set[str]:
        return self.by[how].get(normal(value), set())

    def count(self, values: list[str | None], how: str) -> int:
        return sum(1 for v in values if v is not None and len(self.find(v, how)) == 1)


def match(
    table: pl.DataFrame,
    index: Index,
    *,
    id_column: str | None,
    reserved: list[str],
    targets: list[str],
    required: dict[str, str | None],
    private: Sequence[str] = (),
) -> Matched:
    """Match label rows to cases.

    ``reserved`` columns (masks) are not taken for the file column; ``targets`` must agree where a
    case has several rows; ``required`` maps a role to its column, for the mapping shown; values of
    ``private`` columns appear in no message.
    """
    column, how = _key_column(table, index, id_column, reserved)
    boxed = all(name in table.columns for name in BOX_COLUMNS)
    rows: dict[str, CaseLabels] = {}
    rejects: list[Reject] = []
    clash: dict[str, tuple[str, set[str]]] = {}
    twice = 0
    matched = 0
    for number, row in enumerate(table.iter_rows(named=True), start=2):
        value = row[column]
        if value is None:
            rejects.append(
                Reject(f"labels row {number}", f"no value in column {column}", "fill it in or delete the row")
            )
            continue
        if escapes(value):
            rejects.append(
                Reject(
                    f"labels row {number}",
                    "the path leaves the source folder",
                    "use paths relative to the source folder",
                )
            )
            continue
        found = index.find(value, how)
        if not found:
            rejects.append(Reject(value, "labelled, but the file is absent", "add the file or delete the row"))
            continue
        if len(found) > 1:
            rejects.append(Reject(value, f"names {len(found)} files", "use paths relative to the source folder"))
            continue
        matched += 1
        key = next(iter(found))
        values = {c: v for c, v in row.items() if v is not None}
        box = _box(row) if boxed else None
        if key not in rows:
            rows[key] = CaseLabels(values, number, [box] if box else [])
            continue
        differing = [c for c in targets if rows[key].values.get(c) != values.get(c)]
        if differing:
            first = differing[0]
            clash.setdefault(key, (first, {rows[key].values.get(first) or "empty"}))[1].add(
                values.get(first) or "empty"
            )
        elif boxed and box:
            rows[key].boxes.append(box)
        else:
            twice += 1
    for key, (differs, found_values) in clash.items():
        del rows[key]
        what = (
            f"has {len(found_values)} labels"
            if differs in targets[:1]
            else f"has {len(found_values)} values of {differs}"
        )
        what += "" if differs in private else f": {', '.join(sorted(found_values))}"
        rejects.append(Reject(key, what, "keep one row for it in the labels table"))
    notes = [f"{twice} label rows repeat another and were merged"] if twice else []
    examples = table[column].drop_nulls().head(3).to_list()
    mapping = [
        {
            "column": column,
            "role": "file",
            "matched by": how,
            "matched": matched,
            "rows": table.height,
            "examples": examples,
        }
    ]
    for role, name in required.items():
        if name is not None and name in table.columns:
            filled = table[name].drop_nulls()
            mapping.append(
                {
                    "column": name,
                    "role": role,
                    "matched by": "",
                    "matched": filled.len(),
                    "rows": table.height,
                    "examples": filled.unique(maintain_order=True).head(3).to_list(),
                }
            )
    return Matched(rows, rejects, mapping, notes)


def _box(row: dict[str, Any]) -> Box | None:
    """The box of a label row (x, y, width, height); ``None`` where it has none."""
    try:
        x, y, width, height = (float(row[c]) for c in BOX_COLUMNS)
    except (TypeError, ValueError):
        return None
    return Box.from_xywh(x, y, width, height)


def _key_column(table: pl.DataFrame, index: Index, given: str | None, reserved: list[str]) -> tuple[str, str]:
    """The column that names files and how it names them; the one with most matches."""
    if given is not None and given not in table.columns:
        raise UserError(f"the labels have no column {given}", fix=f"columns are: {', '.join(table.columns)}")
    names = [given] if given else [c for c in table.columns if c not in reserved]
    best: tuple[int, int, int, str, str] | None = None
    for place, name in enumerate(names):
        values = table[name].to_list()
        preference = PATH_NAMES.index(name.lower()) if name.lower() in PATH_NAMES else len(PATH_NAMES)
        for rank, how in enumerate(("path", "name", "stem", "id")):
            count = index.count(values, how)
            candidate = (-count, rank, preference * 1000 + place, name, how)
            if count and (best is None or candidate < best):
                best = candidate
    if best is None:
        shown = ", ".join(shape_of(str(v)) for v in table[names[0]].head(2).to_list()) if names else ""
        raise UserError(
            f"no label matches a file ({given or 'any column'}; its values look like {shown})",
            fix="give the column of file names or ids with id=COLUMN",
        )
    return best[3], best[4]


def choose_targets(table: pl.DataFrame, given: list[str], used: list[str], dense: bool) -> list[str]:
    """The label columns: as given, else the usual name; none is fine where masks are the labels."""
    missing = [name for name in given if name not in table.columns]
    if missing:
        raise UserError(f"the labels have no column {missing[0]}", fix=f"columns are: {', '.join(table.columns)}")
    if given:
        return given
    usual = [c for c in table.columns if c.lower() in TARGET_NAMES and c not in used and c not in BOX_COLUMNS]
    if usual:
        return usual[:1]
    if dense:
        return []
    raise UserError("which column is the label?", fix=f"say target=COLUMN; columns are: {', '.join(table.columns)}")


def describe_target(
    name: str, values: list[str | None], kind: str | None, positive: str | None, unit: str | None
) -> Target:
    """Type, classes and positive class of a label column.

    Text is classes. Whole numbers with at most ten distinct values are classes unless
    ``kind="regress"``; other numbers are a quantity. The positive class is the one given, else the
    last in sorted order.
    """
    present = [v for v in values if v is not None]
    numbers = [as_number(v) for v in present]
    numeric = bool(present) and all(n is not None for n in numbers)
    distinct = {n for n in numbers if n is not None}
    if kind == "regress" and not numeric:
        bad = next(v for v, n in zip(present, numbers) if n is None) if present else "nothing"
        raise UserError(
            f"target {name} is not a number everywhere (holds a value like {shape_of(bad)!r})",
            fix="leave type=regress out or clean the column",
        )
    whole = numeric and all(float(n).is_integer() for n in distinct)
    if numeric and (kind == "regress" or (kind is None and not (whole and len(distinct) <= MOST_CLASSES_OF_NUMBERS))):
        return Target(name, "regress", unit=unit)
    classes = sorted({class_text(v) for v in present}, key=lambda c: (as_number(c) is None, as_number(c) or 0.0, c))
    if positive is not None and positive not in classes:
        raise UserError(f"positive={positive} is not a class of {name}", fix=f"classes are: {', '.join(classes[:20])}")
    chosen = positive if positive is not None else (classes[-1] if len(classes) == 2 else None)
    return Target(name, "classify", classes, chosen, unit)


def as_number(text: str) -> float | None:
    """The finite number a text means, or ``None``."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def class_text(text: str) -> str:
    """A class name; ``1.0`` and ``1`` are one class."""
    number = as_number(text)
    return str(int(number)) if number is not None and number.is_integer() and abs(number) < 2**53 else text
