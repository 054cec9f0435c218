"""Responses and preference pairs sampled from the base policy, cached: they cost a model, and all arms share them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from algos import Policy, Sampling, UserError, sample
from algos.engine.batches.prompts import EncodedPrompt, encode_prompts, texts
from algos.engine.budget import Meter
from algos.engine.rewards import Reward, call_reward
from algos.engine.seeding import derive
from algos.engine.settings import Truncation
from algos.engine.text.template import Text
from eval.stages.cache import Artefact, ArtefactCache
from eval.tasks.materials import StageCost


def sampled_pairs(
    cache: ArtefactCache,
    base: Policy,
    prompts: Sequence[Mapping[str, Any]],
    sampling: Sampling,
    *,
    count: int,
    seed: int,
    reward: Reward,
    scale: float,
    identity: Mapping[str, Any],
    truncate_prompts: Truncation = "drop",
) -> tuple[list[dict[str, Any]], StageCost, Artefact]:
    """`count` pairs of base responses at most, labelled by P(a preferred) = σ(scale·(r_a − r_b)).

    With scale 1 DPO's optimum on them is that of the KL-regularised reward (Rafailov et al. 2023, eq. 5);
    identical responses are dropped. `identity` names the model and the reward for the cache. The cost has both responses
    of each of the `count` as calls of `reward`. Raises UserError where no prompt fits the model.
    """
    key = {
        **identity,
        "prompts": digest_rows(prompts),
        "sampling": asdict(sampling),
        "count": count,
        "seed": seed,
        "scale": scale,
        "computed": computed(base),
        "truncate_prompts": truncate_prompts,
    }

    def make(folder: Path) -> None:
        repeated = _in_turn(base, prompts, sampling.max_new_tokens, count, truncate_prompts)
        rollouts = sample(
            base, [prompt.ids for prompt in repeated], sampling, derive(seed, "pairs"), group_size=2
        )
        ids, completions = texts(base, repeated, rollouts)
        rows = [prompt.row for prompt in repeated for _ in range(2)]
        scores = call_reward(reward, rows, completions, ids, unscored=True)
        # The same penalty as in the other arms' training, or DPO would learn another objective.
        truncated = (~rollouts.ended_PG).flatten().tolist()
        scores = [
            score - sampling.missing_eos_penalty * was_cut
            for score, was_cut in zip(scores, truncated, strict=True)
        ]
        pairs = label(rows[::2], completions, truncated, scores, scale, derive(seed, "labels"))
        meter = Meter()
        meter.charge(base.size, rollouts.token_count)
        meter.charge(getattr(reward, "parameter_count", 0), rollouts.token_count)
        write_rows(folder / "pairs.jsonl", pairs)
        (folder / "cost.json").write_text(json.dumps({"flops": meter.flops}), encoding="utf-8")

    built = cache.build("sampled-pairs", key, make)
    pairs = read_rows_of(built.path / "pairs.jsonl")
    flops = json.loads((built.path / "cost.json").read_text(encoding="utf-8"))["flops"]
    return pairs, StageCost(flops, built.seconds, len(pairs), 2 * count), built


def label(
    rows: Sequence[Mapping[str, Any]],
    completions: Sequence[str],
    truncated: Sequence[bool],
    scores: Sequence[float],
    scale: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Completions 2i and 2i+1 of each row as a pair, the preferred one drawn by Bradley and Terry's model. Those that were
    cut before their end are marked, lest their text be given an EOS.

    Left out: identical ones, empty ones, and those with a response that the reward did not score (NaN).
    """
    draws = np.random.default_rng(seed).random(len(rows))
    pairs = []
    for i, row in enumerate(rows):
        a, b = completions[2 * i], completions[2 * i + 1]
        if a == b or not a or not b or math.isnan(scores[2 * i] + scores[2 * i + 1]):
            continue
        gap = scale * (scores[2 * i] - scores[2 * i + 1])
        a_wins = draws[i] < 1 / (1 + math.exp(-max(min(gap, 700), -700)))
        order = (2 * i, 2 * i + 1) if a_wins else (2 * i + 1, 2 * i)
        marks = {
            f"{name}_truncated": True
            for name, j in zip(("chosen", "rejected"), order, strict=True)
            if truncated[j]
        }
        pairs.append(_pair(row["prompt"], *(completions[j] for j in order)) | marks)
    return pairs


def _pair(prompt: Text, chosen: str, rejected: str) -> dict[str, Any]:
    """In TRL's formats: responses to a conversation are messages of the assistant. One that the prompt leaves open is
    theirs as a whole: what both begin with leaves their difference as it is."""
    if isinstance(prompt, str):
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    *before, last = prompt
    begun = last["content"] if before and last["role"] == "assistant" else ""
    return {
        "prompt": before if begun else list(prompt),
        "chosen": [{"role": "assistant", "content": begun + chosen}],
        "rejected": [{"role": "assistant", "content": begun + rejected}],
    }


def base_responses(
    base: Policy,
    prompts: Sequence[Mapping[str, Any]],
    max_new_tokens: int,
    count: int,
    seed: int,
    truncate_prompts: Truncation = "drop",
) -> list[dict[str, Any]]:
    """Rows with the base's own `completion` at temperature 1: what a reward model is centred on.

    Raises UserError where no prompt fits the model.
    """
    chosen = _in_turn(base, prompts, max_new_tokens, count, truncate_prompts)
    rollouts = sample(
        base,
        [p.ids for p in chosen],
        Sampling(max_new_tokens=max_new_tokens, group_size=1),
        derive(seed, "centre"),
    )
    _, completions = texts(base, chosen, rollouts)
    return [
        {"prompt": p.row["prompt"], "completion": text} for p, text in zip(chosen, completions, strict=True)
    ]


def _in_turn(
    base: Policy,
    prompts: Sequence[Mapping[str, Any]],
    max_new_tokens: int,
    count: int,
    truncate_prompts: Truncation,
) -> list[EncodedPrompt]:
    """`count` of the prompts that fit the model, one after the other and again from the first."""
    encoded, counts = encode_prompts(base, prompts, max_new_tokens, truncate_prompts)
    if not encoded:
        reasons = ", ".join(f"{rows} × {reason}" for reason, rows in counts.items())
        raise UserError(
            f"the model cannot answer any of {len(prompts)} prompts with {max_new_tokens} tokens; got {reasons}. Give "
            "shorter prompts, lower --max-new-tokens, or pass --truncate-prompts left."
        )
    return [encoded[i % len(encoded)] for i in range(count)]


def computed(base: Policy) -> dict[str, Any]:
    """What the last bits of a policy's responses depend on beside all that was asked, for cache keys."""
    return {"dtype": str(base.dtype), "device": base.device.type, "threads": torch.get_num_threads()}


def digest_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """A hash of the rows' content, for cache keys."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
