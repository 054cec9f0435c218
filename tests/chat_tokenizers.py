"""Tokenizers of several kinds, trained in a moment, with special tokens that a person could type, and chat templates."""

from __future__ import annotations

import re

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from algos.engine.text.control import Rendered, Span

CORPUS = [
    "system user assistant hello there, this is a test of some text: be kind and think < | / > [ ] im start end s"
] * 9

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
BRACKETS = (
    "[CLS]{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} [SEP] {% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
# Of answers that end in EOS and a line end, over words that `tiny.word_tokenizer` can be given.
TURNS = (
    "{% for m in messages %} {{ m['role'] }}: {{ m['content'] }} {% if m['role'] == 'model' %}<eos>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} model:{% endif %}"
)


def meant(text: str) -> Rendered:
    """As a chat template writes it: every `<bos>` and `<eos>` in it is the token."""
    return Rendered(text, tuple(Span(*found.span(), True) for found in re.finditer("<bos>|<eos>", text)))


def byte_pairs() -> PreTrainedTokenizerFast:
    """As GPT-2's and Qwen's: bytes, ChatML, a mark of thoughts that is no special token, no BOS."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )  # fmt: skip
    core.train_from_iterator(CORPUS, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=["<|im_start|>"]
    )  # fmt: skip
    made.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in ("<think>", "</think>")])
    made.chat_template = CHATML
    return made


def unigram() -> PreTrainedTokenizerFast:
    """As Llama's or T5's: a leading space made visible, special tokens among the words of the vocabulary."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    specials = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    core.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=70, special_tokens=specials, unk_token="<unk>", show_progress=False
        ),
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens=["[INST]", "[/INST]"],
    )  # fmt: skip
    made.chat_template = LLAMA
    return made


def word_pieces() -> PreTrainedTokenizerFast:
    """As BERT's: lower case, no spaces, and control tokens that swallow the white space behind them."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.train_from_iterator(
        CORPUS,
        trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]"], show_progress=False),
    )
    core.add_special_tokens([AddedToken(name, rstrip=True) for name in ("[CLS]", "[SEP]")])
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]"
    )
    made.chat_template = BRACKETS
    return made


TOKENIZERS = {"byte_pairs": byte_pairs, "unigram": unigram, "word_pieces": word_pieces}
