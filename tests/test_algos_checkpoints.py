"""A run's checkpoints: what is saved, whose run's they are, and what becomes of one that is damaged."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from stopped_runs import Stopped, run
from tiny import gpt2, same_weights, tiny_policy, word_tokenizer

from algos import PPO, REINFORCE, Policy, RunError, Sampling
from algos.engine.resuming import refuse_another_run
from algos.engine.state import TrainState
from algos.engine.storage import (
    atomic_directory,
    read_json,
    read_tensors,
    saved_states,
    write_json,
    write_tensors,
)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions of iterations 2 and 3."""
    folder = tmp_path_factory.mktemp("stopped") / "state"
    with pytest.raises(Stopped):
        run("reinforce", tiny_policy(), stop_after=4, checkpoint=folder, checkpoint_every=1)
    return folder


@pytest.fixture
def folder(stopped: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(stopped, tmp_path / "state")


@pytest.fixture(scope="module")
def straight() -> tuple[Policy, list[dict[str, Any]]]:
    """The same run without a stop: its policy at the end and its log."""
    policy = tiny_policy()
    return policy, run("reinforce", policy).rows


FILES = ["state.json", "state.safetensors", "manifest.json"]


def test_the_state_is_json_and_safetensors_alone(folder: Path) -> None:
    assert [saved.name for saved in saved_states(folder)] == ["00000002", "00000003"]
    for saved in saved_states(folder):
        assert sorted(file.name for file in saved.iterdir()) == sorted(FILES)


def test_what_is_not_finite_in_the_log_is_saved(tmp_path: Path) -> None:
    def hook(state: TrainState, _: float) -> None:
        if state.iteration == 1:
            state.history[-1]["odd"] = math.nan
            state.history[-1]["far"] = -math.inf

    run("dpo", tiny_policy(), hook=hook, checkpoint=tmp_path, checkpoint_every=1)
    rows = run("dpo", tiny_policy(), checkpoint=tmp_path).rows
    assert math.isnan(rows[0]["odd"])
    assert rows[0]["far"] == -math.inf


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


# Adapters ----------------------------------------------------------------------------------------------


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


# Checkpoints that are not this run's -------------------------------------------------------------------


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


def test_other_threads_are_refused_with_the_number_to_set(folder: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        with pytest.raises(
            RunError, match=rf"its threads is {before}.*torch\.set_num_threads\({before}\) first"
        ):
            run("reinforce", tiny_policy(), checkpoint=folder)
    finally:
        torch.set_num_threads(before)


def test_threads_of_the_cpu_do_not_matter_to_a_gpu(tmp_path: Path) -> None:
    def identity(device: str, threads: int) -> dict[str, Any]:
        return {"seed": 0, "model": {"device": device}, "threads": threads}

    refuse_another_run(tmp_path, identity("cuda", 4), identity("cuda", 16))
    with pytest.raises(RunError, match="its threads is 4, this run's 16"):
        refuse_another_run(tmp_path, identity("cpu", 4), identity("cpu", 16))
    with pytest.raises(RunError, match=r"its model\.device is cpu, this run's cuda\. Use another folder"):
        refuse_another_run(tmp_path, identity("cpu", 4), identity("cuda", 16))


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


# Damage ------------------------------------------------------------------------------------------------


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
    folder: Path,
    straight: tuple[Policy, list[dict[str, Any]]],
    name: str,
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (trained, rows), again = straight, tiny_policy()
    broken = saved_states(folder)[-1] / name
    damage(broken, how)
    with caplog.at_level(logging.WARNING):
        continued = run("reinforce", again, checkpoint=folder).rows
    assert str(broken) in caplog.text
    assert [{**row, "seconds": 0} for row in continued] == [{**row, "seconds": 0} for row in rows]
    assert same_weights(again, trained)


def test_where_no_version_is_whole_nothing_is_loaded(folder: Path) -> None:
    for saved in saved_states(folder):
        damage(saved / "state.safetensors", "bit")
    policy = tiny_policy()
    with pytest.raises(RunError, match=f"no checkpoint in {folder} is as it was written"):
        run("reinforce", policy, checkpoint=folder)
    assert same_weights(policy, tiny_policy())
