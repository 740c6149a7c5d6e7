"""De-identified copies of the DICOM files of all cases."""

from __future__ import annotations

from medgraft.datasets import Box
from medgraft.intake import jobs
from medgraft.intake.compose import Composer
from medgraft.intake.plan import Item
from medgraft.intake.private import text
from medgraft.intake.private.copy import METHOD, CopyJob
from medgraft.intake.private.keys import code
from medgraft.intake.read import Reject


def write_copies(compose: Composer) -> tuple[int, list[Reject]]:
    """Write de-identified copies of the DICOM files of all cases; return how many.

    A file that cannot be cleaned is a reject.
    """
    folder, studies = compose.options.deidentified, compose.studies
    assert folder is not None
    rejects: list[Reject] = []
    copies: dict[str, tuple[Item, CopyJob]] = {}
    for item, study in compose.cases([]):
        if item.reader not in ("dicom", "series"):
            continue
        known = compose.pixels.of(study)
        blacked = [Box(*row[1:5]) for row in known["text"] if row[-1]]
        reason = ""
        if known["pixel_text"] not in ("clear", "blacked"):
            reason = (
                "text in its pixels may name someone"
                if known["pixel_text"] == "found"
                else "its pixels could not be searched for text"
            )
        elif blacked and study["kind"] == "volume":
            reason = "text stands in the slices of a volume"
        if reason:
            fix = (
                "black it out with text=black"
                if known["pixel_text"] == "found" and not compose.pixels.black
                else "leave it out"
            )
            rejects.append(Reject(item.key, f"no de-identified copy: {reason}", fix))
            continue
        patient = compose.patient(item, study)
        days = studies.outside.days(patient) if compose.options.dates == "shift" else None
        clocks = [Box(*row[1:5]) for row in known["text"] if row[5] == "clock" and not row[-1]]
        boxes = tuple(text.margin(box, tuple(study["shape"][2:]), clocks) for box in blacked)
        plain = tuple(map(tuple, boxes))  # as the journal has always written them
        key = code(
            studies.outside.key,
            "copy",
            f"{METHOD}|{studies.tasks[item.key].key}|{folder.resolve()}|{patient}|{studies.names[item.key]}|{days}|{plain}",
            32,
        )
        copies[key] = (
            item,
            CopyJob(key, item.files, folder, studies.outside.key, patient, studies.names[item.key], days, boxes),
        )
    records = compose.journal.records
    todo = [
        job
        for key, (_, job) in copies.items()
        if "copy" not in records.get(key, {}) or not all((folder / f).is_file() for f in records[key]["copy"])
    ]
    workers, shown = compose.options.workers, compose.options.progress
    for done in jobs.done(todo, workers, shown, small=len(todo) < 100, label="copy"):
        compose.journal.add(done)
    written = 0
    for key, (item, _) in copies.items():
        if "reject" in records[key]:
            rejects.append(
                Reject(
                    item.key,
                    f"no de-identified copy: {records[key]['reject']['reason']}",
                    records[key]["reject"]["fix"],
                )
            )
        else:
            written += len(records[key]["copy"])
    return written, rejects
