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

from algos.engine.calls import GuardedReward, RewardError, guarded
from algos.engine.errors import UserError, one_line
from algos.engine.fast.kernels import patch_kernels
from algos.engine.inputs import accepts, embedding_rows, max_positions, positions, trunk_precision
from algos.engine.memory import SHORTER, Portions
from algos.engine.models.hub import cached_where_unreachable, pinned
from algos.engine.models.loading import compute_dtype, pick_device, tokenizer_in
from algos.engine.models.weights import safetensors_only
from algos.engine.rollouts import pad_right
from algos.engine.settings import Precision
from algos.engine.text.control import text_ids
from algos.engine.text.template import Text, render_dialogue, render_prompt
from algos.engine.text.tokens import as_completion, encode, end_of, pad_id

_LARGEST = torch.finfo(torch.float32).max
_KEYWORDS = ("prompt", "prompts", "completions", "completion_ids")


class Reward(Protocol):
    """Called with keywords `prompts`, `completions`, `completion_ids` and the data's other columns;
    returns one float a completion. The convention of TRL's reward functions, so one serves both."""

    def __call__(
        self, /, *, prompts: list[Any], completions: list[Any], **columns: Any
    ) -> Sequence[float]: ...


def call_reward(
    reward: Reward,
    rows: Sequence[Mapping[str, Any]],
    completions: Sequence[str],
    completion_ids: Sequence[list[int]],
    *,
    unscored: bool = False,
) -> list[float]:
    """One checked, finite score a completion. `rows[i]` holds the prompt and columns of completion i.

    Raises RewardError naming the function, the sample and the remedy; nothing ever becomes 0.0 silently.
    NaN is a completion the reward left unscored (None): only where the caller can do without some
    (`unscored`) and the reward's `allow_unscored` says so.
    """
    caller = guarded(reward)
    prompts: list[Text] = [row["prompt"] for row in rows]
    # The data's own `completion` is a column like any other; what is scored cannot be one.
    own = {key: None for row in rows for key in row if key not in _KEYWORDS}
    columns = {key: [row.get(key) for row in rows] for key in own}
    answers = [as_completion(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]
    scores = caller(prompts=prompts, completions=answers, completion_ids=list(completion_ids), **columns)
    previews = [str(text)[:60] for text in completions]
    allowed = unscored and caller.calls.allow_unscored
    who, remedy = f"{caller.what} {caller.__name__}", _remedy_for_none(caller)
    return checked_scores(scores, len(completions), who, previews, allowed, remedy)


def _remedy_for_none(caller: GuardedReward) -> str:
    """What to do about a None that is an error here."""
    if caller.what == "judge":
        return "None means not scored, and a judge must score: name one that scores everything with --judge."
    if caller.calls.allow_unscored:
        return "None means not scored, which --allow-unscored allows in training, but not here."
    return (
        "None means not scored, which --allow-unscored allows in training "
        "(in Python: GuardedReward(reward, RewardCalls(allow_unscored=True)))."
    )


def checked_scores(
    scores: Any,
    expected: int,
    who: str,
    previews: Sequence[str],
    unscored: bool = False,
    remedy_for_none: str = "",
) -> list[float]:
    """`scores` as floats, or RewardError: one finite number each, as many as asked for; NaN for None if `unscored`.

    `who` returned them, such as "reward score"; `remedy_for_none` is what to do about None where it is an error.
    """
    try:
        if isinstance(scores, torch.Tensor) or hasattr(scores, "tolist"):
            scores = scores.tolist()
        is_list = isinstance(scores, Sequence) and not isinstance(scores, (str, bytes))
        listed = list(scores) if is_list else None
    except Exception as error:
        raise RewardError(
            f"what the {who} returned cannot be read: {type(error).__name__}: {one_line(error)}."
        ) from error
    if listed is None:
        raise RewardError(
            f"the {who} returned {type(scores).__name__}; it must return a list of {expected} numbers, one a completion."
        )
    if len(listed) != expected:
        raise RewardError(
            f"the {who} returned {len(listed)} values for {expected} completions. It must return one number a completion."
        )
    return [
        math.nan if score is None and unscored else _number(score, i, who, previews[i], remedy_for_none)
        for i, score in enumerate(listed)
    ]


def _number(score: Any, i: int, who: str, preview: str, remedy_for_none: str) -> float:
    try:
        if getattr(score, "ndim", None) == 0:  # a tensor or an array of one number
            score = score.item()
        # Scores are kept in 32 bits: what does not fit would become infinite there.
        # Booleans are 0 and 1, as in TRL.
        if isinstance(score, Real) and abs(number := float(score)) <= _LARGEST:
            return number
        shown = " ".join(repr(score).split())[:60]
    except Exception:  # an integer beyond any float, or an object that cannot even be shown
        shown = type(score).__name__
    remedy = f" {remedy_for_none}" if score is None and remedy_for_none else ""
    raise RewardError(
        f"the {who} returned {shown} for completion {i} ({preview!r}). It must return a finite number for every completion.{remedy}"
    )


class RewardModel:
    """A sequence classifier with one output, as a reward.

    `pooling="mask"` reads the last *attended* position; transformers' own classifiers read the last
    id ≠ pad, which lies before EOS where pad = EOS. A model trained with that pooling keeps it
    (`"model"`); `"auto"` follows what the model's config declares as `reward_pooling`, and where it declares none
    conversations go through the model's own chat template (docs/models.md). `batch_size` texts are read at once, fewer
    where memory runs out. `device` and `dtype`: as in `Policy.load`; in bf16 the head still multiplies in fp32.
    """

    def __init__(
        self,
        path: str | Path,
        device: torch.device | str = "auto",
        pooling: Literal["auto", "mask", "model"] = "auto",
        batch_size: int = 64,
        dtype: Precision = "auto",
    ) -> None:
        from transformers import AutoModelForSequenceClassification

        try:
            with cached_where_unreachable(str(path)), safetensors_only(path):
                self.model: Any = AutoModelForSequenceClassification.from_pretrained(
                    **pinned(str(path)), dtype=torch.float32, use_safetensors=True, trust_remote_code=False
                )
                self.tokenizer = tokenizer_in(str(path), trust_remote_code=False)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(
                f"cannot load a reward model from {str(path)!r}: {one_line(error)} Give a sequence classifier's directory or hub id."
            ) from error
        if self.model.config.num_labels != 1:
            raise UserError(
                f"the reward model {str(path)!r} has {self.model.config.num_labels} outputs; it must have 1."
            )
        where = device if isinstance(device, torch.device) else pick_device(device)
        self.dtype = compute_dtype(dtype, where)
        self.model = self.model.to(where).eval().requires_grad_(False)
        patch_kernels(self.model)
        config = self.model.config
        self.pooling = getattr(config, "reward_pooling", "model") if pooling == "auto" else pooling
        self.head = None if self.pooling == "model" else getattr(self.model, "score", None)
        self.pad_id = self._pad_id()
        self.limit = _longest(self.model)
        self.offset = float(getattr(config, "reward_offset", 0.0))
        # One that was trained here has read rendered prompts and their responses, each with EOS.
        self.reads_dialogues = not hasattr(config, "reward_pooling") and bool(self.tokenizer.chat_template)
        self.parameter_count = sum(p.numel() for p in self.model.parameters())
        self.batch_size, self.portions = batch_size, Portions()
        self.__name__ = f"reward model {Path(path).name}"

    def _pad_id(self) -> int:
        """What rows are filled with. transformers' pooling takes the config's for padding and everything else for text,
        so that it gets one where it has none that the model can read."""
        config, rows = self.model.config.get_text_config(), embedding_rows(self.model)
        found = pad_id(self.tokenizer, rows)
        own = getattr(config, "pad_token_id", None)
        if own is None or not 0 <= own < rows:
            own = config.pad_token_id = found
        return int(own) if self.head is None else found

    def __call__(self, /, *, prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
        """A score a completion. Raises RunError where not even one text fits memory."""
        rows = [
            self._encode(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)
        ]

        def attempt(size: int) -> list[float]:
            parts = (rows[i : i + size] for i in range(0, len(rows), size))
            return [score for part in parts for score in self._scores(part).tolist()]

        return self.portions.run("scoring by the reward model", self.batch_size, attempt, SHORTER)

    def _encode(self, prompt: Text, completion: Any) -> list[int]:
        """As in training; of a text too long for the model its end.

        A conversation goes to somebody else's model as a finished dialogue, which holds what its chat template writes and
        nothing else. Otherwise prompt and response together, one BOS, EOS behind.
        """
        if self.reads_dialogues and not isinstance(prompt, str) and not isinstance(completion, str):
            where = f"a conversation for the {self.__name__}"
            ids = text_ids(self.tokenizer, render_dialogue(self.tokenizer, prompt, completion, where))
        else:
            text = completion if isinstance(completion, str) else completion[0]["content"]
            ids = encode(self.tokenizer, render_prompt(self.tokenizer, prompt) + text)
            if self.tokenizer.eos_token_id is not None and ids[-1:] != [self.tokenizer.eos_token_id]:
                ids.append(self.tokenizer.eos_token_id)
        return ids if self.limit is None else end_of(self.tokenizer, ids, self.limit)

    @torch.no_grad()
    def _scores(self, rows: list[list[int]]) -> Tensor:
        ids_BS, mask_BS = (x.to(self.model.device) for x in pad_right(rows, self.pad_id))
        trunk, read = self.model.base_model, {"input_ids": ids_BS, "attention_mask": mask_BS.long()}
        with trunk_precision(trunk, ids_BS.device, self.dtype):
            if self.head is None:
                logits_B1 = self.model(**read).logits
            else:
                if accepts(trunk, "position_ids"):
                    read["position_ids"] = positions(mask_BS)
                hidden_BSH = trunk(**read, use_cache=False).last_hidden_state
                last_B = mask_BS.sum(-1) - 1
                logits_B1 = self.head(hidden_BSH[torch.arange(len(rows), device=ids_BS.device), last_B])
        return logits_B1[:, 0].float() - self.offset


def _longest(model: Any) -> int | None:
    """The longest text that a classifier has positions for; None where it has no such limit."""
    limit = max_positions(model.config)
    # RoBERTa's kin keep the positions up to the padding's for padding.
    kept = [
        module.padding_idx + 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return limit if limit is None else limit - max(kept, default=0)
