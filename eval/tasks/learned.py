"""A reward model learned from preference pairs, cached: how a task makes the one that it is not given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from algos import Policy
from algos.engine.settings import Truncation
from eval.stages.cache import FACTS, Artefact, ArtefactCache
from eval.stages.fitting import Fit
from eval.stages.reward_model import train_reward_model
from eval.tasks.materials import Rows, StageCost
from eval.tasks.sampled import base_responses, computed, digest_rows


@dataclass(frozen=True)
class Learned:
    """A reward model trained on pairs, and what is to be told of it."""

    built: Artefact
    facts: dict[str, Any]
    cost: StageCost


def learned_reward(
    cache: ArtefactCache,
    base: Policy,
    model: str | Path,
    pairs: Rows,
    fit: Fit,
    *,
    stage: str,
    prompts: Rows,
    count: int,
    max_new_tokens: int,
    identity: Mapping[str, Any],
    truncate_prompts: Truncation = "drop",
) -> Learned:
    """A reward model initialised from `model`, where the weights of `base` lie, trained on rendered `pairs` and centred: its
    rewards of `count` responses of `base` to `prompts` average 0. Its cost is 6·N (8·N with gradient checkpointing) a token of every pair's two texts, times
    the epochs.

    `stage` names it and `identity` the model for the cache. Raises UserError where no prompt fits the model, or nothing
    is left to hold out or train on.
    """
    key = {
        **identity,
        "pairs": digest_rows(pairs),
        "fit": asdict(fit) | {"device": base.device.type},
        "prompts": digest_rows(prompts),
        "count": count,
        "max_new_tokens": max_new_tokens,
        "computed": computed(base),
        "truncate_prompts": truncate_prompts,
    }

    def make(folder: Path) -> None:
        own = base_responses(base, prompts, max_new_tokens, count, fit.seed, truncate_prompts)
        centre = [row["prompt"] + row["completion"] for row in own]
        train_reward_model(model, pairs, folder, fit, centre_on=centre)

    built = cache.build(stage.replace(" ", "-"), key, make)
    facts = json.loads((built.path / FACTS).read_text(encoding="utf-8"))
    tokens = sum(
        len(base.tokenizer(row["prompt"] + row[side]).input_ids)
        for row in pairs
        for side in ("chosen", "rejected")
    )
    each = 8.0 if fit.gradient_checkpointing else 6.0  # a parameter and token, forward and backward
    return Learned(built, facts, StageCost(each * base.size * tokens * fit.epochs, built.seconds))


def stage_fact(name: str, built: Artefact, flops: float) -> dict[str, Any]:
    """What the report tells of something that was made before training."""
    return {"name": name, "seconds": built.seconds, "flops": flops, "cached": built.cached}
