"""The errors a user can cause, and the one a run can meet. Each message says what, got, remedy."""


class UserError(Exception):
    """A mistake in what the user asked for: shown as one line, exit status 2, never a traceback."""


class RunError(RuntimeError):
    """Something that ends one run (a reward that returns NaN, a broken invariant), not the comparison."""


def one_line(error: BaseException) -> str:
    """What an exception says, on one line and without control characters, at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return text if len(text) <= 300 else text[:297] + "..."
