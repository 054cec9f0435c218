"""Answers that are sampled and scored already, kept until the pool is whole: a judge may be paid by the call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from algos.engine.rollouts import Rollouts, join_right, pad_left
from algos.engine.storage import DamagedFile, disk, read_tensors, write_json, write_tensors
from eval.directory.reading import read_checked
from eval.directory.schemas import DrawnAbout

BLOCK = 256  # responses decoded at once; fixed, so that no rounding depends on prompts or workers


@dataclass(frozen=True)
class Answers:
    """M responses of one sampler to one prompt, of at most T tokens."""

    ids_MT: Tensor
    """Token ids, int64, padded on the right."""
    lengths_M: Tensor
    """Tokens of each response, int64, EOS included."""
    ended_M: Tensor
    """True where it ended by EOS."""
    scores_2M: np.ndarray
    """Proxy and judge, float64, in units of each; NaN in the proxy where the reward left a response unscored."""

    @classmethod
    def of(cls, blocks: Sequence[Rollouts], scores_2M: np.ndarray) -> Answers:
        """Of responses to one prompt, in blocks."""
        width = max(block.T for block in blocks)
        ids_MT = join_right([block.response_ids_PGT[0] for block in blocks], width=width).cpu()
        lengths_M, ended_M = (
            torch.cat([of(block)[0] for block in blocks]).cpu()
            for of in (lambda block: block.lengths_PG, lambda block: block.ended_PG)
        )
        return cls(ids_MT, lengths_M, ended_M, scores_2M)

    def blocks(self, prompt: list[int]) -> list[Rollouts]:
        """As they were decoded, behind the prompt's token ids."""
        prompt_ids_PL, prompt_mask_PL = pad_left([prompt], 0)
        mask_MT = torch.arange(self.ids_MT.shape[1]) < self.lengths_M[:, None]
        parts = (x.split(BLOCK) for x in (self.ids_MT, mask_MT, self.ended_M))
        return [
            Rollouts(prompt_ids_PL, prompt_mask_PL, ids[None], mask[None], ended[None]).trimmed()
            for ids, mask, ended in zip(*parts, strict=True)
        ]

    @property
    def tensors(self) -> dict[str, Tensor]:
        scores = torch.from_numpy(self.scores_2M)
        return {"ids": self.ids_MT, "lengths": self.lengths_M, "ended": self.ended_M, "scores": scores}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], count: int, longest: int, rows: int
    ) -> Answers | None:
        """What `tensors` gave, of `count` responses of at most `longest` tokens, whose ids a model with an embedding of so
        many `rows` reads; None of anything else."""
        expected = {"ids": torch.int64, "lengths": torch.int64, "ended": torch.bool, "scores": torch.float64}
        if {name: tensor.dtype for name, tensor in tensors.items()} != expected:
            return None
        ids, lengths, ended, scores = (tensors[name] for name in expected)
        width = ids.shape[-1]
        shapes = [tuple(x.shape) for x in (ids, lengths, ended, scores)]
        if shapes != [(count, width), (count,), (count,), (2, count)] or not 1 <= width <= longest:
            return None
        within = ((ids >= 0) & (ids < rows)).all() & ((lengths >= 1) & (lengths <= width)).all()
        judged = torch.isfinite(scores[1]).all() & ~torch.isinf(scores[0]).any()
        return cls(ids, lengths, ended, scores.numpy()) if bool(within & judged) else None


class Drawn:
    """A comparison's folder `frontier.drawn`: a file for each sampler's answers to each prompt, by their numbers."""

    def __init__(self, comparison: Path) -> None:
        self.folder = comparison / "frontier.drawn"

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Keeps what is there if it was drawn for this plan, and removes it otherwise."""
        if self.plan != plan:
            self.forget()
            write_json(self.folder / "plan.json", dict(plan))

    @property
    def plan(self) -> dict[str, Any]:
        try:
            return read_checked(self.folder / "plan.json", DrawnAbout)
        except DamagedFile:
            return {}

    def read(self, sampler: int, prompt: int, count: int, longest: int, rows: int) -> Answers | None:
        """None where there is no such file, and where it is not what was written: it is drawn anew."""
        try:
            return Answers.from_tensors(read_tensors(self._file(sampler, prompt)), count, longest, rows)
        except DamagedFile:
            return None

    def write(self, sampler: int, prompt: int, answers: Answers) -> None:
        """Raises OSError where the disk does not take it."""
        write_tensors(self._file(sampler, prompt), answers.tensors, lasting=False)

    def forget(self) -> None:
        disk.remove(self.folder)

    def _file(self, sampler: int, prompt: int) -> Path:
        return self.folder / f"answers-{sampler}-{prompt}.safetensors"
