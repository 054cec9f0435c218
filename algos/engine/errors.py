"""The errors a user can cause, and the one a run can meet. Each message says what, got, remedy."""

from __future__ import annotations

import os
import re

_SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|CREDENTIALS?|AUTH)(_|$)|PASSW(OR)?D|APIKEY", re.IGNORECASE)
_SHORTEST_SECRET = 8


class UserError(Exception):
    """A mistake in what the user asked for: shown as one line, exit status 2, never a traceback."""


class RunError(RuntimeError):
    """Something that ends one run (a reward that returns NaN, a broken invariant), not the comparison."""


def one_line(error: BaseException) -> str:
    """What an exception says, on one line, without control characters and secrets, at most 300 characters."""
    text = " ".join(without_secrets(str(error)).split()) or type(error).__name__
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return text if len(text) <= 300 else text[:297] + "..."


def without_secrets(text: str) -> str:
    """The text with `$NAME` in place of the value of an environment variable that is named like a secret."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET.search(name):
            text = text.replace(value, f"${name}")
    return text
