"""Where the tokens of a batch stand: in a model's layers one after another, in attention in texts of one length.

Outside attention a layer treats every token by itself, so it needs no padding, of which half a batch may consist where
responses end early.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from algos.engine.fast.products import through_onednn
from algos.engine.rollouts import Rollouts

Halves = tuple[Tensor, Tensor]
"""The prompts' part and the responses'."""


@dataclass(frozen=True)
class Places:
    """The F = P·(L + G·R) places of a batch: L for each prompt, one prompt after another, then R for each response. M
    of them hold its tokens, in the same order; the others are padding.

    Texts that are read whole are prompts without responses (G = 0).
    """

    P: int
    G: int
    L: int
    R: int
    taken_M: Tensor
    """The indices of the places that hold a token, ascending."""
    no_prompt_padded: bool
    """Always False on a GPU, where to know it would mean to wait for the GPU."""
    _rows: dict[tuple[int, ...], Halves] = field(default_factory=dict, repr=False, compare=False)
    """Row indices, computed once for all of a model's layers, whose heads lie alike in memory."""

    @classmethod
    def in_groups(cls, rollouts: Rollouts) -> Places:
        """Prompts, and responses without their last tokens, from which nothing is predicted: R = T − 1."""
        P, G, R = rollouts.P, rollouts.G, rollouts.T - 1
        masks = rollouts.prompt_mask_PL.flatten(), rollouts.mask_PGT[..., 1:].flatten()
        return cls(P, G, rollouts.prompt_ids_PL.shape[1], R, *_taken(masks, rollouts))

    @classmethod
    def in_texts(cls, rollouts: Rollouts) -> Places:
        """The same, each response behind a copy of its prompt."""
        L, mask_BS = rollouts.prompt_ids_PL.shape[1], rollouts.attention_mask_BS()
        return cls.whole(torch.cat([mask_BS[:, :L], mask_BS[:, L + 1 :]], dim=1), rollouts)

    @classmethod
    def whole(cls, mask_BS: Tensor, rollouts: Rollouts | None = None) -> Places:
        """Texts [B, S] that may be padded on either side; `rollouts` are those that they come from, if any."""
        B, S = mask_BS.shape
        return cls(B, 0, S, 0, *_taken((mask_BS.flatten(), mask_BS.new_empty(0)), rollouts))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """P, G, L, R"""
        return self.P, self.G, self.L, self.R

    @property
    def prompts(self) -> int:
        """How many places belong to prompts."""
        return self.P * self.L

    @property
    def is_full(self) -> bool:
        """Whether every place holds a token."""
        return len(self.taken_M) == self.prompts + self.P * self.G * self.R

    @cached_property
    def ahead(self) -> int:
        """How many tokens belong to prompts."""
        return self.prompts if self.is_full else int((self.taken_M < self.prompts).sum())

    @cached_property
    def token_F(self) -> Tensor:
        """The index of each place's token among the M; 0, the first token's, where there is none."""
        if self.is_full:
            return self.taken_M
        token_F = self.taken_M.new_zeros(self.prompts + self.P * self.G * self.R)
        token_F[self.taken_M] = torch.arange(len(self.taken_M))
        return token_F

    def of_tokens(self, x_F: Tensor) -> Tensor:
        """The places that hold a token: [F, …] → [M, …]."""
        return x_F if self.is_full else x_F.index_select(0, self.taken_M)

    def texts(self, x_M: Tensor) -> Halves:
        """Tokens [M, …] → prompts [P, L, …] and responses [P·G, R, …]. The first token stands in for padding."""
        x_F = x_M if self.is_full else x_M.index_select(0, self.token_F)
        # A split's backward pass builds one gradient; those of two slices would be padded with zeros and added.
        ahead, behind = x_F.split([self.prompts, len(x_F) - self.prompts])
        return ahead.unflatten(0, (self.P, self.L)), behind.unflatten(0, (self.P * self.G, self.R))

    def heads_of(self, x_MhD: Tensor, A: int) -> Halves:
        """Tokens [M, A·K, D] → prompts [P·A, K·L, D] and responses [P·A, G·K·R, D], in new tensors, for A key-value
        heads; K is 1 for keys and values themselves. The first token stands in for padding."""
        (_, heads, D), (token, head, one) = x_MhD.shape, x_MhD.stride()
        if one != 1 or token % D or head % D:
            return self.heads_of(x_MhD.clone(memory_format=torch.contiguous_format), A)
        # Rows of D numbers, from wherever they lie in memory: the heads may be a view of a wider tensor.
        rows = 1 + ((len(x_MhD) - 1) * token + (heads - 1) * head) // D
        table, B, K = x_MhD.as_strided((rows, D), (D, 1)), self.P * A, heads // A
        first, own = (table.index_select(0, i) for i in self._forth(heads, A, token // D, head // D))
        return first.view(B, K * self.L, D), own.view(B, self.G * K * self.R, D)

    def gradients_of(self, d_MhD: Tensor, A: int) -> Halves:
        """`heads_of` for gradients of what `tokens_of` returned: 0 at padding, which that leaves out."""
        halves = self.heads_of(d_MhD, A)
        if not self.is_full:
            for half, rows in zip(halves, self._padding(d_MhD.shape[1], A), strict=True):
                half.view(-1, half.shape[-1]).index_fill_(0, rows, 0)
        return halves

    def tokens_of(self, prompts: Tensor, responses: Tensor, heads: int) -> Tensor:
        """The inverse of `heads_of`, → [M, heads, D]; padding is left out."""
        A, D = len(prompts) // self.P, prompts.shape[-1]
        found = prompts.new_empty(len(self.taken_M), heads, D)
        parts = found.view(-1, D).split([self.ahead * heads, (len(found) - self.ahead) * heads])
        for part, texts, rows in zip(parts, (prompts, responses), self._back(heads, A), strict=True):
            torch.index_select(texts.view(-1, D), 0, rows, out=part)
        return found

    def _forth(self, heads: int, A: int, token: int, head: int) -> Halves:
        """For `heads_of`: which row to take for each of [P, A, K, L] and of [P, A, G, K, R], flattened; `token` and
        `head` are how many rows apart tokens and heads lie."""
        key = (heads, A, token, head)
        if key not in self._rows:
            head_AK = (torch.arange(heads, device=self.taken_M.device) * head).view(A, -1)
            first, own = (self.token_F * token).split([self.prompts, len(self.token_F) - self.prompts])
            first = first.view(self.P, 1, 1, self.L) + head_AK[..., None]
            own = own.view(self.P, 1, self.G, 1, self.R) + head_AK[:, None, :, None]
            self._rows[key] = first.flatten(), own.flatten()
        return self._rows[key]

    def _padding(self, heads: int, A: int) -> Halves:
        """The rows of [P, A, K, L] and of [P, A, G, K, R], flattened, that are padding."""
        key = (heads, A, 0)
        if key not in self._rows:
            back = self._back(heads, A)
            counts = heads * self.prompts, heads * (len(self.token_F) - self.prompts)
            first, own = (
                torch.ones(n, dtype=torch.bool).index_fill_(0, rows, False).nonzero().squeeze(-1)
                for n, rows in zip(counts, back, strict=True)
            )
            self._rows[key] = first, own
        return self._rows[key]

    def _back(self, heads: int, A: int) -> Halves:
        """For `tokens_of`: where each token's heads are among the rows of [P, A, K, L] and of [P, A, G, K, R]."""
        key = (heads, A)
        if key not in self._rows:
            K, L, G, R = heads // A, self.L, max(self.G, 1), max(self.R, 1)
            ahead, behind = self.taken_M.split([self.ahead, len(self.taken_M) - self.ahead])
            response, at = (behind - self.prompts) // R, (behind - self.prompts) % R
            head = torch.arange(heads, device=ahead.device)
            first = (ahead // L * heads * L + ahead % L)[:, None] + head * L
            own = (response // G * heads * G + response % G * K)[:, None] + head // K * G * K + head % K
            self._rows[key] = first.flatten(), (own * R + at[:, None]).flatten()
        return self._rows[key]


def _taken(masks: Halves, rollouts: Rollouts | None) -> tuple[Tensor, bool]:
    """The indices of the places that count as tokens [M], and whether no prompt is padded. On a GPU all places, and
    False: to count tokens would mean to wait for the GPU."""
    holds_F = torch.cat(masks)
    on_cpu = holds_F.device.type == "cpu"
    if not on_cpu or (rollouts is not None and not rollouts.is_padded):
        return torch.arange(len(holds_F), device=holds_F.device), on_cpu
    taken_M = holds_F.nonzero().squeeze(-1)
    if through_onednn():
        # oneDNN prepares a kernel for every new number of tokens. So some padding, less than a sixteenth of the tokens,
        # is kept to round that number up.
        missing = -len(taken_M) % (1 << max(len(taken_M).bit_length() - 5, 0))
        taken_M = torch.cat([taken_M, (~holds_F).nonzero().squeeze(-1)[:missing]]).sort().values
    return taken_M, bool(masks[0].all())
