"""What a task gives a comparison: prompts, pairs, rewards and the judge, as data that any process can open."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from algos import Reward, RewardModel, UserError
from algos.engine.calls import GuardedReward, RewardCalls
from algos.engine.settings import Precision
from algos.engine.storage import atomic_directory, write_json
from eval.directory.reading import Schema, read_checked, read_jsonl, whole
from eval.directory.schemas import MaterialsAbout, PairRow, PromptRow, TextRow
from eval.functions import is_pairwise, load_function
from eval.judge import Judge

Rows = Sequence[Mapping[str, Any]]
_ROWS: dict[str, Schema] = {
    "train_prompts": PromptRow,
    "validation_prompts": PromptRow,
    "test_prompts": PromptRow,
    "pairs": PairRow,
    "heldout_pairs": PairRow,
    "heldout_texts": TextRow,
}


@dataclass(frozen=True)
class Scorer:
    """A reward or a judge by name: the same in every process."""

    kind: Literal["function", "model", "gold"]
    where: str
    """`file.py:function`, a model's directory or hub id, or the name of a built-in task."""
    title: str
    """What the report calls it."""

    def open(
        self, device: torch.device | str, calls: RewardCalls | None = None, dtype: Precision = "auto"
    ) -> GuardedReward:
        """As a reward, called as `calls` says. Raises UserError where it cannot be loaded."""
        function = self._function(device, "reward", dtype)
        if is_pairwise(function):
            raise UserError(
                f"the reward {self.title} compares two responses, as its parameters a and b say, and a reward scores one. "
                "Name it with --judge."
            )
        return GuardedReward(function, calls or RewardCalls())

    def judge(
        self,
        device: torch.device | str,
        calls: RewardCalls | None = None,
        reward: GuardedReward | None = None,
        dtype: Precision = "auto",
    ) -> Judge:
        """As a judge, which scores every response: what is not judged cannot be compared. `reward`: this same scorer as
        a reward, opened already."""
        function = self._function(device, "judge", dtype) if reward is None else reward.function
        careful = GuardedReward(function, replace(calls or RewardCalls(), allow_unscored=False), "judge")
        return Judge(careful, self.title, is_pairwise(function), reward is not None)

    def _function(self, device: torch.device | str, what: str, dtype: Precision) -> Reward:
        if self.kind == "function":
            return load_function(self.where, what)
        if self.kind == "model":
            return RewardModel(self.where, device, dtype=dtype)
        if self.where != "reviews":
            raise UserError(f"there is no built-in task {self.where!a} with a {what}. Its name is reviews.")
        from eval.tasks.reviews.gold import gold

        return gold


@dataclass(frozen=True)
class StageCost:
    """What something needed before training took: nominal FLOPs, seconds, labelled pairs, completions that the training
    reward scored."""

    flops: float = 0.0
    seconds: float = 0.0
    labels: int = 0
    reward_calls: int = 0


@dataclass(frozen=True)
class Materials:
    """Everything the arms share. Rows are mappings with a `prompt`; pairs have `chosen` and `rejected` too."""

    model: str
    train_prompts: Rows
    validation_prompts: Rows
    test_prompts: Rows
    reward: Scorer
    judge: Scorer
    pairs: Rows = ()
    heldout_pairs: Rows = ()
    heldout_texts: Rows = ()
    """Rows with `prompt` and `completion`: text the base was good at, to measure forgetting."""
    pairs_cost: StageCost = field(default_factory=StageCost)
    """Of the pairs, sampling and labels: for arms that learn from them, directly or through a reward model."""
    reward_cost: StageCost = field(default_factory=StageCost)
    """Of training the reward model, beyond its pairs; 0 for a reward that was given."""
    reward_learned: bool = False
    """Whether the training reward was learned from `pairs`."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For the report: task, judge, reward, reward_model, varies (what the data seed draws), data, notes, stages."""

    def scorers(
        self, device: torch.device | str, calls: RewardCalls, dtype: Precision = "auto"
    ) -> tuple[GuardedReward, Judge]:
        """Reward and judge, opened: once where they are the same. `dtype`: in which a model among them multiplies."""
        reward = self.reward.open(device, calls, dtype)
        return reward, self.judge.judge(device, calls, reward if self.judge == self.reward else None, dtype)

    def save(self, folder: Path) -> None:
        """Rows as JSON lines, the rest as materials.json."""
        with atomic_directory(folder) as temporary:
            for name in _ROWS:
                lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in getattr(self, name))
                (temporary / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
            rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _ROWS}
            plain = {
                name: asdict(value) if isinstance(value, (Scorer, StageCost)) else value
                for name, value in rest.items()
            }
            write_json(temporary / "materials.json", plain)

    @classmethod
    def load(cls, folder: Path) -> Materials | None:
        """What `save` wrote, or None where there is nothing. Raises DamagedFile."""
        found = whole(folder)
        if found is None:
            return None
        values = read_checked(found / "materials.json", MaterialsAbout)
        for name in ("reward", "judge"):
            values[name] = Scorer(**values[name])
        for name in ("pairs_cost", "reward_cost"):
            values[name] = StageCost(**values[name])
        for name, schema in _ROWS.items():
            values[name] = read_jsonl(found / f"{name}.jsonl", schema)
        return cls(**values)
