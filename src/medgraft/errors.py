"""The one exception a user is meant to see: cause, case and fix in a single line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something a user can mend.

    ``cause`` says what is wrong, ``case`` names the study, file or cell, ``fix`` says what to do.
    ``str(error)`` is always one line.
    """

    def __init__(self, cause: str, *, case: str = "", fix: str = "") -> None:
        self.cause, self.case, self.fix = cause, case, fix
        parts = [part.strip().rstrip(".") for part in (f"{case}: {cause}" if case else cause, fix) if part]
        super().__init__(
            " ".join(part if part.endswith(("?", "!")) else part + "." for part in parts).replace("\n", " ")
        )


class WeightsAbsent(UserError):
    """Pretrained weights were asked for and are not on this machine."""


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """``did you mean 'epochs'?``, or where nothing is near all that is known, in order of the alphabet."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
