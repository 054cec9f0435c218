"""Texts that break programs go through training, evaluation and report, all three arms, and come out unharmed."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from wicked_files import TEXTS

import run_compare

REWARD = """
def letters(prompts, completions, **columns):
    texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
    return [float(sum(map(str.isalpha, text))) for text in texts]
"""
SMALL = (
    "--seeds", "1", "--budget", "2iterations", "--eval.points", "1", "--eval.prompts", "100", "--workers", "1",
    "--frontier.samples", "0", "--max-new-tokens", "8", "--prompts-per-iteration", "8", "--dpo.batch-size", "8",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model over bytes: it can read and write anything."""
    folder = tmp_path_factory.mktemp("bytes")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({"<eos>": 0} | {letter: i for i, letter in enumerate(letters, 1)}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>").save_pretrained(folder)
    config = GPT2Config(
        vocab_size=257, n_positions=256, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


class Active(HTMLParser):
    """What a page would do: its scripts, and attributes that run code or fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [tag] if tag in ("script", "iframe", "object", "embed") else []
        self.found += [name for name, _ in attributes if name.startswith("on")]
        self.found += [
            str(value) for name, value in attributes if name in ("src", "href") and "script:" in str(value)
        ]


def compare(capfd: pytest.CaptureFixture[str], out: Path, *arguments: str) -> dict[str, Any]:
    """Runs it, and returns the facts: no traceback, nothing that drives the terminal, every row accounted for."""
    status = run_compare.main([*arguments, *SMALL, "--out", str(out), "--cache", str(out.parent / "cache")])
    said = "".join(capfd.readouterr())
    assert status == 0, said
    assert "Traceback" not in said
    assert all(char.isprintable() or char in "\n\t" for char in said)
    page = Active()
    page.feed((out / "report.html").read_text(encoding="utf-8"))
    assert page.found == []
    for name in ("report.html", "report.md", "results.csv"):
        text = (out / name).read_text(encoding="utf-8")
        assert not set(text) & set("\x00\x07\x1b\u202e\u2028")
    facts: dict[str, Any] = json.loads((out / "facts.json").read_text(encoding="utf-8"))
    for account in facts["data"]:
        dropped = sum(told["rows"] for told in account["reasons"].values() if told["dropped"])
        assert account["read"] == dropped + sum(account["uses"].values())
    return facts


def samples(out: Path) -> list[dict[str, Any]]:
    lines = [
        line for file in out.glob("runs/*/samples.jsonl") for line in file.read_text("utf-8").split("\n")
    ]
    return [json.loads(line) for line in lines if line]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.usefixtures("sketched")
def test_wicked_texts_pass_through_all_of_it(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text(REWARD, encoding="utf-8")
    pairs = [
        {"prompt": f"{i} {text}", "chosen": f"{text}!", "rejected": f"?{text}"}
        for i, text in enumerate(TEXTS)
    ]
    talks = [{"prompt": [{"role": "user", "content": text}]} for text in TEXTS]
    facts = compare(
        capfd, tmp_path / "out", "--model", str(model), "--reward", f"{reward}:letters",
        "--pairs", write(tmp_path / "pairs.jsonl", pairs),
        "--test-prompts", write(tmp_path / "test.jsonl", [{"prompt": text} for text in TEXTS] + talks),
    )  # fmt: skip
    of_pairs, _, of_test = facts["data"]
    long = [i for i, text in enumerate(TEXTS, 1) if len(text) > 200]
    assert of_pairs["reasons"]["prompt too long"]["lines"] == long
    assert (of_pairs["read"], of_pairs["kept"]) == (len(TEXTS), len(TEXTS) - len(long))
    reasons = {name: told["rows"] for name, told in of_test["reasons"].items() if told["dropped"]}
    assert reasons == {"prompt has no tokens": 1, "prompt too long": 2 * len(long)}
    found = samples(tmp_path / "out")
    evaluated = [text for text in TEXTS if text and len(text) < 200]
    evaluated += [f"user: {text}" for text in TEXTS if len(text) < 200]
    for arm in range(3):
        assert [
            row["prompt"] for row in found[arm * len(evaluated) : (arm + 1) * len(evaluated)]
        ] == evaluated


@pytest.mark.slow
@pytest.mark.parametrize(("pairs", "test"), [("wicked", "stories_prompts"), ("stories_pairs", "wicked")])
@pytest.mark.usefixtures("sketched")
def test_real_wicked_rows_pass_through_all_of_it(
    shared_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], pairs: str, test: str
) -> None:
    """Once as what is trained on, once as what is evaluated on."""
    reward = tmp_path / "reward.py"
    reward.write_text(REWARD, encoding="utf-8")
    facts = compare(
        capfd, tmp_path / "out", "--model", str(shared_data / "stories260k"), "--reward", f"{reward}:letters",
        "--pairs", str(shared_data / f"{pairs}.jsonl"), "--test-prompts", str(shared_data / f"{test}.jsonl"),
        "--on-bad-row", "skip",
    )  # fmt: skip
    of_wicked = next(account for account in facts["data"] if account["file"].endswith("/wicked.jsonl"))
    assert of_wicked["read"] == 30
    rows = [json.loads(line) for line in (shared_data / "wicked.jsonl").read_text("utf-8").split("\n")[:-1]]
    shown = {row["prompt"] for row in samples(tmp_path / "out")}
    if test == "wicked":
        assert shown <= {row["prompt"] for row in rows}
        assert len(shown) == of_wicked["uses"]["test"]
