"""The user's files against the user's model: every row has an end that is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_world import SmallWorld

from algos import Policy, UserError
from algos.engine.rewards import call_reward
from algos.engine.text.tokens import encode_prompt
from eval.data import Accounting
from eval.data.accounting import summary
from eval.experiment import Experiment
from eval.tasks.custom.inputs import Inputs, read_inputs, require_inputs

WORDS = ("red", "green", "blue", "good", "bad", "dog", "cat")


@pytest.fixture(scope="module")
def base(small: SmallWorld) -> Policy:
    """32 positions, a token a word."""
    return Policy.load(small.model)


@pytest.mark.parametrize(
    ("device", "reward", "refused"),
    [
        ("cuda:1", None, True), ("cuda:1", "rewards.py:score", False), ("cuda:0", None, False), ("cuda", None, False),
        ("auto", None, False), ("cpu", None, False),
    ],
)  # fmt: skip
def test_a_reward_model_is_trained_on_the_first_gpu(device: str, reward: str | None, refused: bool) -> None:
    experiment = Experiment(task="custom", model="m", pairs="p.jsonl", reward=reward, device=device)
    if not refused:
        assert require_inputs(experiment) == "m"
        return
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=1 and leave out --device") as caught:
        require_inputs(experiment)
    assert "\n" not in str(caught.value)


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(base: Policy, **settings: Any) -> Inputs:
    asked = {
        "task": "custom",
        "model": "unused",
        "reward": "unused.py:score",
        "sampling": {"max_new_tokens": 8},
        **settings,
    }
    inputs = read_inputs(Experiment.from_dict(asked), base)
    for account in inputs.accounts:
        assert_adds_up(account)
    return inputs


def assert_adds_up(account: Accounting) -> None:
    dropped = sum(tally.rows for tally in account.dropped.values())
    assert account.read == dropped + account.kept
    assert account.kept == sum(account.uses.values())


def pairs_of(count: int) -> list[dict[str, str]]:
    return [
        {
            "prompt": f"{'the ' * (i % 5)}{WORDS[i % 7]} {'a ' * (i // 7)}",
            "chosen": " good",
            "rejected": " bad",
        }
        for i in range(count)
    ]


def with_columns(rows: list[dict[str, str]], **columns: Any) -> list[dict[str, Any]]:
    """The rows with more columns, whose cells count up; TRL's own and a keyword of rewards are among them."""
    talk = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "good"}]
    more = {"id": "a", "messages": talk, "chosen_score": 1.5, "chosen_truncated": True, "completions": "x"}
    return [{**row, **more, "target": f"t{i}", **columns} for i, row in enumerate(rows)]


def test_a_function_is_given_the_other_columns_of_the_pairs_that_prompts_are_made_of(
    base: Policy, tmp_path: Path
) -> None:
    rows = with_columns(pairs_of(60), completion="mine")
    found = read(base, pairs=write(tmp_path / "more.jsonl", rows))
    plain = read(base, pairs=write(tmp_path / "pairs.jsonl", pairs_of(60)))
    by_prompt = {row["prompt"]: row for row in rows}
    own = ("chosen", "rejected", "completion")
    for prompts in (found.train_prompts, found.validation_prompts, found.test_prompts):
        assert prompts
        for row in prompts:
            asked = {name: cell for name, cell in by_prompt[row["prompt"]].items() if name not in own}
            assert row == {**asked, "completion": " good"}
    for name in (
        "train_pairs",
        "heldout_pairs",
    ):  # what is learned of a pair, or read of it, is the pair alone
        assert getattr(found, name) == getattr(plain, name)

    def score(prompts: Any, completions: Any, target: Any, chosen_score: Any, **_: Any) -> list[float]:
        assert completions == ["x", "y"]
        return [float(cell[1:]) + score for cell, score in zip(target, chosen_score, strict=True)]

    asked = found.train_prompts[:2]
    assert call_reward(score, asked, ["x", "y"], [[1], [2]]) == [
        float(row["target"][1:]) + 1.5 for row in asked
    ]


def test_pairs_of_one_prompt_that_differ_in_another_column_are_told(base: Policy, tmp_path: Path) -> None:
    rows = with_columns(pairs_of(60), target="same", weight=float("nan"))
    rows += [{**rows[3], "chosen": " cat"}, {**rows[5], "chosen": " cat", "target": "other"}]
    rows += [{**rows[5], "chosen": " dog", "id": "b"}, {**rows[7], "chosen": " cat", "more": 1}]
    rows += [{"prompt": "red " * 30, "chosen": " good", "rejected": chosen, "id": chosen} for chosen in "ab"]
    found = read(base, pairs=write(tmp_path / "pairs.jsonl", rows))
    of_pairs, of_prompts = found.accounts
    said = "other columns differ between pairs of one prompt"
    assert said not in of_pairs.noted
    assert of_prompts.noted[said].lines == [62, 64]  # of a prompt once, and of none that is dropped
    (row,) = [row for row in [*found.train_prompts, *found.validation_prompts, *found.test_prompts]
              if row["prompt"] == rows[5]["prompt"]]  # fmt: skip
    assert (row["target"], row["id"]) == ("same", "a")


@pytest.mark.parametrize("function", ["reward", "judge"])
def test_pairs_keep_other_columns_only_for_functions(base: Policy, tmp_path: Path, function: str) -> None:
    """Nothing else reads them; what is compared with the data later then is the less."""
    pairs = write(tmp_path / "pairs.jsonl", with_columns(pairs_of(60)))
    named = {"reward": str(tmp_path), "judge": str(tmp_path)}
    assert set(read(base, pairs=pairs, **named).train_prompts[0]) == {"prompt", "completion"}
    of_functions = read(base, pairs=pairs, **{**named, function: "my.py:score"})
    assert "target" in of_functions.train_prompts[0]
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": row["prompt"]} for row in pairs_of(60)])
    assert set(read(base, pairs=pairs, prompts=prompts).train_prompts[0]) == {"prompt"}


def test_other_columns_of_pairs_are_named_as_those_of_prompts(base: Policy, tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", with_columns(pairs_of(60)))
    row = read(base, pairs=pairs, columns={"answer": "target"}).train_prompts[0]
    assert "target" not in row
    assert row["answer"].startswith("t")
    with pytest.raises(UserError, match=r"has no column 'targt' to use as 'answer'\. Did you mean"):
        read(base, pairs=pairs, columns={"answer": "targt"})
    prompts = write(tmp_path / "prompts.jsonl", [{**row, "gold": 1} for row in pairs_of(60)])
    assert read(base, pairs=pairs, prompts=prompts, columns={"answer": "gold"}).train_pairs


def test_rows_that_do_not_fit_are_told_and_counted(base: Policy, tmp_path: Path) -> None:
    rows = pairs_of(100)
    rows[3] = {"prompt": "red " * 40, "chosen": " good", "rejected": " bad"}  # no room for a response
    rows[4] = {"prompt": "blue " * 20, "chosen": " good" * 20, "rejected": " bad"}  # cut at the last position
    rows[5] = {
        "prompt": "blue " * 28,
        "chosen": " good",
        "rejected": " bad",
    }  # fits, but not with 8 new tokens
    rows[6] = {"prompt": "cat", "chosen": " good" * 12, "rejected": " bad"}  # cut at 8 tokens
    rows[7] = {"prompt": "green " * 28, "chosen": " a a a a b", "rejected": " a a a a c"}  # the same once cut
    path = write(tmp_path / "pairs.jsonl", rows)
    inputs = read(base, pairs=path)
    of_pairs, of_prompts = inputs.accounts
    assert {name: tally.lines for name, tally in of_pairs.dropped.items()} == {
        "prompt too long": [4],
        "identical once truncated": [8],
    }
    noted = {name: tally.lines for name, tally in of_pairs.noted.items()}
    assert (noted["longer than the model"], noted["response truncated"]) == ([5], [5, 7])
    assert {name: tally.lines for name, tally in of_prompts.dropped.items()} == {"prompt too long": [6]}
    assert inputs.notes[0].startswith(f"{path}: 3 of 100 rows do not fit the model's 32 tokens;")
    assert "1 of 98 rows do not fit the model's 32 tokens with 8 new ones" in inputs.notes[1]
    assert len(inputs.train_pairs) == of_pairs.uses["training"]
    assert len(inputs.heldout_pairs) == of_pairs.uses["test"]


def test_what_is_kept_is_what_training_takes(base: Policy, tmp_path: Path) -> None:
    """Nothing is left out after the account is closed."""
    from algos.engine.batches.pairs import encode_pairs
    from algos.engine.batches.prompts import encode_prompts

    rows = pairs_of(60) + [
        {"prompt": "red " * n, "chosen": " good " * n, "rejected": " bad"} for n in range(1, 40)
    ]
    inputs = read(base, pairs=write(tmp_path / "pairs.jsonl", rows))
    assert len(encode_pairs(base, inputs.train_pairs, 8)[0]) == len(inputs.train_pairs)
    assert len(encode_prompts(base, inputs.train_prompts, 8)[0]) == len(inputs.train_prompts)
    assert len(encode_prompts(base, inputs.test_prompts, 8)[0]) == len(inputs.test_prompts)


def test_the_text_of_special_tokens_is_counted_and_stays_text(base: Policy, tmp_path: Path) -> None:
    said = "text of a special token, which stays text"
    rows: list[dict[str, Any]] = pairs_of(40)
    rows[3]["prompt"] += " <eos>"
    rows[5]["rejected"] = " bad<pad>"
    rows[7]["prompt"] += " eos pad <e os>"
    found = read(base, pairs=write(tmp_path / "pairs.jsonl", rows))
    assert found.accounts[0].noted[said].lines == [4, 6]
    assert f"2 {said}" in summary(found.accounts[0].as_dict())
    assert found.accounts[1].noted[said].rows == 1  # of the distinct prompts
    # Only what a person wrote: the template's own tokens are meant.
    chat = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]
    found = read(base, prompts=write(tmp_path / "chat.jsonl", chat))
    assert found.accounts[0].noted[said].lines == [4]
    ids = encode_prompt(base.tokenizer, rows[3]["prompt"])
    assert base.tokenizer.eos_token_id not in ids
    assert said not in read(base, pairs=write(tmp_path / "plain.jsonl", pairs_of(40))).accounts[0].noted


def test_long_prompts_are_cut_on_the_left_where_asked(base: Policy, tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"]} for row in pairs_of(60)] + [{"prompt": "red " * 40}]
    path = write(tmp_path / "prompts.jsonl", rows)
    assert read(base, prompts=path).accounts[0].dropped["prompt too long"].lines == [61]
    cut = read(base, prompts=path, truncate_prompts="left").accounts[0]
    assert (cut.dropped, cut.noted["prompt truncated"].lines) == ({}, [61])


def test_test_prompts_leave_training(base: Policy, tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"]} for row in pairs_of(60)]
    test = write(
        tmp_path / "test.jsonl",
        [{"prompt": row["prompt"].upper()} for row in rows[:7]] + [{"prompt": "dog dog"}],
    )
    inputs = read(base, prompts=write(tmp_path / "prompts.jsonl", rows), test_prompts=test)
    of_prompts, of_test = inputs.accounts
    assert of_prompts.dropped["also a test prompt"].lines == [1, 2, 3, 4, 5, 6, 7]
    assert of_test.uses == {"test": 8}
    assert [row["prompt"] for row in inputs.train_prompts] == [
        row["prompt"] for row in rows[7:] if row not in inputs.validation_prompts
    ]


def test_evaluation_on_a_part_of_the_test_prompts_is_said(base: Policy, small: SmallWorld) -> None:
    inputs = read(base, prompts=small.prompts, eval={"prompts": 2})
    assert len(inputs.test_prompts) == 2
    assert inputs.notes == [f"Evaluation uses the first 2 of {inputs.accounts[0].uses['test']} test prompts."]


def test_tuning_needs_validation_prompts(base: Policy, tmp_path: Path) -> None:
    from eval.data import split_of

    rows = [{"prompt": row["prompt"]} for row in pairs_of(60) if split_of(row["prompt"]) != "validation"]
    path = write(tmp_path / "prompts.jsonl", rows)
    read(base, prompts=path)
    with pytest.raises(UserError, match="fell into validation"):
        read(base, prompts=path, tune=2)


def test_a_template_that_refuses_a_row_makes_it_a_bad_row(small: SmallWorld, tmp_path: Path) -> None:
    policy = Policy.load(small.model)
    policy.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m.content }} {% endfor %}"
    )
    rows = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in pairs_of(60)]
    rows[1]["prompt"].insert(0, {"role": "system", "content": "red"})
    path = write(tmp_path / "prompts.jsonl", rows)
    with pytest.raises(UserError, match=r"1 of 60 rows cannot be used: .*prompts\.jsonl:2 .*no system role"):
        read(policy, prompts=path)
    account = read(policy, prompts=path, on_bad_row="skip").accounts[0]
    assert account.dropped["refused by the model or its chat template"].lines == [2]


def test_nothing_that_fits_is_an_error_with_the_remedy(base: Policy, tmp_path: Path) -> None:
    path = write(tmp_path / "prompts.jsonl", [{"prompt": "red " * n} for n in range(30, 90)])
    with pytest.raises(
        UserError, match=r"nothing that fits the model is left\..* 60 × prompt too long .*--max-new-tokens"
    ):
        read(base, prompts=path)


def test_real_dialogues_are_all_accounted_for(shared_data: Path) -> None:
    """165 of the 600 are longer than the stories model's 512 tokens."""
    policy, pairs = Policy.load(shared_data / "stories260k"), str(shared_data / "hh_pairs.jsonl")
    inputs = read(policy, pairs=pairs, sampling={"max_new_tokens": 48})
    account = inputs.accounts[0]
    assert "165 of 600 rows do not fit the model's 512 tokens" in inputs.notes[0]
    too_long = account.dropped["prompt too long"].rows + account.dropped["identical once truncated"].rows
    assert too_long + account.noted["longer than the model"].rows == 165
    assert (
        account.kept
        == len(inputs.train_pairs) + len(inputs.heldout_pairs) + account.uses["validation"]
        == 510
    )
