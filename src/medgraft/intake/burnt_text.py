"""What is known of text in the pixels of stored arrays, and the pass that finds it and blacks it out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from medgraft import store, tables
from medgraft.intake import jobs
from medgraft.intake.journal import Journal
from medgraft.intake.options import ScanOptions
from medgraft.intake.private import text
from medgraft.intake.private.keys import append_private, code


@dataclass(frozen=True)
class Pixels:
    """What is known of text in the pixels of stored arrays: boxes and kinds in the journal, words in a private file
    beside the data set.
    """

    out: Path
    options: ScanOptions
    journal: Journal
    secret: bytes

    @property
    def black(self) -> tuple[str, ...]:
        """Kinds of text that are blacked out."""
        return {"black": text.NAMING, "black_all": text.KINDS}.get(self.options.text, ())

    def key(self, array_id: str) -> str:
        return code(self.secret, "text", f"{text.VERSION}|{array_id}|{','.join(self.black)}", 32)

    def of(self, study: dict[str, Any]) -> dict[str, Any]:
        """The study's record with ``pixel_text``, the boxes found, and the array in which text is blacked out."""
        record = self.journal.records.get(self.key(study["array_id"]), {}) if self.options.text != "none" else {}
        found = record.get("text") or {
            "state": "unchecked",
            "array_id": study["array_id"],
            "p005": None,
            "p995": None,
            "found": [],
        }
        state = (
            "public" if self.options.identity == "keep" and found["state"] in ("unchecked", "found") else found["state"]
        )
        shown = {k: found[k] for k in ("p005", "p995") if found[k] is not None}
        return {**study, **shown, "array_id": found["array_id"], "pixel_text": state, "text": found["found"]}

    def kept(self, record: dict[str, Any] | None) -> bool:
        """Whether a journal record still holds: its arrays are there, the original or the one with blacked text."""
        if record is None:
            return False
        if "reject" in record:
            return True
        ids = [self.of(record["study"])["array_id"], record["study"]["mask_id"]]
        return all(store.path_of(self.out, i).is_file() for i in ids if i is not None)

    def search(self, studies: list[dict[str, Any]]) -> None:
        """Search all arrays that were not searched yet; the originals of blacked ones are removed."""
        if self.options.text == "none":
            return
        todo: dict[str, text.TextJob] = {}
        for study in studies:
            key = self.key(study["array_id"])
            if "text" not in self.journal.records.get(key, {}):
                shown = (0.0, 255.0) if study["value_unit"] == "display" else (study["p005"], study["p995"])
                todo[key] = text.TextJob(key, self.out, study["array_id"], study["kind"], shown, self.black)
        private = self.out.parent / f".medgraft-text-{self.out.name}.jsonl"
        for records in jobs.done(
            list(todo.values()), self.options.workers, self.options.progress, small=len(todo) < 4, label="text"
        ):
            for record in records:
                if "text" in record:
                    rows = [[*row, word] for row, word in zip(record["text"]["found"], record.pop("words"))]
                    append_private(private, {"array_id": record["text"]["array_id"], "found": rows})
            self.journal.add(records)
        for study in studies:
            final = self.of(study)["array_id"]
            if final != study["array_id"]:
                store.remove(self.out, study["array_id"])

    def table(self, studies: list[dict[str, Any]]) -> pl.DataFrame:
        """Rows of ``text.parquet``."""
        rows = [(array, *row) for array, found in {s["array_id"]: s["text"] for s in studies}.items() for row in found]
        return pl.DataFrame(rows, schema=tables.SCHEMAS["text"], orient="row") if rows else tables.empty("text")

    def notes(self, states: list[str]) -> list[str]:
        """What the states of all cases mean for whoever scans."""
        count = Counter(states)
        found = []
        if count["unchecked"]:
            found.append(
                f"pixels of {count['unchecked']} cases were not searched for text: thumbnails stay masked (text=list "
                f"searches, text=black blacks out)"
            )
        if count["found"]:
            found.append(
                f"pixels of {count['found']} cases hold text that may name someone: thumbnails stay masked "
                f"(text=black blacks it out)"
            )
        if count["blacked"]:
            found.append(f"text was blacked out in the pixels of {count['blacked']} cases")
        return found
