"""What became of everything that a scan found: the counts of ``dataset.json`` add up, whatever was refused and however
often it was scanned.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from medgraft.datasets import Dataset, load_dataset
from medgraft.intake.options import ScanOptions
from medgraft.intake.scan import scan


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 16), dtype=np.uint8)).save(path)


def scanned(source: Path, out: Path, **options: Any) -> tuple[Dataset, dict[str, int]]:
    """The data set, and its refusals by reason; the counts are checked."""
    scan(source, ScanOptions(**{"out": out, "identity": "keep", **options}))
    dataset = load_dataset(out)
    found = dataset.info["found"]
    refused = {r["reason"]: r["n"] for r in found["refused"]}
    assert found["studies"] == found["read"] + found["waiting"] + sum(refused.values())
    assert found["read"] == dataset.manifest.height and found["waiting"] == 0
    assert len(refused) == len(found["refused"])
    return dataset, refused


def messy(source: Path) -> None:
    """Twelve pictures of eight patients; two are one another's copy, two lack a label of ``a``, one has two labels, two
    have no row, three are broken; one row has no file.
    """
    rows = [{"path": f"{n:02d}.png", "a": "yes" if n % 2 else "no", "b": str(n % 3), "who": f"p{n}"} for n in range(8)]
    for n in range(10):
        picture(source / f"{n:02d}.png", n)
    shutil.copy(source / "00.png", source / "01.png")
    rows[4]["a"] = rows[5]["a"] = ""
    rows.append({**rows[7], "a": "no"})  # two labels
    (source / "empty.png").write_bytes(b"")
    (source / "none.png").write_bytes(b"")
    (source / "short.png").write_bytes((source / "02.png").read_bytes()[:60])
    (source / "notes.txt").write_text("no study")
    rows += [{"path": f"{name}.png", "a": "no", "b": "1", "who": name} for name in ("empty", "short", "gone")]
    pl.DataFrame(rows).write_csv(source / "labels.csv")


LABELS = {"labels": "labels.csv", "patient": "who", "target": ["a", "b"]}


def test_found_is_read_and_refused(tmp_path: Path) -> None:
    messy(tmp_path / "in")
    dataset, refused = scanned(tmp_path / "in", tmp_path / "out", **LABELS)
    found = dataset.info["found"]
    assert (found["studies"], found["read"], found["ignored"]) == (13, 7, 1)
    assert refused["no label"] == 2 and refused["has 2 labels: no, yes"] == 1 and sum(refused.values()) == 6
    assert found["refused"][0]["n"] == max(refused.values())  # the most frequent first
    assert dataset.manifest["array_id"].n_unique() == 6 and dataset.manifest["label.a"].null_count() == 2
    assert len(pl.read_csv(tmp_path / "out" / "rejects.csv")) == 7  # with the row that has no file: it was not found


def test_a_second_scan_counts_the_data_set_as_it_stands(tmp_path: Path) -> None:
    messy(tmp_path / "in")
    first, _ = scanned(tmp_path / "in", tmp_path / "out", **LABELS)
    again, _ = scanned(tmp_path / "in", tmp_path / "out", **LABELS)
    assert again.info["found"] == first.info["found"]  # nothing was read, and nothing is lost
    picture(tmp_path / "in" / "short.png", 50)  # mended
    picture(tmp_path / "in" / "new.png", 51)  # without a row
    (tmp_path / "in" / "03.png").unlink()  # a case goes
    third, refused = scanned(tmp_path / "in", tmp_path / "out", **LABELS)
    assert (third.info["found"]["studies"], third.info["found"]["read"]) == (13, 7)
    assert refused["no label"] == 3


def test_codes_hide_names_in_reasons_and_masks_count(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for n in range(5):
        picture(source / f"patient-zhang-{n}.png", n)
        mask = np.zeros((12, 16), np.uint8)
        mask[2:5, 3:6] = 1
        if n < 3:
            (tmp_path / "masks").mkdir(exist_ok=True)
            shape = mask if n else mask[:6]
            Image.fromarray(shape).save(tmp_path / "masks" / f"patient-zhang-{n}.png")
    dataset, refused = scanned(
        source, tmp_path / "out", identity="code", patient="none", masks=str(tmp_path / "masks"), structures={1: "a"}
    )
    assert dataset.info["found"]["studies"] == 5 and dataset.manifest.height == 2
    assert refused["no mask"] == 2 and sum(refused.values()) == 3
    assert "zhang" not in (tmp_path / "out" / "dataset.json").read_text(encoding="utf-8")


def test_cases_whose_header_names_nobody_and_studies_in_waiting_count(tmp_path: Path) -> None:
    from medgraft.intake import compose

    messy(tmp_path / "in")
    seen: list[dict[str, int]] = []
    real = compose.Composer._found

    def watch(self: compose.Composer, cases: Any, rejects: Any) -> dict[str, Any]:
        key = self.studies.tasks["02.png"].key
        kept = self.journal.records.pop(key)  # as while a scan goes on
        seen.append(real(self, [c for c in cases if c[0].key != "02.png"], rejects))
        self.journal.records[key] = kept
        return real(self, cases, rejects)

    compose.Composer._found = watch  # type: ignore[method-assign]
    try:
        scanned(tmp_path / "in", tmp_path / "out", **LABELS)
        scanned(tmp_path / "in", tmp_path / "b", patient="none", labels=None)
    finally:
        compose.Composer._found = real  # type: ignore[method-assign]
    assert [(f["studies"], f["read"], f["waiting"]) for f in seen] == [(13, 6, 1), (13, 9, 1)]
    assert [f["studies"] - f["read"] - f["waiting"] - sum(r["n"] for r in f["refused"]) for f in seen] == [0, 0]
