"""DPO's family of losses against TRL's, on fixed log-probabilities: values and gradients."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from parity_table import Row, Table
from parity_trl import dpo_trainer
from parity_worlds import DTYPES, blank, model, random
from torch import Tensor
from trl import DPOTrainer
from trl.experimental.cpo import CPOTrainer

from algos import DPO
from algos.engine.algorithm import Outputs
from algos.engine.rollouts import Rollouts
from algos.losses import dpo_loss, sequence_logps

pytestmark = [pytest.mark.parity, pytest.mark.parametrize("dtype", DTYPES)]

PART = "DPO's losses"
BETA, SMOOTHING = 0.3, 0.2
LENGTHS = [[1, 5], [4, 2], [3, 3], [6, 1]]
TO_TRL = {
    "sigmoid": "sigmoid",
    "sigmoid_normalised": "sigmoid_norm",
    "hinge": "hinge",
    "robust": "robust",
    "ipo_average": "ipo",
}


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> DPOTrainer:
    folder = tmp_path_factory.mktemp("dpo")
    built = dpo_trainer(model("gpt2"), folder, model("gpt2", seed=1), beta=BETA)
    built.precompute_ref_logps = True  # the reference's log-probabilities are given, as from its cache
    return built


def pairs(dtype: torch.dtype, count: int = len(LENGTHS)) -> tuple[Tensor, Rollouts]:
    """Log-probabilities of the policy as a leaf, and rollouts with the reference's."""
    rollouts = blank(LENGTHS[:count], 6)
    logps, ref = (random(*rollouts.mask_PGT.shape, seed=seed, dtype=dtype) for seed in (0, 1))
    return logps.requires_grad_(), replace(rollouts, ref_logps_PGT=ref)


def ours(algorithm: DPO, logps: Tensor, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
    loss, _ = algorithm.loss(Outputs(logps, torch.zeros_like(logps)), rollouts)
    return loss, torch.autograd.grad(loss, logps)[0]


def theirs(
    trainer: Any, logps: Tensor, rollouts: Rollouts, reference_free: bool = False
) -> tuple[Tensor, Tensor]:
    """TRL's loss, its model replaced by one that answers with these log-probabilities."""
    mask = rollouts.mask_PGT.transpose(0, 1).flatten(0, 1)  # chosen first, then rejected
    leaf = logps.detach().transpose(0, 1).flatten(0, 1).clone().requires_grad_()
    nothing = torch.zeros_like(leaf)
    out = SimpleNamespace(log_probs=leaf * mask, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())
    prompt = torch.zeros(len(mask), 1, dtype=torch.long)
    ref = sequence_logps(rollouts.ref_logps_PGT, rollouts.mask_PGT).unbind(-1)
    chosen, rejected = (torch.zeros_like(x) if reference_free else x for x in ref)
    inputs = {
        "input_ids": torch.cat([prompt, mask.long()], dim=1),
        "attention_mask": torch.cat([prompt + 1, mask.long()], dim=1),
        "completion_mask": torch.cat([prompt, mask.long()], dim=1),
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    loss = trainer._compute_loss(lambda **_: out, inputs, return_outputs=False)
    gradient = torch.autograd.grad(loss, leaf)[0]
    return loss, gradient.unflatten(0, (2, -1)).transpose(0, 1)


@pytest.mark.parametrize("loss_type", TO_TRL)
@pytest.mark.parametrize("reference_free", [False, True])
def test_losses_are_trls(
    table: Table, trainer: Any, dtype: torch.dtype, loss_type: Any, reference_free: bool
) -> None:
    smoothing = SMOOTHING if loss_type == "robust" else 0.0
    algorithm = DPO(beta=BETA, loss_type=loss_type, label_smoothing=smoothing, reference_free=reference_free)
    trainer.loss_types, trainer.label_smoothing = [TO_TRL[loss_type]], smoothing
    logps, rollouts = pairs(dtype)
    mine, peer = ours(algorithm, logps, rollouts), theirs(trainer, logps, rollouts, reference_free)
    name = f"`{loss_type}`{', reference-free' if reference_free else ''}"
    for one, other in zip(mine, peer, strict=True):
        table.agrees(Row(PART, name, DPO.loss, DPOTrainer._compute_loss), one, other)


@pytest.mark.parametrize(("loss_type", "smoothing"), [("sigmoid", SMOOTHING), ("hinge", 0.0), ("ipo", 0.0)])
def test_sums_and_smoothing_are_those_of_trls_cpo(
    table: Table, dtype: torch.dtype, loss_type: Any, smoothing: float
) -> None:
    """CPO's losses are DPO's of whole responses without a reference; given log-ratios, they are those with one."""
    logps, rollouts = pairs(dtype)
    policy, ref = (sequence_logps(x, rollouts.mask_PGT).detach() for x in (logps, rollouts.ref_logps_PGT))
    mine = dpo_loss(*policy.unbind(-1), *ref.unbind(-1), BETA, loss_type, smoothing)
    trainer: Any = SimpleNamespace(
        alpha=0.0, beta=BETA, label_smoothing=smoothing, loss_type=loss_type,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    peer = CPOTrainer.cpo_loss(trainer, *(policy - ref).unbind(-1))[0]
    name = {"sigmoid": "`sigmoid`, label smoothing", "ipo": "`ipo` (sums)"}.get(loss_type, f"`{loss_type}`")
    table.agrees(Row(PART, f"{name}: each pair's loss", dpo_loss, CPOTrainer.cpo_loss), mine, peer)


def test_label_smoothing_is_that_of_trls_aot_on_one_pair(
    table: Table, trainer: Any, dtype: torch.dtype
) -> None:
    """AOT sorts a batch; on a single pair nothing is sorted, and it is DPO's sigmoid with label smoothing."""
    trainer.loss_types, trainer.label_smoothing = ["aot"], SMOOTHING
    logps, rollouts = pairs(dtype, count=1)
    mine = ours(DPO(beta=BETA, label_smoothing=SMOOTHING), logps, rollouts)
    for one, other in zip(mine, theirs(trainer, logps, rollouts), strict=True):
        name = "`sigmoid`, label smoothing, one pair (TRL's `aot`)"
        table.agrees(Row(PART, name, DPO.loss, DPOTrainer._compute_loss), one, other)


def test_what_trl_calls_ipo_is_not_the_sum(table: Table, trainer: Any, dtype: torch.dtype) -> None:
    trainer.loss_types = ["ipo"]
    logps, rollouts = pairs(dtype)
    row = Row(
        PART, "`ipo` (sums) against TRL's `ipo`", DPO.loss, DPOTrainer._compute_loss,
        "TRL averages log-probabilities over tokens, ours has both: `ipo_average` is TRL's.",
    )  # fmt: skip
    mine = ours(DPO(beta=BETA, loss_type="ipo"), logps, rollouts)[0]
    table.differs(row, mine, theirs(trainer, logps, rollouts)[0], by_at_least=1e-2)


def test_trls_sigmoid_has_no_label_smoothing(table: Table, trainer: Any, dtype: torch.dtype) -> None:
    trainer.loss_types, trainer.label_smoothing = ["sigmoid"], SMOOTHING
    logps, rollouts = pairs(dtype)
    row = Row(
        PART, "`sigmoid`, label smoothing, against TRL's `sigmoid`", DPO.loss, DPOTrainer._compute_loss,
        "TRL's `sigmoid` ignores `label_smoothing`; its CPO and AOT, above, have ours.",
    )  # fmt: skip
    mine = ours(DPO(beta=BETA, label_smoothing=SMOOTHING), logps, rollouts)[0]
    table.differs(row, mine, theirs(trainer, logps, rollouts)[0], by_at_least=1e-3)
