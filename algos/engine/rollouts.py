"""`Rollouts`, the one batch type every algorithm sees, and the shape legend of the whole package.

Shapes in names: P prompts, G responses a prompt, T response tokens, L prompt tokens, V vocabulary,
B = P·G rows as the model sees them. `logps_PGT` has shape [P, G, T]. Prompts are padded on the left,
responses on the right, so a row reads `pad … pad prompt | response pad … pad` and response token t is
predicted at column L − 1 + t.

In the engine also: S tokens of a text, H hidden width, N response tokens without padding (`places_N`) or items of
another list, K responses picked of a group. In the layers (fast/places.py): F places of a batch's tokens, M tokens that
go through a layer, R response tokens that are read, T − 1 of them; A key-value heads, K query heads to each, h heads of
either kind, D head width. Of the vocabulary: W chunks, C tokens of a chunk. fast/products.py has BLAS's M, N and K.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from algos.losses import Totals

_ASKED_FOR = {
    "logps_PGT": "old_logps=True",
    "values_PGT": "values='shared'",
    "greedy_scores_P": "greedy=True",
}
"""What of `Needs` has the engine fill in a field."""


@dataclass(frozen=True)
class Rollouts:
    """Prompts with G responses each; fields beyond the tokens are filled in as the iteration proceeds.

    Tensors of an algorithm's own are fields of a frozen subclass, of which `prepare` returns one. The suffix of their
    name says their axes, by which they go along where the batch is cut: every one begins with P.
    """

    prompt_ids_PL: Tensor
    prompt_mask_PL: Tensor
    response_ids_PGT: Tensor
    mask_PGT: Tensor
    """True on response tokens up to and including the first EOS. Never inferred from the pad id."""
    ended_PG: Tensor
    """True where the response ended by EOS; a truncated one is terminal all the same."""
    scores_PG: Tensor | None = None
    """The reward of each response, before any KL; for recorded pairs the order: 1 preferred, 0 not. NaN where
    the reward left a response unscored."""
    learnable_PG: Tensor = None  # type: ignore[assignment]
    """True on responses that can be learned from: scored, as are enough others of their group; all where it is not given.
    The others carry no loss."""
    fixed_PGT: Tensor | None = None
    """True on tokens that were not sampled from the policy (a greedy prefix): they carry no loss."""
    greedy_scores_P: Tensor | None = None
    sampler_logps_PGT: Tensor | None = None
    logps_PGT: Tensor | None = None
    """Log-probabilities under the policy that produced the batch, from the training forward."""
    ref_logps_PGT: Tensor | None = None
    values_PGT: Tensor | None = None
    """What the critic predicted before the update, where each token is predicted; in units of reward."""
    advantages_PGT: Tensor | None = None
    """What each token's log-probability is weighted by in the loss: PPO's are whitened by default, REINFORCE's in units of
    reward."""
    returns_PGT: Tensor | None = None
    """What a value function is fitted to, in units of reward: PPO's advantages before whitening + values, REINFORCE's credit."""
    max_tokens: int | None = None
    """The longest response there could have been; by default the width T."""
    step_totals: Totals | None = None

    def __post_init__(self) -> None:
        P, G, T = self.response_ids_PGT.shape
        if self.mask_PGT.shape != (P, G, T) or self.ended_PG.shape != (P, G):
            raise ValueError(
                f"mask_PGT must be {(P, G, T)} and ended_PG {(P, G)}; got {tuple(self.mask_PGT.shape)} and {tuple(self.ended_PG.shape)}."
            )
        if self.prompt_ids_PL.shape != self.prompt_mask_PL.shape or self.prompt_ids_PL.shape[0] != P:
            raise ValueError(
                f"prompt_ids_PL and prompt_mask_PL must both be [{P}, L]; got {tuple(self.prompt_ids_PL.shape)} and {tuple(self.prompt_mask_PL.shape)}."
            )
        if self.learnable_PG is None:
            object.__setattr__(self, "learnable_PG", torch.ones_like(self.ended_PG, dtype=torch.bool))

    @property
    def P(self) -> int:
        return self.response_ids_PGT.shape[0]

    @property
    def G(self) -> int:
        return self.response_ids_PGT.shape[1]

    @property
    def T(self) -> int:
        return self.response_ids_PGT.shape[2]

    @property
    def sampled_PGT(self) -> Tensor:
        """Tokens that were sampled from the policy: the response without a greedy prefix."""
        return self.mask_PGT if self.fixed_PGT is None else self.mask_PGT & ~self.fixed_PGT

    @property
    def learnable_PGT(self) -> Tensor:
        """Tokens of the responses that can be learned from."""
        return self.mask_PGT & self.learnable_PG[..., None]

    @property
    def loss_mask_PGT(self) -> Tensor:
        """Tokens that carry loss and return."""
        return self.sampled_PGT & self.learnable_PG[..., None]

    @property
    def lengths_PG(self) -> Tensor:
        return self.mask_PGT.sum(-1)

    @property
    def totals(self) -> Totals:
        if self.step_totals is not None:
            return self.step_totals
        # Both at once: each number that is read would be waited for on a GPU.
        sequences, tokens = torch.stack([self.learnable_PG.sum(), self.loss_mask_PGT.sum()]).tolist()
        return Totals(max(sequences, 1), tokens, self.max_tokens or self.T)

    @property
    def token_count(self) -> int:
        """Attended tokens over all B rows, prompts counted once a response: what a forward pass costs."""
        prompts, responses = torch.stack([self.prompt_mask_PL.sum(), self.mask_PGT.sum()]).tolist()
        return int(prompts * self.G + responses)

    def filled(self, *names: str) -> tuple[Tensor, ...]:
        """The named fields, which the step before must have filled in. Raises ValueError naming those that are not."""
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            asked = ", ".join(_ASKED_FOR[name] for name in missing if name in _ASKED_FOR)
            remedy = f"an algorithm asks for it by Needs({asked})" if asked else "prepare() must"
            raise ValueError(
                f"these rollouts have no {', '.join(missing)}. Fill it in first: {remedy}; by hand, see engine/scoring.py."
            )
        return tuple(getattr(self, name) for name in names)

    def input_ids_BS(self) -> Tensor:
        """[B, L+T] token ids, prompt then response."""
        prompts = self.prompt_ids_PL[:, None, :].expand(-1, self.G, -1)
        return torch.cat([prompts, self.response_ids_PGT], dim=-1).flatten(0, 1)

    def attention_mask_BS(self) -> Tensor:
        """[B, L+T] True on real tokens."""
        prompts = self.prompt_mask_PL[:, None, :].expand(-1, self.G, -1)
        return torch.cat([prompts, self.mask_PGT], dim=-1).flatten(0, 1)

    @property
    def is_padded(self) -> bool:
        """Whether some place holds no token."""
        return not bool(self.prompt_mask_PL.all() & self.mask_PGT.all())

    @cached_property
    def places_N(self) -> Tensor:
        """[N] where the response tokens stand in a flattened [P, G, T]."""
        return self.mask_PGT.flatten().nonzero().squeeze(-1)

    def placed(self, x_N: Tensor) -> Tensor:
        """What belongs to the response tokens, [N] → [P, G, T], and 0 where there is none."""
        shape = self.mask_PGT.shape
        if len(x_N) == shape.numel():
            return x_N.view(shape)
        return x_N.new_zeros(shape.numel()).index_copy(0, self.places_N, x_N).view(shape)

    def per_group(self, x_B: Tensor) -> Tensor:
        """[B, ...] → [P, G, ...]."""
        return x_B.unflatten(0, (self.P, self.G))

    def select(self, rows_P: Tensor) -> Rollouts:
        """The groups with these indices (or a boolean mask over P), everything else kept."""
        if rows_P.dtype == torch.bool:
            # Once, not for each tensor: how many they are is waited for on a GPU.
            rows_P = rows_P.nonzero().squeeze(-1)
        return self._map(lambda x: x[rows_P])

    def pick(self, index_PK: Tensor) -> Rollouts:
        """K responses of each group, by their index: [P, G, ...] → [P, K, ...]."""
        rows = torch.arange(self.P, device=index_PK.device)[:, None]
        per_prompt = {name for name in self._tensors() if "G" not in name.rpartition("_")[2]}
        return self._map(lambda x: x[rows, index_PK], skip=per_prompt)

    def to(self, device: torch.device | str) -> Rollouts:
        return self._map(lambda x: x.to(device))

    def trimmed(self) -> Rollouts:
        """Without the columns that are padding in every row: no work is done on them."""
        T, L = torch.stack([self.lengths_PG.max().clamp(min=1), self.prompt_mask_PL.sum(-1).max()]).tolist()
        changes: dict[str, Tensor] = {}
        for name, value in self._tensors().items():
            if name.endswith("_PGT"):
                changes[name] = value[..., :T]
            elif name.endswith("_PL"):
                changes[name] = value[:, value.shape[1] - L :]
        return replace(self, **changes)  # type: ignore[arg-type]

    def by_length(self) -> tuple[Rollouts, Tensor]:
        """The groups in the order of their length, so that parts of them hold little padding; and the indices
        [P] that put them back."""
        longest_P = self.prompt_mask_PL.sum(-1) + self.lengths_PG.amax(-1)
        order_P = longest_P.argsort(stable=True)
        return self.select(order_P), order_P.argsort()

    def micro_batches(self, groups: int) -> Iterator[Rollouts]:
        """Parts of at most `groups` prompts that share this batch's totals. Groups stay whole."""
        whole = replace(self, step_totals=self.totals)
        for rows in torch.arange(self.P, device=self.prompt_ids_PL.device).split(groups):
            yield whole.select(rows).trimmed()

    def minibatches(self, count: int, generator: torch.Generator) -> Iterator[Rollouts]:
        """`count` random parts of nearly equal size, each an optimizer step with totals of its own."""
        order = torch.randperm(self.P, generator=generator).to(self.prompt_ids_PL.device)
        for rows in order.tensor_split(min(count, self.P)):
            yield replace(self.select(rows), step_totals=None)

    def _tensors(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def _map(self, change, skip: set[str] = frozenset()) -> Rollouts:  # type: ignore[no-untyped-def,assignment]
        changes = {name: change(value) for name, value in self._tensors().items() if name not in skip}
        return replace(self, **changes)


def join_right(parts: list[Tensor], pad: float = 0, width: int = 0) -> Tensor:
    """Concatenates [p, G, T_i] tensors over p, padding T on the right to the widest or to `width`."""
    width = max([width, *(part.shape[-1] for part in parts)])
    return torch.cat(
        [torch.nn.functional.pad(part, (0, width - part.shape[-1]), value=pad) for part in parts]
    )


def pad_left(rows: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids of different lengths → ([P, L] ids, [P, L] bool mask), padded on the left."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], dtype=torch.long)
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return ids, mask


def pad_right(rows: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids of different lengths → ([N, T] ids, [N, T] bool mask), padded on the right."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([list(row) + [pad_id] * (width - len(row)) for row in rows], dtype=torch.long)
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    return ids, mask
