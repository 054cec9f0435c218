"""Splits by prompt: the same in every file, disjoint, complete, near their shares."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algos.engine.errors import UserError
from eval.data import Row, split_of, split_rows
from eval.data.split import normalised_prompt

MANY = [f"prompt {i}" for i in range(2000)]


def rows_of(prompts: list[Any]) -> list[Row]:
    return [Row({"prompt": prompt}, line, "f.jsonl") for line, prompt in enumerate(prompts, 1)]


def test_the_split_is_pinned() -> None:
    # A new hash would move prompts from test to training between two versions of the program.
    assert [split_of(prompt) for prompt in MANY[:8]] == [
        *("train", "test", "validation", "test"),
        *("train", "test", "validation", "train"),
    ]


def test_shares_are_near_80_10_10() -> None:
    names = [split_of(prompt) for prompt in MANY]
    assert 1600 - 72 < names.count("train") < 1600 + 72  # four standard deviations
    assert 200 - 54 < names.count("validation") < 200 + 54


def test_the_same_prompt_written_otherwise_is_the_same() -> None:
    as_message = [{"role": "user", "content": "café  au lait"}]
    for other in (
        "cafe\u0301 au\nlait ",
        "Café AU lait",
        "ｃａｆé au lait",
        as_message,
        [{"content": "café au lait", "role": "user", "x": 1}],
    ):
        assert normalised_prompt(other) == normalised_prompt("café au lait")
    with_system = [{"role": "system", "content": "s"}, *as_message]
    assert normalised_prompt(with_system) != normalised_prompt(as_message)
    assert normalised_prompt("cafe au lait") != normalised_prompt("café au lait")


@given(st.text(st.sampled_from("aA ßẞﬁİ\u0301ΣςK²\n"), max_size=6))
def test_normalising_again_or_in_capitals_changes_nothing(prompt: str) -> None:
    once = normalised_prompt(prompt)
    assert normalised_prompt(once) == once
    assert normalised_prompt(prompt.upper()) == once


@given(st.lists(st.text(st.sampled_from("ab \n\u0301e"), max_size=4), max_size=30))
def test_splits_are_disjoint_by_prompt_and_complete(prompts: list[str]) -> None:
    rows = rows_of(prompts)
    splits = split_rows(rows, needed=())
    parts = [splits.train, splits.validation, splits.test]
    assert sorted(row.line for part in parts for row in part) == [row.line for row in rows]
    seen = [{normalised_prompt(row.values["prompt"]) for row in part} for part in parts]
    assert sum(map(len, seen)) == len(set.union(*seen))
    alone = [split_of(row.values["prompt"]) for row in splits.test]
    assert alone == ["test"] * len(alone)


def test_given_test_prompts_are_all_of_the_test() -> None:
    wanted = [prompt for prompt in MANY if split_of(prompt) == "train"][:5]
    usual = split_rows(rows_of(MANY))
    splits = split_rows(rows_of(MANY), test_prompts=[f" {prompt} " for prompt in wanted])
    assert [row.values["prompt"] for row in splits.test] == wanted
    assert splits.validation == usual.validation
    assert len(splits.train) == len(usual.train) + len(usual.test) - 5


def test_test_prompts_need_not_occur_in_the_file() -> None:
    assert split_rows(rows_of(MANY), test_prompts=["elsewhere"]).test == []


def test_where_every_prompt_is_a_test_prompt_that_is_what_is_said() -> None:
    with pytest.raises(UserError, match=r"^every prompt of f\.jsonl is a test prompt, .*--test-prompts"):
        split_rows(rows_of(MANY), test_prompts=MANY, needed=["train"])


def test_an_empty_split_is_an_error_with_the_remedy() -> None:
    rows = rows_of(["only one"])
    name = split_of("only one")
    with pytest.raises(UserError, match=r"none of the 1 distinct prompts of f\.jsonl .*--test-prompts FILE"):
        split_rows(rows)
    assert getattr(split_rows(rows, needed=[name]), name) == rows
    with pytest.raises(UserError, match="Give more prompts"):
        split_rows([])
