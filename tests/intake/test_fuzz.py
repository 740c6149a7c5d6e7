"""Bytes flipped, cut, swapped and spliced in small studies of every format: each mutant becomes a case or a reason,
nothing else.

No mutant may bring down the scan, hang it, make it allocate without asking, or make it open a file outside the folder.
The mutants are read in a process of their own (``fuzz.py``); where a decoder brings that process down, the scan's
isolation is what saves a user, so such decoders must be among those that the scan never runs in its own process.
"""

from __future__ import annotations

import collections
import ctypes
import ctypes.util
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz import mutate, seeds

from medgraft.intake.options import ScanOptions
from medgraft.intake.scan import scan

SCRIPT = Path(__file__).with_name("fuzz.py")
FRAGILE = ("dicom jpeg lossless",)  # seeds whose decoder is isolated; the others must not crash


def _child(folder: Path, first: int, last: int) -> Iterator[dict[str, Any]]:
    """The lines of one process over mutants ``first`` to ``last``; its exit status as the last."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(SCRIPT), str(folder), str(last), str(first), str(last)]
    with open(folder / "errors", "wb") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    with process.stdout as lines:  # type: ignore[union-attr]
        for line in lines:
            yield json.loads(line)
    yield {"status": process.wait(), "errors": (folder / "errors").read_text(errors="replace")[-1500:]}


def _fuzz(
    tmp_path: Path, first: int, last: int
) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Outcomes by number, seeds, and mutants that brought their process down.

    Fails on a hang and on an error of ours.
    """
    outcomes: dict[int, dict[str, Any]] = {}
    whole: list[dict[str, Any]] = []
    crashes: list[dict[str, Any]] = []
    begun: dict[str, Any] = {}
    runs = 0
    while first < last:
        for line in _child(tmp_path / f"run{runs}", first, last):
            if "begin" in line:
                begun = line
            elif "end" in line:
                outcomes[line["end"]] = line | {"seed": begun["seed"], "how": begun["how"]}
            elif "status" in line:
                if line["status"] == 0:
                    return outcomes, whole, crashes
                assert line["status"] < 0, f"mutant {begun} hung, or an error got through: {line['errors']}"
                crashes.append(begun | {"signal": signal.Signals(-line["status"]).name})
                first = begun["begin"] + 1
            elif not runs:
                whole.append(line)
        runs += 1
    return outcomes, whole, crashes


class Canary:
    """A file outside the folder of studies; ``touched`` tells whether anybody opened it (by inotify: Linux)."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(b"\0" * 4096)
        libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
        self.handle = libc.inotify_init1(os.O_NONBLOCK)
        assert self.handle >= 0 and libc.inotify_add_watch(self.handle, os.fsencode(path), 0x21) >= 0  # open, read

    def touched(self) -> bool:
        return bool(select.select([self.handle], [], [], 0)[0])


def _check(tmp_path: Path, first: int, last: int) -> None:
    watched = sys.platform == "linux"
    canaries = []
    for run in range(40 if watched else 0):  # one beside the studies of each process
        (tmp_path / f"run{run}").mkdir(parents=True)
        canaries.append(Canary(tmp_path / f"run{run}" / "canary.raw"))
    outcomes, whole, crashes = _fuzz(tmp_path, first, last)
    assert len(whole) >= 40 and {line["outcome"] for line in whole} == {"case"}  # the seeds themselves are sound
    assert len(outcomes) + len(crashes) == last - first
    fates = collections.defaultdict(collections.Counter)
    for line in outcomes.values():
        assert not line["outside"], line
        assert "memory" not in line["outcome"], line  # nothing was allocated that had not been checked
        fates[line["seed"]][line["outcome"].split(":")[0].split(" |")[0]] += 1
    assert all(fates[name]["refused"] for name in fates) and sum(f["case"] for f in fates.values()) > (last - first) / 5
    assert {c["seed"] for c in crashes} <= set(FRAGILE), crashes
    assert not any(canary.touched() for canary in canaries)


@pytest.mark.skipif(sys.platform == "win32", reason="signals tell a crash from an error")
def test_five_thousand_mutants_become_cases_or_reasons(tmp_path: Path) -> None:
    _check(tmp_path, 0, 5200)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform == "win32", reason="signals tell a crash from an error")
def test_fifty_thousand_mutants_become_cases_or_reasons(tmp_path: Path) -> None:
    _check(tmp_path, 5200, 55200)


def test_the_canary_sings(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("inotify is Linux's")
    canary = Canary(tmp_path / "canary.raw")
    assert not canary.touched()
    (tmp_path / "canary.raw").read_bytes()
    assert canary.touched()


def test_decoders_that_may_crash_never_run_in_the_scans_own_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutants of lossless JPEG through a whole scan of little data, which has one process: the scan survives, sound
    studies are read.
    """
    from medgraft.intake import work

    made = seeds(tmp_path / "seeds")
    source = tmp_path / "in"
    source.mkdir()
    (source / "sound.png").write_bytes(made["png"]["a.png"])
    for number in range(3):
        files, _ = mutate(made[FRAGILE[0]], list(made.values()), np.random.default_rng(number))
        (source / f"{number}.dcm").write_bytes(files["a.dcm"])
    (source / "whole.dcm").write_bytes(made[FRAGILE[0]]["a.dcm"])
    here: list[str] = []
    read = work.read_item
    monkeypatch.setattr(work, "read_item", lambda task: (here.append(task.item.key), read(task))[1])
    report = scan(source, ScanOptions(out=tmp_path / "out", patient="none", identity="keep", workers=1))
    assert here == ["sound.png"]
    assert report.kinds == {"image": report.cases} and report.cases >= 2 and report.cases + report.rejected == 5
