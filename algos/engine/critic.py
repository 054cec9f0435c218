"""The value function V(s_t): a linear head on the policy's trunk, or a network of its own."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from algos.engine.forward import accepts, positions
from algos.engine.rollouts import Rollouts


class Critic(nn.Module):
    """Predicts the return from the state in which token t is predicted. Zero-initialised: V = 0 at first."""

    def __init__(self, model: Any, kind: Literal["shared", "separate"]) -> None:
        super().__init__()
        inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.shared = kind == "shared"
        self.trunk = None if self.shared else _own_copy(inner)
        self.head = nn.Linear(inner.config.get_text_config().hidden_size, 1, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.to(next(inner.parameters()).device)
        if next(inner.parameters()).dtype == torch.float64:
            self.double()

    def forward(self, rollouts: Rollouts, hidden_PGTH: Tensor | None) -> Tensor:
        """Values [P, G, T] in units of reward; `hidden_PGTH` is the policy's last hidden state if shared."""
        if self.trunk is not None:
            attention_BS = rollouts.attention_mask_BS()
            inputs = {"input_ids": rollouts.input_ids_BS(), "attention_mask": attention_BS.long()}
            if accepts(self.trunk, "position_ids"):
                inputs["position_ids"] = positions(attention_BS)
            hidden_BSH = self.trunk(**inputs, use_cache=False).last_hidden_state
            hidden_PGTH = rollouts.per_group(hidden_BSH[:, -rollouts.T - 1 : -1])
        assert hidden_PGTH is not None
        # Values are targets of a regression: fp32 whatever the autocast around.
        with torch.autocast(hidden_PGTH.device.type, enabled=False):
            return self.head(hidden_PGTH.to(self.head.weight.dtype)).squeeze(-1)

    @property
    def trunk_size(self) -> int:
        """Parameters of the critic's own trunk; the head's are too few to count."""
        return 0 if self.trunk is None else sum(p.numel() for p in self.trunk.parameters())


def _own_copy(model: PreTrainedModel) -> nn.Module:
    trunk: nn.Module = copy.deepcopy(model.base_model)
    return trunk.requires_grad_(True).eval()
