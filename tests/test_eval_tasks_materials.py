"""What arms share comes back as it was saved, and what its making took is charged to whom it was made for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small_world import SmallWorld
from transformers import AutoTokenizer, CodeGenConfig, CodeGenForCausalLM

from algos import DPO, PPO, Sampling, UserError
from algos.engine.storage import atomic_directory, read_json, write_json
from eval.experiment import Experiment
from eval.recording.recorder import costs_before
from eval.settings.parts import RewardTraining
from eval.tasks import materials_of
from eval.tasks.materials import Materials, Scorer, StageCost
from eval.workshop import Workshop

SCORER = Scorer("function", "rewards.py:score", "score")
MADE = Materials(
    model="model",
    train_prompts=[{"prompt": "a"}],
    validation_prompts=[],
    test_prompts=[],
    reward=SCORER,
    judge=SCORER,
    pairs=[{"prompt": "a", "chosen": "b", "rejected": "c"}],
    heldout_pairs=[],
    heldout_texts=[],
    pairs_cost=StageCost(flops=5.0, seconds=2.0, labels=1, reward_calls=4),
    reward_cost=StageCost(flops=7.0, seconds=3.0),
)


def test_materials_come_back_as_they_were(tmp_path: Path) -> None:
    MADE.save(tmp_path / "0")
    assert Materials.load(tmp_path / "0") == MADE
    assert Materials.load(tmp_path / "1") is None


def test_materials_that_did_not_count_reward_calls_have_none(tmp_path: Path) -> None:
    MADE.save(tmp_path / "new")
    about = read_json(tmp_path / "new" / "materials.json")
    for stage in ("pairs_cost", "reward_cost"):
        del about[stage]["reward_calls"]
    with atomic_directory(tmp_path / "old") as folder:
        for rows in (tmp_path / "new").glob("*.jsonl"):
            shutil.copy(rows, folder)
        write_json(folder / "materials.json", about)
    old = Materials.load(tmp_path / "old")
    assert old is not None
    assert old.pairs_cost == replace(MADE.pairs_cost, reward_calls=0)
    assert old.pairs == MADE.pairs


@pytest.mark.parametrize(
    ("algorithm", "learned", "expected"),
    [
        (DPO(), False, (5.0, 2.0, 1.0, 4.0)),
        (DPO(), True, (5.0, 2.0, 1.0, 4.0)),
        (DPO(on_policy=True), False, (7.0, 3.0, 0.0, 0.0)),
        (PPO(), False, (7.0, 3.0, 0.0, 0.0)),
        (PPO(), True, (12.0, 5.0, 1.0, 4.0)),
    ],
)
def test_an_arm_is_charged_what_it_needs_before_training(
    algorithm: DPO | PPO, learned: bool, expected: tuple[float, ...]
) -> None:
    found = costs_before(algorithm, replace(MADE, reward_learned=learned))
    assert found == dict(zip(("flops", "seconds", "labels", "reward_calls"), expected, strict=True))


def test_pairs_alone_need_a_family_with_a_classifier(small: SmallWorld, tmp_path: Path) -> None:
    config = CodeGenConfig(vocab_size=64, n_embd=16, n_layer=1, n_head=4, n_positions=32, rotary_dim=4)
    CodeGenForCausalLM(config).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(small.model).save_pretrained(tmp_path / "model")
    experiment = Experiment(
        task="custom", model=str(tmp_path / "model"), pairs=small.pairs, device="cpu",
        sampling=Sampling(max_new_tokens=6),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"no sequence classifier.*--reward and --judge"):
        materials_of(experiment, Workshop(tmp_path / "cache"), 0)
    with_reward = replace(experiment, reward=small.reward(), judge=small.reward("strict"))
    assert materials_of(with_reward, Workshop(tmp_path / "cache"), 0).pairs


def test_one_judge_measures_all_data_seeds(small: SmallWorld, tmp_path: Path) -> None:
    """What runs and the base are held against is no part of the data that `--replicate-data` draws anew."""
    experiment = Experiment(
        task="custom", model=small.model, pairs=small.pairs, device="cpu", replicate_data=True,
        sampling=Sampling(max_new_tokens=6), reward_model=RewardTraining(epochs=1, batch_size=64),
    )  # fmt: skip
    first, second = (materials_of(experiment, Workshop(tmp_path), seed) for seed in (0, 1))
    assert first.judge == second.judge
    assert first.reward != second.reward
    assert first.judge.where != first.reward.where
