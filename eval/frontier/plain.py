"""Whether what is judged is sampled from the policies themselves, of which alone a frontier tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PLAIN: Mapping[str, Any] = {
    "decoding": "sample",
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "greedy_prefix": 0,
}
"""The settings of an evaluation under which it is, which are the defaults."""


def unusual(evaluation: Mapping[str, Any]) -> list[str]:
    """The settings of an evaluation under which it is not; one that is missing is as by default."""
    return [name for name, value in PLAIN.items() if evaluation.get(name, value) != value]
