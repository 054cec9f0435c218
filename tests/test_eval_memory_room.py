"""Memory is estimated by the engine's own code on tensors without data; what cannot fit is refused with what would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from families import FAMILIES, VOCABULARY, Family
from measured_memory import config
from small_world import SmallWorld
from transformers import AutoConfig, AutoModelForCausalLM

from algos import ALGORITHMS, DPO, PPO, REINFORCE, Algorithm, LoRA, Policy, Sampling, UserError
from algos.engine.fast.head import linear_head
from algos.engine.forward import forward
from algos.engine.models.loading import base_of
from eval.experiment import Experiment
from eval.memory import room as memory
from eval.memory.footprint import Load, Need, need_of, reward_model_need
from eval.memory.phases import Phases
from eval.memory.room import GIB, available, needs, require_room, rows
from eval.memory.standins import Peak, has_linear_head, stand_ins
from eval.store import Store

SHAPE = config(hidden=64, layers=3, vocabulary=512)
SAMPLING = Sampling(max_new_tokens=24, group_size=2, prompts_per_iteration=8)


def load(**changes: Any) -> Load:
    return Load(
        **{"config": SHAPE, "prompt_tokens": 16, "sampling": SAMPLING, "dtype": torch.float32} | changes
    )


def parameters() -> int:
    return 2 * 512 * 64 + 3 * (4 * 64 * 64 + 3 * 64 * 192 + 2 * 64) + 64


def test_what_stands_in_memory_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Phases, "bytes", lambda self: {})  # takes seconds
    n, trunk = parameters(), parameters() - 512 * 64
    full = need_of(PPO(value_model="separate"), load(scorer_parameters=7)).standing
    assert full == {
        "weights": 4 * n,
        "reference": 4 * n,
        "value function": 4 * (trunk + 65),
        "optimizer": 8 * (n + trunk + 65),
        "reward and judge": 28,
    }
    adapters = 3 * 4 * (4 * 2 * 64 + 3 * (64 + 192))  # three layers, rank 4, seven matrices each
    lora = need_of(REINFORCE(), load(lora=LoRA(rank=4))).standing
    assert (lora["weights"], lora["reference"]) == (4 * (n + adapters), 0)
    assert (lora["value function"], lora["optimizer"]) == (0, 8 * adapters)
    some = need_of(REINFORCE(), load(lora=LoRA(rank=4, targets="q_proj,v_proj"))).standing
    assert some["optimizer"] == 8 * 3 * 4 * 4 * 64


def test_a_reference_that_leaves_memory_counts_where_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    stays, weights = need_of(PPO(), load()), 4 * parameters()
    monkeypatch.setattr("algos.engine.models.frozen.LARGE", weights)
    rests = need_of(PPO(), load())
    assert stays.standing == rests.standing | {"reference": weights}
    read = {name: size - stays.phases[name] for name, size in rests.phases.items()}
    assert read == dict.fromkeys(read, 0) | {"scoring": weights, "evaluation": weights}
    assert need_of(PPO(), load(on_gpu=True)).standing["reference"] == weights
    adapters = need_of(PPO(), load(lora=LoRA()))
    monkeypatch.undo()
    assert adapters == need_of(PPO(), load(lora=LoRA()))


def phases(algorithm: Algorithm, **changes: Any) -> dict[str, int]:
    return need_of(algorithm, load(**changes)).phases


@pytest.fixture
def without_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and sampling are measured, each of which takes as long as the phases that are not."""
    for name in ("_scoring", "_evaluation"):
        monkeypatch.setattr(Phases, name, lambda self: 0)


@pytest.mark.usefixtures("without_the_rest")
def test_each_remedy_makes_training_smaller() -> None:
    full = phases(PPO())
    assert phases(PPO(), gradient_checkpointing=True)["training"] < 0.7 * full["training"]
    assert phases(PPO(), micro_batch=1)["training"] < 0.3 * full["training"]
    assert phases(PPO(), lora=LoRA(rank=2))["training"] < full["training"]
    assert phases(PPO(minibatches=4))["training"] < 0.4 * full["training"]
    assert phases(PPO(), dtype=torch.bfloat16)["training"] < full["training"]
    assert phases(PPO(value_model="separate"))["training"] > 1.5 * full["training"]
    assert phases(PPO(), on_gpu=True)["sampling"] < 0.2 * full["sampling"]


@pytest.mark.usefixtures("without_the_rest")
def test_more_and_longer_texts_take_more() -> None:
    full = phases(REINFORCE())
    more = Sampling(max_new_tokens=24, group_size=4, prompts_per_iteration=8)
    assert phases(REINFORCE(), sampling=more)["training"] > 1.7 * full["training"]
    assert phases(REINFORCE(), prompt_tokens=200)["sampling"] > 3 * full["sampling"]
    assert phases(DPO(batch_size=32))["training"] > 3 * phases(DPO(batch_size=8))["training"]
    pairs = (reward_model_need(load(), n) for n in (1, 8))
    few, many = (need.phases["training"] for need in pairs)
    assert many > 2 * few


def test_an_estimate_takes_no_memory_and_leaves_nothing_behind() -> None:
    """Eight billion parameters; and what is computed afterwards is computed."""
    large = AutoConfig.for_model(  # few layers and wide ones: each takes its time
        "llama", num_hidden_layers=3, hidden_size=12288, intermediate_size=49152, vocab_size=32000
    )
    found = need_of(REINFORCE(), load(config=large, lora=LoRA()))
    assert found.standing["weights"] > 4 * 8e9
    policy = FAMILIES["Llama, tied"].policy()
    assert bool(torch.isfinite(policy.model(torch.tensor([[1, 2, 3]])).logits).all())


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=() if f.name in ("OPT", "BLOOM", "Mixtral", "Gemma 3 with images") else pytest.mark.families, id=f.name.replace(" ", "-"))
     for f in FAMILIES.values()],
)  # fmt: skip
def test_every_family_is_as_large_as_its_stand_in(family: Family) -> None:
    """The largest moment of a forward and backward pass, with data and without."""
    ids = {"vocab_size": VOCABULARY, "eos_token_id": 0, "bos_token_id": 0, "pad_token_id": None}
    made = AutoConfig.for_model(family.kind, **(ids | family.sizes))
    estimate = need_of(REINFORCE(), load(config=made)).phases["training"]
    model, asked = family.model(), load()
    P, G = SAMPLING.prompts_per_iteration, SAMPLING.group_size
    batch = Phases(REINFORCE(), asked, torch.float32).rollouts(P, G)
    with Peak(model) as peak:
        forward(model.eval(), batch, 1.0, torch.float32).logps_PGT.sum().backward()
    assert 0.75 < estimate / peak.bytes < 1.25


@pytest.mark.parametrize("name", ["GPT-2", "Llama, tied", "Gemma 2", "Gemma 3", "Granite", "Qwen 3"])
def test_a_stand_in_has_the_head_that_the_engine_finds(name: str) -> None:
    model = FAMILIES[name].model().eval()
    with stand_ins():
        told = has_linear_head(AutoModelForCausalLM.from_config(model.config, dtype=torch.float32))
    assert told == (linear_head(model) is not None)
    if name == "Gemma 2":
        assert not told  # its logits have a cap
    if name == "GPT-2":
        assert told


def test_arms_that_need_the_same_are_estimated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Algorithm] = []

    def counting(algorithm: Algorithm, load: Load) -> Need:
        seen.append(algorithm)
        return made_up(algorithm, load)

    monkeypatch.setattr(memory, "need_of", counting)
    swept = {f"ppo-{beta}": {"algorithm": "ppo", "beta": beta} for beta in (0.1, 0.2, 0.3)}
    swept |= {f"ppo-{n}-epochs": {"algorithm": "ppo", "ppo_epochs": n} for n in (1, 8)}
    swept |= {f"ppo-{rate}": {"algorithm": "ppo", "value_learning_rate": rate} for rate in (1e-3, 1e-4)}
    epochs = {f"dpo-{n}-epochs": {"algorithm": "dpo", "epochs": n} for n in (1, 2)}
    parts = {"ppo-parts": {"algorithm": "ppo", "minibatches": 2}}
    variants = {**swept, **epochs, **parts}
    found = needs(Experiment(algos=("reinforce", *variants), variants=variants), 8)
    assert list(found) == ["reinforce", *variants]
    assert len(seen) == 4  # one of each kind: the parts of a pass are smaller than the whole
    assert len({found[name].peak for name in swept}) == 1


# Refusals ---------------------------------------------------------------------------------------------


def asked(small: SmallWorld, **changes: Any) -> Experiment:
    return Experiment(
        task="custom", model=small.model, prompts=small.prompts, reward=small.reward(), device="cpu",
        sampling=Sampling(max_new_tokens=8, group_size=2, prompts_per_iteration=64), **changes,
    )  # fmt: skip


def made_up(algorithm: Algorithm, load: Load) -> Need:
    """What depends on the settings as real needs do, in GiB."""
    weights = (4 if load.lora else 16) + (algorithm.name == "ppo")
    activations = (1 if load.micro_batch == 1 else 8) / (4 if load.gradient_checkpointing else 1)
    return Need({"weights": weights * GIB}, {"training": int(activations * GIB)})


@pytest.mark.parametrize(
    ("room", "workers", "remedy"),
    [
        (30, 2, "It would fit with --workers 1."),
        (22, 1, r"It would fit with --micro-batch 1 \(about"),
        (20, 1, r"It would fit with --gradient-checkpointing --micro-batch 1 \(about"),
        (15, 1, r"It would fit with --lora \(about"),
        (8, 1, r"It would fit with --lora --micro-batch 1 \(about"),
        (7, 2, r"It would fit with --lora --gradient-checkpointing --micro-batch 1 --workers 1 \(about"),
        (5, 1, "Neither --lora nor --gradient-checkpointing nor --micro-batch 1 makes it fit"),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would(
    small: SmallWorld, monkeypatch: pytest.MonkeyPatch, room: float, workers: int, remedy: str
) -> None:
    monkeypatch.setattr(memory, "need_of", made_up)
    monkeypatch.setattr(memory, "standing_of", lambda *asked: made_up(*asked).standing)
    monkeypatch.setattr(memory, "available", lambda _: int(room * GIB))
    monkeypatch.setattr(memory, "_resident", lambda: GIB // 2)
    with pytest.raises(UserError, match=remedy) as caught:
        require_room(asked(small), 8, workers=workers)
    assert str(caught.value).startswith("ppo")
    assert "\n" not in str(caught.value)


def test_what_fits_is_told(small: SmallWorld) -> None:
    found = require_room(asked(small), 8)
    assert list(found) == ["reinforce", "ppo", "dpo"]
    table = rows(found, 3 * GIB)
    assert [row[0] for row in table] == list(found)
    assert all(len(row) == len(memory.COLUMNS) for row in table)
    assert [row[-1] for row in table] == [f"{3 + need.peak / GIB:.2f}" for need in found.values()]


def test_a_process_holds_its_libraries_and_a_gpu_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.libraries("cpu") == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)
    assert memory.libraries("cpu") > 200 * 2**20  # torch alone
    monkeypatch.setattr(memory, "pick_device", torch.device)
    assert memory.libraries("cuda") == 0


def test_a_reward_model_that_is_to_be_trained_counts(small: SmallWorld) -> None:
    experiment = Experiment(task="custom", model=small.model, pairs=small.pairs, device="cpu")
    assert "reward model" in needs(experiment, 8)
    assert "reward model" not in needs(asked(small), 8)
    assert "reward model" not in needs(Experiment(), 8)


@pytest.mark.parametrize(
    ("room", "remedy"),
    [
        (12, r"It would fit with --micro-batch 1 \(about"),
        (8, r"It would fit with --gradient-checkpointing \(about"),
        (6, r"It would fit with --gradient-checkpointing --micro-batch 1 \(about"),
        (4, "Neither --gradient-checkpointing nor --micro-batch 1 makes it fit. Name a reward and a judge"),
    ],
)
def test_a_reward_model_that_cannot_fit_says_what_helps(
    small: SmallWorld, monkeypatch: pytest.MonkeyPatch, room: float, remedy: str
) -> None:
    """Of one that takes 2 GiB, and 16 to train on 32 pairs."""

    def made_up_too(load: Load, pairs: int) -> Need:
        activations = (32 + pairs) * GIB // (16 if load.gradient_checkpointing else 4)
        return Need({"weights": 2 * GIB}, {"training": activations})

    monkeypatch.setattr(memory, "reward_model_need", made_up_too)
    monkeypatch.setattr(memory, "need_of", lambda *_: Need({"weights": GIB}, {"training": 0}))
    monkeypatch.setattr(memory, "available", lambda _: int(room * GIB))
    monkeypatch.setattr(memory, "_resident", lambda: GIB // 2)
    experiment = Experiment(task="custom", model=small.model, pairs=small.pairs, device="cpu")
    with pytest.raises(UserError, match=remedy) as caught:
        require_room(experiment, 8)
    assert str(caught.value).startswith("reward model needs about")


def test_a_reward_model_with_gradient_checkpointing_takes_less() -> None:
    plain, again = (
        reward_model_need(load(gradient_checkpointing=on), 8).phases["training"] for on in (False, True)
    )
    assert again < 0.8 * plain


def test_the_optimizer_writes_in_place() -> None:
    """Gradients are all that its step takes beside weights and moments, on a GPU too."""
    for on_gpu in (False, True):
        found = need_of(REINFORCE(), load(on_gpu=on_gpu))
        assert found.phases["optimizer step"] == 4 * parameters()


def test_a_saved_adapter_is_read_by_its_base(small: SmallWorld, tmp_path: Path) -> None:
    Policy.load(small.model, lora=LoRA(rank=2), device="cpu").save(tmp_path)
    assert base_of(str(tmp_path)) == str(Path(small.model).resolve())
    adapter = Experiment(task="custom", model=str(tmp_path), pairs=small.pairs, device="cpu")
    assert needs(adapter, 8)["dpo"].standing["weights"] > 0
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"adapter_config\.json must describe a LoRA adapter"):
        needs(adapter, 8)


# A container ---------------------------------------------------------------------------------------------


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A container of 10 GiB that has used 9, on a machine with 40 to spare."""
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=40 * GIB))
    (tmp_path / "memory.max").write_text(f"{10 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{9 * GIB}\n")
    return tmp_path


def test_what_a_container_may_still_have(group: Path) -> None:
    assert available("cpu", group) == GIB
    (group / "memory.max").write_text("max\n")
    assert available("cpu", group) == 40 * GIB
    assert available("cpu", group / "none") == 40 * GIB


def test_files_that_the_system_keeps_in_memory_are_not_in_the_way(group: Path) -> None:
    sizes = {"anon": 3, "file": 6, "shmem": 1, "inactive_anon": 2, "inactive_file": 4, "active_file": 1}
    told = "".join(f"{name} {size * GIB}\n" for name, size in sizes.items())
    (group / "memory.stat").write_text(told)
    assert available("cpu", group) == 6 * GIB
    for damaged in ("", "inactive_file 5\n", "inactive_file x\nactive_file y\n", "no\n"):
        (group / "memory.stat").write_text(damaged)
        assert available("cpu", group) == GIB


# Against the machine ----------------------------------------------------------------------------------

RUN: dict[str, Any] = {
    "algorithm": "reinforce", "options": {}, "prompt_tokens": 32, "lora": False, "checkpointing": False,
    "dtype": "fp32", "micro_batch": 0, "shape": {"hidden": 256, "layers": 6, "vocabulary": 4096},
    "sampling": {"max_new_tokens": 96, "group_size": 2, "prompts_per_iteration": 8},
}  # fmt: skip
WIDE = {"hidden": 768, "layers": 6, "vocabulary": 8192}
SHORT = {"max_new_tokens": 24, "group_size": 2, "prompts_per_iteration": 2}
MEASURED: dict[str, dict[str, Any]] = {
    "full": {},
    "checkpointing": {"checkpointing": True},
    "micro-batch 1": {"micro_batch": 1},
    "LoRA": {"lora": True, "shape": WIDE, "sampling": SHORT},
    "weights": {"shape": WIDE, "sampling": SHORT},
    "vocabulary": {"shape": {"hidden": 128, "layers": 2, "vocabulary": 50000}},
    "own value network": {"algorithm": "ppo", "options": {"value_model": "separate", "ppo_epochs": 1}},
    "DPO": {"algorithm": "dpo", "options": {"batch_size": 8}},
    "bf16": {"dtype": "bf16", "micro_batch": 2},
    "reference on disk": {"shape": WIDE | {"layers": 8}, "sampling": SHORT},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_the_estimate_is_what_a_run_takes(name: str) -> None:
    settings = RUN | MEASURED[name]
    script = Path(__file__).with_name("measured_memory.py")
    paths = os.pathsep.join([str(script.parents[1]), str(script.parent)])
    found = subprocess.run(
        [sys.executable, str(script), json.dumps(settings)], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    measured = int(found.stdout.split()[-1])
    algorithm = ALGORITHMS[settings["algorithm"]](**settings["options"])
    estimate = need_of(
        algorithm,
        Load(
            config(**settings["shape"]), settings["prompt_tokens"], Sampling(**settings["sampling"]),
            {"fp32": torch.float32, "bf16": torch.bfloat16}[settings["dtype"]], LoRA() if settings["lora"] else None,
            settings["checkpointing"], settings["micro_batch"], evaluated=1, evaluated_at_once=1,
        ),
    )  # fmt: skip
    print(f"{name}: measured {measured / 2**20:.0f} MiB, estimated {estimate.peak / 2**20:.0f} MiB")
    assert 1 / 1.5 < estimate.peak / measured < 1.5


@pytest.mark.slow
def test_the_peak_that_is_shown_is_that_of_a_worker(small: SmallWorld, tmp_path: Path) -> None:
    """Of a model so small that nearly all of it is what the process holds before."""
    asked = [
        sys.executable,
        "run_compare.py",
        *small.arguments(tmp_path / "out", "--device", "cpu", workers=2),
    ]
    how: dict[str, Any] = {
        "cwd": Path(__file__).parents[1],
        "capture_output": True,
        "text": True,
        "check": True,
    }
    shown = subprocess.run([*asked, "--dry-run"], **how).stdout.partition("Memory a run needs")[2]
    subprocess.run(asked, **how)
    for run in Store.open(tmp_path / "out").all_runs:
        measured = run.read("rows")[-1]["metrics"]["cost/peak_memory"]
        (told,) = (line.split()[-1] for line in shown.splitlines() if line.split()[:1] == [run.arm])
        print(f"{run.folder.name}: measured {measured:.0f} MiB, shown {told} GiB")
        assert 1 / 1.5 < 1024 * float(told) / measured < 1.5
