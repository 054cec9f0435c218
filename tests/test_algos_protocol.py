"""What `train` may be given as an algorithm and a policy, and what it says of anything else."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_policy
from tiny_runs import ALGORITHMS, PAIRS, run, spy

from algos import DPO, REINFORCE, Algorithm, Needs, Outputs, Rollouts, State, TrainState, UserError
from algos.engine.loop import Loop


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


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ({"values": True}, "Needs.values must be 'shared', 'separate' or None; got True."),
        ({"values": "own"}, "Needs.values must be 'shared', 'separate' or None; got 'own'."),
        ({"source": "pair"}, "Needs.source must be 'prompts' or 'pairs'; got 'pair'."),
        ({"source": "pairs", "pairs_per_step": 0}, "Needs.pairs_per_step must be at least 1; got 0."),
        ({"source": "pairs", "pair_epochs": 0}, "Needs.pair_epochs must be at least 1; got 0."),
    ],
)
def test_needs_that_mean_nothing_are_refused(needs: dict[str, Any], said: str) -> None:
    """values=True was once a separate critic."""
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        Needs(**needs)


@dataclass(frozen=True)
class PairAfterPair(DPO):
    """Says that it learns from recorded pairs, and no more."""

    @property
    def needs(self) -> Needs:
        return Needs(source="pairs", min_group_size=2, old_logps=False)


def test_pairs_are_read_one_an_iteration_and_once_unless_more_is_asked_for() -> None:
    rows = run(PairAfterPair(), budget="100iterations").rows
    assert [row["completions"] for row in rows] == [2 * i for i in range(1, len(PAIRS) + 1)]


def test_who_asks_for_values_gets_them() -> None:
    assert run(ValuesAlone()).rows
    assert Needs(values="separate", old_logps=False).old_policy
    assert not Needs(old_logps=False).old_policy


@dataclass(frozen=True)
class Weighted(Rollouts):
    """With a weight a response and one a prompt."""

    weights_PG: torch.Tensor | None = None
    shares_P: torch.Tensor | None = None


@dataclass(frozen=True)
class Weighing(REINFORCE):
    """Takes tensors of its own to the loss, whatever the batch is cut into."""

    @property
    def needs(self) -> Needs:
        return Needs(min_group_size=2, passes=2, steps_per_pass=2)

    def prepare(self, rollouts: Rollouts, state: State) -> tuple[Rollouts, State]:
        prepared, state = super().prepare(rollouts, state)
        own = {"weights_PG": prepared.lengths_PG / 7, "shares_P": prepared.lengths_PG.sum(-1)}
        given = {field.name: getattr(prepared, field.name) for field in fields(prepared)}
        return Weighted(**given, **own).pick(torch.tensor([[3, 1, 0]] * prepared.P)), state

    def loss(self, outputs: Outputs, prepared: Rollouts) -> Any:
        assert isinstance(prepared, Weighted)
        weights_PG, shares_P = prepared.filled("weights_PG", "shares_P")
        torch.testing.assert_close(weights_PG, prepared.lengths_PG / 7)
        assert shares_P.shape == (prepared.P,)
        assert bool((shares_P >= prepared.lengths_PG.sum(-1)).all())
        return super().loss(outputs, prepared)


@pytest.mark.parametrize("micro_batch", [1, 100])
def test_tensors_of_an_algorithms_own_go_along_with_the_batch(micro_batch: int) -> None:
    assert [row["updates"] for row in run(Weighing(), micro_batch=micro_batch).rows] == [4, 8, 12]


@dataclass(frozen=True)
class Silent(REINFORCE):
    """Logs nothing itself."""

    def loss(self, outputs: Outputs, prepared: Rollouts) -> Any:
        return super().loss(outputs, prepared)[0], {}


@pytest.mark.parametrize("micro_batch", [1, 100])
def test_the_entropy_is_logged_whoever_wrote_the_algorithm(micro_batch: int) -> None:
    """By hand: the mean over the tokens that carry loss."""
    seen = spy(Silent())
    row = run(seen, budget="1iterations", micro_batch=micro_batch).rows[0]
    entropies = [outputs.entropy_PGT[prepared.loss_mask_PGT] for outputs, prepared in seen.calls]
    assert len(entropies) == (4 if micro_batch == 1 else 1)
    assert row["entropy/train"] == pytest.approx(float(torch.cat(entropies).mean()), rel=1e-5)


def test_a_step_reads_its_totals_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading waits for a GPU, and both the loop and the loss ask for them."""
    read: list[bool] = []
    steps: list[int] = []
    totals, accumulate = Rollouts.totals.fget, Loop._accumulate  # type: ignore[attr-defined]

    def counted(rollouts: Rollouts) -> Any:
        read.append(rollouts.step_totals is None)
        return totals(rollouts)

    def step(*given: Any) -> Any:
        read.clear()
        found = accumulate(*given)
        steps.append(sum(read))
        assert len(read) >= 3
        return found

    monkeypatch.setattr(Rollouts, "totals", property(counted))
    monkeypatch.setattr(Loop, "_accumulate", step)
    for name in ("reinforce", "ppo", "dpo"):  # the first update's forward made ahead, minibatches, and pairs
        for micro_batch in (1, 100):
            run(ALGORITHMS[name], budget="1iterations", micro_batch=micro_batch)
    assert len(steps) == 12
    assert set(steps) == {1}


@pytest.mark.parametrize("name", ["reinforce", "ppo", "dpo"])
def test_a_hook_sees_the_batch_until_the_next_is_sampled(name: str) -> None:
    states: list[TrainState] = []

    def hook(state: TrainState, _: float) -> None:
        states[:] = [state]
        assert (state.prepared is None) == (state.iteration == 0)
        if state.prepared is not None:
            assert state.prepared.lengths_PG.float().mean() == pytest.approx(
                state.history[-1]["length/train"]
            )
            tensors = [getattr(state.prepared, field.name) for field in fields(state.prepared)]
            assert not [x for x in tensors if isinstance(x, torch.Tensor) and x.grad_fn is not None]
            if name != "dpo":
                assert state.prepared.advantages_PGT is not None

    def reward(completions: list[str], **_: Any) -> list[float]:
        assert states[0].prepared is None  # what was sampled just now is the only batch there is
        return [float(i) for i in range(len(completions))]

    options = {} if name == "dpo" else {"reward": reward}
    assert len(run(ALGORITHMS[name], hook=hook, **options).rows) == 3
