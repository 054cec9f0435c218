"""A reward model: Bradley–Terry on preference pairs, by TRL's RewardTrainer."""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from algos.engine.errors import UserError
from algos.engine.memory import out_of_memory_as, release
from eval.stages.cache import FACTS
from eval.stages.fitting import Fit, controlled, encode_whole, run_trainer, trainer_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HELDOUT_SHARE = 0.1
_LIGHTER = "Pass --micro-batch or --gradient-checkpointing, lower --reward-model.batch-size, or name --reward and --judge."


def require_classifier(base: str) -> None:
    """Raises UserError where no reward model can be trained from `base`, a causal LM that could be loaded:
    transformers has no classifier of its family, or code comes with it, which a reward model never runs."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    from algos.engine.models.loading import read_config

    try:
        known = type(read_config(base, trust_remote_code=False)) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    except UserError:  # only with code that comes with the model is there a configuration
        known = False
    if not known:
        raise UserError(
            f"no reward model can be trained from {base!r}: transformers has no sequence classifier of its "
            "family. Name a reward and a judge with --reward and --judge."
        )


def train_reward_model(
    base: str | Path,
    pairs: Sequence[Mapping[str, str]],
    out: Path,
    fit: Fit,
    *,
    centre_on: Sequence[str],
) -> dict[str, Any]:
    """Trains a reward model, initialised from `base`, on rows {"prompt", "chosen", "rejected"} of rendered text.

    Every text is prompt + response + EOS. A tenth of the prompts is held out; the accuracy on their pairs is a fact.
    `centre_on`: whole texts (prompt + response) of the base's own. The reward of a text is the classifier's logit at
    its last attended position less `config.reward_offset`, which makes theirs average 0. Writes model, tokenizer and
    facts.json to `out`; returns the facts: accuracy, pairs, heldout_pairs, dropped_too_long, epochs, seconds, and the
    std of the reward of `centre_on`. Raises UserError where nothing is left to hold out or train on, and where memory runs
    out.
    """
    start = time.perf_counter()
    with controlled(fit):
        from transformers import AutoTokenizer

        from algos.engine.fast.kernels import patch_kernels
        from algos.engine.inputs import embedding_rows, max_positions
        from algos.engine.models.hub import cached_where_unreachable, pinned
        from algos.engine.recompute import require_recomputable

        with cached_where_unreachable(str(base)):
            tokenizer = AutoTokenizer.from_pretrained(**pinned(str(base)), trust_remote_code=False)
            model = _classifier(str(base))
        patch_kernels(model)
        if fit.gradient_checkpointing:
            require_recomputable(model)
        kept, dropped = _encode_pairs(tokenizer, pairs, max_positions(model.config))
        train, heldout = _split_by_prompt(kept, fit.seed)
        rows = embedding_rows(model)
        model.config.get_text_config().pad_token_id = _unused_id(tokenizer, train, rows)
        with out_of_memory_as(UserError, f"out of memory in training a reward model. {_LIGHTER}"):
            _train_on_pairs(model, tokenizer, train, fit)
        config = model.config
        config.reward_pooling = "mask"
        config.reward_offset = 0.0
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        del model  # it is about to be loaded again
        release()
        # Scored as it will be used, so that offset and accuracy are those of the reward the policies meet.
        centre, accuracy = _score(out, fit, centre_on, heldout)
        config.reward_offset = float(centre.mean())
        config.save_pretrained(out)
    facts = {
        "accuracy": accuracy,
        "pairs": len(train),
        "heldout_pairs": len(heldout),
        "dropped_too_long": dropped,
        "epochs": fit.epochs,
        "std": float(centre.std()),
        "seconds": time.perf_counter() - start,
    }
    (out / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def _classifier(base: str) -> PreTrainedModel:
    """A classifier with one output: the base's trunk in float32, and a head drawn from torch's generator."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from algos.engine.models.hub import pinned
    from algos.engine.models.weights import safetensors_only

    with safetensors_only(base):
        return AutoModelForSequenceClassification.from_pretrained(
            **pinned(base), num_labels=1, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )


def _train_on_pairs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]], fit: Fit
) -> None:
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    # transformers' classifiers pool at the last id ≠ pad. TRL takes that id from the tokenizer it is given, so it gets
    # one of its own, whose pad occurs in no text: pooling is then at the last attended position.
    padding = copy.deepcopy(tokenizer)
    padding.pad_token = padding.convert_ids_to_tokens(model.config.get_text_config().pad_token_id)
    dataset = Dataset.from_list([{key: row[key] for key in ("chosen_ids", "rejected_ids")} for row in rows])
    with tempfile.TemporaryDirectory() as scratch:
        arguments = trainer_arguments(RewardConfig, scratch, fit)
        run_trainer(
            RewardTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=padding)
        )


def _score(
    path: Path, fit: Fit, centre_on: Sequence[str], heldout: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, float]:
    """Rewards of whole texts, and the share of held-out pairs ordered right."""
    from algos.engine.rewards import RewardModel

    reward = RewardModel(path, fit.device, dtype=fit.dtype)
    centre = reward(prompts=[""] * len(centre_on), completions=list(centre_on))
    prompts = [row["prompt"] for row in heldout]
    chosen = reward(prompts=prompts, completions=[row["chosen"] for row in heldout])
    rejected = reward(prompts=prompts, completions=[row["rejected"] for row in heldout])
    return np.array(centre), float(np.mean(np.greater(chosen, rejected)))


def _encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Mapping[str, str]], limit: int | None
) -> tuple[list[dict[str, Any]], int]:
    """The pairs with their ids, those with a text of more than `limit` ids left out and counted."""
    rows = [
        {
            **pair,
            "chosen_ids": encode_whole(tokenizer, pair["prompt"] + pair["chosen"]),
            "rejected_ids": encode_whole(tokenizer, pair["prompt"] + pair["rejected"]),
        }
        for pair in pairs
    ]
    kept = [
        row for row in rows if limit is None or max(len(row["chosen_ids"]), len(row["rejected_ids"])) <= limit
    ]
    return kept, len(rows) - len(kept)


def _split_by_prompt(
    rows: list[dict[str, Any]], seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    if len(prompts) < 2:
        raise UserError(
            f"a reward model needs pairs from at least 2 prompts that fit its length (one is held out); "
            f"got {len(prompts)}. Give more pairs."
        )
    order = np.random.default_rng(seed).permutation(len(prompts))
    held = {prompts[i] for i in order[: max(1, round(HELDOUT_SHARE * len(prompts)))]}
    return [row for row in rows if row["prompt"] not in held], [row for row in rows if row["prompt"] in held]


def _unused_id(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Mapping[str, Any]], rows: int) -> int:
    """An id that no text holds, below `rows`, those of the model's embedding: the tokenizer's pad where it is one, else
    the highest."""
    used = {i for pair in pairs for key in ("chosen_ids", "rejected_ids") for i in pair[key]}
    unused = sorted(i for i in set(tokenizer.get_vocab().values()) - used if i < rows)
    if tokenizer.pad_token_id in unused:
        return int(tokenizer.pad_token_id)
    if not unused:
        raise UserError(
            "a reward model needs one word of the vocabulary that no text holds, for padding; got none. "
            "Add a pad token to the model and its tokenizer."
        )
    return unused[-1]
