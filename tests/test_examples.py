"""examples/: every command of its README runs as it stands, the Python of README and docs/python.md too, and its data are what
its script writes."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from classifiers import classifier

import run_compare
from eval.data import load_pairs
from eval.experiment import Experiment
from eval.settings.layers import load_yaml
from eval.store import Store
from eval.tuning.search import Range

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
COMMANDS = re.findall(
    r"^rlhf-compare (.+)$", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE
)
FORMATS = ("pairs.jsonl", "conversations.json", "dialogues.jsonl", "answers.csv", "pairs.parquet", "saved")
RENAMED = {"prompt": "question", "chosen": "better", "rejected": "worse"}


def script(name: str) -> ModuleType:
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples") / "tiny-model"
    script("make_tiny_model").main(folder)
    return folder


def test_the_readmes_python_prints_what_it_says(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM

    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    (printed,) = re.findall(
        r"```\n( +updates .*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-model").symlink_to(model)
    exec(compile(code, "README.md", "exec"), {})
    told, found = rows(printed), rows(capsys.readouterr().out)
    assert [row["updates"] for row in told] == [row["updates"] for row in found]
    for table in (told, found):  # of other processors' rounding the rest is another sample
        assert table[-1]["reward/train"] > table[0]["reward/train"] + 0.3
        assert 0.5 < table[-1]["kl/train"] < 10
    _, loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "my-policy", output_loading_info=True)
    assert not any(loaded.values())


def rows(text: str) -> list[dict[str, float]]:
    """The table that a data frame prints, below its line of names."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    names = next(i for i, line in enumerate(lines) if line[0] == "updates")
    return [dict(zip(lines[names], map(float, line[1:]), strict=True)) for line in lines[names + 1 :]]


def test_the_python_pages_blocks_run_in_order(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights & Biases is what remembers what it is told."""
    logged: list[int] = []
    tracker: Any = ModuleType("wandb")
    tracker.init = lambda project: None
    tracker.log = lambda row, step: logged.append(step)
    monkeypatch.setitem(sys.modules, "wandb", tracker)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-model").symlink_to(model)
    classifier(tmp_path / "my-reward-model")
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert len(blocks) == 5
    names: dict[str, Any] = {}
    for i, code in enumerate(blocks):
        exec(compile(code, f"python.md, block {i + 1}", "exec"), names)
    assert logged == [*range(1, 9), 8]  # the second run begins where the first ended, and is at its end
    assert (tmp_path / "my-policy" / "model.safetensors").is_file()
    assert names["batch"].scores_PG.shape == names["kl_PG"].shape == (2, 4)
    assert float(names["loss"].detach()) == pytest.approx(0, abs=1e-5)  # of whitened advantages at ratio 1
    assert names["logps"].grad is not None


def data_of(command: str) -> str:
    arguments = shlex.split(command)
    flag = "--pairs" if "--pairs" in arguments else "--prompts"
    return Path(arguments[arguments.index(flag) + 1]).name


def test_there_is_a_command_for_every_format() -> None:
    assert [data_of(command) for command in COMMANDS] == ["prompts.jsonl", *FORMATS]


def carried_out(command: str, model: Path, out: Path) -> int:
    """The exit status of the command, made small."""
    arguments = shlex.split(command.replace("tiny-model", str(model)))
    arm = "reinforce" if "--prompts" in arguments else "dpo"
    small = [
        "--algos",
        arm,
        "--seeds",
        "1",
        "--budget",
        "2iterations",
        "--eval.points",
        "1",
        "--frontier.samples",
        "0",
    ]
    small += ["--reward-model.epochs", "1", "--workers", "1", "--cache", str(model.parent / "cache")]
    return run_compare.main([*arguments, *small, "--out", str(out)])


def account_for_every_row(accounts: list[dict[str, Any]]) -> None:
    for account in accounts:
        dropped = sum(told["rows"] for told in account["reasons"].values() if told["dropped"])
        assert account["read"] == dropped + sum(account["uses"].values())
    assert (accounts[0]["read"], accounts[0]["kept"]) == (240, 240)


TO_THE_END = ("prompts.jsonl", "pairs.jsonl", "conversations.json")
"""The others hold the same pairs, as is tested below: once they are read there is no difference."""


@pytest.mark.parametrize("command", [c for c in COMMANDS if data_of(c) in TO_THE_END], ids=data_of)
@pytest.mark.usefixtures("sketched")
def test_commands_end_in_a_report_that_accounts_for_every_row(
    command: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    out = tmp_path / "report"
    assert carried_out(command, model, out) == 0
    account_for_every_row(json.loads((out / "facts.json").read_text(encoding="utf-8"))["data"])
    assert data_of(command) in (out / "report.md").read_text(encoding="utf-8").replace("\\", "")


@pytest.mark.parametrize("command", [c for c in COMMANDS if data_of(c) not in TO_THE_END], ids=data_of)
def test_the_other_commands_account_for_every_row_as_they_begin_to_train(
    command: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("eval.comparison.tune", stopped)
    monkeypatch.chdir(ROOT)
    out = tmp_path / "report"
    assert carried_out(command, model, out) == 130
    account_for_every_row(Store.open(out).materials(0).facts["data"])


def test_every_format_holds_the_same_pairs() -> None:
    found = {}
    for name in FORMATS:
        columns = RENAMED if name == "answers.csv" else None
        rows, _ = load_pairs(str(EXAMPLES / "data" / name), columns)
        found[name] = [
            {key: text[0]["content"] if isinstance(text, list) else text for key, text in row.values.items()}
            for row in rows
        ]
    marked = [
        row | {"prompt": row["prompt"].removeprefix("\n\nHuman: ").removesuffix("\n\nAssistant:")}
        for row in found["dialogues.jsonl"]
    ]
    spaced = [
        row | {side: f" {row[side]}" for side in ("chosen", "rejected")}
        for row in found["conversations.json"]
    ]
    expected = script("make_data").pairs()
    same = {**found, "dialogues.jsonl": marked, "conversations.json": spaced}
    assert {name: rows == expected for name, rows in same.items()} == dict.fromkeys(FORMATS, True)


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.yaml")))
def test_every_settings_file_is_valid(name: str) -> None:
    asked = run_compare.parse(["--config", str(EXAMPLES / name)]).experiment
    assert asked != Experiment()


def test_the_tuning_example_searches_as_much_for_every_algorithm() -> None:
    asked = run_compare.parse(["--config", str(EXAMPLES / "tune.yaml")]).experiment
    searched = []
    for name in asked.algos:
        ranges = {key: each for key, each in asked.space(name).items() if isinstance(each, Range)}
        others = [len(each.ends) for key, each in asked.space(name).items() if key not in ranges]
        searched.append(({key: round(each.high / each.low, 6) for key, each in ranges.items()}, others))
    assert searched == [({"learning_rate": 25, "beta": 25}, [3])] * 3


@pytest.mark.parametrize("page", ["report.md", "report.html"])
def test_the_kept_report_says_at_its_top_that_its_runs_are_gone(page: str) -> None:
    text = (ROOT / "reports" / "example" / page).read_text(encoding="utf-8")
    assert not (ROOT / "reports" / "example" / "runs").exists()
    assert (
        "Stored without its runs: read it; it cannot be resumed or its policies loaded."
        in text[: text.index("Verdict")]
    )


def test_the_kept_comparison_can_be_made_again() -> None:
    """Its report says how: `--config reports/example/experiment.yaml`."""
    kept = Experiment.from_dict(load_yaml(ROOT / "reports" / "example" / "experiment.yaml"))
    assert kept.task == "reviews"
    assert kept.seeds >= 3
