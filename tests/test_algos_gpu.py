"""On a GPU, where there is one: what a CPU computes, in fp32; training in bf16; decoding that is recorded; full memory."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from classifiers import COMPLETIONS, classifier
from classifiers import PROMPTS as ASKED
from families import FAMILIES, WORDS
from family_runs import ALGORITHMS, PAIRS, PROMPTS, SAMPLING, batch, rewarded
from known import KNOWN, a_policy
from tiny import same_weights, word_tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from algos import History, LoRA, Policy, RewardModel, Sampling, sample, train
from algos.engine import decoding
from algos.engine.fast import graphs, hidden
from algos.engine.fast.head import selected_logps
from algos.engine.fast.stepping import LayerStepper
from algos.engine.forward import forward, response_logits, token_logps
from algos.engine.inputs import precision
from algos.engine.memory import MAX_ACTIVATIONS, activations_at_once
from algos.engine.models.policy import with_adapter
from algos.engine.rollouts import Rollouts
from algos.engine.scoring import score_policy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
GPU = torch.device("cuda")
TEXTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 1, 2, 3, 4], [5, 6]]


def on_gpu(policy: Policy, dtype: Any = "fp32") -> Policy:
    return Policy(policy.model.to(GPU), policy.tokenizer, dtype=dtype)


def run(name: str, policy: Policy, **options: Any) -> History:
    data: dict[str, Any] = {"pairs": PAIRS} if name == "dpo" else {"prompts": PROMPTS, "reward": rewarded}
    return train(
        ALGORITHMS[name], policy, **({"sampling": SAMPLING, "budget": "3iterations"} | data | options)
    )


def gradients(policy: Policy, rollouts: Rollouts) -> dict[str, Tensor]:
    """Of the sum of all log-probabilities and squares of them, on the CPU."""
    logps_PGT = forward(policy.model, rollouts, 0.7, policy.dtype).logps_PGT
    (logps_PGT.sum() + logps_PGT.square().sum()).backward()
    return {name: p.grad.cpu() for name, p in policy.trainable().items() if p.grad is not None}


@pytest.mark.parametrize("shared", [False, True], ids=["a prompt a response", "a prompt a group"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_computes_what_it_does_on_a_cpu(
    name: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hidden, "MIN_SAVED_ON_GPU", 0 if shared else math.inf)
    family = FAMILIES[name]
    here, there, rollouts = family.policy(), on_gpu(family.policy()), batch()
    tolerance = 10 * family.tolerance
    expected = score_policy(here, rollouts, 0.7)[0]
    found = score_policy(there, rollouts.to(GPU), 0.7)[0].cpu()
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    expected_gradients, found_gradients = gradients(here, rollouts), gradients(there, rollouts.to(GPU))
    assert expected_gradients.keys() == found_gradients.keys()
    # Of the largest of all: some are zero but for rounding, such as that of a key's bias.
    scale = max(float(gradient.abs().max()) for gradient in expected_gradients.values())
    for key, gradient in expected_gradients.items():
        assert float((found_gradients[key] - gradient).abs().max()) < 1e-4 * scale, key


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_decodes_what_it_scores(name: str) -> None:
    policy = on_gpu(FAMILIES[name].policy())
    rollouts = sample(policy, TEXTS, Sampling(max_new_tokens=14, group_size=6), 0)
    assert rollouts.lengths_PG.unique().numel() > 2  # rows left the batch on the way
    gap = (score_policy(policy, rollouts, 1.0)[0] - rollouts.sampler_logps_PGT)[rollouts.mask_PGT].abs().max()
    assert float(gap) < 10 * FAMILIES[name].tolerance


@pytest.mark.parametrize("few", [0, graphs.FEW])
@pytest.mark.parametrize("kind", KNOWN)
def test_a_recorded_step_is_a_step(kind: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded anew for fewer rows, or once."""
    monkeypatch.setattr(graphs, "FEW", few)
    policy, sampling = on_gpu(a_policy(kind)), Sampling(max_new_tokens=40, group_size=8)
    assert isinstance(decoding.stepper(policy, TEXTS, 8, 40), decoding.GraphStepper)
    found = sample(policy, TEXTS, sampling, 0)
    assert found.lengths_PG.unique().numel() > 2
    monkeypatch.setattr(decoding, "GraphStepper", lambda *arguments: LayerStepper(*arguments[:4]))
    expected = sample(policy, TEXTS, sampling, 0)
    assert torch.equal(found.response_ids_PGT, expected.response_ids_PGT)
    torch.testing.assert_close(found.sampler_logps_PGT, expected.sampler_logps_PGT, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KNOWN)
def test_recorded_steps_through_adapters_in_bf16(kind: str) -> None:
    """Adapters' layers are taken apart, each part cast once and not with every token."""
    model = a_policy(kind).model
    adapted = with_adapter(model, LoRA(rank=4))
    for name, p in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.3)
    policy = Policy(adapted.to(GPU), a_policy(kind).tokenizer, dtype="bf16")
    rollouts = sample(policy, TEXTS, Sampling(max_new_tokens=12, group_size=8), 0)
    gap = (score_policy(policy, rollouts, 1.0)[0] - rollouts.sampler_logps_PGT)[rollouts.mask_PGT].abs()
    assert float(gap.mean()) < 0.05


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_first_iteration_is_the_cpus(name: str, kind: str) -> None:
    """No more of a curve: small differences grow, and may change a draw."""
    here, there = (
        run(name, a_policy(kind), budget="1iterations"),
        run(name, on_gpu(a_policy(kind)), budget="1iterations"),
    )
    (expected,), (found,) = here.rows, there.rows
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        if "seconds" not in key:
            assert found[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_training_in_bf16(name: str, kind: str, checkpointing: bool) -> None:
    """Through the checks of the start: policy and reference alike, the first ratio 1."""
    policy = a_policy(kind)
    policy = Policy(
        policy.model.to(GPU), policy.tokenizer, dtype="auto", gradient_checkpointing=checkpointing
    )
    assert policy.dtype == torch.bfloat16
    rows = run(name, policy).rows
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert not same_weights(policy, on_gpu(a_policy(kind)))


@pytest.mark.parametrize("bias", [False, True])
def test_logits_far_from_zero_are_not_rounded_to_bf16(bias: bool) -> None:
    """GPT-2's lie near −100, where bf16 counts in halves: log-probabilities would be a tenth of a nat off."""
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 500, bias=bias).to(GPU)
    hidden_NH, ids_N = torch.randn(90, 64, device=GPU), torch.randint(0, 500, (90,), device=GPU)
    with torch.no_grad():
        for x in (*head.parameters(), hidden_NH):
            x.copy_(x.bfloat16())
        hidden_NH[:, 0], head.weight[:, 0] = 10, -10
        exact = torch.nn.functional.linear(
            hidden_NH.double(), head.weight.double(), None if head.bias is None else head.bias.double()
        )
    with torch.autocast("cuda", torch.bfloat16):
        found_N, _ = selected_logps(hidden_NH, head, ids_N, 1.0)
    expected_N = exact.log_softmax(-1).gather(-1, ids_N[:, None]).squeeze(-1)
    torch.testing.assert_close(found_N.double(), expected_N, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_the_sampler_and_the_evaluation_have_logits_in_fp32(kind: str) -> None:
    """As training has them: of each step, recorded or not, and of whole texts."""
    policy, rollouts = on_gpu(a_policy(kind), "bf16"), batch().to(GPU)
    with torch.no_grad(), precision(GPU, torch.bfloat16):
        steps = decoding.stepper(policy, TEXTS, 2, 4)
        found = [steps.prefill()]
        found += [steps.step(logits_BV.argmax(-1)).clone() for logits_BV in found * 3]
        logits_PGTV, _ = response_logits(policy.model, rollouts, 1.0)
    for logits in (*found, logits_PGTV):
        assert logits.dtype == torch.float32
        assert not torch.equal(logits, logits.bfloat16().float())
    logps_PGT, _ = token_logps(logits_PGTV, rollouts.response_ids_PGT)
    gap = (logps_PGT - score_policy(policy, rollouts, 1.0)[0])[rollouts.mask_PGT].abs()
    assert float(gap.mean()) < 0.05


@pytest.mark.parametrize("pooling", ["mask", "model"])
def test_a_reward_model_multiplies_in_bf16_but_for_its_head(tmp_path: Path, pooling: str) -> None:
    classifier(tmp_path, pooling=pooling)
    asked = {"prompts": ASKED, "completions": COMPLETIONS}
    expected = RewardModel(tmp_path, "cpu")(**asked)
    assert RewardModel(tmp_path, GPU, dtype="fp32")(**asked) == pytest.approx(expected, abs=1e-3)
    reward, seen = RewardModel(tmp_path), list[torch.dtype]()
    assert (reward.model.device.type, reward.dtype) == ("cuda", torch.bfloat16)
    reward.model.score.register_forward_hook(lambda _, read, given: seen.extend((read[0].dtype, given.dtype)))
    assert reward(**asked) == pytest.approx(expected, abs=0.1)
    assert set(seen) == {torch.float32}


@pytest.fixture
def wide() -> Iterator[Policy]:
    """Deep and wide enough to fill memory; all that is kept from the first use of a GPU on is there already."""
    sizes = {
        "hidden_size": 512,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "num_hidden_layers": 12,
    }
    tokenizer = word_tokenizer(WORDS)
    config = AutoConfig.for_model("qwen2", vocab_size=len(tokenizer), **(KNOWN["qwen2"] | sizes))
    policy = Policy(AutoModelForCausalLM.from_config(config).to(GPU), tokenizer, dtype="fp32")
    run("reinforce", on_gpu(copy.deepcopy(policy)), budget="1iterations")
    yield policy
    torch.cuda.set_per_process_memory_fraction(1.0)


def leave(mebibytes: int) -> None:
    """So much memory beside what is in use."""
    gc.collect()
    torch.cuda.empty_cache()
    fraction = (torch.cuda.memory_reserved() + mebibytes * 2**20) / torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(fraction)


def test_what_does_not_fit_is_decoded_in_parts(wide: Policy) -> None:
    """256 responses' keys and values take 700 MiB."""
    sampling, prompts = Sampling(max_new_tokens=40, group_size=64), [[1, 2, 3, 4, 5, 6, 7, 8] * 2] * 4
    leave(500)
    found = sample(wide, prompts, sampling, 0)
    assert wide.portions.limits["sampling"] < 256
    torch.cuda.set_per_process_memory_fraction(1.0)
    wide.portions.limits.clear()
    whole = sample(wide, prompts, sampling, 0)
    assert not wide.portions.limits
    assert float((found.response_ids_PGT == whole.response_ids_PGT).float().mean()) > 0.99  # but for rounding


def test_what_does_not_fit_is_trained_on_in_parts(wide: Policy) -> None:
    """Activations of 20 × 16 responses, as many as go forward at once, take gigabytes."""
    sampling = Sampling(max_new_tokens=40, group_size=16, prompts_per_iteration=64)
    leave(1000)
    (row,) = run("reinforce", wide, sampling=sampling, budget="1iterations", prompts=PROMPTS * 32).rows
    assert row["gradient_norm"] > 0
    assert wide.portions.limits["training"] < 20


def test_a_forward_pass_keeps_what_this_gpus_memory_allows(wide: Policy) -> None:
    """Of the part of it that this process may have."""
    whole = torch.cuda.get_device_properties(GPU).total_memory
    assert activations_at_once(GPU) == max(MAX_ACTIVATIONS, whole // 16)
    torch.cuda.set_per_process_memory_fraction(0.5)
    assert activations_at_once(GPU) == max(MAX_ACTIVATIONS, whole // 2 // 16)


def test_what_decoding_held_is_let_go_at_once(wide: Policy) -> None:
    """A layer's keys and values, copies of weights: not when Python's collector comes."""
    gc.disable()
    try:
        before = torch.cuda.memory_allocated()
        for seed in range(3):
            sample(wide, TEXTS, Sampling(max_new_tokens=8, group_size=8), seed)
        assert torch.cuda.memory_allocated() - before < 2**20
    finally:
        gc.enable()
