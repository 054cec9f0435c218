"""Writes a tiny model to try the other examples on, in about ten seconds and without a network.

    python examples/make_tiny_model.py tiny-model

It has 0.1 million parameters and has read examples/data only: enough to answer as the clerks there do.
"""

from __future__ import annotations

import sys
from pathlib import Path

from make_data import dialogues, pairs

POSITIONS = 96


def texts() -> list[str]:
    """Both clerks' answers, as plain text, as conversations and as dialogues."""
    sides = ("chosen", "rejected")
    plain = [row["prompt"] + row[side] for row in pairs() for side in sides]
    turns = [f"User: {row['prompt']}\nAssistant:{row[side]}" for row in pairs() for side in sides]
    return plain + turns + [row[side] for row in dialogues() for side in sides]


def main(folder: Path) -> None:
    """Trains a tokenizer and a model on `texts()` and writes both to `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, PreTrainedTokenizerFast

    from eval.stages.base import train_base
    from eval.stages.fitting import Fit

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts(), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>")
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=POSITIONS, n_embd=48, n_layer=2, n_head=4,
        bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    train_base(config, tokenizer, texts(), folder, Fit(epochs=4, learning_rate=5e-3))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/make_tiny_model.py FOLDER")
    main(Path(sys.argv[1]))
