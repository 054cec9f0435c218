"""Every family of models through the whole engine: padding, decoding, training, adapters, saving.

A few families are in the everyday suite. `make families` runs all of them and writes the table in docs/models.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, WORDS, Family, Matrix
from family_runs import ALGORITHMS, PAIRS, PROMPTS, SAMPLING, batch, rewarded
from tiny import same_weights, word_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM

from algos import LoRA, Policy, Sampling, UserError, sample, train
from algos.engine import forward as forward_module
from algos.engine.fast import hidden
from algos.engine.forward import forward
from algos.engine.inputs import lengthened
from algos.engine.recompute import recomputable
from algos.engine.rollouts import Rollouts
from algos.engine.scoring import score_policy

EVERYDAY = ("OPT", "BLOOM", "Gemma 2", "Qwen 3")


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name in EVERYDAY else pytest.mark.families, id=name.replace(" ", "-"))
        for name in FAMILIES
    ]
)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def matrix(request: pytest.FixtureRequest) -> Iterator[Matrix]:
    """Filled by the tests; written to the page named by FAMILIES_TABLE where all of them have passed."""
    measured = Matrix()
    yield measured
    page = os.environ.get("FAMILIES_TABLE")
    reporter: Any = request.config.pluginmanager.get_plugin("terminalreporter")
    if page:
        incomplete = [kind for kind in ("failed", "error", "deselected") if reporter.stats.get(kind)]
        if incomplete:
            reporter.write_line(f"\n{page} is left as it was: there are {' and '.join(incomplete)} tests.")
        else:
            measured.write(Path(page))


def unpadded(model: torch.nn.Module, rollouts: Rollouts) -> Tensor:
    """Log-probabilities [P, G, T] of one row at a time, without padding, mask or positions."""
    logps_PGT = torch.zeros(rollouts.mask_PGT.shape)
    for p, g in torch.cartesian_prod(torch.arange(rollouts.P), torch.arange(rollouts.G)).tolist():
        prompt = rollouts.prompt_ids_PL[p][rollouts.prompt_mask_PL[p]]
        response = rollouts.response_ids_PGT[p, g][rollouts.mask_PGT[p, g]]
        with torch.no_grad():
            logits_TV = model(torch.cat([prompt, response])[None], use_cache=False).logits[0]
        logps_TV = logits_TV[len(prompt) - 1 : -1].log_softmax(-1)
        logps_PGT[p, g, : len(response)] = logps_TV.gather(-1, response[:, None]).squeeze(-1)
    return logps_PGT


def test_padding_moves_nothing(family: Family, matrix: Matrix) -> None:
    policy, rollouts = family.policy(), batch()
    mask = rollouts.mask_PGT
    logps_PGT = score_policy(policy, rollouts, 1.0)[0]
    assert float(logps_PGT[mask].std()) > 0.3  # the model tells words apart
    gap = float((logps_PGT - unpadded(policy.model, rollouts))[mask].abs().max())
    matrix.note(family, "padded", gap)
    assert gap < family.tolerance


def test_cached_decoding_is_teacher_forcing(family: Family, matrix: Matrix) -> None:
    policy = family.policy()
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 1, 2, 3, 4], [5, 6]]
    rollouts = sample(policy, prompts, Sampling(max_new_tokens=14, group_size=6), 0)
    mask = rollouts.mask_PGT
    assert rollouts.lengths_PG.unique().numel() > 2  # rows left the batch and its cache on the way
    gap = float((score_policy(policy, rollouts, 1.0)[0] - rollouts.sampler_logps_PGT)[mask].abs().max())
    matrix.note(family, "cached", gap)
    assert gap < family.tolerance


def test_a_prompt_read_once_or_for_every_response(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, rollouts = family.policy(), batch()
    once, sent = score_policy(policy, rollouts, 0.7)[0], gradients(policy)
    monkeypatch.setattr(hidden, "MIN_SAVED", 2.0)
    gap = float((score_policy(policy, rollouts, 0.7)[0] - once).abs().max())
    assert gap < family.tolerance
    same_gradients(sent, gradients(family.policy()))


def test_texts_of_a_length_that_comes_again(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where all are padded further."""
    policy, rollouts = family.policy(), batch()
    expected, sent = score_policy(policy, rollouts, 0.7)[0], gradients(policy)
    lengths = []

    def longer(*read: Any) -> tuple[Tensor, Tensor]:
        ids_BS, mask_BS = lengthened(*read)
        lengths.append(ids_BS.shape[1])
        return ids_BS, mask_BS

    for module in (forward_module, hidden):
        monkeypatch.setattr(module, "aligned", longer)
    monkeypatch.setattr(hidden, "MIN_SAVED", 2.0)
    monkeypatch.setattr(forward_module, "direct", lambda _: None)
    gap = float((score_policy(policy, rollouts, 0.7)[0] - expected).abs().max())
    assert gap < family.tolerance
    same_gradients(
        sent, gradients(family.policy()), atol=10 * family.tolerance
    )  # 1e-4, but of recurrent layers
    assert set(lengths) == {32}  # 11 + 9 tokens, less the last


@pytest.mark.parametrize("name", ALGORITHMS)
def test_one_iteration_of_each_algorithm(family: Family, name: str, matrix: Matrix) -> None:
    policy, algorithm = family.policy(), ALGORITHMS[name]
    data = (
        {"pairs": PAIRS}
        if name == "dpo"
        else {"prompts": PROMPTS, "reward": rewarded, "budget": "1iterations"}
    )
    (row,) = train(algorithm, policy, sampling=SAMPLING, **data).rows
    assert all(math.isfinite(value) for value in row.values())
    assert row["gradient_norm"] > 0
    if name == "dpo":
        assert row["loss"] == pytest.approx(math.log(2), abs=1e-5)
    else:
        assert row["kl/train"] == pytest.approx(0, abs=1e-5)
        assert row.get("ratio_max", 1.0) == pytest.approx(1, abs=1e-4)
    assert not same_weights(policy, family.policy())
    matrix.note(family, name)


def test_saved_and_loaded_it_is_the_same(family: Family, tmp_path: Path, matrix: Matrix) -> None:
    policy = Policy(family.model(seed=1), word_tokenizer(WORDS), dtype="fp32")
    policy.save(tmp_path)
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])
    with torch.no_grad():
        expected = policy.model(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits
        torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-5)  # GELU is one kernel in a policy
        assert torch.equal(Policy.load(tmp_path, device="cpu").model(ids).logits, expected)
    matrix.note(family, "reloaded")


def test_adapters_learn_and_leave_the_reference_alone(family: Family, tmp_path: Path, matrix: Matrix) -> None:
    family.policy().save(tmp_path / "base")
    policy = Policy.load(tmp_path / "base", lora=LoRA(rank=2, targets=family.lora_targets), device="cpu")
    before = policy.reference_digest()
    (row,) = train(
        ALGORITHMS["ppo"], policy, prompts=PROMPTS, reward=rewarded, sampling=SAMPLING, budget="1iterations"
    ).rows
    assert row["kl/train"] == pytest.approx(0, abs=1e-5)
    assert any(bool(p.any()) for name, p in policy.trainable().items() if "lora_B" in name)
    assert policy.reference_digest() == before
    policy.save(tmp_path / "adapter")
    again = Policy.load(tmp_path / "adapter", device="cpu")
    logps_PGT = [score_policy(one, batch(), 1.0)[0] for one in (policy, again)]
    torch.testing.assert_close(*logps_PGT, atol=1e-5, rtol=1e-5)
    matrix.note(family, "LoRA")


def gradients(policy: Policy) -> dict[str, Tensor]:
    rollouts = batch()
    with policy.for_backward():
        outputs = forward(policy.model, rollouts, 1.0, policy.dtype)
        torch.where(rollouts.mask_PGT, outputs.logps_PGT, 0.0).sum().backward()
    return {name: p.grad for name, p in policy.trainable().items() if p.grad is not None}


def same_gradients(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float = 1e-4
) -> None:
    """But for rounding: sums are taken in another order, and some are of numbers that cancel."""
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(
            found[name], expected[name], rtol=1e-3, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_gradient_checkpointing_changes_no_gradient(family: Family, matrix: Matrix) -> None:
    if not recomputable(family.model()):
        with pytest.raises(UserError, match="no layers that gradient checkpointing could recompute"):
            family.policy(gradient_checkpointing=True)
        matrix.note(family, "checkpointing", "refused")
        return
    plain, again = (gradients(family.policy(gradient_checkpointing=on)) for on in (False, True))
    same_gradients(again, plain)
    matrix.note(family, "checkpointing")


def test_bf16_products_train(family: Family, matrix: Matrix) -> None:
    policy = family.policy(dtype="bf16")
    (row,) = train(
        ALGORITHMS["ppo"], policy, prompts=PROMPTS, reward=rewarded, sampling=SAMPLING, budget="1iterations"
    ).rows
    assert all(math.isfinite(value) for value in row.values())
    assert all(p.dtype == torch.float32 for p in policy.model.parameters())
    exact, rough = (score_policy(family.policy(dtype=kind), batch(), 1.0)[0] for kind in ("fp32", "bf16"))
    # The median: rounding may send a word to another expert, and that one moves far.
    assert 0 < float((exact - rough)[batch().mask_PGT].abs().median()) < 0.1
    matrix.note(family, "bf16")
