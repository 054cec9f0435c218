"""RMS norms (Zhang and Sennrich 2019) as one operation of torch's instead of transformers' six, with the same numbers:
a single kernel on a GPU, in the backward pass too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm


def fuse_norms(model: nn.Module) -> None:
    """From now on the model's RMS norms, where their class is known, are one operation."""
    for module in model.modules():
        module.__class__ = _FUSED.get(type(module), type(module))


def reads_fp32(norm: Any, x: Tensor) -> bool:
    """Whether weight and input [..., H] are both fp32. For all others transformers takes the mean in fp32: for products
    under autocast, and for float64."""
    return bool(x.dtype == norm.weight.dtype == torch.float32)


def _fused(kind: Any) -> type[nn.Module]:
    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        if reads_fp32(self, hidden_states):
            return torch.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)
        given: Tensor = kind.forward(self, hidden_states)
        return given

    return type(
        f"Fused{kind.__name__}",
        (kind,),
        {"forward": forward, "__doc__": "transformers', fused.", "__module__": __name__},
    )


_FUSED: dict[type[nn.Module], type[nn.Module]] = {
    kind: _fused(kind) for kind in (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm)
}
globals().update({kind.__name__: kind for kind in _FUSED.values()})  # where pickle looks for them
RMS_NORMS = tuple(_FUSED.values())
"""They have a `weight` [H] and a `variance_epsilon`."""
