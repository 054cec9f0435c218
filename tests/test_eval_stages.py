"""The stages through TRL, on a model of a few thousand parameters: deterministic, silent, scored as it will be used."""

from __future__ import annotations

import json
import random
import weakref
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_world import SmallWorld
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config
from trl import RewardConfig

from algos import RewardModel, UserError
from algos.engine.settings import Precision
from algos.engine.text.control import Rendered, Span
from eval.stages.base import train_base
from eval.stages.cache import content_hash
from eval.stages.fitting import Fit, controlled, encode_whole, trainer_arguments
from eval.stages.reward_model import (
    _encode_pairs,
    _score,
    _split_by_prompt,
    _train_on_pairs,
    _unused_id,
    require_classifier,
    train_reward_model,
)
from eval.tasks.reviews.grammar import corpus
from eval.tasks.reviews.tokenizer import build_tokenizer

TEXTS = [row["prompt"] + row["completion"] for row in corpus(0, 64)]
FIT = Fit(epochs=1, learning_rate=1e-2, batch_size=16)
LONGER = replace(FIT, epochs=4)


def config() -> GPT2Config:
    sizes = {"n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return GPT2Config(vocab_size=len(build_tokenizer()), **sizes, **ids)


def pairs(n: int = 64) -> list[dict[str, str]]:
    """The better of two is the one that says wonderful."""
    openings = [row["prompt"] for row in corpus(1, n)]
    return [{"prompt": prompt, "chosen": " wonderful", "rejected": " quite awful"} for prompt in openings]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("base")
    train_base(config(), build_tokenizer(), TEXTS, out, FIT)
    return out


@pytest.fixture(scope="module")
def reward_model(base, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("reward")
    return out, train_reward_model(base, pairs(), out, LONGER, centre_on=TEXTS)


def test_the_base_is_bit_identical_twice_and_another_seed_differs(base, tmp_path):
    train_base(config(), build_tokenizer(), TEXTS, tmp_path / "same", FIT)
    train_base(config(), build_tokenizer(), TEXTS, tmp_path / "other", replace(FIT, seed=1))
    assert content_hash(tmp_path / "same") == content_hash(base)
    first, other = (load_file(path / "model.safetensors") for path in (base, tmp_path / "other"))
    assert not torch.equal(first["transformer.wte.weight"], other["transformer.wte.weight"])


def test_the_base_learns_its_texts(base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    untrained = AutoModelForCausalLM.from_config(config())
    trained = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.tensor([encode_whole(tokenizer, TEXTS[0])])
    assert trained(input_ids=ids, labels=ids).loss < untrained(input_ids=ids, labels=ids).loss - 0.1


def test_what_is_saved_has_no_pickles_no_paths_and_a_cache(base, reward_model):
    for path in (base, reward_model[0]):
        names = {file.name for file in path.iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
        assert not [name for name in names if name.endswith((".bin", ".pt"))]
        assert "_name_or_path" not in (path / "config.json").read_text(encoding="utf-8")
    assert AutoModelForCausalLM.from_pretrained(base).config.use_cache


def test_the_reward_model_learns_the_label_and_says_how_well(reward_model):
    path, facts = reward_model
    assert facts == json.loads((path / "facts.json").read_text(encoding="utf-8"))
    assert facts["accuracy"] == 1.0
    assert facts["pairs"] + facts["heldout_pairs"] == 64
    assert facts["heldout_pairs"] >= 1
    assert facts["epochs"] == 4
    assert facts["dropped_too_long"] == 0
    assert facts["std"] > 0


def test_the_reward_of_the_bases_own_texts_averages_zero(reward_model):
    path, facts = reward_model
    scores = RewardModel(path)(prompts=[""] * len(TEXTS), completions=TEXTS)
    assert np.mean(scores) == pytest.approx(0.0, abs=1e-5)
    assert np.std(scores) == pytest.approx(facts["std"], rel=1e-4)


def test_the_reward_model_is_bit_identical_twice(reward_model, base, tmp_path):
    train_reward_model(base, pairs(), tmp_path, LONGER, centre_on=TEXTS)
    assert content_hash(tmp_path) == content_hash(reward_model[0])


@pytest.mark.parametrize("pad", ["<pad>", "<eos>", None])
def test_training_pools_at_the_last_attended_position(base, tmp_path, monkeypatch, pad):
    """Whatever the tokenizer's pad, the logit TRL trains on is the one that a reward model reads."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = pad
    tokenizer.save_pretrained(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(tmp_path / "base")
    seen: list[tuple[dict, torch.Tensor]] = []

    def record(model, base, rows, fit):
        hook = lambda module, args, kwargs, output: seen.append((kwargs, output.logits.detach().clone()))  # noqa: E731
        with_hook = model.register_forward_hook(hook, with_kwargs=True)
        trunk = {}
        model.transformer.register_forward_hook(lambda m, a, out: trunk.update(hidden=out.last_hidden_state))
        model.score.register_forward_hook(lambda m, a, out: trunk.update(logits=out))
        _train_on_pairs(model, base, rows, fit)
        with_hook.remove()
        kwargs, pooled = seen[-1]
        last = kwargs["attention_mask"].sum(-1) - 1
        assert kwargs["attention_mask"].min() == 0
        ids = kwargs["input_ids"][torch.arange(len(last)), last]
        assert (ids == 2).all(), "every text ends in EOS"
        assert torch.equal(pooled, trunk["logits"].detach()[torch.arange(len(last)), last])

    monkeypatch.setattr("eval.stages.reward_model._train_on_pairs", record)
    train_reward_model(tmp_path / "base", pairs(), tmp_path / "out", FIT, centre_on=TEXTS)
    assert seen


def test_texts_have_one_bos_one_eos_and_keep_their_spaces():
    tokenizer = build_tokenizer()
    plain = encode_whole(tokenizer, "the plot was very dull")
    assert tokenizer.convert_ids_to_tokens(plain) == [
        "<bos>",
        "Ġthe",
        "Ġplot",
        "Ġwas",
        "Ġvery",
        "Ġdull",
        "<eos>",
    ]
    meant = Rendered("<bos>the plot was very dull<eos>", (Span(0, 5, True), Span(27, 32, True)))
    assert encode_whole(tokenizer, meant) == plain
    row = _encode_pairs(
        tokenizer, [{"prompt": "the plot was", "chosen": " very dull", "rejected": "dull"}], None
    )[0][0]
    assert row["chosen_ids"] == plain
    assert tokenizer.unk_token_id in row["rejected_ids"], "wasdull is no word: nothing puts a space there"


def test_pairs_that_do_not_fit_are_left_out_and_counted(base, tmp_path):
    long = [{"prompt": "overall the plot was", "chosen": " very" * 70, "rejected": " dull"}]
    facts = train_reward_model(base, pairs() + long, tmp_path, FIT, centre_on=TEXTS)
    assert facts["dropped_too_long"] == 1
    assert facts["pairs"] + facts["heldout_pairs"] == 64


def test_no_prompt_is_on_both_sides_of_the_split():
    rows = [{"prompt": str(i % 20), "n": i} for i in range(60)]
    train, heldout = _split_by_prompt(rows, seed=0)
    assert {row["prompt"] for row in train}.isdisjoint(row["prompt"] for row in heldout)
    assert len(heldout) == 6
    assert _split_by_prompt(rows, seed=0) == (train, heldout) != _split_by_prompt(rows, seed=1)
    with pytest.raises(UserError, match=r"at least 2 prompts.*got 1"):
        _split_by_prompt(rows[:1], seed=0)


def test_the_padding_id_is_one_that_no_text_holds():
    tokenizer = build_tokenizer()
    rows = [{"chosen_ids": [1, 5, 2], "rejected_ids": [1, 6, 2]}]
    size = len(tokenizer)
    assert _unused_id(tokenizer, rows, size) == tokenizer.pad_token_id
    tokenizer.pad_token = tokenizer.eos_token
    assert _unused_id(tokenizer, rows, size) == size - 1
    everything = [{"chosen_ids": list(range(size)), "rejected_ids": [1]}]
    with pytest.raises(UserError, match="pad token"):
        _unused_id(tokenizer, everything, size)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})  # to the tokenizer alone: the model cannot read it
    assert _unused_id(tokenizer, rows, size) == size - 1
    with pytest.raises(UserError, match="pad token"):
        _unused_id(tokenizer, everything, size)


@pytest.mark.parametrize(("kind", "has_one"), [("gpt2", True), ("codegen", False), ("mamba", False)])
def test_a_family_without_a_classifier_is_refused(tmp_path, kind, has_one):
    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    if has_one:
        require_classifier(str(tmp_path))
        return
    with pytest.raises(UserError, match=r"no sequence classifier .*--reward and --judge") as caught:
        require_classifier(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_model_that_brings_its_code_has_no_classifier(tmp_path):
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(own), encoding="utf-8")
    with pytest.raises(UserError, match="--reward and --judge"):
        require_classifier(str(tmp_path))


def test_generators_and_threads_of_the_caller_are_put_back():
    threads = torch.get_num_threads()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    with controlled(Fit(1, 1e-3, seed=7)):
        assert torch.get_num_threads() == 1
        torch.rand(1), np.random.rand(), random.random()
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("micro_batch", "rows"), [(0, 16), (1, 1), (5, 4), (16, 16), (99, 16)])
def test_a_batch_goes_through_in_equal_parts(micro_batch: int, rows: int) -> None:
    arguments = trainer_arguments(RewardConfig, "unused", replace(FIT, micro_batch=micro_batch))
    assert arguments.per_device_train_batch_size == rows
    assert arguments.gradient_accumulation_steps == 16 / rows


def test_a_stage_has_the_precision_of_the_comparison() -> None:
    fits = [replace(FIT, dtype=dtype) for dtype in get_args(Precision)]
    found = {fit.dtype: trainer_arguments(RewardConfig, "unused", fit).bf16 for fit in fits}
    assert found == {"auto": False, "fp32": False, "bf16": True}
    again = trainer_arguments(RewardConfig, "unused", replace(FIT, gradient_checkpointing=True))
    assert again.gradient_checkpointing


@pytest.mark.parametrize("lighter", [{"micro_batch": 4}, {"gradient_checkpointing": True}])
def test_a_lighter_reward_model_is_the_same(base, tmp_path, lighter: dict) -> None:
    """But for rounding."""
    found = {}
    fit = replace(FIT, learning_rate=1e-3)
    for name, asked in (("whole", fit), ("lighter", replace(fit, **lighter))):
        # Of 72 pairs 64 are trained on: four whole batches.
        train_reward_model(base, pairs(72), tmp_path / name, asked, centre_on=TEXTS[:8])
        found[name] = RewardModel(tmp_path / name)(prompts=[""] * len(TEXTS), completions=TEXTS)
    assert found["lighter"] == pytest.approx(found["whole"], abs=2e-4)
    assert np.std(found["whole"]) > 0.01


def test_the_trained_model_is_gone_when_its_copy_is_scored(base, tmp_path, monkeypatch) -> None:
    trained: list[weakref.ref] = []

    def watched(model, *arguments) -> None:
        trained.append(weakref.ref(model))
        _train_on_pairs(model, *arguments)

    def scored(*arguments):
        assert trained[0]() is None
        return _score(*arguments)

    monkeypatch.setattr("eval.stages.reward_model._train_on_pairs", watched)
    monkeypatch.setattr("eval.stages.reward_model._score", scored)
    train_reward_model(base, pairs(16), tmp_path, FIT, centre_on=TEXTS[:8])
    assert trained


def test_a_reward_model_that_does_not_fit_says_what_helps(base, tmp_path, monkeypatch) -> None:
    def full(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("eval.stages.reward_model._train_on_pairs", full)
    with pytest.raises(
        UserError, match=r"training a reward model.*--reward-model\.batch-size, or name --reward"
    ):
        train_reward_model(base, pairs(16), tmp_path, FIT, centre_on=TEXTS[:8])


def test_nothing_is_printed_and_nothing_is_sent(base, tmp_path, capfd, monkeypatch):
    import huggingface_hub.utils._telemetry as telemetry

    # As for a user: TRL sends nothing in CI, the hub's package nothing offline, and it reads its variable only once.
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(telemetry.constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(telemetry.constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(telemetry, "_start_telemetry_thread", lambda: pytest.fail("telemetry"))
    train_base(config(), build_tokenizer(), TEXTS[:16], tmp_path / "base", FIT)
    train_reward_model(base, pairs(16), tmp_path / "reward", FIT, centre_on=TEXTS[:8])
    assert capfd.readouterr() == ("", "")


def test_a_reward_model_is_trained_from_a_revision(
    small: SmallWorld, moved_model: str, tmp_path: Path
) -> None:
    pairs = [{"prompt": f"a {i}", "chosen": " b", "rejected": " c d"} for i in range(20)]
    scores = []
    for number, name in enumerate((f"{moved_model}@v1", small.model)):
        fit = Fit(epochs=1, learning_rate=1e-3, batch_size=8)
        train_reward_model(name, pairs, tmp_path / f"reward-{number}", fit, centre_on=["a b"])
        made = RewardModel(tmp_path / f"reward-{number}")
        scores.append(made(prompts=["a", "a"], completions=[" b", " c d"], completion_ids=[[5], [6, 7]]))
    assert scores[0] == scores[1]
    assert scores[0][0] != scores[0][1]
