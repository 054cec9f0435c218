"""The errors a user can cause, and the one a run can meet. Each message says what, got, remedy."""


class UserError(ValueError):
    """A mistake in what the user asked for: shown as one line, exit status 2, never a traceback."""


class RunError(RuntimeError):
    """Something that ends one run (a reward that returns NaN, a broken invariant), not the comparison."""
