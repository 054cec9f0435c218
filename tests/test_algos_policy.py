"""The policy and its reference: loading, saving, adapters, precision, ids that end and fill."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from known import KNOWN, a_policy
from peft import PromptTuningConfig, get_peft_model
from tiny import EOS, MODELS, ROLLOUTS, disturb, gpt2, tiny_policy, word_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertLMHeadModel

from algos import LoRA, Policy, Sampling, UserError, sample
from algos.engine.fast.kernels import fuse_activations
from algos.engine.scoring import score_policy, score_reference

IDS = torch.tensor([[1, 2, 2, 1]])


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(IDS).logits
    return out


@pytest.fixture(params=["gpt2", "llama"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny model's directory."""
    tokenizer = word_tokenizer("a b")
    MODELS[request.param](len(tokenizer)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_saved_policy_is_a_transformers_model(base: Path, tmp_path: Path) -> None:
    policy = Policy.load(base, device="cpu")
    disturb(policy)
    policy.save(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(again), logits(policy.model))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer("a b").input_ids == policy.tokenizer("a b").input_ids
    assert list((tmp_path / "saved").glob("*.safetensors"))


def test_the_reference_is_the_policy_as_loaded(base: Path) -> None:
    policy = Policy.load(base, device="cpu")
    at_first = score_reference(policy, ROLLOUTS, 1.0)
    assert torch.equal(score_policy(policy, ROLLOUTS, 1.0)[0], at_first)
    disturb(policy)
    assert torch.equal(score_reference(policy, ROLLOUTS, 1.0), at_first)
    assert float((score_policy(policy, ROLLOUTS, 1.0)[0] - at_first).abs().max()) > 0.01
    with policy.reference() as reference:
        assert not {id(p) for p in reference.parameters()} & {id(p) for p in policy.trainable().values()}


def test_a_policy_that_is_only_read_needs_no_reference(base: Path) -> None:
    policy = Policy.load(base, device="cpu", reference=False)
    assert torch.equal(
        score_policy(policy, ROLLOUTS, 1.0)[0],
        score_policy(Policy.load(base, device="cpu"), ROLLOUTS, 1.0)[0],
    )
    with pytest.raises(UserError, match="no reference"):
        score_reference(policy, ROLLOUTS, 1.0)


def test_the_reference_is_what_stood_in_memory_not_on_disk(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.lm_head.weight.add_(
            torch.linspace(0, 1, model.lm_head.weight.numel()).view_as(model.lm_head.weight)
        )
    policy = Policy(model, AutoTokenizer.from_pretrained(base), dtype="fp32", source=str(base))
    assert torch.equal(score_reference(policy, ROLLOUTS, 1.0), score_policy(policy, ROLLOUTS, 1.0)[0])


def test_lora_switched_off_is_the_base(base: Path) -> None:
    policy = Policy.load(base, lora=LoRA(rank=2, alpha=4), device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(base)
    fuse_activations(plain)
    assert policy.adapter_is_reference
    assert all("lora_" in name for name in policy.trainable())
    assert torch.equal(logits(policy.model), logits(plain))
    disturb(policy)
    assert float((logits(policy.model) - logits(plain)).abs().max()) > 0.01
    with policy.reference() as reference:
        assert torch.equal(logits(reference), logits(plain))
    assert float((logits(policy.model) - logits(plain)).abs().max()) > 0.01  # switched on again
    assert policy.size == sum(p.numel() for p in plain.parameters())
    assert policy.backward_factor == 4
    assert Policy.load(base, device="cpu").backward_factor == 6


def test_a_saved_adapter_loads_with_peft_and_its_reference_is_a_frozen_copy(
    base: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    policy = Policy.load(base, lora=LoRA(rank=2, alpha=4), device="cpu")
    disturb(policy)
    policy.save(tmp_path / "adapter")
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(peft.eval()), logits(policy.model))

    again = Policy.load(tmp_path / "adapter", device="cpu")
    torch.testing.assert_close(logits(again.model), logits(policy.model))
    assert not again.adapter_is_reference
    assert all("lora_" in name for name in again.trainable())
    assert again.trainable()
    at_first = score_policy(again, ROLLOUTS, 1.0)[0]
    assert torch.equal(score_reference(again, ROLLOUTS, 1.0), at_first)
    disturb(again)
    assert torch.equal(score_reference(again, ROLLOUTS, 1.0), at_first)
    assert float((score_policy(again, ROLLOUTS, 1.0)[0] - at_first).abs().max()) > 0.01
    assert again.backward_factor == 4  # the base's weights are as frozen as ever


def test_adapters_start_alike_whatever_was_drawn_before(base: Path) -> None:
    first = Policy.load(base, lora=True, device="cpu").trainable()
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    second = Policy.load(base, lora=True, device="cpu").trainable()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(state, torch.random.get_rng_state())


def test_rank_and_targets_are_as_asked(base: Path) -> None:
    names = [name for name, _ in Policy.load(base, device="cpu").model.named_modules()]
    target = "q_proj" if any(name.endswith("q_proj") for name in names) else "c_attn"
    policy = Policy.load(base, lora=LoRA(rank=3, alpha=6, targets=target), device="cpu")
    downs = {name: p for name, p in policy.trainable().items() if "lora_A" in name}
    assert len(downs) == 2  # one a layer
    assert all(target in name and p.shape[0] == 3 for name, p in downs.items())
    (settings,) = policy.model.peft_config.values()
    assert (settings.r, settings.lora_alpha, settings.lora_dropout) == (3, 6, 0.0)


def test_an_adapter_on_an_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    Policy.load(base, lora=True, device="cpu").save(tmp_path / "adapter")
    with pytest.raises(UserError, match="is an adapter already") as caught:
        Policy.load(tmp_path / "adapter", lora=True, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_saved_adapter_finds_its_base_from_anywhere(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was named by a relative path."""
    monkeypatch.chdir(base.parent)
    Policy.load(base.name, lora=True, device="cpu").save(tmp_path / "adapter")
    monkeypatch.chdir("/")
    found = Policy.load(tmp_path / "adapter", device="cpu")
    assert found.inner.config.vocab_size == len(word_tokenizer("a b"))


def test_adapters_on_nothing_are_refused(base: Path) -> None:
    with pytest.raises(UserError, match="cannot put adapters on 'nothing_like_it'") as caught:
        Policy.load(base, lora=LoRA(targets="nothing_like_it"), device="cpu")
    assert "\n" not in str(caught.value)


def test_dropout_is_off_in_every_forward() -> None:
    tokenizer = word_tokenizer("a b")
    policy = Policy(gpt2(len(tokenizer), dropout=0.5).train(), tokenizer, dtype="fp32")
    first, second = (score_policy(policy, ROLLOUTS, 1.0)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, score_reference(policy, ROLLOUTS, 1.0))


def test_bf16_products_give_fp32_log_probabilities() -> None:
    policy = tiny_policy()
    exact = score_policy(policy, ROLLOUTS, 1.0)[0]
    policy.dtype = torch.bfloat16
    rough = score_policy(policy, ROLLOUTS, 1.0)[0]
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact)[ROLLOUTS.mask_PGT].abs().max()) < 0.2
    assert all(p.dtype == torch.float32 for p in policy.model.parameters())
    drawn = sample(policy, [[1]], Sampling(max_new_tokens=4, group_size=4), 0)
    assert drawn.sampler_logps_PGT.dtype == torch.float32


def test_every_declared_eos_counts() -> None:
    tokenizer = word_tokenizer("a b c")
    model = gpt2(len(tokenizer))
    model.config.eos_token_id = 1
    model.generation_config.eos_token_id = [2, 3]
    policy = Policy(model, tokenizer, dtype="fp32")
    assert policy.eos_ids == [EOS, 1, 2, 3]


def test_an_id_to_pad_with_is_always_found() -> None:
    for options, expected in (
        ({"pad": "<pad>"}, 1),
        ({}, 0),
        ({"eos": None}, 0),
        ({"eos": None, "bos": "<bos>"}, 0),
    ):
        tokenizer = word_tokenizer("a b", **options)
        assert Policy(gpt2(8), tokenizer, dtype="fp32").pad_id == expected


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("no/such/model", {}, "'no/such/model'"),
        ("base", {"device": "cuda:99"}, "no such device: cuda:99"),
        ("base", {"device": "toaster"}, "no such device: toaster"),
    ],
)
def test_what_is_not_there_is_one_line(base: Path, path: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Policy.load(base if path == "base" else path, **options)
    assert "\n" not in str(caught.value)


def test_an_empty_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot load") as caught:
        Policy.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_directory_with_broken_weights_is_one_line(base: Path) -> None:
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot load") as caught:
        Policy.load(base)
    assert "\n" not in str(caught.value)


def test_variables_of_the_chat_template_are_saved_with_the_policy(base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{% if enable_thinking %}<think>{% endif %}{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(base)
    asked = [{"role": "user", "content": "a"}]
    policy = Policy.load(base, device="cpu", template_options={"enable_thinking": True})
    policy.save(tmp_path / "saved")
    for path, expected in ((base, "a"), (tmp_path / "saved", "<think>a")):
        again = Policy.load(path, device="cpu")
        assert again.tokenizer.apply_chat_template(asked, tokenize=False) == expected


def test_positions_are_the_models(base: Path) -> None:
    assert Policy.load(base, device="cpu").max_positions == 32


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0.0}])
def test_ranges_of_lora(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"lora {next(iter(wrong))} must be"):
        LoRA(**wrong)


# What is no policy -------------------------------------------------------------------------------------


def test_a_wrapped_model_is_refused() -> None:
    """Its forward takes anything: positions and cache would not be given to it, and nobody would notice."""
    compiled = torch.compile(gpt2(4), backend="eager")
    for wrapped in (compiled, torch.nn.DataParallel(gpt2(4))):
        with pytest.raises(UserError, match=f"got {type(wrapped).__name__}. Pass the model that it wraps"):
            Policy(wrapped, word_tokenizer())


def test_a_model_that_reads_both_ways_is_refused_in_memory_too() -> None:
    config = BertConfig(
        vocab_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.5,
    )
    with pytest.raises(UserError, match=r"'BertLMHeadModel' predicts a word otherwise depending on"):
        Policy(BertLMHeadModel(config), word_tokenizer())


def test_adapters_of_tokens_are_refused() -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(UserError, match=r"PromptTuningConfig.*Use LoRA"):
        Policy(get_peft_model(gpt2(4), config), word_tokenizer())


@pytest.mark.parametrize("name", ["bfloat16", torch.bfloat16, None])
def test_a_precision_that_there_is_not(name: Any) -> None:
    with pytest.raises(UserError, match="dtype must be auto, fp32 or bf16"):
        Policy(gpt2(4), word_tokenizer(), dtype=name)


def test_settings_of_adapters_are_checked(base: Path) -> None:
    with pytest.raises(UserError, match=r"lora takes LoRA\(...\) or True; got dict"):
        Policy.load(base, lora={"rank": 4})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"lora targets must be names with commas.*got \['c_attn'\]"):
        LoRA(targets=["c_attn"])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KNOWN)
def test_known_models_can_be_pickled(kind: str) -> None:
    model = a_policy(kind).model
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is type(model)
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, model(IDS).logits)
