"""The sampler: exact probabilities, randomness that belongs to its place, ends, filters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from scipy import stats
from tiny import EOS, every_response, gpt2, rollouts_of, tiny_policy, word_tokenizer

from algos import Policy, Sampling, UserError, sample
from algos.engine import decoding
from algos.engine import sampling as sampler
from algos.engine.batches.prompts import encode_prompts
from algos.engine.rollouts import Rollouts
from algos.engine.sampling import filtered, inverse_cdf
from algos.engine.scoring import score_policy
from algos.engine.seeding import derive, generator, uniforms


def responses(rollouts: Rollouts) -> list[list[list[int]]]:
    return [
        [ids[mask].tolist() for ids, mask in zip(group_ids, group_mask, strict=True)]
        for group_ids, group_mask in zip(rollouts.response_ids_PGT, rollouts.mask_PGT, strict=True)
    ]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def policy(request: pytest.FixtureRequest) -> Policy:
    return tiny_policy(request.param, "a b c")


PROMPTS = [[1], [2, 3, 1], [3, 3], [1, 2, 3, 1, 2]]


def test_texts_are_refused_with_what_encodes_them(policy: Policy) -> None:
    for texts in (["a b"], [[1, 2], "a b"], "a b"):
        with pytest.raises(UserError, match=r"token ids; got the text 'a.*encode_prompts") as caught:
            sample(policy, texts, Sampling(max_new_tokens=4), 0)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_encoded_prompts_are_refused_with_what_takes_their_ids_out(policy: Policy) -> None:
    sampling = Sampling(max_new_tokens=4)
    encoded, counts = encode_prompts(policy, ["a b", "c"], sampling.max_new_tokens)
    for given in (encoded, (encoded, counts)):
        with pytest.raises(
            UserError, match=r"got EncodedPrompt.*\[p\.ids for p in encode_prompts\(.*\)\[0\]\]"
        ):
            sample(policy, given, sampling, 0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"lists of token ids; got Tensor"):
        sample(policy, torch.tensor([[1, 2]]), sampling, 0)  # type: ignore[arg-type]
    ids = [p.ids for p in encode_prompts(policy, ["a b", "c"], sampling.max_new_tokens)[0]]
    assert sample(policy, ids, sampling, 0).P == 2


def test_samples_do_not_depend_on_their_batch_or_its_order(policy: Policy) -> None:
    sampling = Sampling(max_new_tokens=6, group_size=3)
    together = responses(sample(policy, PROMPTS, sampling, 0))
    backwards = responses(sample(policy, PROMPTS[::-1], sampling, 0))[::-1]
    alone = [responses(sample(policy, [prompt], sampling, 0))[0] for prompt in PROMPTS]
    fewer = [group[:2] for group in together]
    assert together == backwards == alone
    assert fewer == responses(sample(policy, PROMPTS, sampling, 0, group_size=2))


def test_samples_do_not_depend_on_how_many_are_decoded_at_once(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(max_new_tokens=6, group_size=3)
    together = responses(sample(policy, PROMPTS, sampling, 0))
    portions, seen = sampler._portions, list[int]()

    def watched(P: int, G: int, rows: int) -> Iterator[tuple[slice, slice]]:
        seen.append(rows)
        return portions(P, G, rows)

    monkeypatch.setattr(sampler, "_portions", watched)
    monkeypatch.setattr(sampler, "MAX_ROWS", 3)
    assert responses(sample(policy, PROMPTS, sampling, 0)) == together
    assert set(seen) == {3}


def test_the_same_seed_is_equal_and_another_differs(policy: Policy) -> None:
    sampling = Sampling(max_new_tokens=6, group_size=4)
    first, again, other = (responses(sample(policy, PROMPTS, sampling, seed)) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_the_groups_and_the_repetitions_of_a_prompt_differ(policy: Policy) -> None:
    groups = responses(sample(policy, [[1], [1], [1]], Sampling(max_new_tokens=6, group_size=6), 0))
    assert all(len({tuple(r) for r in group}) > 1 for group in groups)
    assert groups[0] != groups[1] != groups[2] != groups[0]


def test_the_sampler_draws_from_no_global_stream(policy: Policy) -> None:
    state = torch.random.get_rng_state()
    sample(policy, PROMPTS, Sampling(max_new_tokens=3), 0)
    assert torch.equal(state, torch.random.get_rng_state())


def test_sampled_frequencies_are_the_models_probabilities(policy: Policy) -> None:
    """Chi-square of 4,000 responses over the enumerable space, at a temperature that is not 1."""
    prompt, n, temperature = [2, 1], 4000, 1.5
    space = every_response(len(policy.tokenizer), 2)
    exact = rollouts_of([prompt], [space])
    p = (
        torch.where(exact.mask_PGT, score_policy(policy, exact, temperature)[0], 0.0)
        .sum(-1)
        .exp()
        .flatten()
        .double()
    )
    assert float(p.sum()) == pytest.approx(1, abs=1e-5)
    sampling = Sampling(max_new_tokens=2, temperature=temperature, group_size=n)
    drawn = Counter(tuple(r) for r in responses(sample(policy, [prompt], sampling, 1))[0])
    assert set(drawn) <= {tuple(r) for r in space}
    counts = [drawn[tuple(r)] for r in space]
    often = [i for i in range(len(space)) if float(p[i]) * n >= 5]
    rest = [i for i in range(len(space)) if i not in often]
    observed = [counts[i] for i in often] + [sum(counts[i] for i in rest)]
    expected = [float(p[i]) * n for i in often] + [n - sum(float(p[i]) * n for i in often)]
    if expected[-1] < 5:
        observed, expected = [*observed[:-2], sum(observed[-2:])], [*expected[:-2], sum(expected[-2:])]
    assert stats.chisquare(observed, expected, sum_check=False).pvalue > 0.001
    wrong = torch.tensor(expected).roll(1).tolist()
    assert stats.chisquare(observed, wrong, sum_check=False).pvalue < 1e-6  # the test can fail


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_cached_decoding_is_teacher_forcing(policy: Policy, temperature: float) -> None:
    rollouts = sample(policy, PROMPTS, Sampling(max_new_tokens=8, temperature=temperature, group_size=5), 2)
    logps, _ = score_policy(policy, rollouts, temperature)
    mask = rollouts.mask_PGT
    assert 0 < int(mask.sum()) < mask.numel()  # rows of different lengths, so rows were dropped on the way
    torch.testing.assert_close(rollouts.sampler_logps_PGT[mask], logps[mask], atol=2e-5, rtol=2e-5)


def test_responses_end_at_the_first_eos_or_at_the_limit(policy: Policy) -> None:
    rollouts = sample(policy, PROMPTS, Sampling(max_new_tokens=5, group_size=8), 3)
    for group, ended in zip(responses(rollouts), rollouts.ended_PG.tolist(), strict=True):
        for response, over in zip(group, ended, strict=True):
            assert EOS not in response[:-1]
            assert over == (response[-1] == EOS)
            assert over or len(response) == 5
    assert 0 < int(rollouts.ended_PG.sum()) < rollouts.ended_PG.numel()


def test_any_of_several_declared_eos_ends_a_response() -> None:
    tokenizer = word_tokenizer("a b c")
    model = gpt2(len(tokenizer))
    model.generation_config.eos_token_id = [EOS, 2]
    policy = Policy(model, tokenizer, dtype="fp32")
    assert policy.eos_ids == [EOS, 2]
    rollouts = sample(policy, [[1], [3]], Sampling(max_new_tokens=8, group_size=16), 0)
    last = Counter(r[-1] for group in responses(rollouts) for r in group)
    assert last.keys() >= {EOS, 2}
    assert not any({EOS, 2} & set(r[:-1]) for group in responses(rollouts) for r in group)
    assert bool(rollouts.ended_PG[rollouts.lengths_PG < 8].all())


def test_a_model_without_eos_or_pad_writes_to_the_limit() -> None:
    tokenizer = word_tokenizer("a b c", eos=None)
    policy = Policy(gpt2(len(tokenizer), eos=None), tokenizer, dtype="fp32")
    assert policy.eos_ids == []
    rollouts = sample(policy, [[1], [2, 1]], Sampling(max_new_tokens=5, group_size=4), 0)
    assert rollouts.lengths_PG.unique().tolist() == [5]
    assert not bool(rollouts.ended_PG.any())
    logps, _ = score_policy(policy, rollouts, 1.0)
    torch.testing.assert_close(rollouts.sampler_logps_PGT, logps, atol=2e-5, rtol=2e-5)


def test_eos_in_the_prompt_ends_nothing() -> None:
    """BOS = EOS = pad: the prompt begins with the very id that ends the response."""
    tokenizer = word_tokenizer("a b c", bos="<eos>", pad="<eos>", add_bos=True)
    policy = Policy(gpt2(len(tokenizer)), tokenizer, dtype="fp32")
    assert (tokenizer.bos_token_id, policy.eos_ids, policy.pad_id) == (EOS, [EOS], EOS)
    rollouts = sample(policy, [[EOS, 1], [EOS, 2, 1, 3]], Sampling(max_new_tokens=6, group_size=8), 0)
    assert int(rollouts.lengths_PG.max()) > 1
    assert rollouts.prompt_mask_PL.sum(-1).tolist() == [2, 4]
    ended = [r for group in responses(rollouts) for r in group if r[-1] == EOS]
    assert ended
    logps, _ = score_policy(policy, rollouts, 1.0)
    mask = rollouts.mask_PGT
    torch.testing.assert_close(rollouts.sampler_logps_PGT[mask], logps[mask], atol=2e-5, rtol=2e-5)


def test_greedy_takes_the_likeliest_token_once(policy: Policy) -> None:
    rollouts = sample(policy, PROMPTS, Sampling(max_new_tokens=4, group_size=3), 0, greedy=True)
    assert rollouts.G == 1
    for prompt, group in zip(PROMPTS, responses(rollouts), strict=True):
        ids = list(prompt)
        for token in group[0]:
            with torch.no_grad():
                assert int(policy.model(torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)


def test_a_greedy_prefix_is_greedy_then_sampled_and_marked(policy: Policy) -> None:
    sampling = Sampling(max_new_tokens=6, group_size=8, greedy_prefix=2)
    rollouts = sample(policy, PROMPTS, sampling, 0)
    greedy = responses(sample(policy, PROMPTS, sampling, 0, greedy=True))
    for group, best in zip(responses(rollouts), greedy, strict=True):
        assert all(r[:2] == best[0][:2] for r in group)
    assert any(len({tuple(r) for r in group}) > 1 for group in responses(rollouts))
    assert rollouts.fixed_PGT is not None
    assert torch.equal(rollouts.fixed_PGT, rollouts.mask_PGT & (torch.arange(rollouts.T) < 2))
    assert not bool(rollouts.loss_mask_PGT[..., :2].any())


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


@pytest.mark.parametrize(
    ("uniform", "token"), [(1e-9, 0), (0.19999, 0), (0.20001, 1), (0.49999, 1), (0.50001, 2), (1 - 1e-9, 2)]
)
def test_inverse_cdf_by_hand(uniform: float, token: int) -> None:
    assert int(inverse_cdf(logs(0.2, 0.3, 0.5), torch.tensor([uniform], dtype=torch.float64))) == token


@pytest.mark.parametrize("uniform", [0.0, 2.0**-54, 1e-12, 0.5, 1 - 1e-12, 1 - 2.0**-53])
def test_impossible_tokens_are_never_drawn(uniform: float) -> None:
    U = torch.tensor([uniform], dtype=torch.float64)
    assert int(inverse_cdf(logs(0.0, 0.4, 0.0, 0.6, 0.0, 0.0), U)) in (1, 3)
    assert int(inverse_cdf(logs(0.0, 1.0, 0.0), U)) == 1
    many = torch.full((1, 1000), -torch.inf)
    many[0, 3:900] = torch.randn(897, generator=torch.Generator().manual_seed(0)) * 5
    assert 3 <= int(inverse_cdf(many.log_softmax(-1), U)) < 900


def test_uniforms_lie_inside_the_unit_interval_and_look_uniform() -> None:
    U = uniforms(0, [[i] for i in range(50)], 10, 20)
    assert U.shape == (50, 10, 20)
    assert 0 < U.min() < U.max() < 1
    assert len(set(U.flatten().tolist())) == U.size
    assert stats.kstest(U.flatten(), "uniform").pvalue > 0.001
    neighbours = stats.pearsonr(U[..., :-1].flatten(), U[..., 1:].flatten())
    assert neighbours.pvalue > 0.001
    assert (uniforms(0, [[7]], 3, 5) == uniforms(0, [[1], [7]], 4, 9)[1:, :3, :5]).all()


def test_named_seeds_are_stable_and_distinct() -> None:
    assert derive(0, "order", 1) == derive(0, "order", 1)
    assert (
        len(
            {
                derive(s, *labels)
                for s in (0, 1)
                for labels in (("a",), ("b",), ("a", "b"), ("ab",), ("a", 1), ("a1",))
            }
        )
        == 12
    )
    assert generator(0, "x").initial_seed() != generator(1, "x").initial_seed()


def test_filters_by_hand() -> None:
    logits = logs(0.5, 0.3, 0.15, 0.05)

    def kept(top_p: float = 1.0, top_k: int = 0) -> list[int]:
        out = filtered(logits.clone(), top_p, top_k)
        return torch.isfinite(out[0]).nonzero().flatten().tolist()

    assert kept() == [0, 1, 2, 3]
    assert kept(top_k=2) == [0, 1]
    assert kept(top_p=0.79) == [0, 1]
    assert kept(top_p=0.5001) == [0, 1]
    assert kept(top_p=0.01) == [0]
    assert kept(top_p=0.83) == [0, 1, 2]
    assert kept(top_k=3, top_p=0.83) == [0, 1]  # of the three kept these two hold .842
    torch.testing.assert_close(filtered(logits, 1.0, 2).softmax(-1), torch.tensor([[0.625, 0.375, 0, 0]]))


def test_filters_are_allowed_in_evaluation(policy: Policy) -> None:
    greedy = sample(policy, PROMPTS, Sampling(max_new_tokens=4), 0, greedy=True)
    one = Sampling(max_new_tokens=4, group_size=1)
    for narrow in (sample(policy, PROMPTS, one, 0, top_k=1), sample(policy, PROMPTS, one, 0, top_p=1e-6)):
        assert responses(narrow) == responses(greedy)


@pytest.mark.parametrize("wrong", [{"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}])
def test_ranges_of_filters(policy: Policy, wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        sample(policy, PROMPTS, Sampling(max_new_tokens=4), 0, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0}, {"temperature": 0.0}, {"group_size": 0}, {"prompts_per_iteration": 0},
        {"greedy_prefix": 64}, {"greedy_prefix": -1}, {"missing_eos_penalty": -1.0}, {"missing_eos_penalty": torch.inf},
        {"temperature": torch.inf}, {"temperature": torch.nan},
    ],
)  # fmt: skip
def test_ranges_of_sampling(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        Sampling(**wrong)
    assert next(iter(wrong)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_longest_possible_response_is_the_limit_not_the_longest_drawn(policy: Policy) -> None:
    """`constant` aggregation divides by it: a divisor that depends on the samples would bias the gradient."""
    sampling = Sampling(max_new_tokens=20, group_size=1)
    assert {sample(policy, PROMPTS, sampling, seed).totals.max_tokens for seed in range(4)} == {20}


@pytest.mark.parametrize("vocabulary", [12, 500])
def test_a_large_vocabulary_is_drawn_from_as_a_small_one(
    vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks: the same tokens, at every token's own bounds too, and none that is impossible."""
    monkeypatch.setattr(decoding, "BLOCK", 8)
    random = torch.Generator().manual_seed(0)
    logits_BV = torch.randn(64, vocabulary, generator=random) * 4
    logits_BV[:, torch.randperm(vocabulary, generator=random)[: vocabulary // 3]] = -torch.inf
    logits_BV[:8, : vocabulary - 2], logits_BV[8:16, 2:] = -torch.inf, -torch.inf
    logits_BV[:8, vocabulary - 1], logits_BV[8:16, 0] = 0.0, 0.0
    logps_BV = logits_BV.log_softmax(-1)
    cdf_BV = logps_BV.exp().cumsum(-1, dtype=torch.float64)
    bounds_VB = (cdf_BV / cdf_BV[:, -1:]).T
    for U_B in [
        *torch.rand(200, 64, generator=random, dtype=torch.float64),
        *bounds_VB.clamp(2**-53, 1 - 2**-53),
    ]:
        expected = inverse_cdf(logps_BV, U_B)
        found = decoding.search_in_blocks(logps_BV.exp(), U_B)
        assert bool(logps_BV.gather(-1, found[:, None]).isfinite().all())
        moved = found != expected
        # But for rounding: only where U is a token's own bound.
        gap_B = (U_B[:, None] - bounds_VB.T).abs().amin(-1)
        assert bool((gap_B[moved] < 1e-12).all())
