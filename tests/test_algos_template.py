"""Chat templates: applied once, one generation prompt, the same as TRL's; never endless."""

from __future__ import annotations

import time
from typing import Any

import pytest

from algos.engine.errors import UserError
from algos.engine.text import rendering
from algos.engine.text.template import render_pair, render_prompt, render_prompts, with_options

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


def test_no_template_of_several_is_one_line() -> None:
    with pytest.raises(UserError, match="chat template cannot be chosen") as caught:
        render_prompt(tokenizer({"rag": CHATML, "tools": CHATML}), ASK)
    assert "\n" not in str(caught.value)


def test_nothing_of_a_message_is_lost() -> None:
    """Not what could be taken for a guard, nor what a template, a shell or a terminal would act on."""
    wicked = "\U000f0000\U000f0001 \ue000 {{ messages }} {% if %} \x1b[31m \x00 \u202e \U0001f468\u200d\U0001f469 \ufeff"
    rendered = render_prompt(tokenizer(CHATML), [{"role": "user", "content": wicked}])
    assert rendered == f"<s><|im_start|>user\n{wicked}<|im_end|>\n<|im_start|>assistant\n"


# Variables of a template ------------------------------------------------------------------------------

# As Qwen 3's: thoughts are asked for unless a variable says otherwise.
SWITCHED = CHATML.replace(
    "assistant\n{% endif",
    "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif",
)


@pytest.mark.parametrize(
    ("thinking", "end"), [(True, "assistant\n"), (False, "assistant\n<think>\n\n</think>\n\n")]
)
def test_a_variable_of_the_template_is_fixed(thinking: bool, end: str) -> None:
    fixed = tokenizer(SWITCHED)
    fixed.chat_template = with_options(fixed, {"enable_thinking": thinking})
    assert render_prompt(fixed, ASK).endswith(end)
    # As anyone who loads the saved tokenizer will see it.
    assert fixed.apply_chat_template(ASK, tokenize=False, add_generation_prompt=True).endswith(end)
    assert render_pair(fixed, ASK, GOOD, BAD)["chosen"] == "Hello."


@pytest.mark.parametrize("template", [None, CHATML])
def test_a_variable_that_no_template_reads_is_refused(template: str | None) -> None:
    with pytest.raises(UserError, match="no variable 'enable_thinking'"):
        with_options(tokenizer(template), {"enable_thinking": False})


# Templates without end --------------------------------------------------------------------------------

LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
DOUBLES = (
    "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
)
LONG = "{% for i in range(9999) %}{% for j in range(9999) %}a{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "template", [LOOPS, DOUBLES, LONG, "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"]
)
def test_a_template_without_end_is_stopped(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    render_prompt(tokenizer(CHATML), ASK)  # the process for templates is up
    monkeypatch.setattr(rendering, "MAX_SECONDS", 1.0)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"^f\.jsonl:7: the model's chat template refuses") as caught:
        render_prompt(tokenizer(template), ASK, "f.jsonl:7")
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert render_prompt(tokenizer(CHATML), ASK).endswith("assistant\n")  # and the next one is none the worse


def said(words: str) -> Any:
    return [{"role": "user", "content": words}]


def test_many_conversations_are_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    ask = rendering._Worker.ask

    def counting(worker: Any, request: Any, count: int, seconds: float) -> Any:
        asked.append(count)
        return ask(worker, request, count, seconds)

    monkeypatch.setattr(rendering._Worker, "ask", counting)
    one = tokenizer(CHATML)
    prompts = [(said(f"Hi {i}.") if i % 4 else "text", "") for i in range(40)]
    assert list(render_prompts(one, prompts)) == [render_prompt(one, prompt) for prompt, _ in prompts]
    assert asked[:3] == [12, 12, 6]
    asked.clear()
    assert len(list(render_prompts(one, [(said("a" * 2**20), "")] * 3))) == 3
    assert asked == [1, 1, 1], "long ones alone"


def test_time_is_bounded_for_each_conversation_and_not_for_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = tokenizer(
        "{% if messages[0]['content'] == 'slow' %}{% for i in range(1500) %}{% for j in range(1500) %}{% endfor %}{% endfor %}"
        "{% elif messages[0]['content'] == 'endless' %}" + LOOPS + "{% endif %}{{ messages[0]['content'] }}"
    )
    render_prompt(slow, said("a"))  # the process for templates is up
    start = time.monotonic()
    render_prompt(slow, said("slow"))
    bound = 8 * (time.monotonic() - start)
    monkeypatch.setattr(rendering, "MAX_SECONDS", bound)
    start = time.monotonic()
    assert list(render_prompts(slow, [(said("slow"), "")] * 16)) == ["slow"] * 16
    assert time.monotonic() - start > bound
    found = render_prompts(slow, [(said(word), word) for word in ("a", "b", "endless", "c")])
    start = time.monotonic()
    assert [next(found), next(found)] == ["a", "b"]
    with pytest.raises(UserError, match=r"^endless: the model's chat template refuses .*did not end within"):
        next(found)
    assert time.monotonic() - start < bound + 5
    assert render_prompt(slow, said("d")) == "d"


class TimeIsUp(BaseException):
    """As Ctrl-C and a reward's time limit come: wherever the process stands."""


def test_an_answer_that_nobody_waited_for_is_not_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(worker: object, seconds: float) -> bytes:
        raise TimeIsUp

    def asked(word: str) -> str:
        return render_prompt(tokenizer(CHATML), [{"role": "user", "content": word}])

    first = asked("first")
    monkeypatch.setattr(rendering._Worker, "_line", interrupted)
    with pytest.raises(TimeIsUp):
        asked("second")
    monkeypatch.undo()
    for word in ("third", "fourth"):
        assert asked(word) == first.replace("first", word)


def test_a_process_for_templates_that_is_gone_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    render_prompt(tokenizer(CHATML), ASK)
    assert rendering._worker is not None
    rendering._worker.process.kill()
    rendering._worker.process.wait()
    monkeypatch.setattr(rendering._Worker, "usable", lambda _: True)  # it ends behind the look whether it has
    with pytest.raises(UserError, match="the model's chat template refuses"):
        render_prompt(tokenizer(CHATML), ASK)
    monkeypatch.undo()
    assert render_prompt(tokenizer(CHATML), ASK).endswith("assistant\n")
