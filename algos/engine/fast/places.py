"""Where the tokens of a batch stand: in a model's layers one after another, in attention in texts of one length.

Layers multiply every token by itself, so that none of it need be padding: where responses end when they like, that is
soon half of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from algos.engine.fast.products import through_onednn
from algos.engine.rollouts import Rollouts

Halves = tuple[Tensor, Tensor]
"""What is the prompts' and what the responses'."""


@dataclass(frozen=True)
class Places:
    """L places of each of P prompts, one prompt after another, then N of each of their G responses; some of them hold
    the M tokens of the batch, in this order.

    Where texts are read whole, they are prompts that have no responses (G = 0).
    """

    P: int
    G: int
    L: int
    N: int
    taken_M: Tensor
    """The places that hold a token, ascending."""
    no_prompt_padded: bool
    """False on a GPU, too, where it is not asked: the answer would have to be waited for."""
    _rows: dict[tuple[int, ...], Halves] = field(default_factory=dict, repr=False, compare=False)
    """Made once for all of a model's layers, whose heads stand alike in memory."""

    @classmethod
    def in_groups(cls, rollouts: Rollouts) -> Places:
        """Prompts, and responses less their last tokens, whose successors nobody asks for."""
        P, G, N = rollouts.P, rollouts.G, rollouts.T - 1
        masks = rollouts.prompt_mask_PL.flatten(), rollouts.mask_PGT[..., 1:].flatten()
        return cls(P, G, rollouts.prompt_ids_PL.shape[1], N, *_taken(masks, rollouts))

    @classmethod
    def in_texts(cls, rollouts: Rollouts) -> Places:
        """The same, every response behind a prompt of its own."""
        L, mask_BS = rollouts.prompt_ids_PL.shape[1], rollouts.attention_mask_BS()
        return cls.whole(torch.cat([mask_BS[:, :L], mask_BS[:, L + 1 :]], dim=1), rollouts)

    @classmethod
    def whole(cls, mask_BS: Tensor, rollouts: Rollouts | None = None) -> Places:
        """Texts that are padded on either side, if at all; of these rollouts, if of any."""
        B, S = mask_BS.shape
        return cls(B, 0, S, 0, *_taken((mask_BS.flatten(), mask_BS.new_empty(0)), rollouts))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """P, G, L, N"""
        return self.P, self.G, self.L, self.N

    @property
    def prompts(self) -> int:
        """How many places are prompts'."""
        return self.P * self.L

    @property
    def is_full(self) -> bool:
        return len(self.taken_M) == self.prompts + self.P * self.G * self.N

    @cached_property
    def ahead(self) -> int:
        """How many of the tokens are prompts'."""
        return self.prompts if self.is_full else int((self.taken_M < self.prompts).sum())

    @cached_property
    def token_N(self) -> Tensor:
        """Of every place the token there; where there is none, the first of all."""
        if self.is_full:
            return self.taken_M
        token_N = self.taken_M.new_zeros(self.prompts + self.P * self.G * self.N)
        token_N[self.taken_M] = torch.arange(len(self.taken_M))
        return token_N

    def of_tokens(self, x_N: Tensor) -> Tensor:
        """Of what is at every place what is at those that hold a token, [M, …]."""
        return x_N if self.is_full else x_N.index_select(0, self.taken_M)

    def texts(self, x_M: Tensor) -> Halves:
        """Tokens as prompts [P, L, …] and responses [P·G, N, …]; padding is one of them, too."""
        x_N = x_M if self.is_full else x_M.index_select(0, self.token_N)
        # Unlike slices, parts of a split send back one gradient, not two halves full of zeros.
        ahead, behind = x_N.split([self.prompts, len(x_N) - self.prompts])
        return ahead.unflatten(0, (self.P, self.L)), behind.unflatten(0, (self.P * self.G, self.N))

    def heads_of(self, x_MhD: Tensor, A: int) -> Halves:
        """Tokens [M, heads, D] as prompts [P·A, K·L, D] and responses [P·A, G·K·N, D], in new tensors: A of the heads
        are of keys, and K to each of them. Padding is one of the tokens, too."""
        (_, heads, D), (token, head, one) = x_MhD.shape, x_MhD.stride()
        if one != 1 or token % D or head % D:
            return self.heads_of(x_MhD.clone(memory_format=torch.contiguous_format), A)
        # Rows of one head's width, wherever they stand in memory: heads may be parts of a wider tensor.
        rows = 1 + ((len(x_MhD) - 1) * token + (heads - 1) * head) // D
        table, B, K = x_MhD.as_strided((rows, D), (D, 1)), self.P * A, heads // A
        first, own = (table.index_select(0, i) for i in self._forth(heads, A, token // D, head // D))
        return first.view(B, K * self.L, D), own.view(B, self.G * K * self.N, D)

    def gradients_of(self, d_MhD: Tensor, A: int) -> Halves:
        """The same for the gradients of `tokens_of`: 0 at padding, which it leaves out."""
        halves = self.heads_of(d_MhD, A)
        if not self.is_full:
            for half, rows in zip(halves, self._padding(d_MhD.shape[1], A), strict=True):
                half.view(-1, half.shape[-1]).index_fill_(0, rows, 0)
        return halves

    def tokens_of(self, prompts: Tensor, responses: Tensor, heads: int) -> Tensor:
        """The other way round, [M, heads, D]; what is at padding is left out."""
        A, D = len(prompts) // self.P, prompts.shape[-1]
        found = prompts.new_empty(len(self.taken_M), heads, D)
        parts = found.view(-1, D).split([self.ahead * heads, (len(found) - self.ahead) * heads])
        for part, texts, rows in zip(parts, (prompts, responses), self._back(heads, A), strict=True):
            torch.index_select(texts.view(-1, D), 0, rows, out=part)
        return found

    def _forth(self, heads: int, A: int, token: int, head: int) -> Halves:
        """Of tokens and heads so many rows apart the rows of [P, A, K, L] and [P, A, G, K, N], flattened."""
        key = (heads, A, token, head)
        if key not in self._rows:
            head_AK = (torch.arange(heads, device=self.taken_M.device) * head).view(A, -1)
            first, own = (self.token_N * token).split([self.prompts, len(self.token_N) - self.prompts])
            first = first.view(self.P, 1, 1, self.L) + head_AK[..., None]
            own = own.view(self.P, 1, self.G, 1, self.N) + head_AK[:, None, :, None]
            self._rows[key] = first.flatten(), own.flatten()
        return self._rows[key]

    def _padding(self, heads: int, A: int) -> Halves:
        """The rows of [P, A, K, L] and of [P, A, G, K, N] that hold no token."""
        key = (heads, A, 0)
        if key not in self._rows:
            back = self._back(heads, A)
            counts = heads * self.prompts, heads * (len(self.token_N) - self.prompts)
            first, own = (
                torch.ones(n, dtype=torch.bool).index_fill_(0, rows, False).nonzero().squeeze(-1)
                for n, rows in zip(counts, back, strict=True)
            )
            self._rows[key] = first, own
        return self._rows[key]

    def _back(self, heads: int, A: int) -> Halves:
        """Of every token's heads the rows among [P, A, K, L] and [P, A, G, K, N]."""
        key = (heads, A)
        if key not in self._rows:
            K, L, G, N = heads // A, self.L, max(self.G, 1), max(self.N, 1)
            ahead, behind = self.taken_M.split([self.ahead, len(self.taken_M) - self.ahead])
            response, at = (behind - self.prompts) // N, (behind - self.prompts) % N
            head = torch.arange(heads, device=ahead.device)
            first = (ahead // L * heads * L + ahead % L)[:, None] + head * L
            own = (response // G * heads * G + response % G * K)[:, None] + head // K * G * K + head % K
            self._rows[key] = first.flatten(), (own * N + at[:, None]).flatten()
        return self._rows[key]


def _taken(masks: Halves, rollouts: Rollouts | None) -> tuple[Tensor, bool]:
    """Which places hold a token, and whether no prompt is padded; on a GPU all of them, as others would have to be waited
    for, and it is not known."""
    holds_N = torch.cat(masks)
    on_cpu = holds_N.device.type == "cpu"
    if not on_cpu or (rollouts is not None and not rollouts.is_padded):
        return torch.arange(len(holds_N), device=holds_N.device), on_cpu
    taken_M = holds_N.nonzero().squeeze(-1)
    if through_onednn():
        # With so much of the padding that numbers of tokens come again: oneDNN prepares a kernel for every new one.
        missing = -len(taken_M) % (1 << max(len(taken_M).bit_length() - 5, 0))
        taken_M = torch.cat([taken_M, (~holds_N).nonzero().squeeze(-1)[:missing]]).sort().values
    return taken_M, bool(masks[0].all())
