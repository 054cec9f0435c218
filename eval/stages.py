"""The stages before the algorithms, through TRL: a base model (SFT) and a reward model (Bradley–Terry on pairs)."""

from __future__ import annotations

import copy
import json
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from algos.engine.errors import UserError
from eval.process.quiet import quiet
from eval.workshop import FACTS

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, Trainer
    from trl import RewardConfig, SFTConfig

    Configuration = TypeVar("Configuration", SFTConfig, RewardConfig)

HELDOUT_SHARE = 0.1


@dataclass(frozen=True)
class _Fit:
    """How a stage is trained: AdamW, linear warm-up over the first 5% of the updates, then linear decay to 0."""

    epochs: int
    learning_rate: float
    batch_size: int
    seed: int
    threads: int
    device: str


def train_base(
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    out: Path,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    threads: int,
    device: str = "cpu",
) -> None:
    """Trains a causal LM of this `config` from scratch on whole texts (prompt and completion), EOS at the end of each.

    Writes model (safetensors) and tokenizer to `out`. `seed` alone decides initial weights and order.
    """
    fit = _Fit(epochs, learning_rate, batch_size, seed, threads, device)
    with _controlled(fit):
        from datasets import Dataset
        from transformers import AutoModelForCausalLM
        from trl import SFTConfig, SFTTrainer

        from algos.engine.fast.kernels import quicken

        # A copy: the trainer writes into the configuration of the model it is given.
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
        quicken(model)
        ids = [_encode(tokenizer, text) for text in texts]
        # Tokenised here, so that BOS and EOS are there exactly once: TRL takes such rows as they are.
        rows = Dataset.from_dict({"input_ids": ids, "labels": ids})
        with tempfile.TemporaryDirectory() as scratch:
            arguments = _arguments(SFTConfig, scratch, fit)
            _train(SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer))
        model.config.use_cache = config.use_cache  # The trainer turns it off, and it would be saved so.
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)


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
    *,
    centre_on: Sequence[str],
    epochs: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    threads: int,
    device: str = "cpu",
) -> dict[str, Any]:
    """Trains a reward model, initialised from `base`, on rows {"prompt", "chosen", "rejected"} of rendered text.

    Every text is prompt + response + EOS. A tenth of the prompts is held out; the accuracy on their pairs is a fact.
    `centre_on`: whole texts (prompt + response) of the base's own. The reward of a text is the classifier's logit at
    its last attended position less `config.reward_offset`, which makes theirs average 0. Writes model, tokenizer and
    facts.json to `out`; returns the facts: accuracy, pairs, heldout_pairs, dropped_too_long, epochs, seconds, and the
    std of the reward of `centre_on`. Raises UserError where nothing is left to hold out or train on.
    """
    start = time.perf_counter()
    fit = _Fit(epochs, learning_rate, batch_size, seed, threads, device)
    with _controlled(fit):
        from transformers import AutoTokenizer

        from algos.engine.fast.kernels import quicken
        from algos.engine.inputs import embedding_rows, max_positions
        from algos.engine.models.hub import cached_where_unreachable, pinned

        with cached_where_unreachable(str(base)):
            tokenizer = AutoTokenizer.from_pretrained(**pinned(str(base)), trust_remote_code=False)
            model = _classifier(str(base))
        quicken(model)
        kept, dropped = _encode_pairs(tokenizer, pairs, max_positions(model.config))
        train, heldout = _split_by_prompt(kept, seed)
        rows = embedding_rows(model)
        model.config.get_text_config().pad_token_id = _unused_id(tokenizer, train, rows)
        _train_on_pairs(model, tokenizer, train, fit)
        model.config.reward_pooling = "mask"
        model.config.reward_offset = 0.0
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        # Scored as it will be used, so that offset and accuracy are those of the reward the policies meet.
        centre, accuracy = _score(out, device, centre_on, heldout)
        model.config.reward_offset = float(centre.mean())
        model.config.save_pretrained(out)
    facts = {
        "accuracy": accuracy,
        "pairs": len(train),
        "heldout_pairs": len(heldout),
        "dropped_too_long": dropped,
        "epochs": epochs,
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
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]], fit: _Fit
) -> None:
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    # transformers' classifiers pool at the last id ≠ pad. TRL takes that id from the tokenizer it is given, so it gets
    # one of its own, whose pad occurs in no text: pooling is then at the last attended position.
    padding = copy.deepcopy(tokenizer)
    padding.pad_token = padding.convert_ids_to_tokens(model.config.get_text_config().pad_token_id)
    dataset = Dataset.from_list([{key: row[key] for key in ("chosen_ids", "rejected_ids")} for row in rows])
    with tempfile.TemporaryDirectory() as scratch:
        arguments = _arguments(RewardConfig, scratch, fit)
        _train(RewardTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=padding))


def _score(
    path: Path, device: str, centre_on: Sequence[str], heldout: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, float]:
    """Rewards of whole texts, and the share of held-out pairs ordered right."""
    from algos.engine.rewards import RewardModel

    reward = RewardModel(path, device)
    centre = reward(prompts=[""] * len(centre_on), completions=list(centre_on))
    prompts = [row["prompt"] for row in heldout]
    chosen = reward(prompts=prompts, completions=[row["chosen"] for row in heldout])
    rejected = reward(prompts=prompts, completions=[row["rejected"] for row in heldout])
    return np.array(centre), float(np.mean(np.greater(chosen, rejected)))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a whole text: BOS once where the tokenizer puts one, EOS once at the end."""
    from algos.engine.text.tokens import encode

    ids = encode(tokenizer, text)
    return ids if ids[-1:] == [tokenizer.eos_token_id] else [*ids, tokenizer.eos_token_id]


def _encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Mapping[str, str]], limit: int | None
) -> tuple[list[dict[str, Any]], int]:
    """The pairs with their ids, those with a text of more than `limit` ids left out and counted."""
    rows = [
        {
            **pair,
            "chosen_ids": _encode(tokenizer, pair["prompt"] + pair["chosen"]),
            "rejected_ids": _encode(tokenizer, pair["prompt"] + pair["rejected"]),
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


def _arguments(kind: type[Configuration], scratch: str, fit: _Fit) -> Configuration:
    """The configuration of one of TRL's trainers, whose defaults are bf16, checkpointing and saving on."""
    on_cpu = fit.device == "cpu"
    arguments = kind(
        output_dir=scratch,
        num_train_epochs=fit.epochs,
        learning_rate=fit.learning_rate,
        per_device_train_batch_size=fit.batch_size,
        lr_scheduler_type="linear",
        warmup_steps=0.05,
        max_length=None,
        seed=fit.seed,
        use_cpu=on_cpu,
        bf16=not on_cpu,
        gradient_checkpointing=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
    )
    arguments._n_gpu = min(
        1, arguments.n_gpu
    )  # TRL refuses nn.DataParallel, which several visible GPUs turn on.
    return arguments


def _train(trainer: Trainer) -> None:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()


@contextmanager
def _controlled(fit: _Fit) -> Iterator[None]:
    """Seed and threads as the fit says, libraries silent; the caller's generators and threads are put back."""
    quiet()
    import torch
    import transformers
    from huggingface_hub import constants

    # The environment variable is read once, when the package is first imported.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    threads, generators = torch.get_num_threads(), (random.getstate(), np.random.get_state())
    torch.set_num_threads(fit.threads)
    try:
        with torch.random.fork_rng():
            transformers.set_seed(fit.seed)
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(generators[0])
        np.random.set_state(generators[1])
