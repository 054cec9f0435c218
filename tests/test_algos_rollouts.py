"""Properties of the batch type: parts partition the whole, picking and trimming keep what belongs together."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import rollouts_of

from algos.engine.rollouts import Rollouts, join_right, pad_left, pad_right
from algos.losses import Totals

tokens = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@st.composite
def batches(draw: st.DrawFn) -> Rollouts:
    P, G = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    prompts = [draw(tokens) for _ in range(P)]
    responses = [[draw(tokens) for _ in range(G)] for _ in range(P)]
    rollouts = rollouts_of(prompts, responses)
    number = torch.arange(P * G * rollouts.T).reshape(P, G, rollouts.T).double()
    return dataclasses.replace(
        rollouts, logps_PGT=number, scores_PG=number[..., 0] * 7, greedy_scores_P=number[:, 0, 0]
    )


def test_all_responses_can_be_learned_from_unless_told_otherwise() -> None:
    rollouts = rollouts_of([[1], [2, 1]], [[[1, 0], [2, 2, 0]], [[2, 0], [1, 1, 1]]])
    assert rollouts.learnable_PG.tolist() == [[True, True], [True, True]]
    assert torch.equal(rollouts.learnable_PGT, rollouts.mask_PGT)
    fewer = dataclasses.replace(rollouts, learnable_PG=torch.tensor([[True, False], [True, True]]))
    assert fewer.select(torch.tensor([0])).learnable_PG.tolist() == [[True, False]]
    assert (rollouts.totals.sequences, fewer.totals.sequences) == (4, 3)


@settings(max_examples=50, deadline=None)
@given(batches(), st.integers(1, 6))
def test_micro_batches_partition_the_batch_and_share_its_totals(rollouts: Rollouts, groups: int) -> None:
    parts = list(rollouts.micro_batches(groups))
    assert [part.P for part in parts] == [min(groups, rollouts.P - i) for i in range(0, rollouts.P, groups)]
    assert {part.totals for part in parts} == {rollouts.totals}
    assert sum(int(part.loss_mask_PGT.sum()) for part in parts) == rollouts.totals.tokens
    assert sum(part.P * part.G for part in parts) == rollouts.totals.sequences
    seen = torch.cat([part.logps_PGT[part.mask_PGT] for part in parts])
    assert torch.equal(seen, rollouts.logps_PGT[rollouts.mask_PGT])


@settings(max_examples=50, deadline=None)
@given(batches(), st.integers(1, 6), st.integers(0, 99))
def test_minibatches_partition_the_batch_and_have_totals_of_their_own(
    rollouts: Rollouts, count: int, seed: int
) -> None:
    parts = list(rollouts.minibatches(count, torch.Generator().manual_seed(seed)))
    assert len(parts) == min(count, rollouts.P)
    assert max(part.P for part in parts) - min(part.P for part in parts) <= 1
    scores = torch.cat([part.scores_PG for part in parts]).flatten().sort().values
    assert torch.equal(scores, rollouts.scores_PG.flatten().sort().values)
    for part in parts:
        assert part.totals.tokens == int(part.loss_mask_PGT.sum())
        assert part.totals.sequences == part.P * part.G
    again = list(rollouts.minibatches(count, torch.Generator().manual_seed(seed)))
    assert all(torch.equal(a.scores_PG, b.scores_PG) for a, b in zip(parts, again, strict=True))


@settings(max_examples=50, deadline=None)
@given(batches())
def test_trimming_drops_padding_alone(rollouts: Rollouts) -> None:
    trimmed = rollouts.select(torch.tensor([0])).trimmed()
    assert int(rollouts.lengths_PG[0].max()) == trimmed.T
    assert trimmed.prompt_ids_PL.shape[1] == int(rollouts.prompt_mask_PL[0].sum())
    assert torch.equal(trimmed.logps_PGT[trimmed.mask_PGT], rollouts.logps_PGT[0][rollouts.mask_PGT[0]])
    assert torch.equal(trimmed.prompt_ids_PL[0], rollouts.prompt_ids_PL[0][rollouts.prompt_mask_PL[0]])


@settings(max_examples=50, deadline=None)
@given(batches(), st.data())
def test_pick_takes_whole_responses_and_leaves_the_prompts(rollouts: Rollouts, data: st.DataObject) -> None:
    G, K = rollouts.G, 2
    index = torch.tensor([[data.draw(st.integers(0, G - 1)) for _ in range(K)] for _ in range(rollouts.P)])
    picked = rollouts.pick(index)
    assert (picked.P, picked.G, picked.T) == (rollouts.P, K, rollouts.T)
    assert torch.equal(picked.prompt_ids_PL, rollouts.prompt_ids_PL)
    assert torch.equal(picked.greedy_scores_P, rollouts.greedy_scores_P)
    for p in range(rollouts.P):
        for k in range(K):
            i = int(index[p, k])
            assert torch.equal(picked.response_ids_PGT[p, k], rollouts.response_ids_PGT[p, i])
            assert torch.equal(picked.mask_PGT[p, k], rollouts.mask_PGT[p, i])
            assert picked.scores_PG[p, k] == rollouts.scores_PG[p, i]


@settings(max_examples=30, deadline=None)
@given(batches())
def test_rows_are_prompt_then_response_with_padding_outside(rollouts: Rollouts) -> None:
    ids, mask = rollouts.input_ids_BS(), rollouts.attention_mask_BS()
    for row in range(rollouts.P * rollouts.G):
        p, g = divmod(row, rollouts.G)
        response = rollouts.response_ids_PGT[p, g][rollouts.mask_PGT[p, g]]
        prompt = rollouts.prompt_ids_PL[p][rollouts.prompt_mask_PL[p]]
        assert torch.equal(ids[row][mask[row]], torch.cat([prompt, response]))
        inside = mask[row].nonzero().flatten()
        assert int(inside[-1] - inside[0]) + 1 == len(inside)
    assert rollouts.token_count == int(mask.sum())
    assert torch.equal(rollouts.per_group(ids)[:, :, -rollouts.T :], rollouts.response_ids_PGT)


def test_a_greedy_prefix_carries_no_loss_but_is_attended() -> None:
    rollouts = rollouts_of([[5]], [[[1, 2, 3], [4, 0]]])
    fixed = torch.tensor([[[True, False, False], [True, False, False]]])
    rollouts = dataclasses.replace(rollouts, fixed_PGT=fixed)
    assert rollouts.loss_mask_PGT.tolist() == [[[False, True, True], [False, True, False]]]
    assert rollouts.totals == Totals(2, 3, 3)
    assert int(rollouts.attention_mask_BS().sum()) == 2 + 5


def test_padding_by_hand() -> None:
    ids, mask = pad_left([[1, 2], [3]], 9)
    assert (ids.tolist(), mask.tolist()) == ([[1, 2], [9, 3]], [[True, True], [False, True]])
    ids, mask = pad_right([[1, 2], [3]], 9)
    assert (ids.tolist(), mask.tolist()) == ([[1, 2], [3, 9]], [[True, True], [True, False]])
    joined = join_right([torch.ones(1, 1, 2), torch.ones(1, 1, 3)], 7)
    assert joined.tolist() == [[[1, 1, 7]], [[1, 1, 1]]]


def test_shapes_are_checked_and_missing_fields_named() -> None:
    rollouts = rollouts_of([[5]], [[[1, 2], [4, 0]]])
    with pytest.raises(ValueError, match="mask_PGT must be"):
        dataclasses.replace(rollouts, mask_PGT=rollouts.mask_PGT[..., :1])
    with pytest.raises(ValueError, match="prompt_ids_PL and prompt_mask_PL"):
        dataclasses.replace(rollouts, prompt_mask_PL=rollouts.prompt_mask_PL[:, :0])


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("logps_PGT", "an algorithm asks for it by Needs(old_logps=True)"),
        ("values_PGT", "an algorithm asks for it by Needs(values='shared')"),
        ("greedy_scores_P", "an algorithm asks for it by Needs(greedy=True)"),
        ("advantages_PGT", "prepare() must"),
    ],
)
def test_a_field_that_is_missing_is_named_with_who_fills_it(name: str, remedy: str) -> None:
    rollouts = rollouts_of([[1]], [[[1, 0]]])
    with pytest.raises(
        ValueError, match=re.escape(f"these rollouts have no {name}. Fill it in first: {remedy};")
    ):
        rollouts.filled("mask_PGT", name)
