"""Model directories of strangers: no pickle is opened, no code of theirs runs, every refusal is one line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import gpt2, word_tokenizer

from algos import LoRA, Policy, RewardModel, UserError
from algos.engine.models.weights import safetensors_only
from algos.engine.text.template import render_prompt

OPENED: list[str] | None = None
"""Names of files that were opened, while a test listens."""


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and OPENED is not None and isinstance(arguments[0], (str, os.PathLike)):
        OPENED.append(os.fspath(arguments[0]))


sys.addaudithook(_listen)  # for the life of the process: there is no taking it back


@pytest.fixture
def opened() -> Iterator[Callable[[], list[str]]]:
    """Pickles that were opened since the test began."""
    global OPENED
    OPENED = []
    yield lambda: [name for name in OPENED or [] if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    OPENED = None


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return open, (str(self.canary), "w")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    tokenizer = word_tokenizer("a b c")
    gpt2(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def refusal(load: Callable[[Path], object], folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes), encoding="utf-8")


both = pytest.mark.parametrize("load", [Policy.load, RewardModel], ids=["policy", "reward"])


@both
def test_pickled_weights_alone_are_refused(load: Any, model: Path, canary: Path, opened: Any) -> None:
    (model / "model.safetensors").unlink()
    torch.save({"x": Runs(canary)}, model / "pytorch_model.bin")
    assert "model.safetensors" in refusal(load, model)
    assert not opened()
    assert not canary.exists()


def test_a_pickle_beside_safetensors_is_left_alone(model: Path, canary: Path, opened: Any) -> None:
    for name in (
        "pytorch_model.bin",
        "training_args.bin",
        "optimizer.pt",
        "scheduler.pt",
        "adapter_model.bin",
    ):
        torch.save({"x": Runs(canary)}, model / name)
    (model / "pytorch_model.bin.index.json").write_text(
        json.dumps({"weight_map": {"x": "pytorch_model.bin"}})
    )
    Policy.load(model)
    assert not opened()
    assert not canary.exists()


@both
@pytest.mark.parametrize(
    "name", ["evil.bin", "../elsewhere/model.safetensors", "{folder}/model.safetensors", "sub/x.bin"]
)
def test_an_index_names_no_pickle_and_nothing_elsewhere(
    load: Any, name: str, model: Path, canary: Path, opened: Any, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(model, elsewhere)
    (model / "model.safetensors").unlink()
    torch.save({"x": Runs(canary)}, model / "evil.bin")
    index = {
        "metadata": {},
        "weight_map": {"transformer.wte.weight": name.replace("{folder}", str(elsewhere))},
    }
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "is no safetensors file beside it" in refusal(load, model)
    assert not opened()
    assert not canary.exists()


@pytest.mark.parametrize("name", ["evil.bin", "adapter_model.bin", "../x/model.safetensors"])
def test_a_configuration_names_neither(name: str, model: Path, canary: Path, opened: Any) -> None:
    torch.save({"x": Runs(canary)}, model / "adapter_model.bin")
    edit(model / "config.json", transformers_weights=name)
    assert "is no safetensors file beside it" in refusal(Policy.load, model)
    assert not opened()


@pytest.fixture
def adapter(model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    Policy.load(model, lora=LoRA(rank=2)).save(folder)
    return folder


def test_a_pickled_adapter_is_refused(adapter: Path, canary: Path, opened: Any) -> None:
    Policy.load(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"x": Runs(canary)}, adapter / "adapter_model.bin")
    assert "holds weights as a pickle" in refusal(Policy.load, adapter)
    assert not opened()
    assert not canary.exists()


def test_so_is_one_hidden_in_a_base(
    adapter: Path, model: Path, canary: Path, opened: Any, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(model, base)
    shutil.copy(adapter / "adapter_config.json", base)
    torch.save({"x": Runs(canary)}, base / "adapter_model.bin")
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(base))
    refusal(Policy.load, adapter)
    refusal(RewardModel, base)
    assert not opened()
    assert not canary.exists()


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "null", "{}", "[" * 100_000, '{"peft_type": "LORA"}',
        '{"peft_type": "LORA", "base_model_name_or_path": null}',
        '{"peft_type": "PROMPT_TUNING", "base_model_name_or_path": "x", "tokenizer_kwargs": {"trust_remote_code": true}}',
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_an_adapter_that_is_none_is_one_line(text: str, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text(text, encoding="utf-8")
    assert "adapter_config.json" in refusal(Policy.load, adapter)


def test_the_guard_ends_with_the_block(tmp_path: Path) -> None:
    torch.save({"x": 1}, tmp_path / "x.bin")
    with pytest.raises(UserError, match="holds weights as a pickle"), safetensors_only(tmp_path):
        torch.load(tmp_path / "x.bin")
    assert torch.load(tmp_path / "x.bin") == {"x": 1}


# Code that comes with a model


@pytest.fixture
def with_code(model: Path, canary: Path) -> Path:
    """A model of a kind that transformers does not know, with modules of its own."""
    names = {
        "AutoConfig": "evil.C",
        "AutoModelForCausalLM": "evil.M",
        "AutoModelForSequenceClassification": "evil.M",
    }
    edit(model / "config.json", model_type="evil", auto_map={**names, "AutoTokenizer": ["evil.T", None]})
    edit(
        model / "tokenizer_config.json",
        tokenizer_class="EvilTokenizer",
        auto_map={"AutoTokenizer": ["evil.T", None]},
    )
    (model / "evil.py").write_text(f"open({str(canary)!r}, 'w')\n", encoding="utf-8")
    return model


@both
def test_it_is_neither_run_nor_asked_about(
    load: Any, with_code: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    message = refusal(load, with_code)
    assert "custom code" in message
    assert not canary.exists()


def test_it_is_said_how_to_ask_for_it(with_code: Path) -> None:
    assert refusal(Policy.load, with_code).endswith("run on this machine.")
    assert "--trust-remote-code" in refusal(Policy.load, with_code)


def test_it_runs_where_it_is_asked_for(with_code: Path, canary: Path) -> None:
    """Or the tests above would prove nothing."""
    with pytest.raises(Exception):  # noqa: B017, PT011 (the module defines none of what is wanted of it)
        Policy.load(with_code, trust_remote_code=True)
    assert canary.exists()


def test_a_kind_that_is_known_loads_without_its_code(with_code: Path, canary: Path) -> None:
    edit(with_code / "config.json", model_type="gpt2")
    Policy.load(with_code)
    assert not canary.exists()


# Chat templates


TEMPLATES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch {canary}') }}",
    "{{ self._TemplateReference__context.namespace.__init__.__globals__['os'].popen('touch {canary}') }}",
    "{{ messages.__init__.__globals__ }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('touch {canary}') }}",
    "{{ ''.format.__func__.__globals__ }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(namespace) }}",
    "{{ lipsum.__globals__.os.popen('touch {canary}').read() }}",
    "{% for k in strftime_now.__globals__ %}{{ k }}{% endfor %}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_gets_out_of_its_sandbox_by_none_of_the_known_ways(template: str, canary: Path) -> None:
    tokenizer, said = word_tokenizer("a"), [{"role": "user", "content": "a"}]
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert render_prompt(tokenizer, said) == "a"  # were all templates refused, the rest would prove nothing
    tokenizer.chat_template = template.replace("{canary}", str(canary))
    text = ""
    with contextlib.suppress(UserError):
        text = render_prompt(tokenizer, said)
    assert "os" not in text
    assert "function" not in text
    assert not canary.exists()
