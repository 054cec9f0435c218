"""A prompt read once for all its responses, by the layers themselves or through a cache (all families:
test_algos_families.py)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from known import with_loud_adapter
from tiny import gpt2, rollouts_of, tiny_policy, word_tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from algos.engine.critic import Critic
from algos.engine.fast import activated, attention, hidden, places
from algos.engine.fast.direct import direct
from algos.engine.fast.head import linear_head
from algos.engine.fast.places import Places
from algos.engine.forward import forward
from algos.engine.inputs import aligned, lengthened
from algos.engine.models.policy import Policy
from algos.engine.rollouts import Rollouts
from algos.engine.scoring import score_group, score_policy

WEIGHTS = torch.tensor([[[1.0, -2.0, 0.5], [3.0, 1.0, 0.0]], [[0.3, 2.0, -1.0], [1.0, 0.0, 0.0]]])


def groups() -> Rollouts:
    """Prompts and responses padded, two responses to each prompt."""
    return rollouts_of([[3, 2, 1, 1, 2], [1, 2]], [[[1, 2, 0], [2, 0]], [[1, 1, 0], [0]]])


def group() -> Rollouts:
    """One prompt, padded on both sides, as a part of a larger batch is."""
    return groups().select(torch.tensor([1]))


def count_tokens(policy: Policy) -> list[int]:
    """Filled by every text that is embedded from now on."""
    read: list[int] = []
    assert linear_head(policy.model) is not None  # tried out before anything is counted
    assert direct(policy.model) is not None
    policy.model.get_input_embeddings().register_forward_pre_hook(lambda _, ids: read.append(ids[0].numel()))
    return read


def gradients(policy: Policy, rollouts: Rollouts, critic: Critic | None = None) -> dict[str, Tensor]:
    """What weighted log-probabilities, and values, send back to every weight."""
    with policy.for_backward(critic):
        outputs = forward(policy.model, rollouts, 0.7, policy.dtype, critic)
        total = (outputs.logps_PGT * WEIGHTS).sum()
        if outputs.values_PGT is not None:
            total = total + (outputs.values_PGT * WEIGHTS).sum()
        total.backward()
    found: dict[str, Tensor] = {"": outputs.logps_PGT.detach()}
    for module in filter(None, (policy.model, critic)):
        for name, weight in module.named_parameters():
            assert weight.grad is not None
            found[f"{type(module).__name__} {name}"], weight.grad = weight.grad, None
    return found


def by_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no model's layers are known."""
    monkeypatch.setattr("algos.engine.forward.direct", lambda _: None)
    monkeypatch.setattr("algos.engine.critic.direct_trunk", lambda *_: None)


def twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on prompts are read for every response."""
    monkeypatch.setattr(hidden, "MIN_SAVED", 2.0)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("critic", [None, "shared", "separate"])
def test_the_same_numbers_and_gradients(monkeypatch: pytest.MonkeyPatch, kind: str, critic: Any) -> None:
    policy = tiny_policy(kind, double=True)
    made = None
    if critic:
        made = Critic(policy.model, critic)
        torch.nn.init.normal_(made.head.weight)
    found = gradients(policy, groups(), made)
    assert len(found) > 10
    for others in ([by_cache], [twice], [by_cache, twice]):
        with monkeypatch.context() as patch:
            for other in others:
                other(patch)
            # Llama's norms and rotations compute in fp32 whatever its weights are in.
            torch.testing.assert_close(found, gradients(policy, groups(), made), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_by_products_as_by_the_kernel(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, called, kernel = tiny_policy(kind, double=True), list[int](), F.scaled_dot_product_attention

    def watched(query: Tensor, *given: Any, **options: Any) -> Tensor:
        called.append(len(query))
        return kernel(query, *given, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    gradients(policy, groups())  # its layers are tried out against the model, which calls the kernel
    called.clear()
    found = gradients(policy, groups())
    assert not called
    monkeypatch.setattr(attention, "MOST_KEPT", 0)
    torch.testing.assert_close(found, gradients(policy, groups()), atol=1e-5, rtol=1e-3)
    assert called


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_responses_of_one_token(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they are predicted from is read of prompts alone."""
    policy = tiny_policy(kind, double=True)
    short = rollouts_of([[3, 2, 1], [1, 2]], [[[1], [2]], [[0], [0]]])
    found = score_policy(policy, short, 1.0)[0]
    by_cache(monkeypatch)
    torch.testing.assert_close(found, score_policy(policy, short, 1.0)[0])


def test_the_same_with_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_loud_adapter(gpt2).double()
    policy = Policy(model, word_tokenizer("a b c d e f g h i j"), dtype="fp32")

    def found() -> dict[str, Tensor]:
        outputs = forward(policy.model, groups(), 0.7, policy.dtype)
        weights = policy.trainable()
        sent = torch.autograd.grad((outputs.logps_PGT * WEIGHTS).sum(), list(weights.values()))
        return {"": outputs.logps_PGT.detach(), **dict(zip(weights, sent, strict=True))}

    once = found()
    assert direct(policy.model) is not None
    for others in ([by_cache], [twice], [by_cache, twice]):
        with monkeypatch.context() as patch:
            for other in others:
                other(patch)
            torch.testing.assert_close(once, found())


@pytest.mark.parametrize("wide", [1, 2**60])
def test_gradient_checkpointing_reads_it_for_every_response(
    wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that computed its keys again would add them to the cache again."""
    monkeypatch.setattr(activated, "RECOMPUTED_FROM", wide)
    policy = tiny_policy("llama", double=True)
    plain = gradients(policy, groups())
    policy.gradient_checkpointing = True
    read = count_tokens(policy)
    torch.testing.assert_close(plain, gradients(policy, groups()), atol=1e-5, rtol=1e-3)
    assert read == [2 * 2 * (5 + 3 - 1)]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("tokens", [1, 1000])
def test_hundreds_of_responses_in_parts(monkeypatch: pytest.MonkeyPatch, kind: str, tokens: int) -> None:
    policy = tiny_policy(kind, double=True)
    expected = score_policy(policy, group(), 0.7)[0]
    monkeypatch.setattr("algos.engine.memory.MAX_TOKENS", tokens)
    torch.testing.assert_close(score_group(policy, group(), 0.7), expected)


def test_tokens_computed_are_tokens_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts once, responses without their last tokens: nobody asks what follows them. Padding only where layers are not
    known."""
    policy, rollouts = tiny_policy(), groups()
    read = count_tokens(policy)
    forward(policy.model, rollouts, 1.0, policy.dtype)
    L, B, T = rollouts.prompt_ids_PL.shape[1], rollouts.P * rollouts.G, rollouts.T
    assert read == [(5 + 2) + (2 + 1 + 2 + 0)]
    for others, expected in (
        ([by_cache], [rollouts.P * L, B * (T - 1)]),
        ([twice], [(5 + 2) + (5 + 1) + (2 + 2) + (2 + 0)]),
        ([by_cache, twice], [B * (L + T - 1)]),
    ):
        read.clear()
        with monkeypatch.context() as patch:
            for other in others:
                other(patch)
            forward(policy.model, rollouts, 1.0, policy.dtype)
        assert read == expected


@pytest.mark.parametrize(
    ("others", "expected"), [([], 2 + (2 + 1 + 2 + 0)), ([twice], 3 + 2 + 3 + 1)], ids=["groups", "texts"]
)
def test_what_nothing_is_predicted_from_ends_in_the_last_attention(
    monkeypatch: pytest.MonkeyPatch, others: list[Any], expected: int
) -> None:
    """Of the last layer the rest, and its norm, see prompts' ends and what responses go on from, each once."""
    policy, rollouts = tiny_policy(), groups()
    read = count_tokens(policy)
    trunk = policy.inner.base_model
    for module in (*(block.mlp for block in trunk.h), trunk.ln_f):
        module.register_forward_pre_hook(lambda _, x: read.append(len(x[0])))
    for other in others:
        other(monkeypatch)
    forward(policy.model, rollouts, 1.0, policy.dtype)
    embedded, *layers, last, norm = read
    assert layers == [embedded] * (len(trunk.h) - 1)
    assert last == norm == expected


@pytest.mark.parametrize("kernel", [False, True], ids=["products", "kernel"])
@pytest.mark.parametrize("others", [[], [twice]], ids=["groups", "texts"])
def test_numbers_of_tokens_that_come_again(
    monkeypatch: pytest.MonkeyPatch, others: list[Any], kernel: bool
) -> None:
    """For oneDNN's kernels some padding goes along, and changes nothing."""
    policy = tiny_policy(double=True)
    lengths = [(5, 9, 3), (2, 4, 8), (7, 9, 9), (3, 1, 6), (6, 5, 3)]
    rollouts = rollouts_of([[3] * n for n, *_ in lengths], [[[1] * n for n in each] for _, *each in lengths])

    def found() -> dict[str, Tensor]:
        logps_PGT = forward(policy.model, rollouts, 0.7, policy.dtype).logps_PGT
        logps_PGT.square().sum().backward()
        sent = {name: weight.grad for name, weight in policy.model.named_parameters()}
        policy.model.zero_grad(set_to_none=True)
        return {"": logps_PGT.detach()} | {name: grad for name, grad in sent.items() if grad is not None}

    for other in others:
        other(monkeypatch)
    if kernel:
        monkeypatch.setattr(attention, "MOST_KEPT", 0)
    read = count_tokens(policy)
    expected = found()
    monkeypatch.setattr(places, "through_onednn", lambda: True)
    torch.testing.assert_close(found(), expected, atol=1e-9, rtol=1e-6)
    exact, rounded = read
    step = 1 << (exact.bit_length() - 5)
    assert step > 1
    assert exact % step
    assert rounded == exact + -exact % step


def test_a_single_token_in_a_tensor_of_odd_strides() -> None:
    x_MhD = torch.arange(3.0).view(1, 1, 3)[..., :2]
    (first, own) = Places.whole(torch.ones(1, 1, dtype=torch.bool)).heads_of(x_MhD, 1)
    assert first.tolist() == [[[0.0, 1.0]]]
    assert own.shape == (1, 0, 2)


@pytest.mark.parametrize(
    ("prompts", "width", "shared"), [(8, 896, False), (10, 4096, True), (600, 896, True)]
)
def test_a_gpu_reads_a_prompt_once_where_that_saves_much(prompts: int, width: int, shared: bool) -> None:
    """By what it would compute, as starting the kernels for it takes as long however few tokens there are."""
    rollouts = rollouts_of([[3] * 30], [[[1] * 64] * 2]).select(torch.zeros(prompts, dtype=torch.long))
    trunk = nn.Module()
    trunk.get_input_embeddings = lambda: nn.Embedding(1, width, device="meta")  # type: ignore[assignment]
    assert hidden.reads_once(rollouts.to("meta"), trunk) == shared
    assert hidden.reads_once(rollouts, trunk)


@pytest.mark.parametrize(("tokens", "length"), [(16, 16), (17, 32), (33, 33)])
def test_lengths_that_come_again(tokens: int, length: int) -> None:
    """But beyond what the model has positions for: 32."""
    ids_BS, mask_BS = torch.ones(2, tokens, dtype=torch.long), torch.ones(2, tokens, dtype=torch.bool)
    ids, mask = lengthened(ids_BS, mask_BS, gpt2(3))
    assert ids.shape == mask.shape == (2, length)
    assert torch.equal(ids[:, -tokens:], ids_BS)
    assert mask.sum(-1).tolist() == [tokens, tokens]
    assert bool(mask[:, -tokens:].all())
    assert all(x is y for x, y in zip(aligned(ids_BS, mask_BS, gpt2(3)), (ids_BS, mask_BS), strict=True))
