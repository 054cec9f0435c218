"""The sampler's distribution against exact probabilities and against transformers' `generate`."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from parity_table import Row, Table
from scipy import stats
from tiny import EOS, every_response, rollouts_of, tiny_policy
from transformers import GenerationMixin

from algos import Policy, Sampling, sample
from algos.engine.scoring import score_policy

pytestmark = pytest.mark.parity

PROMPT, LENGTH, DRAWS, TEMPERATURE = [2, 1], 3, 20_000, 1.3
SPACE = [tuple(response) for response in every_response(3, LENGTH)]
CHANCE = 1e-3
"""Below this p-value the two would be called different."""


def ours(policy: Policy) -> Counter[tuple[int, ...]]:
    sampling = Sampling(max_new_tokens=LENGTH, temperature=TEMPERATURE, group_size=DRAWS)
    drawn = sample(policy, [PROMPT], sampling, seed=0)
    rows = zip(drawn.response_ids_PGT[0].tolist(), drawn.lengths_PG[0].tolist(), strict=True)
    return Counter(tuple(ids[:length]) for ids, length in rows)


def generated(policy: Policy) -> Counter[tuple[int, ...]]:
    """The same from `generate`: pure sampling, cut behind the first EOS."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ids = torch.tensor([PROMPT])
        out = policy.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=TEMPERATURE, top_k=0, top_p=1.0,
            max_new_tokens=LENGTH, num_return_sequences=DRAWS, eos_token_id=EOS, pad_token_id=EOS,
        )  # fmt: skip
    rows = [row[len(PROMPT) :] for row in out.tolist()]
    return Counter(tuple(row[: row.index(EOS) + 1] if EOS in row else row) for row in rows)


def shares(counts: Counter[tuple[int, ...]]) -> torch.Tensor:
    return torch.tensor([counts[response] / DRAWS for response in SPACE], dtype=torch.float64)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_frequencies_are_exact_probabilities_and_those_of_generate(table: Table, kind: str) -> None:
    policy = tiny_policy(kind, "a")  # <eos>, a and the unknown word
    exact = rollouts_of([PROMPT], [[list(response) for response in SPACE]])
    logps = torch.where(exact.mask_PGT, score_policy(policy, exact, TEMPERATURE)[0], 0.0).sum(-1)[0]
    p = logps.double().exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-5)
    mine, theirs = ours(policy), generated(policy)
    assert sum(mine[response] for response in SPACE) == DRAWS
    exact_p = stats.chisquare(shares(mine) * DRAWS, p / p.sum() * DRAWS).pvalue
    pooled_p = stats.chi2_contingency([[c[r] for r in SPACE] for c in (mine, theirs)]).pvalue
    assert min(exact_p, pooled_p) > CHANCE
    name = {"gpt2": "GPT-2", "llama": "Llama"}[kind]
    for what, other, p_value in (
        ("exact probabilities", p, exact_p),
        ("frequencies of `generate`", shares(theirs), pooled_p),
    ):
        row = Row(
            "The sampler",
            f"frequencies of all {len(SPACE)} responses of a tiny {name} against {what}",
            sample,
            GenerationMixin.generate if "generate" in what else "the model's forward over every response",
            f"chance: {DRAWS:,} draws, chi-square p = {p_value:.2f}",
        )
        table.agrees(row, shares(mine), other, tolerance=0.02)
