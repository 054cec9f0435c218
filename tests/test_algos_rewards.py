"""Rewards: what a function may return, what it is given, and a reward model's pooling."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classifiers import COMPLETIONS, PROMPTS, classifier

from algos import RewardModel, RunError, UserError
from algos.engine.rewards import RewardError, call_reward

ROWS = [{"prompt": "a", "label": 1}, {"prompt": "b", "label": 2, "extra": "x"}]


def call(scores: Any) -> list[float]:
    def my_reward(**_: Any) -> Any:
        return scores

    return call_reward(my_reward, ROWS, [" good", " bad"], [[1], [2]])


@pytest.mark.parametrize(
    "scores",
    [
        [1, 2],
        (1.0, 2.0),
        torch.tensor([1.0, 2.0]),
        np.array([1, 2]),
        list(np.array([1.0, 2.0], dtype=np.float32)),
        list(torch.tensor([1.0, 2.0], requires_grad=True)),
        [torch.tensor(1), torch.tensor(2.0, dtype=torch.bfloat16)],
        [np.array(1.0), np.int8(2)],
        [Fraction(1), Fraction(4, 2)],
    ],
)
def test_numbers_of_any_kind_become_floats(scores: Any) -> None:
    assert call(scores) == [1.0, 2.0]
    assert all(type(score) is float for score in call(scores))


@pytest.mark.parametrize(
    "scores",
    [
        [True, False],
        [1.0, False],
        np.array([True, False]),
        [np.bool_(True), np.bool_(False)],
        torch.tensor([True, False]),
        [torch.tensor(True), 0],
    ],
)
def test_yes_and_no_are_one_and_zero(scores: Any) -> None:
    """As in TRL, which the same function may serve."""
    assert call(scores) == [1.0, 0.0]
    assert all(type(score) is float for score in call(scores))


def test_a_wrong_score_is_named_with_its_completion() -> None:
    with pytest.raises(RewardError, match=r"nan for completion 1 \(' bad'\)"):
        call([0.0, math.nan])


def test_a_reward_gets_what_trls_get() -> None:
    seen: dict[str, Any] = {}

    def spy(
        prompts: list[str], completions: list[str], completion_ids: list[list[int]], **columns: Any
    ) -> list[float]:
        seen.update(prompts=prompts, completions=completions, completion_ids=completion_ids, **columns)
        return [0.0] * len(prompts)

    call_reward(spy, ROWS, [" good", " bad"], [[1], [2]])
    assert seen == {
        "prompts": ["a", "b"], "completions": [" good", " bad"], "completion_ids": [[1], [2]],
        "label": [1, 2], "extra": [None, "x"],
    }  # fmt: skip


WICKED = ("self", "batch_size", "prompts", "completions", "completion_ids", "reward", "rewards", "name", "args", "kwargs",
          "keywords", "function", "calls", "what", "rows", "model", "_", "class", "two words")  # fmt: skip


def wicked_rows() -> list[dict[str, Any]]:
    return [{"prompt": prompt, **dict.fromkeys(WICKED, "x")} for prompt in PROMPTS]


def test_columns_may_have_any_name() -> None:
    seen: dict[str, Any] = {}

    def spy(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        seen.update(columns)
        return [float(len(text)) for text in completions]

    assert call_reward(spy, wicked_rows(), COMPLETIONS, [[]] * 3) == [2.0, 8.0, 2.0]
    own = {"prompts", "completions", "completion_ids"}  # what is scored, not the data's
    assert {name for name in seen if seen[name] == ["x"] * 3} == set(WICKED) - own


def test_a_reward_model_takes_no_column_for_a_setting(tmp_path: Path) -> None:
    classifier(tmp_path)
    reward = RewardModel(tmp_path)
    plain = call_reward(reward, [{"prompt": prompt} for prompt in PROMPTS], COMPLETIONS, [[]] * 3)
    assert call_reward(reward, wicked_rows(), COMPLETIONS, [[]] * 3) == plain


def test_conversations_are_answered_in_messages() -> None:
    conversation = [{"role": "user", "content": "hi"}]
    seen: list[Any] = []

    def spy(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
        seen.extend([*prompts, *completions])
        return [1.0]

    call_reward(spy, [{"prompt": conversation}], ["hello"], [[1]])
    assert seen == [conversation, [{"role": "assistant", "content": "hello"}]]


def test_a_data_column_cannot_stand_in_for_what_is_scored() -> None:
    """Data with `completion` or `completions` columns (TRL's own SFT format) must still be scorable."""
    rows = [
        {"prompt": "a", "completion": "old", "completions": "old", "completion_ids": "old", "prompts": "old"}
    ]

    def spy(
        prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: Any
    ) -> list[float]:
        assert (prompts, completions, completion_ids) == (["a"], ["new"], [[1]])
        return [1.0]

    assert call_reward(spy, rows, ["new"], [[1]]) == [1.0]


# Reward models ---------------------------------------------------------------------------------------


def at_last_token(model: Any, ids: list[int]) -> float:
    with torch.no_grad():
        hidden = model.transformer(torch.tensor([ids])).last_hidden_state[0, -1]
        return float(model.score(hidden))


def test_mask_pooling_reads_the_eos_though_it_is_the_pad(tmp_path: Path) -> None:
    model, tokenizer = classifier(tmp_path, pooling="mask")
    reward = RewardModel(tmp_path)
    assert reward.pooling == "mask"
    expected = [
        at_last_token(model, [*tokenizer(p + c).input_ids, tokenizer.eos_token_id])
        for p, c in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    scores = reward(prompts=PROMPTS, completions=COMPLETIONS, completion_ids=[[]] * 3)
    assert scores == pytest.approx(expected, abs=1e-5)
    alone = [reward(prompts=[p], completions=[c])[0] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert alone == pytest.approx(expected, abs=1e-5)
    one_by_one = RewardModel(tmp_path, batch_size=1)(prompts=PROMPTS, completions=COMPLETIONS)
    assert one_by_one == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "full", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("shapes differ")]
)
def test_memory_that_runs_out_halves_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: RuntimeError
) -> None:
    """What fits gives the same scores, is kept for later calls, and other errors are not taken for it."""
    classifier(tmp_path, pooling="mask")
    whole, reward, seen = RewardModel(tmp_path), RewardModel(tmp_path, batch_size=3), list[int]()
    scores = reward._scores

    def small(rows: list[list[int]]) -> torch.Tensor:
        seen.append(len(rows))
        if len(rows) > room:
            raise full
        return scores(rows)

    monkeypatch.setattr(reward, "_scores", small)
    room = 1
    if not isinstance(full, torch.OutOfMemoryError):
        with pytest.raises(RuntimeError, match="shapes differ"):
            reward(prompts=PROMPTS, completions=COMPLETIONS)
        assert seen == [3]
        return
    expected = whole(prompts=PROMPTS, completions=COMPLETIONS)
    for _ in range(2):
        assert reward(prompts=PROMPTS, completions=COMPLETIONS) == pytest.approx(expected, abs=1e-6)
    assert seen == [3, 1, 1, 1, 1, 1, 1]
    room = 0
    with pytest.raises(RunError, match="out of memory in scoring by the reward model"):
        reward(prompts=PROMPTS, completions=COMPLETIONS)


def test_a_foreign_model_keeps_the_pooling_it_was_trained_with(tmp_path: Path) -> None:
    """transformers' own classifiers read the last id that is not the pad: before EOS, where that is the pad."""
    model, tokenizer = classifier(tmp_path)
    reward = RewardModel(tmp_path)
    assert reward.pooling == "model"
    scores = reward(prompts=PROMPTS, completions=COMPLETIONS)
    expected = [
        at_last_token(model, tokenizer(p + c).input_ids) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    assert scores == pytest.approx(expected, abs=1e-5)
    assert RewardModel(tmp_path, pooling="mask")(prompts=PROMPTS, completions=COMPLETIONS) != pytest.approx(
        expected, abs=1e-2
    )


def test_the_offset_centres_the_scores(tmp_path: Path) -> None:
    classifier(tmp_path / "plain", pooling="mask")
    classifier(tmp_path / "centred", pooling="mask", offset=1.5)
    plain, centred = (
        RewardModel(tmp_path / name)(prompts=PROMPTS, completions=COMPLETIONS)
        for name in ("plain", "centred")
    )
    assert centred == pytest.approx([score - 1.5 for score in plain])


def test_a_reward_model_is_a_frozen_checked_reward(tmp_path: Path) -> None:
    model, _ = classifier(tmp_path, pooling="mask")
    reward = RewardModel(tmp_path)
    scores = call_reward(reward, [{"prompt": p} for p in PROMPTS], COMPLETIONS, [[]] * 3)
    assert len(set(scores)) == 3
    assert reward.parameter_count == sum(p.numel() for p in model.parameters())
    assert not any(p.requires_grad for p in reward.model.parameters())


def test_a_text_longer_than_the_model_keeps_its_end(tmp_path: Path) -> None:
    model, tokenizer = classifier(tmp_path, pooling="mask")
    long = " a" * 40 + " b c"
    ids = [*tokenizer("a" + long).input_ids, tokenizer.eos_token_id][-16:]
    assert RewardModel(tmp_path)(prompts=["a"], completions=[long]) == pytest.approx(
        [at_last_token(model, ids)], abs=1e-5
    )


def test_models_that_are_no_reward_model_are_refused(tmp_path: Path) -> None:
    classifier(tmp_path / "two", labels=2)
    for path, message in (
        (tmp_path / "two", "has 2 outputs; it must have 1"),
        (tmp_path / "none", "there is no model directory"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            RewardModel(path)
        assert "\n" not in str(caught.value)
