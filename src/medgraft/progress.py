"""The one progress bar of the package, on the error stream; a program that is not watched sees none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def duration(seconds: float) -> str:
    """A time in words: 40 s, 12 min, 3.5 h."""
    if seconds > 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"


@contextmanager
def bar(
    total: int | None,
    label: str,
    wanted: bool | None = None,
    rate: str | None = None,
    *,
    then: str = "",
    transient: bool = False,
) -> Iterator[Callable[[int], None]]:
    """A bar of ``total`` steps; gives ``advance(n)``, which moves it on by ``n``.

    ``wanted`` says whether to show it; by default it is shown on a terminal. Nothing is shown for ``total=0``;
    ``None`` is a length that nobody knows. ``rate`` is the unit of the speed shown (``studies/s``); with ``bytes/s``
    steps are bytes. ``then`` is the label once the bar is full, while something else goes on. A ``transient`` bar is
    wiped away at the end.
    """
    if total == 0 or not (sys.stderr.isatty() if wanted is None else wanted):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    steps: list[ProgressColumn] = [MofNCompleteColumn()]
    if rate == "bytes/s":
        steps = [DownloadColumn(), TransferSpeedColumn()]
    elif rate is not None:
        steps.append(TextColumn("{task.fields[speed]}"))
    columns = (TextColumn("{task.description}"), BarColumn(), *steps, TimeRemainingColumn())
    began, count = time.monotonic(), 0
    with Progress(*columns, console=Console(stderr=True), transient=transient) as shown:
        task = shown.add_task(label, total=total, speed="")

        def advance(number: int) -> None:
            nonlocal count
            count += number
            shown.update(task, advance=number, speed=f"{count / max(1e-9, time.monotonic() - began):.1f} {rate}")
            if then and shown.tasks[0].finished:
                shown.update(task, description=then)

        yield advance
