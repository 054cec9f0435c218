"""A whole PPO update, all epochs and minibatches, against TRL's last PPOTrainer in the peers' environment."""

from __future__ import annotations

import pytest
import torch
from parity_ppo import (
    EPOCHS,
    FULL,
    MINIBATCHES,
    ORDERS,
    OURS,
    PEER,
    PEERS,
    RAGGED,
    RATE,
    TEMPERATURE,
    Bessel,
    OneLater,
    World,
    one_later,
)
from parity_table import Row, Table
from parity_worlds import DTYPES, before_update, flat, gradients
from torch import Tensor

from algos import PPO
from algos.advantages import whiten
from algos.engine.forward import forward
from algos.engine.rollouts import Rollouts
from algos.engine.trainer import train

pytestmark = pytest.mark.parity

PART = "One update: PPO"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> World:
    if not (PEERS / "bin" / "python").is_file():
        pytest.skip(f"no peers' environment at {PEERS}: `make peers` builds it")
    return World(tmp_path_factory.mktemp("ppo"), *request.param)


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def compare(table: Table, world: World, algorithm: PPO, rollouts: Rollouts, name: str) -> None:
    """Losses, every step's gradients, and the weights of policy and value model after the last."""
    peer, steps = world.peer, EPOCHS * MINIBATCHES
    mine, critic = world.ours(algorithm, rollouts)
    losses = torch.stack([peer[f"loss/{step}"] for step in range(steps)])
    assert f"loss/{steps}" not in peer
    assert len(mine.gradients) == steps
    table.agrees(
        Row(PART, f"{name}: mean loss of the {steps} steps", PPO.loss, PEER), mine.losses[0], losses.mean()
    )
    names = sorted(mine.before)
    assert mine.moved > RATE
    why = "rounding, which grows in fp32 with each of AdamW's steps before"
    row = Row(PART, f"{name}: gradients of the policy, each step", PPO.loss, PEER, why)
    for step in range(steps):
        ours, theirs = (
            flat(x, names) for x in (mine.gradients[step], below(peer, f"gradient/{step}/policy."))
        )
        table.agrees(row, ours, theirs, 5e-5 if step and ours.dtype == torch.float32 else 0.0)
    row = Row(PART, f"{name}: weights of the policy after", train, PEER)
    table.agrees(row, flat(mine.after, names), flat(below(peer, "after/policy."), names))
    row = Row(PART, f"{name}: weights of the value model after", train, PEER)
    names = sorted(critic)
    table.agrees(row, flat(critic, names), flat(below(peer, "after/value_model."), names))


def prepared(world: World, algorithm: PPO) -> Rollouts:
    """What `prepare` makes of the batch that TRL was given."""
    state = world.start(algorithm)
    rollouts = before_update(state.policy, world.rollouts(world.peer["scores"]), TEMPERATURE, state.critic)
    return algorithm.prepare(rollouts, {})[0]


full = pytest.mark.parametrize("world", [(dtype, FULL) for dtype in DTYPES], indirect=True)
ragged = pytest.mark.parametrize("world", [(dtype, RAGGED) for dtype in DTYPES], indirect=True)


@full
def test_advantages_are_trls_before_whitening(table: Table, world: World) -> None:
    """KL and score in the reward, values of another network, GAE."""
    mine = prepared(world, PPO(**OURS, whiten_advantages=False)).advantages_PGT
    row = Row(PART, "full width: advantages before whitening", PPO.prepare, PEER)
    table.agrees(row, mine[:, 0], world.peer["advantages"])


@full
def test_whitening_is_by_another_variance(table: Table, world: World) -> None:
    mine, theirs = prepared(world, PPO(**OURS)).advantages_PGT[:, 0], world.peer["whitened"]
    why = "the population variance here, the sample variance there"
    table.differs(Row(PART, "full width: advantages after whitening", whiten, PEER, why), mine, theirs, 1e-3)
    mine = prepared(world, Bessel(**OURS)).advantages_PGT[:, 0]
    table.agrees(Row(PART, "full width: the same by the sample variance", whiten, PEER), mine, theirs)


@full
def test_an_update_on_responses_of_full_width(table: Table, world: World) -> None:
    """Where no response is shorter than the batch, whitening is all that TRL does otherwise."""
    rollouts = world.rollouts(world.peer["scores"])
    compare(table, world, Bessel(**OURS), rollouts, "full width, sample variance")


@ragged
def test_an_update_on_responses_of_unequal_lengths(table: Table, world: World) -> None:
    """With the score one position later, where TRL also learns a value, nothing is left of the difference."""
    rollouts = one_later(world.rollouts(world.peer["scores"]))
    compare(table, world, OneLater(**OURS), rollouts, "unequal lengths, sample variance, score one later")


@ragged
def test_where_the_score_stands_makes_a_difference(table: Table, world: World) -> None:
    mine, _ = world.ours(Bessel(**OURS), world.rollouts(world.peer["scores"]))
    names = sorted(mine.before)
    why = (
        "TRL puts the score one position behind the last token where there is one, and learns a value there; "
        "nothing is predicted behind the last token, so ours stands at it"
    )
    row = Row(PART, "unequal lengths, sample variance: weights of the policy after", train, PEER, why)
    table.differs(row, flat(mine.after, names), flat(below(world.peer, "after/policy."), names), 1e-4)


@ragged
def test_a_mean_of_means_is_another_gradient(table: Table, world: World) -> None:
    """Four micro-batches of two responses: TRL averages each by itself, ours divides by the step's totals."""
    peer = world.theirs(per_device_train_batch_size=2, gradient_accumulation_steps=4, num_mini_batches=1)
    assert len({name.split("/")[1] for name in peer if name.startswith("gradient/")}) == EPOCHS
    rollouts = one_later(world.rollouts(peer["scores"]))
    algorithm = OneLater(**(OURS | {"minibatches": 1}))
    mine, _ = world.ours(algorithm, rollouts)
    names = sorted(mine.before)
    theirs = flat(below(peer, "gradient/0/policy."), names)
    why = "the mean of the micro-batches' means there, the mean over the step's tokens here"
    row = Row(PART, "unequal lengths, four micro-batches: first gradient of the policy", PPO.loss, PEER, why)
    table.differs(row, flat(mine.gradients[0], names), theirs, 1e-3)
    state, order = world.start(algorithm), torch.tensor(ORDERS[0])
    given = before_update(state.policy, rollouts, TEMPERATURE, state.critic)
    ready = algorithm.prepare(given, {})[0]
    for rows in order.split(2):
        part = ready.select(rows)
        outputs = forward(state.policy.model, part, TEMPERATURE, torch.float32, state.critic)
        (algorithm.loss(outputs, part)[0] / 4).backward()
    row = Row(PART, "the same, ours as a mean of four means", PPO.loss, PEER)
    table.agrees(row, flat(gradients(state.policy.model), names), theirs)
