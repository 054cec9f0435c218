"""A real pretrained model whose EOS is its BOS and whose words begin with a space. Skipped where it is absent."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stories import SAMPLING, held_out, rows

from algos import DPO, PPO, REINFORCE, Algorithm, Policy, Sampling, sample, train
from algos.engine.batches.pairs import encode_pairs
from algos.engine.batches.prompts import encode_prompts, texts
from algos.engine.batches.recorded import collate
from algos.engine.scoring import score_policy, score_reference
from algos.engine.text.tokens import decode_completion, encode

BOS = 1


@pytest.fixture(scope="module")
def prompts(shared_data: Path) -> list[dict[str, str]]:
    return rows(shared_data / "stories_prompts.jsonl", 64)


@pytest.fixture(scope="module")
def pairs(shared_data: Path) -> list[dict[str, str]]:
    return rows(shared_data / "stories_pairs.jsonl", 200)


@pytest.fixture(scope="module")
def vader(shared_data: Path) -> Callable[..., list[float]]:
    spec = importlib.util.spec_from_file_location("sentiment_reward", shared_data / "sentiment_reward.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reward: Callable[..., list[float]] = module.vader
    return reward


@pytest.fixture
def policy(shared_data: Path) -> Policy:
    return Policy.load(shared_data / "stories260k", device="cpu", dtype="fp32")


def test_its_ids_are_what_its_files_say(policy: Policy) -> None:
    assert policy.tokenizer.bos_token_id == policy.tokenizer.eos_token_id == BOS
    assert policy.eos_ids == [1, 2]  # the generation config declares a second one
    assert policy.pad_id == 0
    ids = encode(policy.tokenizer, "Once upon a time")
    assert ids.count(BOS) == 1
    assert ids[0] == BOS


def test_bos_at_the_front_ends_nothing_and_what_follows_eos_is_masked(
    policy: Policy, prompts: list[dict[str, str]]
) -> None:
    encoded, counts = encode_prompts(policy, prompts, 200)
    assert counts == {}
    rollouts = sample(
        policy, [prompt.ids for prompt in encoded[:16]], Sampling(max_new_tokens=200, group_size=4), 0
    )
    assert int(rollouts.lengths_PG.min()) > 1
    assert bool(rollouts.ended_PG.any())
    ends = torch.isin(rollouts.response_ids_PGT, torch.tensor(policy.eos_ids)) & rollouts.mask_PGT
    assert torch.equal(ends.any(-1), rollouts.ended_PG)
    assert int(ends.sum(-1).max()) == 1
    last = rollouts.mask_PGT.sum(-1, keepdim=True) - 1
    assert torch.equal(ends.gather(-1, last).squeeze(-1), rollouts.ended_PG)
    logps, _ = score_policy(policy, rollouts, 1.0)
    mask = rollouts.mask_PGT
    assert float((logps - rollouts.sampler_logps_PGT)[mask].abs().max()) < 1e-3


def test_completions_keep_their_leading_space(policy: Policy, prompts: list[dict[str, str]]) -> None:
    encoded, _ = encode_prompts(policy, prompts[:16], 24)
    rollouts = sample(policy, [prompt.ids for prompt in encoded], SAMPLING, 0)
    _, completions = texts(policy, encoded, rollouts)
    spaced = sum(text.startswith(" ") for text in completions)
    assert spaced > len(completions) / 2
    for i, completion in enumerate(completions):
        prompt = encoded[i // 4]
        ids = rollouts.response_ids_PGT.flatten(0, 1)[i][rollouts.mask_PGT.flatten(0, 1)[i]].tolist()
        whole = policy.tokenizer.decode(prompt.ids + ids, skip_special_tokens=True)
        assert prompt.row["prompt"] + completion == whole


@pytest.mark.parametrize("room", [80, 32])
def test_pairs_go_to_ids_and_back(policy: Policy, pairs: list[dict[str, str]], room: int) -> None:
    """The recorded responses have up to 66 tokens: with room for 80 none is cut, with 32 nearly all are."""
    encoded, counts = encode_pairs(policy, pairs, room)
    assert len(encoded) == len(pairs)
    assert counts.get("response truncated", 0) == (0 if room == 80 else pytest.approx(200, abs=5))
    for row, pair in zip(pairs, encoded, strict=True):
        assert pair.prompt[0] == BOS
        assert BOS not in pair.prompt[1:]
        for name, ids in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            text = decode_completion(policy.tokenizer, pair.prompt, ids)
            assert BOS not in ids[:-1]
            assert row[name].startswith(text)
            assert (text == row[name]) == (ids[-1] == BOS)
            assert ids[-1] == BOS or len(ids) == room


@pytest.mark.parametrize("algorithm", [REINFORCE(learning_rate=1e-9), PPO(learning_rate=1e-9)])
def test_ratio_one_and_no_kl_at_the_first_update_from_samples(
    policy: Policy, prompts: list[dict[str, str]], vader: Callable[..., list[float]], algorithm: Algorithm
) -> None:
    row = train(
        algorithm, policy, prompts=prompts, reward=vader, sampling=SAMPLING, budget="1iterations"
    ).rows[0]
    assert row["kl/train"] == 0
    assert row["sampler_gap_max"] < 1e-3
    if "ratio_max" in row:
        assert row["ratio_max"] == pytest.approx(1, abs=1e-4)
        assert row["clip_fraction"] == 0


def test_no_kl_at_the_first_update_from_pairs(policy: Policy, pairs: list[dict[str, str]]) -> None:
    row = train(DPO(learning_rate=1e-9), policy, pairs=pairs[:32]).rows[0]
    assert row["loss"] == pytest.approx(0.693147, abs=1e-4)
    assert row["margin"] == pytest.approx(0, abs=1e-4)
    encoded, _ = encode_pairs(policy, pairs[:32], 64)
    rollouts = collate(policy, encoded)
    logps, ref = score_policy(policy, rollouts, 1.0)[0], score_reference(policy, rollouts, 1.0)
    assert float((logps - ref)[rollouts.mask_PGT].abs().max()) < 1e-3  # after one step of 1e-9


@pytest.mark.parametrize("algorithm", [REINFORCE(), PPO(), DPO()], ids=lambda algorithm: algorithm.name)
def test_bf16_is_not_refused_for_its_rounding(
    shared_data: Path, prompts: list[dict[str, str]], pairs: list[dict[str, str]],
    vader: Callable[..., list[float]], algorithm: Algorithm,
) -> None:  # fmt: skip
    """At 64 tokens and the default batch a response's sum may be half a nat off where lengths of padding differ."""
    policy = Policy.load(shared_data / "stories260k", device="cpu", dtype="bf16")
    data: dict[str, Any] = (
        {"pairs": pairs} if algorithm.name == "dpo" else {"prompts": prompts, "reward": vader}
    )
    sampling = Sampling(max_new_tokens=64, group_size=4, prompts_per_iteration=16)
    result = train(algorithm, policy, sampling=sampling, budget="1iterations", seed=1, **data)
    assert len(result.rows) == 1  # a run is refused, if at all, before its first update


LEARNERS: dict[str, tuple[Algorithm, str]] = {
    "reinforce": (REINFORCE(beta=0.02, learning_rate=3e-3), "15iterations"),
    "ppo": (PPO(beta=0.02, learning_rate=1e-3), "15iterations"),
    "dpo": (DPO(beta=0.1, learning_rate=1e-3, batch_size=16), "12iterations"),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_short_training_raises_the_reward(
    name: str, policy: Policy, shared_data: Path, prompts: list[dict[str, str]], pairs: list[dict[str, str]],
    vader: Callable[..., list[float]],
) -> None:  # fmt: skip
    algorithm, budget = LEARNERS[name]
    start = held_out(policy, shared_data, vader)
    data: dict[str, Any] = {"pairs": pairs} if name == "dpo" else {"prompts": prompts, "reward": vader}
    train(algorithm, policy, sampling=SAMPLING, budget=budget, **data)
    assert 0.1 < start < 0.5
    assert held_out(policy, shared_data, vader) > start + 0.15
