"""Before the first update policy, sampling policy and reference are one: KL 0, ratio 1, or the run ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import gpt2, tiny_policy, word_tokenizer
from tiny_runs import ALGORITHMS, run, spy
from torch import Tensor

from algos import PPO, REINFORCE, Policy, RunError
from algos.engine.checks import check_start
from algos.engine.loop import Loop
from algos.engine.rollouts import Rollouts
from algos.engine.scoring import score_policy, score_reference


@pytest.mark.parametrize("name", ALGORITHMS)
def test_ratio_one_and_no_kl_before_the_first_update_with_dropout_in_the_config(name: str) -> None:
    tokenizer = word_tokenizer("a b")
    policy = Policy(gpt2(len(tokenizer), dropout=0.5).train(), tokenizer, dtype="fp32")
    algorithm = replace(ALGORITHMS[name], learning_rate=1e-9)
    seen = spy(algorithm)
    row = run(seen, policy, budget="1iterations").rows[0]
    outputs, prepared = seen.calls[0]
    assert float((outputs.logps_PGT.detach() - prepared.ref_logps_PGT)[prepared.mask_PGT].abs().max()) < 1e-5
    if name == "dpo":
        assert row["loss"] == pytest.approx(0.693147, abs=1e-4)
        assert row["margin"] == pytest.approx(0, abs=1e-5)
        return
    assert float((outputs.logps_PGT.detach() - prepared.logps_PGT)[prepared.mask_PGT].abs().max()) < 1e-6
    assert row["kl/train"] == 0  # policy and reference run the same batch
    if name.startswith("ppo"):
        assert row["clip_fraction"] == 0
        assert row["ratio_max"] == pytest.approx(1, abs=1e-5)
        assert row["approx_kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["reinforce", "ppo", "dpo"])
def test_dropout_that_cannot_be_switched_off_ends_the_run_before_the_first_update(name: str) -> None:
    tokenizer = word_tokenizer("a b")
    policy = Policy(gpt2(len(tokenizer), dropout=0.5), tokenizer, dtype="fp32")
    policy.model.train().eval = lambda: policy.model
    before = {key: value.clone() for key, value in policy.model.state_dict().items()}
    with pytest.raises(RunError, match="differ before the first update") as caught:
        run(ALGORITHMS[name], policy)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in policy.model.state_dict().items())


def test_a_moved_policy_is_no_reference() -> None:
    policy = tiny_policy()
    with torch.no_grad():
        policy.model.lm_head.weight[1, 0] += 0.5
    with pytest.raises(RunError, match="differ before the first update"):
        run(REINFORCE(), policy)


def test_a_ratio_that_is_not_one_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def drifting(*arguments: Any) -> Any:
        logps, values = score_policy(*arguments)
        return logps + 1e-3, values

    monkeypatch.setattr("algos.engine.scoring.score_policy", drifting)
    monkeypatch.setattr(Loop, "_check_start", lambda *_: None)
    with pytest.raises(RunError, match="ratio to the sampling policy is not 1"):
        run(PPO(), micro_batch=1)  # in one piece, the two are the same forward


def test_in_bf16_policy_and_reference_are_equal_where_they_are_scored_alike() -> None:
    policy = tiny_policy()
    policy.dtype = torch.bfloat16
    scored: list[tuple[Tensor, Tensor]] = []

    class Seen(PPO):
        def prepare(self, rollouts: Rollouts, own: dict[str, Any]) -> Any:
            scored.append((score_policy(policy, rollouts, 1.0)[0], score_reference(policy, rollouts, 1.0)))
            return super().prepare(rollouts, own)

    run(Seen(), policy, budget="1iterations", micro_batch=1)
    assert torch.equal(*scored[0])


@pytest.mark.parametrize(
    ("dtype", "alike", "allowed"),
    [
        (torch.float32, False, 1e-4),
        (torch.float32, True, 1e-4),
        (torch.bfloat16, False, 2e-1),
        (torch.bfloat16, True, 5e-2),
    ],
)
def test_what_rounding_may_do_before_the_first_update(
    dtype: torch.dtype, alike: bool, allowed: float
) -> None:
    """Of a response of four tokens, twice what it may of one: rounding errors add up like a random walk."""
    policy = tiny_policy()
    policy.dtype = dtype
    ids = torch.ones(1, 1, 4, dtype=torch.long)
    rollouts = Rollouts(
        prompt_ids_PL=ids[0],
        prompt_mask_PL=torch.ones(1, 4, dtype=torch.bool),
        response_ids_PGT=ids,
        mask_PGT=torch.ones(1, 1, 4, dtype=torch.bool),
        ended_PG=torch.ones(1, 1, dtype=torch.bool),
        ref_logps_PGT=torch.zeros(1, 1, 4),
    )
    check_start(policy, rollouts, torch.full((1, 1, 4), 0.99 * allowed / 2), alike=alike)
    with pytest.raises(RunError, match="differ before the first update"):
        check_start(policy, rollouts, torch.full((1, 1, 4), 1.01 * allowed / 2), alike=alike)
