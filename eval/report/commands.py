"""What to type to go on with a comparison, to repeat it, or to train one of its arms alone: by where it lies now."""

from __future__ import annotations

import shlex

from eval.report.inputs import ReportInput


def resume(comparison: ReportInput, seeds: int | None = None) -> str:
    """Goes on with it, with seeds added up to `seeds` in all where they are named."""
    more = [] if seeds is None else ["--seeds", str(seeds)]
    return _join("--resume", comparison.path.as_posix(), comparison, *more)


def repeat(comparison: ReportInput, *arguments: str) -> str:
    """Makes another of the same settings."""
    return _join("--config", (comparison.path / "experiment.yaml").as_posix(), comparison, *arguments)


def alone(comparison: ReportInput, arm: str) -> str:
    """Trains one arm, once."""
    return repeat(comparison, "--algos", arm, "--seeds", "1")


def _join(option: str, where: str, comparison: ReportInput, *arguments: str) -> str:
    # The command line alone may say that a model's own code is run, so each command has to.
    trusting = ["--trust-remote-code"] if comparison.settings.get("trust_remote_code") else []
    return shlex.join(["rlhf-compare", option, where, *trusting, *arguments])
