"""What a report is drawn from. The store provides it; nothing here trains or loads a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pandas import DataFrame

    from eval.frontier.pool import Pool

BASE = "base"  # the arm name of the untouched base model
JUDGE, PROXY, KL = "reward/judge", "reward/proxy", "kl/sequence"
WIN_PREFIX = "win_rate/"


class ReportInput(Protocol):
    """A finished (or partly finished) comparison; any part may be empty and any value missing."""

    @property
    def path(self) -> Path:
        """The comparison's directory, as the user would write it."""

    @property
    def settings(self) -> dict[str, Any]:
        """The whole resolved configuration, as in experiment.yaml."""

    @property
    def environment(self) -> dict[str, Any]:
        """python, packages, hardware, threads, workers, commit, command, runs (that it worked on), started, finished, no_frontier (why
        there is none), and earlier: the same of the sessions before."""

    @property
    def results(self) -> DataFrame:
        """One value a row: arm, algorithm, seed, status, point, updates, completions, tokens, flops, seconds, metric, value."""

    @property
    def events(self) -> DataFrame:
        """One training iteration a row: the same keys, `iteration`, `fraction`, then one column a logged metric."""

    @property
    def samples(self) -> DataFrame:
        """arm, algorithm, seed, point, prompt_id, prompt, completion, judge, proxy, length, ended, kl."""

    @property
    def runs(self) -> DataFrame:
        """arm, algorithm, seed, status (done, failed, missing), error, diverged, fraction, updates, seconds, policy."""

    @property
    def pool(self) -> Pool | None:
        """Many answers of every policy to the same prompts, for the frontier; None where none were drawn."""

    @property
    def tuning(self) -> dict[str, Any]:
        """objective, prompts, seeds, budget, tries, and by arm its algorithm, space, tries and the chosen one's number;
        empty where nothing was tuned."""

    @property
    def facts(self) -> dict[str, Any]:
        """task, judge, reward, reward_model, varies (what the data seed draws: pairs, reward model), data, notes, stages,
        budget, arms, and where there are several, data_seeds: by data seed its reward_model and stages."""
