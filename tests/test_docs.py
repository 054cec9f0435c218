"""docs/ says what the code does: links, names, defaults, metrics and who logs them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, page, section, table_rows
from tiny import tiny_policy
from tiny_runs import PROMPTS

from algos import ALGORITHMS, DPO, PPO, REINFORCE, Algorithm, Sampling, train
from algos.engine.budget import UNITS
from algos.engine.calls import GuardedReward, RewardCalls
from eval.data.split import normalised_prompt
from eval.glossary import METRICS, TRAINING
from eval.recording.recorder import event
from eval.settings.parts import Evaluation, Frontier
from eval.tasks.reviews.preset import PRESET

PAGES = sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


# Links and names ---------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """A heading's anchor as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def defined(file: Path) -> set[str]:
    """Functions, classes, methods, fields and constants that a Python file defines, methods as `Class.method`."""

    def names(nodes: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from names(node.body, f"{node.name}.")
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))

    return set(names(ast.parse(file.read_text(encoding="utf-8")).body, ""))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere_and_every_linked_name_is_defined_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    broken = []
    for label, target in LINK.findall(text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        name = re.fullmatch(r"`(\w+(?:\.\w+)*)`", label)
        missing = not there.exists()
        wrong_anchor = anchor and not missing and anchor not in anchors(there.read_text(encoding="utf-8"))
        wrong_name = name and there.suffix == ".py" and not missing and name[1] not in defined(there)
        if missing or wrong_anchor or wrong_name:
            broken.append(f"[{label}]({target})")
    assert broken == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_link_names_a_line(path: Path) -> None:
    assert re.findall(r"\.py#L\d+|\.py:\d+", path.read_text(encoding="utf-8")) == []


# Settings ----------------------------------------------------------------------------------------------


def documented_settings(text: str) -> dict[str, str]:
    return {row[0].strip("`"): row[1].strip("`") for row in table_rows(text, "name")}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    kind = ALGORITHMS[name]
    text = page("algorithms.md")
    shared = documented_settings(section(text, "Shared hyper-parameters"))
    own = documented_settings(section(text, kind.__name__))
    assert {field.name for field in fields(Algorithm)} == set(shared)
    assert set(own) <= {field.name for field in fields(kind)}
    settings = {field.name: str(getattr(kind(), field.name)) for field in fields(kind)}
    assert {**shared, **own} == settings


def test_the_frontiers_defaults_are_documented() -> None:
    asked, reviews = Frontier(), PRESET["frontier"]
    costs = (
        f"By default {asked.prompts} prompts ({reviews['prompts']} in `reviews`) × {asked.samples} answers"
    )
    assert asked.samples == reviews["samples"]
    assert costs in page("frontier.md")


def test_the_defaults_to_choose_from_are_documented() -> None:
    asked, text = Evaluation(), page("choosing.md")
    assert f"they are {asked.prompts} and {asked.responses}, with {asked.points} points" in text
    assert f"{Frontier().prompts} prompts for the frontier" in text
    per_iteration = Sampling().group_size * Sampling().prompts_per_iteration
    assert f"{-(-10_000 // per_iteration)}, at the default {per_iteration} responses an iteration" in text


def test_how_prompts_are_normalised_is_documented_as_the_code_says() -> None:
    told = "Unicode NFKC, case folded, white space collapsed"
    assert told in (normalised_prompt.__doc__ or "")
    assert told in section(page("metrics.md"), "Splits")
    assert normalised_prompt("  \ufb01n\tÉ ") == "fin \u00e9"


def test_the_samplers_defaults_are_documented() -> None:
    text = section(page("algorithms.md"), "Shared hyper-parameters")
    for field in fields(Sampling):
        assert f"`{field.name}` {getattr(Sampling(), field.name)}" in text, field.name


def test_every_dpo_loss_and_baseline_has_its_row() -> None:
    from typing import get_args

    from algos.dpo import DPOLoss
    from algos.losses import Aggregation
    from algos.reinforce import Baseline

    text = page("algorithms.md")
    for first, choices in (("`loss_type`", DPOLoss), ("baseline", Baseline)):
        assert [row[0].strip("`") for row in table_rows(text, first)] == list(get_args(choices))
    rows = table_rows(section(text, "Aggregation"), "name")
    assert [row[0].strip("`") for row in rows] == list(get_args(Aggregation))


# Metrics -----------------------------------------------------------------------------------------------


def test_every_evaluation_metric_is_documented_as_the_glossary_defines_it() -> None:
    rows = table_rows(section(page("metrics.md"), "Evaluation metrics"), "name")
    expected = [[f"`{m.name}`", m.unit, m.better or "–", m.definition] for m in METRICS.values()]
    assert rows == expected


def test_how_results_are_read_prints_what_the_page_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    text = section(page("metrics.md"), "Reading results.csv")
    code, printed = re.findall(r"```(?:python)?\n(.*?)```", text, re.DOTALL)[:2]
    exec(compile(code, "metrics.md", "exec"), {})
    assert capsys.readouterr().out == printed


PAIRS = [{"prompt": "a b", "chosen": " b" * n, "rejected": " a" * (8 - n)} for n in range(1, 8)]
LOGGERS: dict[str, Algorithm] = {
    "REINFORCE": REINFORCE(),
    "REINFORCE (ema)": REINFORCE(baseline="ema"),
    "REINFORCE (value)": REINFORCE(baseline="value"),
    "PPO": PPO(),
    "PPO (adaptive)": PPO(kl_control="adaptive"),
    "DPO (pairs)": DPO(batch_size=4),
    "DPO (sampled)": DPO(on_policy=True),
}


def ranks(completions: list[str], **_: Any) -> list[float | None]:
    return [float(i % 3) if i else None for i in range(len(completions))]


def logged(name: str) -> set[str]:
    """The columns of events.jsonl."""
    reward = GuardedReward(ranks, RewardCalls(allow_unscored=True))
    data: dict[str, Any] = {"prompts": PROMPTS, "reward": reward}
    if name == "DPO (pairs)":
        data = {"pairs": PAIRS}
    sampling = Sampling(max_new_tokens=4, group_size=3, prompts_per_iteration=3)
    history = train(LOGGERS[name], tiny_policy(), sampling=sampling, budget="2iterations", **data)
    return {column for row in history.rows for column in event(row)}


def loggers(words: str) -> set[str]:
    """What "logged by" says: `all`, an algorithm with all its variants, or one variant."""
    if words == "all":
        return set(LOGGERS)
    return {
        name for word in words.split(", ") for name in LOGGERS if name == word or name.startswith(f"{word} (")
    }


def test_every_logged_column_is_documented_with_who_logs_it() -> None:
    rows = table_rows(section(page("metrics.md"), "Training metrics"), "name")
    assert all(len(row) == 4 and all(row) for row in rows)
    documented = {row[0].strip("`"): loggers(row[2]) for row in rows}
    assert len(documented) == len(rows)
    found: dict[str, set[str]] = {}
    for name in LOGGERS:
        for column in logged(name):
            found.setdefault(column, set()).add(name)
    assert documented == found


def test_every_budget_unit_is_documented() -> None:
    rows = table_rows(section(page("metrics.md"), "Budgets"), "unit")
    assert sorted(row[0] for row in rows) == sorted(UNITS)


def test_training_metrics_are_those_of_the_glossary() -> None:
    """Every logged column that is not a count is defined once, and the page says the same."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = {
        name: (unit.strip(), text)
        for name, unit, text in re.findall(
            r"^\| `([^`]+)` \| ([^|]+) \| [^|]+ \| (.+) \|$", page, re.MULTILINE
        )
    }
    for metric in TRAINING.values():
        assert rows[metric.name] == (metric.unit or "1", metric.definition)
