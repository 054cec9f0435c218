"""The task `reviews` as materials: base model, pairs labelled by the gold judge, the proxy trained on them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from algos import Policy, Sampling
from eval.experiment import Experiment
from eval.plan import Sizes
from eval.stages.cache import FACTS, Artefact, ArtefactCache, content_hash
from eval.tasks.materials import Materials, Scorer, StageCost
from eval.tasks.reviews.gold import gold
from eval.tasks.reviews.world import Reviews
from eval.tasks.sampled import base_responses, sampled_pairs

LABEL_SCALE = 5.0
CENTRED_ON = 512


def materials(experiment: Experiment, cache: ArtefactCache, data_seed: int) -> Materials:
    """Built in well under a minute the first time, taken from the cache afterwards."""
    world, threads = Reviews(), experiment.threads_per_run
    built = world.base_model(cache, 0, threads)
    base = Policy.load(built.path, device="cpu")
    prompts = _rows(world.pair_prompts(data_seed))
    pairs, pairs_cost, sampled = sampled_pairs(
        cache, base, prompts, Sampling(max_new_tokens=world.max_new_tokens), count=len(prompts), seed=data_seed,
        reward=gold, scale=LABEL_SCALE, identity={"model": content_hash(built.path), "reward": "gold"},
    )  # fmt: skip
    own = base_responses(base, prompts, world.max_new_tokens, CENTRED_ON, data_seed)
    centre = [row["prompt"] + row["completion"] for row in own]
    proxy = world.reward_model(cache, built.path, pairs, centre, data_seed, threads)
    stages = [("base model", built, 0.0), ("sampled pairs", sampled, pairs_cost.flops)]
    cost = StageCost(6.0 * base.size * _tokens(base, pairs) * world.reward.epochs, proxy.seconds)
    stages.append(("reward model", proxy, cost.flops))
    return Materials(
        model=str(built.path),
        train_prompts=_rows(world.prompts("train")),
        validation_prompts=_rows(world.prompts("validation")),
        test_prompts=_rows(world.prompts("test"))[: experiment.eval.prompts],
        reward=Scorer("model", str(proxy.path), "a reward model trained on noisy labels of the gold judge"),
        judge=Scorer("gold", "reviews", "the gold reward of reviews"),
        pairs=pairs,
        heldout_pairs=(),
        heldout_texts=world.texts("test", data_seed, 128),
        # The judge's scores, which are labels, not calls of the reward that is trained on them.
        pairs_cost=replace(pairs_cost, reward_calls=0),
        reward_cost=cost,
        reward_learned=True,
        facts=_facts(stages, json.loads((proxy.path / FACTS).read_text(encoding="utf-8"))),
    )


def sizes(experiment: Experiment) -> tuple[Sizes, int | None]:
    """Parameters and tokens for a plan, from the description alone."""
    import torch
    from transformers import AutoModelForCausalLM

    world = Reviews()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(world.model_config())
    words = [len(prompt.split()) + 1 for prompt in world.prompts("train")]  # BOS and a token a word
    parameters = sum(p.numel() for p in model.parameters())
    return Sizes(
        parameters=parameters,
        trunk_parameters=sum(p.numel() for p in model.base_model.parameters()),
        reward_parameters=parameters,
        judge_parameters=0,
        prompt_tokens=sum(words) / len(words),
        longest_prompt=max(words),
        response_tokens=experiment.sampling.max_new_tokens / 2,
    ), world.pairs


def _rows(prompts: Sequence[str]) -> list[dict[str, Any]]:
    return [{"prompt": prompt} for prompt in prompts]


def _tokens(base: Policy, pairs: Sequence[Mapping[str, str]]) -> int:
    texts = [pair["prompt"] + pair[side] for pair in pairs for side in ("chosen", "rejected")]
    return sum(map(len, base.tokenizer(texts).input_ids))


def _facts(stages: Sequence[tuple[str, Artefact, float]], reward_model: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": "reviews",
        "judge": "the gold reward of reviews",
        "judge_is_gold": True,
        "reward": "a reward model trained on pairs that the gold reward labelled with noise",
        "reward_model": reward_model,
        "varies": ["pairs", "reward model"],
        "data": [],
        "judge_is_reward": False,
        "beta_is_objective": False,
        "labels": f"follow the gold reward at scale {LABEL_SCALE:g}, not the training reward at scale 1",
        "notes": [],
        "stages": [
            {"name": name, "seconds": built.seconds, "flops": flops, "cached": built.cached}
            for name, built, flops in stages
        ],
    }
