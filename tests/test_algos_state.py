"""A run that is stopped, saved and continued in a fresh policy is the run that was never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stopped_runs import ALGORITHMS, Stopped, run
from tiny import same_weights, tiny_policy

from algos import DPO, RunError, Sampling
from algos.engine.state import TrainState
from algos.engine.storage import read_json, saved_states


@pytest.mark.parametrize("name", ALGORITHMS)
def test_stopped_and_continued_is_bit_identical(name: str, tmp_path: Path) -> None:
    last: list[TrainState] = []

    def keep(state: TrainState, _: float) -> None:
        last[:] = [state]

    straight = tiny_policy()
    rows = run(name, straight, hook=keep).rows
    end = last[0]
    with pytest.raises(Stopped):
        run(name, tiny_policy(), stop_after=3, checkpoint=tmp_path / "state", checkpoint_every=1)
    again = tiny_policy()
    continued = run(name, again, hook=keep, checkpoint=tmp_path / "state", checkpoint_every=1).rows
    assert [{**row, "seconds": 0} for row in continued] == [{**row, "seconds": 0} for row in rows]
    assert same_weights(again, straight)
    assert not same_weights(again, tiny_policy())
    saved = (end.optimizer.state_dict()["state"], last[0].optimizer.state_dict()["state"])
    assert saved[0].keys() == saved[1].keys()
    for index in saved[0]:
        assert all(torch.equal(saved[0][index][slot], saved[1][index][slot]) for slot in saved[0][index])
    assert end.algorithm_state.keys() == last[0].algorithm_state.keys()
    assert all(
        torch.equal(end.algorithm_state[key], last[0].algorithm_state[key]) for key in end.algorithm_state
    )
    if end.critic is not None:
        pairs = zip(end.critic.parameters(), last[0].critic.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs)
    assert continued[-1]["seconds"] > continued[2]["seconds"]


def test_a_run_stopped_between_checkpoints_repeats_what_was_lost(tmp_path: Path) -> None:
    straight, again = tiny_policy(), tiny_policy()
    rows = run("ppo", straight).rows
    with pytest.raises(Stopped):
        run("ppo", tiny_policy(), stop_after=3, checkpoint=tmp_path / "state", checkpoint_every=2)
    (saved,) = saved_states(tmp_path / "state")
    assert read_json(saved / "state.json")["meter"]["iterations"] == 2
    continued = run("ppo", again, checkpoint=tmp_path / "state").rows
    assert same_weights(straight, again)
    assert len(continued) == len(rows)


@pytest.mark.parametrize(
    ("every", "versions"), [(1, ["00000005", "00000006"]), (4, ["00000004", "00000006"])]
)
def test_a_finished_run_is_saved_whatever_its_interval_and_not_run_again(
    tmp_path: Path, every: int, versions: list[str]
) -> None:
    """Else what came behind the last interval would be done again."""
    first = tiny_policy()
    rows = run("reinforce", first, checkpoint=tmp_path, checkpoint_every=every).rows
    assert [saved.name for saved in saved_states(tmp_path)] == versions
    for again in (0, every):
        policy = tiny_policy()
        assert run("reinforce", policy, checkpoint=tmp_path, checkpoint_every=again).rows == rows
        assert same_weights(first, policy)


def test_without_an_interval_only_a_hook_saves(tmp_path: Path) -> None:
    run("reinforce", tiny_policy(), checkpoint=tmp_path, checkpoint_every=0)
    assert saved_states(tmp_path) == []


def test_a_folder_alone_is_enough_to_be_saved(tmp_path: Path) -> None:
    """Every ten iterations, and at the end."""
    run("reinforce", tiny_policy(), checkpoint=tmp_path, budget="11iterations")
    assert [saved.name for saved in saved_states(tmp_path)] == ["00000010", "00000011"]


def test_a_hook_may_name_the_folder_as_text(tmp_path: Path) -> None:
    folder, straight, again = str(tmp_path / "state"), tiny_policy(), tiny_policy()
    loaded: list[bool] = []

    def save(state: TrainState, _: float) -> None:
        if state.iteration == 3:
            assert state.save(folder) == Path(folder) / "00000003"

    def load(state: TrainState, _: float) -> None:
        if not state.history:
            loaded.append(state.load(folder))

    run("reinforce", straight, hook=save)
    assert len(run("reinforce", again, hook=load).rows) == 6
    assert loaded == [True]
    assert same_weights(again, straight)


def test_what_a_hook_saves_can_be_gone_on_with(tmp_path: Path) -> None:
    """Whether or not training had a folder of its own."""

    def hook(state: TrainState, _: float) -> None:
        if state.iteration == 3:
            state.save(tmp_path)

    straight, again = tiny_policy(), tiny_policy()
    run("ppo", straight, hook=hook)
    assert len(run("ppo", again, checkpoint=tmp_path).rows) == 6
    assert same_weights(again, straight)
    with pytest.raises(RunError, match="its budget is 6iterations, this run's 7iterations"):
        run("ppo", tiny_policy(), checkpoint=tmp_path, budget="7iterations")


def test_a_finished_run_that_went_beyond_its_budget_is_done_and_no_more(tmp_path: Path) -> None:
    """Iterations of 6 completions in a budget of 8."""
    sampling = Sampling(max_new_tokens=4, group_size=2, prompts_per_iteration=3)
    seen: list[float] = []
    for _ in range(2):
        run(
            "reinforce", tiny_policy(), sampling=sampling, budget="8completions", checkpoint=tmp_path, checkpoint_every=1,
            hook=lambda _, progress: seen.append(progress),
        )  # fmt: skip
    assert seen == [0.0, 0.75, 1.0, 1.0]


def test_the_reference_of_a_continued_run_is_the_base(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run("ppo", tiny_policy(), stop_after=3, checkpoint=tmp_path / "state", checkpoint_every=1)
    policy = tiny_policy()
    run("ppo", policy, checkpoint=tmp_path / "state")
    with policy.reference() as reference:
        base = tiny_policy().model.state_dict()
        assert all(torch.equal(base[name], value) for name, value in reference.state_dict().items())


def test_what_fitted_into_memory_is_remembered(tmp_path: Path) -> None:
    """Sums are split by the micro-batch: going on with another would round otherwise."""

    def hook(state: TrainState, _: float) -> None:
        state.policy.portions.limits["training"] = 1

    run("reinforce", tiny_policy(), hook=hook, checkpoint=tmp_path, checkpoint_every=1)
    again = tiny_policy()
    run("reinforce", again, checkpoint=tmp_path)
    assert again.portions.limits == {"training": 1}


def test_iterations_without_an_update_are_counted_across_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On-policy DPO learns nothing from equal scores: four such iterations in a row, two of them before the stop."""
    monkeypatch.setattr("algos.engine.loop.MAX_IDLE", 4)

    def same(completions: list[str], **_: Any) -> list[float]:
        return [0.5] * len(completions)

    options = {"algorithm": DPO(on_policy=True), "reward": same, "checkpoint": tmp_path}
    with pytest.raises(Stopped):
        run("dpo-online", tiny_policy(), stop_after=3, checkpoint_every=1, **options)
    with pytest.raises(RunError, match="4 iterations in a row"):
        run("dpo-online", tiny_policy(), **options)
