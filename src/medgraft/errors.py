"""The one exception a user is meant to see: cause, case and fix in a single line."""

from __future__ import annotations


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
