"""The value function V(s_t): a linear head on the policy's trunk, or a network of its own."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from algos.engine.fast.direct import direct_trunk
from algos.engine.fast.hidden import response_hidden
from algos.engine.inputs import unwrapped
from algos.engine.rollouts import Rollouts


class Critic(nn.Module):
    """Predicts the return from the state in which token t is predicted. Zero-initialised: V = 0 at first.

    A trunk of its own learns by the same weights as the policy: with LoRA by adapters of its own, on frozen weights that
    both read.
    """

    def __init__(self, model: Any, kind: Literal["shared", "separate"]) -> None:
        super().__init__()
        inner = unwrapped(model)
        self.shared = kind == "shared"
        self.trunk = None if self.shared else _own_copy(inner)
        # The width that the language model's own head reads: some trunks end in a projection.
        width = inner.get_output_embeddings().weight.shape[-1]
        self.head = nn.Linear(width, 1, dtype=torch.float32, device=inner.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if next(inner.parameters()).dtype == torch.float64:
            self.double()

    def forward(self, rollouts: Rollouts, hidden_NH: Tensor | None) -> Tensor:
        """Values [P, G, T] in units of reward, 0 where there is no token; `hidden_NH` is what the policy's head reads to
        predict those that there are, if shared."""
        if self.trunk is not None:
            hidden_NH = response_hidden(self.trunk, rollouts, direct_trunk(self, self.trunk))
        assert hidden_NH is not None
        # Values are targets of a regression: fp32 whatever the autocast around.
        with torch.autocast(hidden_NH.device.type, enabled=False):
            return rollouts.placed(self.head(hidden_NH.to(self.head.weight.dtype)).squeeze(-1))

    @property
    def trunk_size(self) -> int:
        """Parameters of the critic's own trunk, adapters not; the head's are too few to count."""
        if self.trunk is None:
            return 0
        return sum(p.numel() for name, p in self.trunk.named_parameters() if "lora_" not in name)


def _own_copy(model: PreTrainedModel) -> nn.Module:
    """The policy's trunk, of which what is trained is copied; what is frozen never changes, and is shared."""
    frozen = {id(p): p for p in model.base_model.parameters() if not p.requires_grad}
    return copy.deepcopy(model.base_model, frozen).eval()
