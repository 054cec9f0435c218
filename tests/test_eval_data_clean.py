"""From raw rows to prompts and pairs: formats, refusals, and an account in which every row stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from algos.engine.errors import UserError
from eval.data import Accounting, load_pairs, load_prompts
from eval.data.accounting import summary

PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def write(tmp_path: Path, rows: list[Any]) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_useless_pairs_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [
        PAIR,
        {**PAIR, "chosen": "same", "rejected": "same"},
        {**PAIR, "chosen": ""},
        {**PAIR, "rejected": " \n"},
        PAIR,
        {"prompt": "p", "chosen": "bad", "rejected": "good"},
        {"prompt": "", "chosen": "good", "rejected": "bad"},
    ]
    kept, accounting = load_pairs(write(tmp_path, rows))
    assert [row.line for row in kept] == [1, 6, 7]
    account = accounting.as_dict()
    assert (account["read"], account["kept"]) == (7, 3)
    assert account["reasons"] == {
        "identical chosen and rejected": {"rows": 1, "lines": [2], "dropped": True},
        "empty chosen": {"rows": 1, "lines": [3], "dropped": True},
        "empty rejected": {"rows": 1, "lines": [4], "dropped": True},
        "exact duplicate pair": {"rows": 1, "lines": [5], "dropped": True},
        "contradicting label": {"rows": 1, "lines": [6], "dropped": False},
        "same prompt as an earlier pair": {"rows": 1, "lines": [6], "dropped": False},
        "empty prompt": {"rows": 1, "lines": [7], "dropped": False},
    }
    sentences = accounting.sentences()
    assert sentences[0].endswith("rows.jsonl: 7 rows read, 3 kept.")
    assert "Dropped: 1 × exact duplicate pair (line 5)." in sentences
    assert "Kept, but noted: 1 × contradicting label (line 6)." in sentences
    json.dumps(account)


def test_a_prompt_is_kept_once(tmp_path: Path) -> None:
    kept, accounting = load_prompts(write(tmp_path, [{"prompt": "a"}] * 30 + [{"prompt": [user("a")]}]))
    assert [row.line for row in kept] == [1, 31]
    reason = accounting.as_dict()["reasons"]["duplicate prompt"]
    assert (reason["rows"], reason["lines"]) == (29, list(range(2, 22)))
    sentence = accounting.sentences()[1]
    assert "lines 2, 3," in sentence
    assert sentence.endswith("21, ...).")


def test_what_only_looks_like_another_is_kept_and_noted(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": text} for text in ("a b", "A  b", "Ａ b", "c", "a b")])
    kept, accounting = load_prompts(path)
    assert [row.line for row in kept] == [1, 2, 3, 4]
    assert accounting.noted["near-duplicate prompt"].lines == [2, 3]
    again = {name: text.upper() for name, text in PAIR.items()}
    _, accounting = load_pairs(write(tmp_path, [PAIR, again, {**PAIR, "chosen": "better"}]))
    noted = {reason: tally.lines for reason, tally in accounting.noted.items()}
    assert noted == {"near-duplicate pair": [2], "same prompt as an earlier pair": [2, 3]}


def test_a_conversation_that_a_table_made_into_text_is_noted(tmp_path: Path) -> None:
    texts = [
        "[{'role': 'user', 'content': 'x'}]",
        ' [{"content": "x", "role": "user"}]',
        "[role]",
        "{'role'}",
    ]
    _, accounting = load_prompts(write(tmp_path, [{"prompt": text} for text in texts]))
    assert [tally.lines for tally in accounting.noted.values()] == [[1, 2]]


def test_the_names_of_one_files_columns_do_not_bother_another(tmp_path: Path) -> None:
    columns = {"prompt": "q", "chosen": "a", "rejected": "b"}
    kept, _ = load_prompts(write(tmp_path, [{"q": "x", "chosen": 1}]), columns)
    assert kept[0].values == {"prompt": "x", "chosen": 1}
    kept, _ = load_pairs(write(tmp_path, [{"q": "x", "a": "y", "b": "z"}]), columns | {"answer": "gold"})
    assert kept[0].values == {"prompt": "x", "chosen": "y", "rejected": "z"}


def test_the_log_has_a_line_an_account() -> None:
    account = Accounting("f.csv", 1200)
    account.drop("empty chosen", 3)
    account.drop("longer than the model", rows=20)
    account.note("empty prompt", 7)
    account.uses = {"training": 1000, "test": 179}
    assert summary(account.as_dict()) == (
        "f.csv: 1,200 rows read, 1,179 kept (training 1,000, test 179); "
        "dropped: 1 empty chosen, 20 longer than the model; noted: 1 empty prompt"
    )
    assert "Dropped: 20 × longer than the model." in account.sentences()
    assert summary(Accounting("g", 1).as_dict()) == "g: 1 rows read, 1 kept"


def test_of_many_reasons_the_first_twenty_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, [{**PAIR, "chosen": [{"role": "a", "content": kind}]} for kind in (1, None)] * 2)
    with Path(path).open("a") as handle:
        handle.writelines(f'{{"torn{"x" * i}\n' for i in range(30))
    message = refusal(path)
    assert message.startswith(f"34 of 34 rows cannot be used: {path}:1 chosen has")
    assert " is a number, not text (also line 3); " in message
    assert "and 12 other reasons. Fix them" in message


def refusal(path: str) -> str:
    with pytest.raises(UserError) as caught:
        load_pairs(path)
    return str(caught.value)


def test_prompts_under_another_name_are_told_once(tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {i}.", "chosen": "yes", "rejected": "no"} for i in range(40)]
    path = write(tmp_path, rows)
    assert refusal(path) == (
        f"{path} has no column 'prompt', and chosen and rejected share no beginning that could be one; got "
        "'instruction', 'chosen', 'rejected'. Name the prompts' column with --columns prompt=NAME."
    )
    assert len(load_pairs(path, {"prompt": "instruction"})[0]) == 40
    dialogue = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}
    assert "1 of 2 rows cannot be used" in refusal(
        write(tmp_path, [dialogue, {"chosen": "yes", "rejected": "no"}])
    )


def test_a_prompt_that_ends_with_the_assistant_is_noted(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    _, accounting = load_prompts(write(tmp_path, [{"prompt": turns}, {"prompt": turns[:1]}]))
    (reason,) = accounting.as_dict()["reasons"].items()
    assert reason[0] == "prompt ends with the assistant's words, which responses continue"
    assert reason[1]["lines"] == [1]


def test_malformed_rows_stop_with_their_reasons_or_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, [PAIR, *[{**PAIR, "chosen": None}] * 24, {"prompt": "p"}])
    with Path(path).open("a") as handle:
        handle.write('{"torn')
    with pytest.raises(UserError) as caught:
        load_pairs(path)
    message = str(caught.value)
    assert message.startswith(
        f"26 of 27 rows cannot be used: {path}:2 chosen is null (also lines 3, 4, 5, 6 and 19 more); {path}:26 has no chosen; {path}:27 "
    )
    assert "\n" not in message
    kept, accounting = load_pairs(path, on_bad_row="skip")
    assert [row.line for row in kept] == [1]
    reasons = accounting.as_dict()["reasons"]
    assert {name: reason["rows"] for name, reason in reasons.items()} == {
        "null": 24,
        "missing column": 1,
        "not JSON": 1,
    }


def test_a_row_without_the_prompt_that_others_have_is_not_taken_for_a_dialogue(tmp_path: Path) -> None:
    dialogue = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}
    with pytest.raises(UserError, match=r"rows\.jsonl:2 has no prompt"):
        load_pairs(write(tmp_path, [PAIR, dialogue]))
    assert load_pairs(write(tmp_path, [dialogue]))[0][0].values["chosen"] == " b"


def test_a_file_without_the_column_names_those_it_has(tmp_path: Path) -> None:
    path = write(tmp_path, [{"question": "q"}])
    with pytest.raises(UserError, match=r"no column 'prompt'; got 'question'.*--columns prompt=NAME"):
        load_prompts(path, on_bad_row="skip")
    assert load_prompts(path, {"prompt": "question"})[0][0].values == {"prompt": "q"}


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no usable row is left.*1 × empty chosen"):
        load_pairs(write(tmp_path, [{**PAIR, "chosen": ""}]))
    with pytest.raises(UserError, match="stop or skip"):
        load_pairs(write(tmp_path, [PAIR]), on_bad_row="ignore")  # type: ignore[arg-type]


_cells = st.one_of(
    st.sampled_from(["", " ", "a", "b", "\n\nHuman: a\n\nAssistant: b", "\ud800"]),
    st.none() | st.booleans() | st.integers() | st.floats(),
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=2)}
        ),
        max_size=3,
    ),
    st.lists(st.none() | st.text(max_size=2), max_size=2),
)
_columns = st.sampled_from(["prompt", "chosen", "rejected", "completion", "other"])
_any_row = st.dictionaries(_columns, _cells, max_size=5) | st.fixed_dictionaries(
    {"prompt": _cells, "chosen": _cells, "rejected": _cells}
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(_any_row, min_size=1, max_size=12), loader=st.sampled_from([load_pairs, load_prompts]))
def test_every_row_is_kept_or_accounted_for(tmp_path: Path, rows: list[Any], loader: Any) -> None:
    path = write(tmp_path, rows)
    try:
        kept, accounting = loader(path, on_bad_row="skip")
    except UserError as error:
        message = str(error)
        kept, accounting = [], None
    if accounting is None:
        assert path in message
        assert "\n" not in message
        return
    dropped = sum(tally.rows for tally in accounting.dropped.values())
    assert len(rows) == accounting.read == len(kept) + dropped
    assert accounting.kept == len(kept)
    named = [line for tally in accounting.dropped.values() for line in tally.lines]
    assert sorted(named + [row.line for row in kept]) == list(range(1, len(rows) + 1))
