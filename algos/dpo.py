"""Direct preference optimization (Rafailov et al. 2023) and its family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from algos.engine.algorithm import Algorithm, Needs, Outputs, State, require
from algos.engine.rollouts import Rollouts
from algos.losses import SMOOTHED, DPOFormula, dpo_loss, sequence_logps

DPOLoss = Literal["sigmoid", "sigmoid_normalised", "robust", "hinge", "ipo", "ipo_average"]
_LOSSES: dict[DPOLoss, tuple[DPOFormula, bool]] = {
    "sigmoid": ("sigmoid", False),
    "sigmoid_normalised": ("sigmoid", True),
    "robust": ("robust", False),
    "hinge": ("hinge", False),
    "ipo": ("ipo", False),
    "ipo_average": ("ipo", True),
}
"""The formula of each, and whether it is of log-probabilities averaged over tokens rather than summed."""


@dataclass(frozen=True)
class DPO(Algorithm):
    """A classification loss on pairs: the implicit reward β·(log π − log π_ref) of the better response
    should exceed that of the worse one.

    A recorded pair is a group of two whose order is known. Given sampled, scored groups instead, the
    best response of each is compared with the worst; the target is then not π*, see docs/algorithms.md.
    """

    beta: float = 0.1
    """β of the loss: the larger, the closer to the reference."""
    loss_type: DPOLoss = "sigmoid"
    """`sigmoid` is DPO, `ipo` is IPO, `robust` expects flipped labels; those with `normalised` and `average` take means a token."""
    label_smoothing: float = 0.0
    """Assumed share of flipped labels (`sigmoid`: conservative DPO; `robust`: unbiased under it)."""
    reference_free: bool = False
    """Leave the reference's log-probabilities out of the loss."""
    epochs: int = 1
    """Passes over the recorded pairs; after them the run stops, whatever is left of the budget."""
    on_policy: bool = False
    """Learn from sampled, scored groups, best against worst, rather than from recorded pairs."""
    batch_size: int = 32
    """Recorded pairs per optimizer step."""

    name: ClassVar[str] = "dpo"
    pair_settings: ClassVar[tuple[str, ...]] = ("epochs", "batch_size")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta > 0, "beta", "above 0 for DPO: at 0 its loss is constant", self.beta)
        require(0 <= self.label_smoothing < 0.5, "label_smoothing", "in [0, 0.5)", self.label_smoothing)
        require(
            self.label_smoothing == 0 or _LOSSES[self.loss_type][0] in SMOOTHED,
            "label_smoothing",
            f"0 for loss_type {self.loss_type}, which has no smoothed form",
            self.label_smoothing,
        )
        require(self.epochs >= 1, "epochs", "at least 1", self.epochs)
        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)

    @property
    def needs(self) -> Needs:
        return Needs(
            source="prompts" if self.on_policy else "pairs",
            min_group_size=2,
            old_logps=False,
            pairs_per_step=self.batch_size,
            pair_epochs=self.epochs,
        )

    def prepare(self, rollouts: Rollouts, state: State) -> tuple[Rollouts, State]:
        """Best against worst of each group, as groups of two; groups without an order are left out."""
        (order_PG,) = rollouts.filled("scores_PG")
        best_PG, worst_PG = (
            order_PG.masked_fill(~rollouts.learnable_PG, far) for far in (-torch.inf, torch.inf)
        )
        pairs = rollouts.pick(torch.stack([best_PG.argmax(-1), worst_PG.argmin(-1)], dim=-1))
        return pairs.select(best_PG.amax(-1) > worst_PG.amin(-1)), state

    def loss(self, outputs: Outputs, prepared: Rollouts) -> tuple[Tensor, dict[str, Tensor]]:
        (ref_logps_PGT,) = prepared.filled("ref_logps_PGT")
        mask_PGT, totals = prepared.loss_mask_PGT, prepared.totals
        pairs = totals.sequences / 2
        formula, average = _LOSSES[self.loss_type]
        chosen_P, rejected_P = sequence_logps(outputs.logps_PGT, mask_PGT, average).unbind(-1)
        ref_P2 = sequence_logps(ref_logps_PGT, mask_PGT, average)
        anchor_P2 = torch.zeros_like(ref_P2) if self.reference_free else ref_P2
        losses_P = dpo_loss(
            chosen_P,
            rejected_P,
            anchor_P2[:, 0],
            anchor_P2[:, 1],
            self.beta,
            formula,
            self.label_smoothing,
        )
        with torch.no_grad():
            sums_P2 = sequence_logps(outputs.logps_PGT, mask_PGT)
            margin_P = self.beta * ((chosen_P - rejected_P) - (ref_P2[:, 0] - ref_P2[:, 1]))
            # A margin that rounding in fp32 could have made counts as a tie, as all pairs are before the first update
            # (but in bf16, whose rounding is larger).
            doubt_P = 8 * torch.finfo(margin_P.dtype).eps * self.beta * (chosen_P.abs() + rejected_P.abs())
            right_P = 0.5 * (1 + margin_P.sign() * (margin_P.abs() > doubt_P))
        return losses_P.sum() / pairs, {
            "margin": margin_P.sum() / pairs,
            "accuracy": right_P.sum() / pairs,
            "chosen_logps": sums_P2[:, 0].sum() / pairs,
            "rejected_logps": sums_P2[:, 1].sum() / pairs,
        }
