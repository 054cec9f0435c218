"""What `train()` is given: rows in any form that has them, and one line about anything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from tiny import same_weights, tiny_policy, word_tokenizer
from tiny_runs import PAIRS, PROMPTS, run

from algos import DPO, REINFORCE, Policy, UserError, train
from algos.engine.batches.pairs import encode_pair

ROWS = [{"prompt": prompt, "label": i} for i, prompt in enumerate(PROMPTS)]
CHAT = [{"prompt": [{"role": "user", "content": prompt}]} for prompt in PROMPTS]


def short(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward of texts and messages alike."""
    return [-float(len(ids)) for ids in completion_ids]


ONE_REWARD = (
    "reward must be one function (for several rewards, one that adds them up) or RewardModel('DIR_OR_HUB_ID')"
)


def trained(name: str, data: Any, **options: Any) -> tuple[list[dict[str, float]], Policy]:
    """The rows of a short run, without the time it took, and the policy."""
    policy = tiny_policy()
    reward = short if name == "prompts" else None
    given = {"prompts": None, "pairs": None, "reward": reward, name: data} | options
    algorithm = REINFORCE(learning_rate=1e-2) if name == "prompts" else DPO(learning_rate=1e-2, batch_size=4)
    rows = run(algorithm, policy, **given).rows
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows], policy


def refused(name: str, data: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        trained(name, data, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "rows"), [("prompts", ROWS), ("pairs", PAIRS)])
def test_rows_are_the_same_in_any_form(name: str, rows: list[dict[str, Any]]) -> None:
    expected, policy = trained(name, rows, budget="1iterations")
    for data in (pd.DataFrame(rows), Dataset.from_list(rows), (row for row in rows), pd.Series(rows)):
        found, other = trained(name, data, budget="1iterations")
        assert found == expected
        assert same_weights(other, policy)


def test_messages_may_be_arrays_as_pandas_reads_them_from_parquet() -> None:
    arrays = pd.DataFrame({"prompt": [np.array(row["prompt"], dtype=object) for row in CHAT]})
    expected, policy = trained("prompts", CHAT, budget="1iterations")
    found, other = trained("prompts", arrays, budget="1iterations")
    assert found == expected
    assert same_weights(other, policy)


@pytest.mark.parametrize(("name", "rows"), [("prompts", ROWS), ("pairs", PAIRS)])
def test_what_has_no_rows_for_items_is_refused(name: str, rows: list[dict[str, Any]]) -> None:
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    splits = DatasetDict({"train": Dataset.from_list(rows)})
    names = ", ".join(columns)
    assert refused(name, columns).startswith(f"{name} must come row by row; got a dict of {names}. Pass")
    assert refused(name, rows[0]).startswith(f"{name} must come row by row; got a dict of {names}. Pass")
    assert "got a DatasetDict of train. Pass a list of rows, a DataFrame, or one split" in refused(
        name, splits
    )
    for nothing in ("the red dog", b"the", 3):
        assert f"row by row; got {type(nothing).__name__}. Pass a list" in refused(name, nothing)


def test_pairs_that_are_no_rows_are_named() -> None:
    assert refused("pairs", [PAIRS[0], "a b"]).startswith(
        "pairs[1] is a str. Give a dict with prompt, chosen"
    )
    assert refused("pairs", [PAIRS[0], {"prompt": "a"}]).startswith(
        "pairs[1] has no chosen; got the columns prompt."
    )
    assert refused("prompts", ["a", {"text": "b"}]).startswith(
        "prompts[1] has no prompt; got the columns text."
    )


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (None, "got None"),
        (3, "got 3"),
        (float("nan"), "got nan"),
        ([], "got no messages"),
        (["a", "b"], "got a list with a str in it"),
        ({"role": "user", "content": "a"}, "got a dict"),
        ([{"content": "a"}], "got a message without role"),
        ([{"role": "user"}], "got a message without content"),
        ([{"role": None, "content": "a"}], "got a message whose role is None"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}]}], "got a message whose content is a list"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused_by_row(value: Any, fault: str) -> None:
    said = f"must be a text or chat messages; {fault}. Give a string, or a list of"
    assert refused("prompts", ["a", {"prompt": value}]).startswith(f"prompts[1]: prompt {said}")
    answer = [{"role": "assistant", "content": "b"}]
    for pair in ({"chosen": " b", "rejected": " a"}, {"chosen": answer, "rejected": answer}):
        assert refused("pairs", [PAIRS[0], {"prompt": value} | pair]).startswith(f"pairs[1]: prompt {said}")
    if fault != "got no messages":  # an answer of none is an empty one, which is dropped
        row = {"prompt": CHAT[0]["prompt"], "chosen": answer, "rejected": value}
        assert refused("pairs", [row]).startswith(f"pairs[0]: rejected {said}")


def test_an_answer_without_messages_is_empty() -> None:
    answer = [{"role": "assistant", "content": "b"}]
    pair = {"prompt": [{"role": "user", "content": "a"}], "chosen": answer, "rejected": []}
    policy = Policy(tiny_policy().model, word_tokenizer("a b"), dtype="fp32")
    assert encode_pair(policy, pair, 8) == (None, ["empty response"])


def test_nothing_to_train_on_says_what_became_of_the_rows() -> None:
    spent = (row for row in PROMPTS)
    list(spent)
    for nothing in ([], spent, pd.DataFrame({"prompt": []})):
        assert refused("prompts", nothing).startswith("no prompts to train on; got 0 rows. Give some")
    assert refused("pairs", []).startswith("no preference pairs to train on; got 0 rows. Give some")
    long = " ".join(["a"] * 40)
    said = refused("prompts", [long, "", long])
    assert (
        "no prompts left to train on; all rows were dropped (2 × prompt too long, 1 × prompt has no tokens)."
        in said
    )
    assert said.endswith("pass truncate_prompts='left' (--truncate-prompts left).")
    same = {"prompt": "a", "chosen": " b", "rejected": " b"}
    said = refused("pairs", [same, same, same | {"rejected": ""}])
    assert said.startswith(
        "no preference pairs left to train on; all rows were dropped (2 × identical responses, 1 ×"
    )


def test_no_pairs_and_a_cache_for_the_reference_are_one_line(tmp_path: Any) -> None:
    assert refused("pairs", [], reference_cache=tmp_path).startswith("no preference pairs to train on")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"truncate_prompts": "right"}, "truncate_prompts must be 'drop' or 'left'; got 'right'."),
        ({"truncate_prompts": True}, "truncate_prompts must be 'drop' or 'left'; got True."),
        ({"micro_batch": 0}, "micro_batch must be an integer of at least 1; got 0."),
        ({"micro_batch": 1.5}, "micro_batch must be an integer of at least 1; got 1.5."),
        ({"checkpoint_every": -1}, "checkpoint_every must be an integer of at least 0; got -1."),
        (
            {"sampling": {"max_new_tokens": 4}},
            "sampling must be a Sampling, such as Sampling(max_new_tokens=64); got a dict.",
        ),
        ({"reward": [short, short]}, f"{ONE_REWARD}; got a list."),
        ({"reward": "owner/reward-model"}, f"{ONE_REWARD}; got 'owner/reward-model'."),
        ({"seed": "0"}, "seed must be an integer; got '0'."),
        ({"seed": None}, "seed must be an integer; got None."),
        ({"seed": True}, "seed must be an integer; got True."),
    ],
)
def test_settings_that_mean_nothing_are_refused(setting: dict[str, Any], said: str) -> None:
    assert refused("prompts", PROMPTS, **setting) == said


def test_what_is_no_policy_is_told() -> None:
    wanted = "policy must be a Policy, such as Policy.load('DIR_OR_HUB_ID')"
    for given, got in (
        ("tiny-model", "'tiny-model'"),
        (tiny_policy().model, "a GPT2LMHeadModel"),
        (None, "a NoneType"),
    ):
        with pytest.raises(UserError) as caught:
            train(REINFORCE(), given, prompts=PROMPTS, reward=short, budget="1iterations")  # type: ignore[arg-type]
        assert str(caught.value) == f"{wanted}; got {got}."


def test_an_integer_of_numpy_is_that_seed() -> None:
    found = [trained("prompts", PROMPTS, seed=seed, budget="1iterations")[0] for seed in (3, np.int64(3), 4)]
    assert found[0] == found[1] != found[2]
