"""The schemas of the files in a run's folder."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from eval.directory.kinds import Amount, Closed, Count, Files, Hash, Metrics, Number, Open


class Status(Closed):
    """runs/<run>/status.json"""

    status: Literal["done", "failed"]
    error: str = ""
    diverged: str = ""
    fraction: Amount | None = None
    updates: Count | None = None
    seconds: Amount | None = None
    policy: str = ""
    effective: dict[str, Any] = Field(default_factory=dict)
    files: Files


class Row(Closed):
    """A line of rows.jsonl: one evaluation."""

    point: Count
    updates: Amount
    completions: Amount
    tokens: Amount
    flops: Amount
    seconds: Amount
    metrics: Metrics


class Event(Open):
    """A line of events.jsonl: one iteration, with whatever its algorithm logs."""

    __pydantic_extra__: dict[str, Number | None]
    iteration: Count
    fraction: Amount
    updates: Amount
    completions: Amount
    tokens: Amount
    flops: Amount
    seconds: Amount

    @model_validator(mode="after")
    def _fits(self) -> Event:
        if {"arm", "algorithm", "seed"} & self.__pydantic_extra__.keys():
            raise ValueError("it says whose it is, which its folder tells")
        return self


class Sample(Closed):
    """A line of samples.jsonl: one response; the base's have no point."""

    point: Count = 0
    prompt_id: Count
    sample: Count
    prompt: str
    completion: str
    judge: Number
    proxy: Number | None
    length: Amount
    ended: bool
    kl: Number | None


class _Mark(Closed):
    bytes: Count
    sha256: Hash


class _Notes(Closed):
    point: Count
    memory: Amount
    diverged: str
    seconds: Amount
    rows: dict[Literal["events", "rows", "samples"], _Mark]


class Checkpoint(Open):
    """runs/<run>/checkpoint/<iteration>/state.json; the engine refuses unknown keys, naming them."""

    identity: dict[str, Any]
    meter: dict[str, Amount]
    history: list[dict[str, Number | Literal["nan", "inf", "-inf"]]]
    idle: Count
    portions: dict[str, Count]
    notes: _Notes
