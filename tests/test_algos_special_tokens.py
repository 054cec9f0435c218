"""Whatever ends, begins and pads a text: the same id for all of them, several, or none."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from tiny import gpt2, word_tokenizer
from tiny_runs import PAIRS, PROMPTS, SAMPLING, count_b, spy

from algos import DPO, PPO, REINFORCE, Algorithm, Policy, train

ALGORITHMS: dict[str, Algorithm] = {
    "reinforce": REINFORCE(learning_rate=1e-2),
    "ppo": PPO(learning_rate=1e-2, ppo_epochs=2),
    "dpo": DPO(learning_rate=1e-2, batch_size=4),
}


@dataclass(frozen=True)
class Special:
    """Special tokens of a tokenizer, and what the model declares as its ends."""

    tokenizer: dict[str, Any] = field(default_factory=dict)
    ends: tuple[int, ...] = (0,)

    def policy(self) -> Policy:
        tokenizer = word_tokenizer("a b c", **self.tokenizer)
        model = gpt2(len(tokenizer), eos=self.ends[0] if self.ends else None)
        model.generation_config.eos_token_id = list(self.ends) or None
        return Policy(model, tokenizer, dtype="fp32")


BOTH = {"bos": "<eos>", "add_bos": True}
SPECIAL = {
    "EOS alone": Special(),
    "pad is EOS": Special({"pad": "<eos>"}),
    "BOS is EOS": Special(BOTH),
    "BOS is EOS is pad": Special(BOTH | {"pad": "<eos>"}),
    "all apart": Special({"bos": "<bos>", "pad": "<pad>", "add_bos": True}),
    "EOS written behind every text": Special({"bos": "<bos>", "add_bos": True, "add_eos": True}),
    "several EOS": Special({}, (0, 2)),
    "the model's EOS is none of the tokenizer's": Special({"eos": None}, (1,)),
    "no EOS": Special({"eos": None}, ()),
    "no EOS, but BOS": Special({"eos": None, "bos": "<bos>", "add_bos": True}, ()),
}


def run(algorithm: Algorithm, policy: Policy) -> list[dict[str, float]]:
    data: dict[str, Any] = (
        {"pairs": PAIRS} if isinstance(algorithm, DPO) else {"prompts": PROMPTS, "reward": count_b}
    )
    return train(algorithm, policy, sampling=SAMPLING, budget="2iterations", **data).rows


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("kind", SPECIAL)
def test_every_choice_trains(kind: str, name: str) -> None:
    policy, seen = SPECIAL[kind].policy(), spy(ALGORITHMS[name])
    rows = run(seen, policy)
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert rows[0].get("kl/train", 0.0) == pytest.approx(0, abs=1e-5)
    ends, bos = torch.tensor(policy.eos_ids or [-1]), policy.tokenizer.bos_token_id
    adds_bos = SPECIAL[kind].tokenizer.get("add_bos", False)
    for _, batch in seen.calls:
        is_end = torch.isin(batch.response_ids_PGT, ends) & batch.mask_PGT
        last = batch.mask_PGT.sum(-1, keepdim=True) - 1
        assert torch.equal(is_end.any(-1), batch.ended_PG)
        assert torch.equal(is_end.gather(-1, last).squeeze(-1), batch.ended_PG)  # at the end and nowhere else
        assert int(is_end.sum(-1).max()) <= 1
        for ids, mask in zip(batch.prompt_ids_PL, batch.prompt_mask_PL, strict=True):
            prompt = ids[mask].tolist()
            assert prompt.count(bos) == (1 if adds_bos else 0)
            assert (prompt[0] == bos) == adds_bos


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_padding_is_filled_with_changes_nothing(name: str) -> None:
    """Not even a word that the reward counts."""
    trained = []
    for pad in (None, "<eos>", "b"):
        policy = Special().policy()
        policy.tokenizer.pad_token = pad
        run(ALGORITHMS[name], policy)
        trained.append(policy)
    assert [policy.pad_id for policy in trained] == [0, 0, 2]
    for other in trained[1:]:
        for p, q in zip(trained[0].model.parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
