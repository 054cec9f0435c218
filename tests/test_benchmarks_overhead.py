"""What the measure of a harness's overhead times is there to be timed."""

from __future__ import annotations

from benchmarks.overhead import TIMED


def test_all_that_is_timed_is_there() -> None:
    missing = [
        f"{owner.__name__}.{name}" for owner, name in TIMED if not callable(getattr(owner, name, None))
    ]
    assert TIMED
    assert missing == []
