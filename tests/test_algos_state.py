"""A run that is stopped, saved and continued in a fresh policy is the run that was never stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import gpt2, same_weights, tiny_policy, word_tokenizer

from algos import DPO, PPO, REINFORCE, Algorithm, Policy, RunError, Sampling, train
from algos.engine.state import TrainState
from algos.engine.storage import atomic_directory, existing, write_json

PROMPTS = ["a", "b a b", "a b", "b", "b b a"]
PAIRS = [{"prompt": "a b", "chosen": " b" * n, "rejected": " a" * (8 - n)} for n in range(1, 8)]
SAMPLING = Sampling(max_new_tokens=4, group_size=3, prompts_per_iteration=3)
ALGORITHMS: dict[str, Algorithm] = {
    "reinforce": REINFORCE(learning_rate=1e-2, warmup=0.3),
    "reinforce-ema": REINFORCE(learning_rate=1e-2, baseline="ema"),
    "reinforce-value": REINFORCE(learning_rate=1e-2, baseline="value"),
    "ppo": PPO(learning_rate=1e-2, ppo_epochs=2, minibatches=2),
    "ppo-separate": PPO(learning_rate=1e-2, ppo_epochs=2, value_model="separate"),
    "ppo-adaptive": PPO(learning_rate=1e-2, kl_control="adaptive", kl_target=0.05, kl_horizon=20),
    "dpo": DPO(learning_rate=1e-2, epochs=2, batch_size=3),
    "dpo-online": DPO(learning_rate=1e-2),
}


class Stopped(Exception):
    """What ends a run from outside."""


def count_b(completions: list[str], **_: Any) -> list[float]:
    return [text.split().count("b") / 4 for text in completions]


def run(name: str, policy: Policy, stop_after: int | None = None, **options: Any) -> Any:
    def hook(state: TrainState, _: float) -> None:
        if stop_after is not None and state.iteration == stop_after:
            raise Stopped

    data: dict[str, Any] = {"pairs": PAIRS} if name == "dpo" else {"prompts": PROMPTS, "reward": count_b}
    algorithm = options.pop("algorithm", ALGORITHMS[name])
    return train(
        algorithm, policy, **{**data, "budget": "6iterations", "sampling": SAMPLING, "hook": hook} | options
    )


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
    assert end.own.keys() == last[0].own.keys()
    assert all(torch.equal(end.own[key], last[0].own[key]) for key in end.own)
    if end.critic is not None:
        pairs = zip(end.critic.parameters(), last[0].critic.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs)
    assert continued[-1]["seconds"] > continued[2]["seconds"]


def test_a_run_stopped_between_checkpoints_repeats_what_was_lost(tmp_path: Path) -> None:
    straight, again = tiny_policy(), tiny_policy()
    rows = run("ppo", straight).rows
    with pytest.raises(Stopped):
        run("ppo", tiny_policy(), stop_after=3, checkpoint=tmp_path / "state", checkpoint_every=2)
    assert json.loads((tmp_path / "state" / "state.json").read_text())["meter"]["iterations"] == 2
    continued = run("ppo", again, checkpoint=tmp_path / "state").rows
    assert same_weights(straight, again)
    assert len(continued) == len(rows)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first, second = tiny_policy(), tiny_policy()
    rows = run("reinforce", first, checkpoint=tmp_path / "state", checkpoint_every=1).rows
    assert run("reinforce", second, checkpoint=tmp_path / "state").rows == rows
    assert same_weights(first, second)


def test_the_reference_of_a_continued_run_is_the_base(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run("ppo", tiny_policy(), stop_after=3, checkpoint=tmp_path / "state", checkpoint_every=1)
    policy = tiny_policy()
    run("ppo", policy, checkpoint=tmp_path / "state")
    with policy.reference() as reference:
        base = tiny_policy().model.state_dict()
        assert all(torch.equal(base[name], value) for name, value in reference.state_dict().items())


def test_adapters_are_saved_and_continued(tmp_path: Path) -> None:
    from algos import LoRA

    tokenizer = word_tokenizer("a b")
    gpt2(len(tokenizer)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")

    def fresh() -> Policy:
        return Policy.load(tmp_path / "base", lora=LoRA(rank=2), device="cpu")

    straight, again = fresh(), fresh()
    run("ppo", straight)
    with pytest.raises(Stopped):
        run("ppo", fresh(), stop_after=3, checkpoint=tmp_path / "state", checkpoint_every=3)
    run("ppo", again, checkpoint=tmp_path / "state")
    assert same_weights(straight, again)


# Checkpoints that are not this run's ---------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with pytest.raises(Stopped):
        run("reinforce", tiny_policy(), stop_after=3, checkpoint=tmp_path / "state", checkpoint_every=3)
    return tmp_path / "state"


def wider(seed: int = 0) -> Policy:
    tokenizer = word_tokenizer("a b")
    return Policy(gpt2(len(tokenizer), width=24, seed=seed), tokenizer, dtype="fp32")


@pytest.mark.parametrize(
    "other",
    [
        {"algorithm": REINFORCE(learning_rate=2e-2)},
        {"algorithm": PPO()},
        {"seed": 1},
        {"sampling": Sampling(max_new_tokens=4, group_size=2, prompts_per_iteration=3)},
        {"policy": tiny_policy("llama")},
        {"policy": tiny_policy(seed=1)},
        {"policy": wider()},
    ],
    ids=["settings", "algorithm", "seed", "sampling", "architecture", "weights", "size"],
)
def test_another_runs_checkpoint_is_refused(folder: Path, other: dict[str, Any]) -> None:
    policy = other.get("policy", tiny_policy())
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    with pytest.raises(RunError, match="another run") as caught:
        run("reinforce", policy, checkpoint=folder, **{k: v for k, v in other.items() if k != "policy"})
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in policy.model.state_dict().items())


@pytest.mark.parametrize("damage", ["json", "json-empty", "tensors", "tensors-gone", "json-gone"])
def test_a_damaged_checkpoint_is_refused(folder: Path, damage: str) -> None:
    file = folder / ("state.json" if "json" in damage else "state.safetensors")
    if damage.endswith("gone"):
        file.unlink()
    else:
        file.write_bytes(b"{}" if damage == "json-empty" else file.read_bytes()[:-20])
    policy = tiny_policy()
    with pytest.raises(RunError) as caught:
        run("reinforce", policy, checkpoint=folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert same_weights(policy, tiny_policy())


def test_the_state_is_json_and_safetensors_alone(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == ["state.json", "state.safetensors"]


# Files that are whole or absent -----------------------------------------------------------------------


def test_a_save_that_fails_leaves_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("algos.engine.state.write_json", full)
    with pytest.raises(OSError, match="no space left"):
        run("reinforce", tiny_policy(), checkpoint=folder, checkpoint_every=1)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["state"]


def test_a_crash_between_the_two_renames_leaves_the_previous_version(tmp_path: Path) -> None:
    target = tmp_path / "state"
    for number in (1, 2):
        with atomic_directory(target) as temporary:
            write_json(temporary / "x.json", number)
    assert json.loads((target / "x.json").read_text()) == 2
    target.rename(tmp_path / "state.previous")
    assert existing(target) == tmp_path / "state.previous"
    with atomic_directory(target) as temporary:
        write_json(temporary / "x.json", 3)
    assert existing(target) == target
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_block_that_raises_writes_nothing(tmp_path: Path) -> None:
    def stopped_half_way() -> None:
        with atomic_directory(tmp_path / "state") as temporary:
            write_json(temporary / "x.json", 1)
            raise Stopped

    with pytest.raises(Stopped):
        stopped_half_way()
    assert list(tmp_path.iterdir()) == []
    assert existing(tmp_path / "state") is None


def test_nan_never_becomes_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", float("nan"))
    assert list(tmp_path.iterdir()) == []
