"""A folder of studies, with labels in a table beside them or in the names of the folders."""

from __future__ import annotations

from pathlib import Path

from medgraft.intake import labels
from medgraft.intake.options import ScanOptions
from medgraft.intake.plan import Plan, discover, walk


def detect(source: Path) -> bool:
    """Any folder."""
    return source.is_dir()


def plan(source: Path, options: ScanOptions) -> Plan:
    """All files of known content below ``source``; the label table and mask files are no studies."""
    table, skip = None, set()
    skip |= {folder.resolve() for folder in (options.out, options.deidentified) if folder is not None}
    if options.labels not in (None, "folders"):
        path = labels.find_table(source, str(options.labels))
        skip |= {path, path.resolve()}
        table = labels.read_table(path)
    if options.masks is not None:
        if table is not None and options.masks in table.columns:
            values = [v for v in table[options.masks].to_list() if v is not None and not labels.escapes(v)]
            skip |= {(source / v).resolve() for v in values}
        elif (source / options.masks).is_dir():
            skip |= {source / options.masks, (source / options.masks).resolve()}
    files, rejects = walk(source, skip, options.follow_links)
    items, more, ignored = discover(source, files, options.frames)
    return Plan(items, table, {}, rejects + more, ignored)
