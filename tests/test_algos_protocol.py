"""What `train` may be given as an algorithm and a policy, and what it says of anything else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_policy
from tiny_runs import ALGORITHMS, run

from algos import REINFORCE, Algorithm, UserError
from algos.engine.algorithm import Needs, Outputs, State
from algos.engine.rollouts import Rollouts
from algos.engine.state import TrainState


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_policy_of_frozen_weights_is_refused(name: str) -> None:
    """With a critic there would be something to train: the run would end as if all were well."""
    policy = tiny_policy()
    policy.model.requires_grad_(False)
    with pytest.raises(UserError, match=r"no weight of the policy is to be trained.*is_trainable=True"):
        run(ALGORITHMS[name], policy)


class Nameless(Algorithm):
    """Whatever is left out."""

    needs = REINFORCE().needs
    prepare = REINFORCE.prepare
    loss = REINFORCE.loss


class Numbers(Nameless):
    name = "numbers"

    def init_state(self) -> Any:
        return {"mean": 0.0}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (REINFORCE, "an algorithm is an instance of a subclass of Algorithm, such as PPO(); got REINFORCE"),
        ("ppo", "such as PPO(); got str"),
        (Nameless(), "Nameless has no name"),
        (Numbers(), "Numbers.init_state returns must be tensors; got another type for mean"),
    ],
)
def test_what_is_no_algorithm_is_told(given: Any, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        TrainState.start(given, tiny_policy(), 0)


@dataclass(frozen=True)
class Remembering(REINFORCE):
    """Keeps one tensor under two names and logs plain numbers."""

    def init_state(self) -> State:
        one = torch.zeros(())
        return {**super().init_state(), "first": one, "second": one}

    def loss(self, outputs: Outputs, prepared: Rollouts) -> Any:
        loss, logged = super().loss(outputs, prepared)
        return loss, {**logged, "plain_max": 2.0, "plain": prepared.P / 4}


def test_an_algorithm_may_keep_one_tensor_twice_and_log_numbers(tmp_path: Path) -> None:
    for micro_batch in (1, 100):
        history = run(
            Remembering(),
            checkpoint=tmp_path / str(micro_batch),
            checkpoint_every=1,
            micro_batch=micro_batch,
        )
        assert {(row["plain_max"], row["plain"]) for row in history.rows} == {(2.0, 1.0)}


@dataclass(frozen=True)
class ValuesAlone(REINFORCE):
    """Says that it reads no log-probabilities, which values come with."""

    @property
    def needs(self) -> Needs:
        return Needs(values="shared", old_logps=False)

    def prepare(self, rollouts: Rollouts, state: State) -> tuple[Rollouts, State]:
        rollouts.filled("values_PGT")
        return super().prepare(rollouts, state)


def test_who_asks_for_values_gets_them() -> None:
    assert run(ValuesAlone()).rows
    assert Needs(values="separate", old_logps=False).old_policy
    assert not Needs(old_logps=False).old_policy
