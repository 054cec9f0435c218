"""Real and wicked files: every row passes, or is named with file, line and reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from algos.engine.errors import UserError
from eval.data import load_pairs, load_prompts, split_rows

DATA = Path(__file__).parents[1].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")


def test_real_preferences_are_accounted_for() -> None:
    rows, accounting = load_pairs(str(DATA / "hh_pairs.jsonl"))
    # Two people preferred a single space to an answer.
    assert accounting.as_dict()["reasons"]["empty chosen"] == {"rows": 2, "lines": [87, 517], "dropped": True}
    assert list(accounting.dropped) == ["empty chosen"]
    assert (accounting.read, len(rows)) == (600, 598)


def test_whole_dialogues_give_the_same_pairs_as_their_explicit_form(tmp_path: Path) -> None:
    rows, _ = load_pairs(str(DATA / "hh_pairs.jsonl"))
    whole = tmp_path / "whole.jsonl"
    whole.write_text(
        "".join(
            json.dumps({name: row.values["prompt"] + row.values[name] for name in ("chosen", "rejected")})
            + "\n"
            for row in rows
        )
    )
    assert [row.values for row in load_pairs(str(whole))[0]] == [row.values for row in rows]


def test_stories_pass_whole_and_split() -> None:
    for load, name, count in ((load_pairs, "stories_pairs", 1000), (load_prompts, "stories_prompts", 2000)):
        rows, accounting = load(str(DATA / f"{name}.jsonl"))
        assert len(rows) == accounting.read == count
        assert accounting.dropped == {}
        split_rows(rows)


def test_wicked_rows_pass_unharmed_or_are_named() -> None:
    path = str(DATA / "wicked.jsonl")
    raw = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    with pytest.raises(UserError) as caught:
        load_pairs(path)
    assert f"1 of 30 rows cannot be used: {path}:27 chosen is null." in str(caught.value)
    rows, accounting = load_pairs(path, on_bad_row="skip")
    lines = {reason: found["lines"] for reason, found in accounting.as_dict()["reasons"].items()}
    assert len(lines.pop("same prompt as an earlier pair")) == 13
    assert lines == {
        "null": [27],
        "empty chosen": [1, 11],
        "empty rejected": [2],
        "identical chosen and rejected": [3],
        "empty prompt": [10],
        "near-duplicate pair": [29],  # of one without the space before its answers
    }
    for row in rows:
        wicked = raw[row.line - 1]
        if wicked["kind"] == "list_response":
            assert row.values["prompt"] == [{"role": "user", "content": wicked["prompt"]}]
            assert row.values["chosen"] == wicked["chosen"]
        else:
            assert row.values == {name: wicked[name] for name in ("prompt", "chosen", "rejected")}


@pytest.mark.parametrize(
    ("name", "kept", "dropped"),
    [("wicked_bom_crlf.jsonl", 1, 2), ("wicked_gz.jsonl.gz", 1, 2), ("wicked_onerow.jsonl", 1, 0)],
)
def test_wicked_files_that_can_be_read(name: str, kept: int, dropped: int) -> None:
    rows, accounting = load_pairs(str(DATA / name))
    assert (len(rows), accounting.read - accounting.kept) == (kept, dropped)
    with pytest.raises(UserError, match="Give more prompts"):
        split_rows(rows)


@pytest.mark.parametrize("name", ["wicked_blank.jsonl", "wicked_empty.jsonl"])
def test_wicked_files_without_a_row(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} holds no rows"):
        load_pairs(str(DATA / name))
