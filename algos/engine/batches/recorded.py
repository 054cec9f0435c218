"""Batches of recorded preference pairs: a pair is a group of two whose order is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from algos.engine.batches.pairs import EncodedPair
from algos.engine.budget import Meter
from algos.engine.models.policy import Policy
from algos.engine.rollouts import Rollouts, join_right, pad_left, pad_right
from algos.engine.scoring import score_reference
from algos.engine.seeding import digest, generator
from algos.engine.storage import read_tensors, write_tensors
from algos.engine.versions import installed


def recorded(
    policy: Policy, prompts: Sequence[list[int]], responses: Sequence[Sequence[list[int]]]
) -> Rollouts:
    """Given texts as Rollouts without scores: P prompts with G responses each, as token ids."""
    prompt_ids_PL, prompt_mask_PL = pad_left(list(prompts), policy.pad_id)
    ids_BT, mask_BT = pad_right([ids for group in responses for ids in group], policy.pad_id)
    shape, eos = (len(prompts), len(responses[0])), set(policy.eos_ids)
    return Rollouts(
        prompt_ids_PL=prompt_ids_PL,
        prompt_mask_PL=prompt_mask_PL,
        response_ids_PGT=ids_BT.unflatten(0, shape),
        mask_PGT=mask_BT.unflatten(0, shape),
        ended_PG=torch.tensor([[ids[-1] in eos for ids in group] for group in responses]),
    ).to(policy.device)


def collate(policy: Policy, pairs: Sequence[EncodedPair]) -> Rollouts:
    """Pairs as groups of two whose order is known: response 0 is the chosen one."""
    rollouts = recorded(
        policy, [pair.prompt for pair in pairs], [(pair.chosen, pair.rejected) for pair in pairs]
    )
    order_PG = torch.tensor([[1.0, 0.0]], device=policy.device).expand(len(pairs), 2)
    return replace(rollouts, scores_PG=order_PG)


class PairSource:
    """Batches of recorded pairs with the reference's log-probabilities, for a declared number of epochs."""

    def __init__(
        self,
        policy: Policy,
        pairs: Sequence[EncodedPair],
        batch_size: int,
        epochs: int,
        seed: int,
        ref_logps: Sequence[Tensor],
    ) -> None:
        self.policy, self.pairs, self.ref_logps = policy, pairs, ref_logps
        self.batch_size, self.epochs, self.seed = batch_size, epochs, seed
        self.per_epoch = math.ceil(len(pairs) / batch_size)

    def progress(self, iteration: int) -> float:
        """The fraction of the declared epochs done."""
        return iteration / (self.per_epoch * self.epochs)

    def fingerprint(self) -> str:
        """A hash of the pairs' token ids, in order."""
        return digest([(pair.prompt, pair.chosen, pair.rejected) for pair in self.pairs])

    def next(self, iteration: int, meter: Meter) -> Rollouts:
        epoch, batch = divmod(iteration, self.per_epoch)
        order = torch.randperm(len(self.pairs), generator=generator(self.seed, "order", epoch)).tolist()
        chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        rollouts = collate(self.policy, [self.pairs[i] for i in chosen])
        ref_logps_PGT = join_right([self.ref_logps[i][None] for i in chosen], width=rollouts.T)
        meter.completions += 2 * len(chosen)
        if epoch == 0:  # the reference reads each pair once, whatever the number of epochs
            meter.charge(self.policy.size, rollouts.token_count)
        return replace(rollouts, ref_logps_PGT=ref_logps_PGT.to(self.policy.device))


def reference_key(
    policy: Policy, pairs: Sequence[EncodedPair], temperature: float, weights: str | None = None
) -> str:
    """Names all that the reference's log-probabilities depend on: weights, configuration, token ids, temperature,
    and, in their last digits, what computes them. `weights`: the reference's digest, where it is known already."""
    versions = [installed(package) for package in ("torch", "transformers", "rlhf-compare")]
    tokens = [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]
    model = [weights or policy.reference_digest(), policy.config_digest()]
    computed_by = [str(policy.dtype), policy.device.type, torch.get_num_threads(), *versions]
    return digest([*model, temperature, *computed_by, *tokens])


def reference_logps(
    policy: Policy,
    pairs: Sequence[EncodedPair],
    temperature: float,
    cache: Path | None = None,
    weights: str | None = None,
) -> list[Tensor]:
    """The reference's log-probabilities of every pair, [2, T_i] each; read from and written to `cache`,
    a folder shared by all arms and seeds, where one is given. `weights` as for `reference_key`."""
    lengths = [max(len(pair.chosen), len(pair.rejected)) for pair in pairs]
    file = None
    if cache is not None:
        key = reference_key(policy, pairs, temperature, weights)
        file = cache / f"reference-logps-{key}.safetensors"
    if file is not None and file.is_file():
        flat = read_tensors(file)["logps"]
        return [part.unflatten(0, (2, -1)) for part in flat.split([2 * length for length in lengths])]
    # Pairs of similar length go through the model together: less padding to compute.
    order = sorted(range(len(pairs)), key=lambda i: lengths[i] + len(pairs[i].prompt))
    found: dict[int, Tensor] = {}
    for start in range(0, len(order), 64):
        chunk = order[start : start + 64]
        logps_PGT = score_reference(policy, collate(policy, [pairs[i] for i in chunk]), temperature).cpu()
        found.update({i: logps_PGT[row, :, : lengths[i]] for row, i in enumerate(chunk)})
    logps = [found[i].contiguous() for i in range(len(pairs))]
    if file is not None:
        write_tensors(file, {"logps": torch.cat([part.flatten() for part in logps])})
    return logps
