"""What must hold while a run trains, checked before an update; what does not is named with step and sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from algos.engine.algorithm import Outputs
from algos.engine.errors import RunError
from algos.engine.models.policy import Policy
from algos.engine.rollouts import Rollouts

_REMEDY = "Lower --learning-rate, raise --beta, or try --dtype fp32."
_PREPARED = (
    f"{_REMEDY} In an algorithm of your own: scores that the reward left out are NaN, and prepare() must leave them out, "
    "too (Rollouts.learnable_PG)."
)
_TOKENS = ("sampler_logps_PGT", "logps_PGT", "ref_logps_PGT", "values_PGT", "advantages_PGT", "returns_PGT")
_WORDS = {
    "sampler_logps_PGT": "the sampler's log-probability",
    "logps_PGT": "the policy's log-probability",
    "ref_logps_PGT": "the reference's log-probability",
    "values_PGT": "the value",
    "advantages_PGT": "the advantage",
    "returns_PGT": "the return",
}


def check_responses(policy: Policy, rollouts: Rollouts, iteration: int) -> None:
    """Raises RunError for a response without a token."""
    empty_PG = ~rollouts.mask_PGT.any(-1)
    if bool(empty_PG.any()):
        raise RunError(
            f"a response without a token in iteration {iteration + 1}: {_sample(policy, rollouts, empty_PG)}. "
            "Every response needs at least one."
        )


def check_batch(policy: Policy, rollouts: Rollouts, iteration: int) -> None:
    """Raises RunError where what an update would be made of is not finite."""
    mask_PGT = rollouts.loss_mask_PGT
    for name in _TOKENS:
        x_PGT = getattr(rollouts, name)
        if x_PGT is None:
            continue
        wrong_PG = (mask_PGT & ~torch.isfinite(x_PGT)).any(-1)
        if bool(wrong_PG.any()):
            remedy = _PREPARED if name in ("advantages_PGT", "returns_PGT") else _REMEDY
            raise RunError(
                f"{_WORDS[name]} is not finite in iteration {iteration + 1}: {_sample(policy, rollouts, wrong_PG)}. {remedy}"
            )


def tolerance(rollouts: Rollouts, dtype: torch.dtype, *, alike: bool = False) -> Tensor:
    """How far two log-probabilities of a whole response under the same weights may differ, [P, G] in nats.

    Scored `alike`, in the same parts of the same batch, they are equal but for kernels that add in no fixed order.
    Otherwise other lengths of padding change the order of sums: 1e-4·√T in fp32 (padding alone moved a real model's
    log-probabilities by 1.5e-5). In bf16 (three significant digits) such a difference becomes one of a whole digit
    here and there: 0.02·√T in the root mean square over a real model's responses, 0.11·√T in the worst of a thousand.
    """
    each = 1e-4 if dtype != torch.bfloat16 else 5e-2 if alike else 2e-1
    return each * rollouts.lengths_PG.clamp(min=1).sqrt()


def check_start(policy: Policy, rollouts: Rollouts, logps_PGT: Tensor, *, alike: bool = False) -> None:
    """Raises RunError where policy and reference, scored `alike` or not, differ before the first update (KL ≠ 0)."""
    assert rollouts.ref_logps_PGT is not None
    gap_PG = torch.where(rollouts.mask_PGT, logps_PGT - rollouts.ref_logps_PGT, 0.0).sum(-1).abs()
    allowed_PG = tolerance(rollouts, policy.dtype, alike=alike)
    _within(gap_PG, allowed_PG, "policy and reference differ before the first update")


def check_ratio(policy: Policy, rollouts: Rollouts, logps_PGT: Tensor) -> None:
    """Raises RunError where the first step's ratio to the sampling policy is not 1."""
    if rollouts.logps_PGT is None:
        return
    gap_PG = torch.where(rollouts.mask_PGT, logps_PGT.detach() - rollouts.logps_PGT, 0.0).sum(-1).abs()
    _within(
        gap_PG,
        tolerance(rollouts, policy.dtype),
        "the ratio to the sampling policy is not 1 at the first update",
    )


def _within(gap_PG: Tensor, bound_PG: Tensor, what: str) -> None:
    if not bool((gap_PG <= bound_PG).all()):
        worst = int((gap_PG - bound_PG).argmax())
        raise RunError(
            f"{what}: |Σ log-ratio| = {gap_PG.flatten()[worst]:.2e} nats in response {worst}, allowed "
            f"{bound_PG.flatten()[worst]:.2e}. Either this policy was trained before (save it and load it "
            "again to make it the reference), or the model's forward is not deterministic (dropout, or an "
            "attention that depends on padding)."
        )


def check_loss(
    policy: Policy, part: Rollouts, outputs: Outputs, loss: Tensor, update: int, iteration: int
) -> None:
    """Raises RunError, before the update, where the loss or a log-probability it was made of is not finite.

    The log-probabilities too: ratios are clamped, so an infinite one would leave no trace in the loss.
    """
    wrong_PG = (part.loss_mask_PGT & ~torch.isfinite(outputs.logps_PGT)).any(-1)
    if bool(torch.isfinite(loss) & ~wrong_PG.any()):
        return
    place = f"at update {update + 1} (iteration {iteration + 1})"
    if bool(wrong_PG.any()):
        raise RunError(
            f"a log-probability is not finite {place}: {_sample(policy, part, wrong_PG)}. The loss is {loss.item()}. {_REMEDY}"
        )
    raise RunError(f"the loss is {loss.item()} {place}. {_REMEDY}")


def check_gradient(policy: Policy, norm: float, update: int, iteration: int) -> None:
    """Raises RunError, before the update, where the gradient's norm is not finite."""
    if math.isfinite(norm):
        return
    wrong = [
        name
        for name, p in policy.trainable().items()
        if p.grad is not None and not bool(torch.isfinite(p.grad).all())
    ]
    where = f" (first in {wrong[0]})" if wrong else ""
    raise RunError(
        f"the gradient's norm is {norm}{where} at update {update + 1} (iteration {iteration + 1}). {_REMEDY}"
    )


def check_reference(policy: Policy, before: str) -> None:
    """Raises RunError where the reference is not what it was when training began."""
    if policy.reference_digest() != before:
        raise RunError(
            "the reference changed during training, so every KL was measured to something else. "
            "Nothing may write to the policy's reference, nor, with adapters, to the weights below them."
        )


def _sample(policy: Policy, rollouts: Rollouts, wrong_PG: Tensor) -> str:
    """The first of the marked responses, as people would look for it."""
    p, g = (int(x) for x in wrong_PG.nonzero()[0])
    prompt = rollouts.prompt_ids_PL[p][rollouts.prompt_mask_PL[p]].tolist()
    response = rollouts.response_ids_PGT[p, g][rollouts.mask_PGT[p, g]].tolist()
    asked, answered = (str(policy.tokenizer.decode(ids))[:60] for ids in (prompt, response))
    return f"response {g} to the prompt {asked!r}, {answered!r}"
