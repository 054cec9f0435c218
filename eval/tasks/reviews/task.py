"""The task `reviews` as materials: base model, pairs labelled by the gold judge, the proxy trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from algos import Policy, Sampling, UserError
from eval.experiment import Experiment
from eval.plan import Sizes
from eval.stages.cache import ArtefactCache, content_hash
from eval.tasks.learned import learned_reward, stage_fact
from eval.tasks.materials import Materials, Scorer
from eval.tasks.reviews.gold import gold
from eval.tasks.reviews.world import Reviews
from eval.tasks.sampled import sampled_pairs

LABEL_SCALE = 5.0
CENTRED_ON = 512


def materials(experiment: Experiment, cache: ArtefactCache, data_seed: int) -> Materials:
    """Built in well under a minute the first time, taken from the cache afterwards."""
    world, threads = Reviews(), experiment.threads_per_run
    _require_room(world, experiment.sampling.max_new_tokens)
    built = world.base_model(cache, 0, threads)
    base = Policy.load(built.path, device="cpu")
    prompts, model = _rows(world.pair_prompts(data_seed)), content_hash(built.path)
    pairs, pairs_cost, sampled = sampled_pairs(
        cache, base, prompts, Sampling(max_new_tokens=world.max_new_tokens), count=len(prompts), seed=data_seed,
        reward=gold, scale=LABEL_SCALE, identity={"model": model, "reward": "gold"},
    )  # fmt: skip
    proxy = learned_reward(
        cache, base, built.path, pairs, replace(world.reward, seed=data_seed, threads=threads), stage="reward model",
        prompts=prompts, count=CENTRED_ON, max_new_tokens=world.max_new_tokens, identity={"model": model},
    )  # fmt: skip
    stages = [
        stage_fact("base model", built, 0.0),
        stage_fact("sampled pairs", sampled, pairs_cost.flops),
        stage_fact("reward model", proxy.built, proxy.cost.flops),
    ]
    where = str(proxy.built.path)
    return Materials(
        model=str(built.path),
        train_prompts=_rows(world.prompts("train")),
        validation_prompts=_rows(world.prompts("validation")),
        test_prompts=_rows(world.prompts("test"))[: experiment.eval.prompts],
        reward=Scorer("model", where, "a reward model trained on noisy labels of the gold judge"),
        judge=Scorer("gold", "reviews", "the gold reward of reviews"),
        pairs=pairs,
        heldout_pairs=(),
        heldout_texts=world.texts("test", experiment.data_seed, 128),
        # The judge's scores, which are labels, not calls of the reward that is trained on them.
        pairs_cost=replace(pairs_cost, reward_calls=0),
        reward_cost=proxy.cost,
        reward_learned=True,
        facts=_facts(stages, proxy.facts),
    )


def sizes(experiment: Experiment) -> Sizes:
    """Parameters and tokens for a plan, from the description alone."""
    import torch
    from transformers import AutoModelForCausalLM

    world = Reviews()
    _require_room(world, experiment.sampling.max_new_tokens)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(world.model_config())
    words = _lengths(world.prompts("train"))
    parameters = sum(p.numel() for p in model.parameters())
    return Sizes(
        parameters=parameters,
        trunk_parameters=sum(p.numel() for p in model.base_model.parameters()),
        reward_parameters=parameters,
        judge_parameters=0,
        prompt_tokens=sum(words) / len(words),
        longest_prompt=max(words),
        response_tokens=experiment.sampling.max_new_tokens / 2,
        adapters=experiment.lora,
        pairs=world.pairs,
    )


def _require_room(world: Reviews, max_new_tokens: int) -> None:
    """Raises UserError where a test prompt would not fit the base's positions, and so could not be evaluated."""
    most = world.positions - max(_lengths(world.prompts("test")))
    if max_new_tokens > most:
        raise UserError(
            f"the model of reviews has {world.positions} positions, {world.positions - most} of which its longest prompt takes; "
            f"got {max_new_tokens} new tokens. Set --max-new-tokens {most} at most."
        )


def _lengths(prompts: Sequence[str]) -> list[int]:
    """Tokens: BOS, and one a word."""
    return [len(prompt.split()) + 1 for prompt in prompts]


def _rows(prompts: Sequence[str]) -> list[dict[str, Any]]:
    return [{"prompt": prompt} for prompt in prompts]


def _facts(stages: list[dict[str, Any]], reward_model: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": "reviews",
        "judge": "the gold reward of reviews, from 0 to 1",
        "judge_is_gold": True,
        "reward": "a reward model trained on pairs that the gold reward labelled with noise",
        "reward_model": reward_model,
        "varies": ["pairs", "reward model"],
        "data": [],
        "judge_is_reward": False,
        "beta_is_objective": False,
        "labels": f"come from the gold reward (scale {LABEL_SCALE:g}), not from the training reward",
        "notes": [],
        "stages": stages,
    }
