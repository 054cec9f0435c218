"""Whether evaluation decodes plainly. Only then is there a frontier: what is judged must be samples of the policies
themselves, at temperature 1 and without top-p, top-k or greedy tokens."""

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
"""The settings of plain decoding, which are an evaluation's defaults."""


def unusual(evaluation: Mapping[str, Any]) -> list[str]:
    """Names of an evaluation's settings that differ from plain decoding; one that is missing is as by default."""
    return [name for name, value in PLAIN.items() if evaluation.get(name, value) != value]
