"""Rewards: any function with TRL's calling convention, and a Hugging Face sequence classifier behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from algos.engine.errors import RunError, UserError, one_line
from algos.engine.forward import accepts, positions
from algos.engine.rollouts import pad_right
from algos.engine.template import Text, render_prompt
from algos.engine.text import as_completion, encode, pad_id

_KEYWORDS = ("prompt", "prompts", "completions", "completion_ids")


class RewardError(RunError):
    """A reward function raised, or returned something that is not one finite number a completion."""


class Reward(Protocol):
    """Called with keywords `prompts`, `completions`, `completion_ids` and the data's other columns;
    returns one float a completion. The convention of TRL's reward functions, so one serves both."""

    def __call__(self, *, prompts: list[Any], completions: list[Any], **columns: Any) -> Sequence[float]: ...


def call_reward(
    reward: Reward,
    rows: Sequence[Mapping[str, Any]],
    completions: Sequence[str],
    completion_ids: Sequence[list[int]],
) -> list[float]:
    """One checked, finite score a completion. `rows[i]` holds the prompt and columns of completion i.

    Raises RewardError naming the function, the sample and the remedy; nothing ever becomes 0.0 silently.
    """
    name = getattr(reward, "__name__", type(reward).__name__)
    prompts: list[Text] = [row["prompt"] for row in rows]
    # The data's own `completion` is a column like any other; what is scored cannot be one.
    own = {key: None for row in rows for key in row if key not in _KEYWORDS}
    columns = {key: [row.get(key) for row in rows] for key in own}
    answers = [as_completion(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]
    try:
        scores = reward(prompts=prompts, completions=answers, completion_ids=list(completion_ids), **columns)
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise RewardError(
            f"the reward {name} raised {reason}. It is called with keywords prompts, completions, completion_ids and the data's columns."
        ) from error
    return checked_scores(scores, len(completions), name, [str(c)[:60] for c in completions])


def checked_scores(scores: Any, expected: int, name: str, previews: Sequence[str]) -> list[float]:
    """`scores` as floats, or RewardError: one finite number each, as many as asked for."""
    if isinstance(scores, torch.Tensor) or hasattr(scores, "tolist"):
        scores = scores.tolist()
    if not isinstance(scores, Sequence) or isinstance(scores, (str, bytes)):
        raise RewardError(
            f"the reward {name} returned {type(scores).__name__}; it must return a list of {expected} numbers, one a completion."
        )
    if len(scores) != expected:
        raise RewardError(
            f"the reward {name} returned {len(scores)} values for {expected} completions. It must return one number a completion."
        )
    for i, score in enumerate(scores):
        if not isinstance(score, Real) or isinstance(score, bool) or not math.isfinite(score):
            raise RewardError(
                f"the reward {name} returned {score!r} for completion {i} ({previews[i]!r}). It must return a finite number for every completion."
            )
    return [float(score) for score in scores]


class RewardModel:
    """A sequence classifier with one output, as a reward.

    `pooling="mask"` reads the last *attended* position; transformers' own classifiers read the last
    id ≠ pad, which lies before EOS where pad = EOS. A model trained with that pooling keeps it
    (`"model"`); `"auto"` follows what the model's config declares as `reward_pooling`.
    """

    def __init__(
        self,
        path: str | Path,
        device: torch.device | str = "cpu",
        pooling: Literal["auto", "mask", "model"] = "auto",
    ) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            self.model: Any = AutoModelForSequenceClassification.from_pretrained(
                path, dtype=torch.float32, use_safetensors=True
            )
            self.tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(
                f"cannot load a reward model from {str(path)!r}: {one_line(error)} Give a sequence classifier's directory or hub id."
            ) from error
        if self.model.config.num_labels != 1:
            raise UserError(
                f"the reward model {str(path)!r} has {self.model.config.num_labels} outputs; it must have 1."
            )
        self.model = self.model.to(device).eval().requires_grad_(False)
        config = self.model.config
        self.pooling = getattr(config, "reward_pooling", "model") if pooling == "auto" else pooling
        self.offset = float(getattr(config, "reward_offset", 0.0))
        self.parameter_count = sum(p.numel() for p in self.model.parameters())
        self.__name__ = f"reward model {Path(path).name}"
        if config.get_text_config().pad_token_id is None:
            config.get_text_config().pad_token_id = pad_id(self.tokenizer)

    def __call__(
        self, *, prompts: list[Any], completions: list[Any], batch_size: int = 64, **_: Any
    ) -> list[float]:
        rows = [
            self._encode(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)
        ]
        return [
            score
            for i in range(0, len(rows), batch_size)
            for score in self._scores(rows[i : i + batch_size]).tolist()
        ]

    def _encode(self, prompt: Text, completion: Any) -> list[int]:
        """As in training: prompt and response together, one BOS, EOS behind, at most the model's positions."""
        text = completion if isinstance(completion, str) else completion[0]["content"]
        ids = encode(self.tokenizer, render_prompt(self.tokenizer, prompt) + text)
        if self.tokenizer.eos_token_id is not None and ids[-1:] != [self.tokenizer.eos_token_id]:
            ids.append(self.tokenizer.eos_token_id)
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return ids[-limit:] if limit else ids

    @torch.no_grad()
    def _scores(self, rows: list[list[int]]) -> Tensor:
        ids_BS, mask_BS = (x.to(self.model.device) for x in pad_right(rows, pad_id(self.tokenizer)))
        head = getattr(self.model, "score", None)
        if self.pooling == "model" or head is None:
            return (
                self.model(input_ids=ids_BS, attention_mask=mask_BS.long()).logits[:, 0].float() - self.offset
            )
        trunk = self.model.base_model
        inputs = {"position_ids": positions(mask_BS)} if accepts(trunk, "position_ids") else {}
        hidden_BSH = trunk(
            input_ids=ids_BS, attention_mask=mask_BS.long(), use_cache=False, **inputs
        ).last_hidden_state
        last_B = mask_BS.sum(-1) - 1
        return (
            head(hidden_BSH[torch.arange(len(rows), device=ids_BS.device), last_B])[:, 0].float()
            - self.offset
        )
