"""The word-level tokenizer of the built-in task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eval.tasks.reviews.grammar import vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
# As in GPT-2: a token carries the space before it, so prompt + completion is plain concatenation.
_SPACE = "Ġ"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; <bos> is put before every text; pad, bos, eos and unk are distinct.

    A token carries the space before it: decoded completions start with a space (" very charming"), and the tokens of
    prompt + completion are those of the prompt followed by those of the completion.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *(_SPACE + word for word in vocabulary())]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=64,
    )
