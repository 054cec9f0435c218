"""When a run has diverged: it goes on to its end and counts, but the report says so, with the iteration.

Only signs that no useful policy shows: far more KL than over-optimization, or next to no entropy left.
"""

from __future__ import annotations

from collections.abc import Mapping

MAX_KL = 5.0
"""Nats a token between policy and base; strong over-optimization has about one."""
MIN_ENTROPY = 0.01
"""Of the entropy at the start; below it the policy says the same thing over and over."""

TRAINING = ("kl/train", "length/train", "entropy/train")
EVALUATION = ("kl/sequence", "length", "entropy")


def divergence(row: Mapping[str, float], start: Mapping[str, float], names: tuple[str, str, str]) -> str:
    """Why the policy that this row describes has diverged, or nothing.

    A row's length is that of the samples that its KL is of. `start` is the same kind of row of the untrained policy.
    Training rows of recorded pairs have no KL, and their entropy is not of the policy's own responses: only their
    evaluations tell.
    """
    kl, length, entropy = names
    if kl not in row:
        return ""
    each = row[kl] / max(row[length], 1.0)
    if each > MAX_KL:
        return f"its KL to the base is {each:.1f} nats a token (above {MAX_KL:g})"
    # An iteration without an update logs no entropy.
    now, before = row.get(entropy), start.get(entropy)
    if now is not None and before is not None and now < MIN_ENTROPY * before:
        return f"its entropy has fallen to {now:.2g} nats a token (from {before:.2g})"
    return ""
