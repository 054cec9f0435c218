"""A run that is stopped, saved and continued in a fresh policy is the run that was never stopped."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from stopped_runs import ALGORITHMS, Stopped, run
from tiny import gpt2, same_weights, tiny_policy, word_tokenizer

from algos import DPO, PPO, REINFORCE, Algorithm, Policy, RunError, Sampling
from algos.engine.state import TrainState
from algos.engine.storage import (
    atomic_directory,
    read_json,
    read_tensors,
    saved_states,
    write_json,
    write_tensors,
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


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first, second = tiny_policy(), tiny_policy()
    rows = run("reinforce", first, checkpoint=tmp_path / "state", checkpoint_every=1).rows
    assert [saved.name for saved in saved_states(tmp_path / "state")] == ["00000005", "00000006"]
    assert run("reinforce", second, checkpoint=tmp_path / "state").rows == rows
    assert same_weights(first, second)


def test_a_finished_run_is_saved_whatever_its_interval(tmp_path: Path) -> None:
    """Else what came behind the last interval would be done again."""
    first, second = tiny_policy(), tiny_policy()
    rows = run("reinforce", first, checkpoint=tmp_path / "state", checkpoint_every=4).rows
    assert [saved.name for saved in saved_states(tmp_path / "state")] == ["00000004", "00000006"]
    assert run("reinforce", second, checkpoint=tmp_path / "state", checkpoint_every=4).rows == rows
    assert same_weights(first, second)
    run("reinforce", tiny_policy(), checkpoint=tmp_path / "hook's")  # only what the hook saves
    assert saved_states(tmp_path / "hook's") == []


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
        run("ppo", fresh(), stop_after=4, checkpoint=tmp_path / "state", checkpoint_every=3)
    run("ppo", again, checkpoint=tmp_path / "state")
    assert same_weights(straight, again)


def adapters(seed: int) -> Policy:
    """A trained adapter, whose frozen copy is the reference."""
    from peft import LoraConfig, get_peft_model

    tokenizer = word_tokenizer("a b")
    torch.manual_seed(seed)
    model = get_peft_model(
        gpt2(len(tokenizer)), LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False)
    )
    return Policy(model, tokenizer, dtype="fp32")


def test_the_checkpoint_of_another_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run("reinforce", adapters(0), stop_after=2, checkpoint=tmp_path, checkpoint_every=1)
    run("reinforce", adapters(0), checkpoint=tmp_path)
    with pytest.raises(RunError, match=r"its model\.reference is "):
        run("reinforce", adapters(1), checkpoint=tmp_path)


def test_what_fitted_into_memory_is_remembered(tmp_path: Path) -> None:
    """Sums are split by the micro-batch: going on with another would round otherwise."""

    def hook(state: TrainState, _: float) -> None:
        state.policy.portions.limits["training"] = 1

    run("reinforce", tiny_policy(), hook=hook, checkpoint=tmp_path, checkpoint_every=1)
    again = tiny_policy()
    run("reinforce", again, checkpoint=tmp_path)
    assert again.portions.limits == {"training": 1}


# Checkpoints that are not this run's ---------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Versions of iterations 2 and 3."""
    with pytest.raises(Stopped):
        run("reinforce", tiny_policy(), stop_after=4, checkpoint=tmp_path / "state", checkpoint_every=1)
    return tmp_path / "state"


def wider(seed: int = 0) -> Policy:
    tokenizer = word_tokenizer("a b")
    return Policy(gpt2(len(tokenizer), width=24, seed=seed), tokenizer, dtype="fp32")


def other_config() -> Policy:
    """The same weights in a model that computes something else."""
    policy = tiny_policy()
    policy.inner.config.attn_pdrop = 0.25
    return policy


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"algorithm": REINFORCE(learning_rate=2e-2)}, "algorithm.learning_rate is 0.01, this run's 0.02"),
        ({"algorithm": PPO()}, "algorithm.name is reinforce, this run's ppo"),
        ({"seed": 1}, "its seed is 0, this run's 1"),
        ({"sampling": Sampling(max_new_tokens=4, group_size=2, prompts_per_iteration=3)}, "sampling.group_size is 3, this run's 2"),
        ({"budget": "7iterations"}, "its budget is 6iterations, this run's 7iterations"),
        ({"prompts": ["a", "b"]}, "its data is "),
        ({"policy": tiny_policy("llama")}, "its model.parameters is "),
        ({"policy": tiny_policy(seed=1)}, "its model.reference is "),
        ({"policy": wider()}, "its model.parameters is "),
        ({"policy": other_config()}, "its model.config is "),
    ],
    ids=["settings", "algorithm", "seed", "sampling", "budget", "data", "architecture", "weights", "size", "config"],
)  # fmt: skip
def test_another_runs_checkpoint_is_refused_with_the_difference(
    folder: Path, other: dict[str, Any], difference: str
) -> None:
    policy = other.get("policy", tiny_policy())
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    with pytest.raises(RunError, match="another run") as caught:
        run("reinforce", policy, checkpoint=folder, **{k: v for k, v in other.items() if k != "policy"})
    assert difference in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in policy.model.state_dict().items())


def rewritten(folder: Path, change: Any) -> None:
    """The newest version, made anew with other contents and all its checksums right."""
    newest = saved_states(folder)[-1]
    record, tensors = read_json(newest / "state.json"), read_tensors(newest / "state.safetensors")
    change(record, tensors)
    with atomic_directory(newest) as temporary:
        write_json(temporary / "state.json", record)
        write_tensors(temporary / "state.safetensors", tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record, tensors: record.update(extra=1), "differ in extra"),
        (lambda record, tensors: record.pop("idle"), "differ in idle"),
        (lambda record, tensors: record["meter"].pop("preparation"), "differ in preparation"),
        (lambda record, tensors: tensors.pop("optimizer/0/exp_avg"), "differ in optimizer/0/exp_avg"),
        (lambda record, tensors: tensors.update({"policy/more": torch.zeros(1)}), "differ in policy/more"),
        (lambda record, tensors: tensors.pop("policy/transformer.ln_f.bias"), "differ in policy/transformer.ln_f.bias"),
        (lambda record, tensors: tensors.update({"policy/transformer.ln_f.bias": torch.zeros(1)}), "in another shape"),
        (lambda record, tensors: tensors.update({"own/ema": torch.zeros(())}), "differ in own/ema"),
        (lambda record, tensors: record["identity"].update(extra=1), "its extra is 1, this run's not there"),
    ],
    ids=["record", "record-gone", "meter-gone", "moment-gone", "tensor", "tensor-gone", "shape", "own", "identity"],
)  # fmt: skip
def test_an_unknown_or_missing_key_is_refused(folder: Path, change: Any, message: str) -> None:
    rewritten(folder, change)
    policy = tiny_policy()
    with pytest.raises(RunError, match=r"[Rr]emove it") as caught:
        run("reinforce", policy, checkpoint=folder)
    assert message in str(caught.value)
    assert same_weights(policy, tiny_policy())


# Damage --------------------------------------------------------------------------------------------------

FILES = ["state.json", "state.safetensors", "manifest.json"]


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "gone":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[:-20])
    elif how == "empty":
        file.write_bytes(b"")
    else:
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


@pytest.mark.parametrize("how", ["gone", "cut", "empty", "bit"])
@pytest.mark.parametrize("name", FILES)
def test_of_a_damaged_newest_version_the_one_before_is_used(
    folder: Path, name: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    straight, again = tiny_policy(), tiny_policy()
    rows = run("reinforce", straight).rows
    broken = saved_states(folder)[-1] / name
    damage(broken, how)
    with caplog.at_level(logging.WARNING):
        continued = run("reinforce", again, checkpoint=folder).rows
    assert str(broken) in caplog.text
    assert [{**row, "seconds": 0} for row in continued] == [{**row, "seconds": 0} for row in rows]
    assert same_weights(again, straight)


def test_where_no_version_is_whole_nothing_is_loaded(folder: Path) -> None:
    for saved in saved_states(folder):
        damage(saved / "state.safetensors", "bit")
    policy = tiny_policy()
    with pytest.raises(RunError, match=f"no checkpoint in {folder} is as it was written"):
        run("reinforce", policy, checkpoint=folder)
    assert same_weights(policy, tiny_policy())


def test_the_state_is_json_and_safetensors_alone(folder: Path) -> None:
    assert [saved.name for saved in saved_states(folder)] == ["00000002", "00000003"]
    for saved in saved_states(folder):
        assert sorted(file.name for file in saved.iterdir()) == sorted(FILES)


def test_a_save_that_fails_leaves_the_old_ones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def content() -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    before = content()
    monkeypatch.setattr("algos.engine.state.write_json", full)
    with pytest.raises(OSError, match="no space left"):
        run("reinforce", tiny_policy(), checkpoint=folder, checkpoint_every=1)
    assert content() == before
    assert [path.name for path in folder.parent.iterdir()] == ["state"]


def test_what_is_not_finite_in_the_log_is_saved(tmp_path: Path) -> None:
    def hook(state: TrainState, _: float) -> None:
        if state.iteration == 1:
            state.history[-1]["odd"] = math.nan
            state.history[-1]["far"] = -math.inf

    run("dpo", tiny_policy(), hook=hook, checkpoint=tmp_path, checkpoint_every=1)
    rows = run("dpo", tiny_policy(), checkpoint=tmp_path).rows
    assert math.isnan(rows[0]["odd"])
    assert rows[0]["far"] == -math.inf


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


@pytest.mark.parametrize("algorithm", [REINFORCE(), PPO(value_model="separate")], ids=["REINFORCE", "PPO"])
def test_moments_are_those_that_the_first_step_would_make(algorithm: Algorithm) -> None:
    state = TrainState.start(algorithm, tiny_policy(), 0)
    group = state.optimizer.param_groups[0]
    copies = [torch.nn.Parameter(p.detach().clone()) for p in state.parameters]
    plain = torch.optim.AdamW(copies, fused=group["fused"])
    for p, copied in zip(state.parameters, copies, strict=True):
        p.grad = copied.grad = torch.zeros_like(p)
    before = {index: dict(slots) for index, slots in state.optimizer.state_dict()["state"].items()}
    plain.step()
    made = plain.state_dict()["state"]
    assert before.keys() == made.keys()
    for index, slots in made.items():
        assert before[index].keys() == slots.keys()
        for name, value in slots.items():
            found = before[index][name]
            assert (found.dtype, found.shape, found.device) == (value.dtype, value.shape, value.device)
            assert not found.any()
