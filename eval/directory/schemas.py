"""The schema of every file of a comparison, its runs' aside (`run_schemas`). `eval.directory.reading` holds files to them.

Entries that only this program writes are closed: an unknown one is refused. What a task or a machine says of itself
may have more than is declared here, but nothing that a report cannot show.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, RootModel, model_validator

from eval.directory.kinds import (
    Algorithm,
    Amount,
    Closed,
    Count,
    Files,
    Leaf,
    MetricName,
    Metrics,
    Name,
    Number,
    Open,
    Told,
)


class Index(Closed):
    """index.json"""

    written: list[str]


class Manifest(Open):
    """manifest.json of a directory."""

    files: Files


class _Source(Closed):
    where: str
    content: str
    """A hash of what is there."""
    beside: Files = Field(default_factory=dict)
    """Of a function: the files beside it that it may read."""


class _Sources(Closed):
    model: _Source
    reward: _Source
    judge: _Source


class Sources(RootModel[dict[str, _Sources]]):
    """sources.json, by data seed."""


class _Session(Open):
    __pydantic_extra__: dict[str, Told]
    packages: dict[str, Name] = Field(default_factory=dict)
    hardware: dict[str, Told] = Field(default_factory=dict)
    runs: Count = 0
    """That it made, or parts of them."""
    no_frontier: Name = ""
    """Why its samples for the frontier could not be drawn."""


class Environment(_Session):
    """environment.json: the last session, and those before it."""

    earlier: list[_Session] = Field(default_factory=list)


class _Tally(Closed):
    rows: Count
    lines: list[Count]
    dropped: bool


class _Account(Closed):
    file: str
    read: Count
    kept: Count
    uses: dict[str, Count]
    blank_lines: Count
    reasons: dict[str, _Tally]


class _Stage(Closed):
    name: str
    seconds: Amount
    flops: Amount
    cached: bool


class _LearnedModel(Open):
    accuracy: Annotated[float, Field(ge=0, le=1)]
    pairs: Count
    heldout_pairs: Count


class _Drawn(Closed):
    """What was made for one data seed."""

    reward_model: _LearnedModel | None = None
    stages: list[_Stage] = Field(default_factory=list)


class _Settings(Open):
    __pydantic_extra__: dict[str, Told]
    beta: Amount = 0.0
    warmup: Amount = 0.0
    epochs: Count = 0


class _Arm(Closed):
    algorithm: Algorithm
    source: Literal["prompts", "pairs"]
    settings: _Settings


class Facts(Open):
    """facts.json; what the task says of itself is also in the materials."""

    task: str = ""
    judge: str = ""
    judge_is_gold: bool = False
    judge_is_reward: bool = False
    reward: str = ""
    beta_is_objective: bool = False
    labels: str = ""
    varies: list[Literal["pairs", "reward model"]] | None = None
    data: list[_Account] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    stages: list[_Stage] = Field(default_factory=list)
    reward_model: _LearnedModel | None = None
    judge_model: _LearnedModel | None = None
    data_seeds: dict[str, _Drawn] = Field(default_factory=dict)
    """Where there are several: what else is told here is of the first."""
    budget: str = ""
    arms: dict[str, _Arm] = Field(default_factory=dict)


class Matches(RootModel[dict[str, dict[str, Number | None]]]):
    """matches.json: by run, its win rate against every other arm."""


class BaseMetrics(RootModel[Metrics]):
    """base/metrics.json"""


class _Try(Closed):
    number: Count
    settings: dict[str, Leaf]
    status: Literal["done", "failed"]
    value: Number | None
    error: str
    flops: Amount
    seconds: Amount


class _Range(Closed):
    low: Number
    high: Number
    log: bool


class _Choices(Closed):
    choices: list[Leaf]


class _Tuned(Closed):
    algorithm: Algorithm
    space: dict[str, _Range | _Choices]
    tries: Annotated[list[_Try], Field(min_length=1)]
    chosen: Count | None

    @model_validator(mode="after")
    def _fits(self) -> _Tuned:
        if [tried.number for tried in self.tries] != list(range(1, len(self.tries) + 1)):
            raise ValueError("its tries are not numbered 1, 2, …")
        if self.chosen is not None and not 1 <= self.chosen <= len(self.tries):
            raise ValueError("none of its tries has the number that was chosen")
        if any(tried.settings.keys() != self.space.keys() for tried in self.tries):
            raise ValueError("a try does not have the settings of the space")
        return self


class Choice(Closed):
    """tuning/choice.json"""

    objective: MetricName
    prompts: Count
    seeds: list[Count]
    budget: str
    tries: Count
    arms: dict[str, _Tuned]


class PoolAbout(Closed):
    """frontier/pool.json; its arrays are checked against it where they are loaded."""

    samplers: Annotated[list[str], Field(min_length=1)]
    seeds: list[Count]
    counts: list[Annotated[int, Field(ge=1, le=2**31)]]
    prompts: Annotated[int, Field(ge=1, le=2**31)]

    @model_validator(mode="after")
    def _fits(self) -> PoolAbout:
        if self.samplers[0] != "base" or len(set(self.samplers)) != len(self.samplers):
            raise ValueError("the samplers are not base and then different arms")
        if not len(self.samplers) == len(self.seeds) == len(self.counts):
            raise ValueError("samplers, seeds and counts are not equally many")
        if self.counts[0] < 2:
            raise ValueError("the base has fewer than two responses to a prompt")
        return self


class DrawnAbout(PoolAbout):
    """frontier.drawn/plan.json; the answers beside it are checked where they are read."""

    data_seed: Count


class _Scorer(Closed):
    kind: Literal["function", "model", "gold"]
    where: str
    title: str


class _StageCost(Closed):
    flops: Amount
    seconds: Amount
    labels: Count
    reward_calls: Count


class MaterialsAbout(Closed):
    """materials/<data seed>/materials.json"""

    model: str
    reward: _Scorer
    judge: _Scorer
    pairs_cost: _StageCost
    reward_cost: _StageCost
    reward_learned: bool
    facts: Facts


class _Message(Open):
    role: str
    content: str


class PromptRow(Open):
    """A line of the materials' prompts, plain or as messages; other columns are the reward's."""

    prompt: str | Annotated[list[_Message], Field(min_length=1)]


class PairRow(PromptRow):
    """A line of the materials' pairs."""

    chosen: str | list[_Message]
    rejected: str | list[_Message]


class TextRow(PromptRow):
    """A line of the materials' heldout_texts.jsonl."""

    completion: str | list[_Message]
