"""Chat templates: applied once, one generation prompt, and the same as TRL's."""

from __future__ import annotations

from typing import Any

import pytest

from algos.engine.errors import UserError
from algos.engine.template import render_pair, render_prompt

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As thinking models do: the generation prompt opens a thought that a finished dialogue does not show.
THINKING = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
SYSTEM = {"role": "system", "content": "Be kind."}
ASK = [SYSTEM, {"role": "user", "content": "Hi."}]
GOOD = [{"role": "assistant", "content": "Hello."}]
BAD = [{"role": "assistant", "content": "No."}]


def tokenizer(template: str | None = None, adds_bos: bool = False) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<s>": 1, "<|im_end|>": 2, "<|im_start|>": 3, "a": 4}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    outer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="<|im_end|>"
    )
    outer.chat_template = template
    return outer


def test_strings_pass_unchanged() -> None:
    text = "  {{ messages }} <s>\n"
    assert render_prompt(tokenizer(CHATML), text) == text
    pair = {"prompt": text, "chosen": " a ", "rejected": "b<|im_end|>"}
    assert render_pair(tokenizer(CHATML), **pair) == pair


def test_a_prompt_gets_one_generation_prompt_and_keeps_its_system_prompt() -> None:
    expected = (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render_prompt(tokenizer(CHATML), ASK) == "<s>" + expected
    # A tokenizer that adds BOS by itself is not given another.
    adding = tokenizer(CHATML, adds_bos=True)
    rendered = render_prompt(adding, ASK)
    assert rendered == expected
    assert adding(rendered)["input_ids"].count(adding.bos_token_id) == 1


def test_a_prompt_that_ends_with_the_assistant_is_left_open() -> None:
    opened = [*ASK, {"role": "assistant", "content": "Well,"}]
    assert render_prompt(tokenizer(CHATML), opened).endswith("<|im_start|>assistant\nWell,")
    assert render_prompt(tokenizer(), opened).endswith("\nAssistant: Well,")


@pytest.mark.parametrize("template", [CHATML, THINKING])
def test_pairs_are_rendered_as_by_trl_but_for_the_end(template: str) -> None:
    from trl import apply_chat_template

    theirs = apply_chat_template({"prompt": ASK, "chosen": GOOD, "rejected": BAD}, tokenizer(template))
    ours = render_pair(tokenizer(template), ASK, GOOD, BAD)
    assert ours["prompt"] == theirs["prompt"]
    assert theirs["chosen"] == ours["chosen"] + "<|im_end|>\n"
    assert ours == {"prompt": ours["prompt"], "chosen": "Hello.", "rejected": "No."}


def test_base_models_get_a_plain_template() -> None:
    expected = "System: Be kind.\nUser: Hi.\nAssistant:"
    assert render_prompt(tokenizer(), ASK) == expected
    spaced = [{"role": "assistant", "content": " Hello."}]
    pair = render_pair(tokenizer(), ASK, GOOD, spaced)
    assert pair == {"prompt": expected, "chosen": " Hello.", "rejected": " Hello."}
    literal = [{"role": "assistant", "content": "a<|im_end|>"}]
    assert render_pair(tokenizer(), ASK, literal, BAD)["chosen"] == " a<|im_end|>"


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no\nsystem') }}", "{{ messages.x.y }}", "{% if %}"]
)
def test_a_template_that_raises_names_the_row(template: str) -> None:
    with pytest.raises(UserError, match=r"^f\.jsonl:7: the model's chat template refuses") as caught:
        render_prompt(tokenizer(template), ASK, "f.jsonl:7")
    assert "\n" not in str(caught.value)
