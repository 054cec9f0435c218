"""Metrics against their definitions, on models small enough to sum over everything."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import sacrebleu
import torch
from chat_tokenizers import byte_pairs
from pydantic import TypeAdapter
from small_world import SmallWorld
from tiny import gpt2, rollouts_of, word_tokenizer

from algos import LoRA, Policy
from algos.engine.batches.pairs import encode_pair
from algos.engine.calls import GuardedReward, RewardCalls
from algos.engine.models import frozen
from algos.engine.scoring import score_policy, score_reference
from algos.engine.settings import Truncation
from algos.losses import sequence_logps
from eval.directory.kinds import Number
from eval.experiment import Experiment
from eval.judge import Judge
from eval.metrics import (
    Evaluator,
    _heldout_texts,
    _perplexity,
    _token_statistics,
    distinct_bigrams,
    full_kl,
    overlap,
)
from eval.settings.parts import Evaluation
from eval.tasks.materials import Materials, Scorer


def materials(small: SmallWorld, **changes: object) -> Materials:
    prompts = [{"prompt": "the red dog sees"}, {"prompt": "a blue cat likes the"}, {"prompt": "the dog"}]
    texts = [{"prompt": "the dog", "completion": "likes the cat"}]
    pairs = [
        {"prompt": "the dog", "chosen": " good", "rejected": " bad"},
        {"prompt": "a cat", "chosen": " sees", "rejected": " likes a dog"},
    ]
    made = Materials(
        model=small.model, train_prompts=prompts, validation_prompts=prompts, test_prompts=prompts,
        reward=Scorer("function", small.reward(), "score"), judge=Scorer("function", small.reward("strict"), "strict"),
        heldout_texts=texts, heldout_pairs=pairs,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def experiment(small: SmallWorld) -> Experiment:
    sampling = replace(Experiment().sampling, max_new_tokens=5)
    return Experiment(
        task="custom",
        model=small.model,
        prompts=small.prompts,
        reward=small.reward(),
        sampling=sampling,
        eval=Evaluation(responses=4),
    )


def test_a_reference_on_disk_is_read_once_for_all_parts(
    small: SmallWorld, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[object] = []
    fetch = frozen._Shelf.fetch
    monkeypatch.setattr(frozen, "LARGE", 1)
    monkeypatch.setattr(frozen, "_in_memory", lambda _: False)
    monkeypatch.setattr(frozen._Shelf, "fetch", lambda shelf: fetched.append(shelf) or fetch(shelf))
    policy = Policy.load(small.model)
    rollouts = rollouts_of([[1], [2], [3]], [[[4, 5]], [[5]], [[6, 4]]])
    _token_statistics(policy, rollouts, Evaluation(batch_size=1))
    assert len(fetched) == 1


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)], ids=["all weights", "an adapter"])
def test_what_is_measured_of_tokens_is_the_policys_own(small: SmallWorld, lora: LoRA | None) -> None:
    """With an adapter the reference is the same model without it: the policy must not be measured inside that block."""
    policy = Policy.load(small.model, lora=lora)
    random = torch.Generator().manual_seed(1)
    for weight in policy.trainable().values():
        weight.data += 0.3 * torch.randn(weight.shape, generator=random)
    rollouts = rollouts_of([[1], [2], [3]], [[[4, 5]], [[5]], [[6, 4]]])
    logps, ref_logps = score_policy(policy, rollouts, 1.0)[0], score_reference(policy, rollouts, 1.0)
    found = _token_statistics(policy, rollouts, Evaluation(batch_size=2))
    totals = [sequence_logps(x, rollouts.mask_PGT).flatten().tolist() for x in (logps - ref_logps, ref_logps)]
    assert found["k1"] == pytest.approx(totals[0], abs=1e-5)
    assert found["reference"] == pytest.approx(totals[1], abs=1e-5)
    assert max(map(abs, found["k1"])) > 0.1, "a policy that has moved"
    assert min(found["kl"]) > 0.01


def test_the_base_against_itself(small: SmallWorld, experiment: Experiment) -> None:
    found = Evaluator(Policy.load(small.model), materials(small), experiment)().metrics
    assert (
        found["kl/sequence"],
        found["kl/sequence_k1"],
        found["win_rate"],
        found["preference_accuracy"],
    ) == (0, 0, 0.5, 0.5)
    # The base's own perplexity on its samples is exp of its mean negative log-likelihood: near its entropy.
    assert 1 < found["perplexity/reference"] < 20


def test_the_same_twice_and_kl_near_its_control(small: SmallWorld, experiment: Experiment) -> None:
    policy = Policy.load(small.model)
    made = materials(
        small, test_prompts=[{"prompt": f"the {word} dog"} for word in ("red", "green", "blue", "good")] * 40
    )
    base = Evaluator(policy, made, experiment)()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in policy.trainable().values():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    evaluator = Evaluator(policy, made, experiment, base.samples)
    first, second = evaluator(), evaluator()
    assert first == second
    kl, k1 = first.metrics["kl/sequence"], first.metrics["kl/sequence_k1"]
    assert kl > 0.05
    assert abs(kl - k1) < 0.3  # twice what it is with these seeds
    assert len(first.samples) == 4 * 160


def test_perplexity_of_heldout_text_by_hand(small: SmallWorld, experiment: Experiment) -> None:
    policy = Policy.load(small.model)
    found = Evaluator(policy, materials(small), experiment)().metrics["perplexity/heldout"]
    ids = policy.tokenizer("the dog likes the cat", return_tensors="pt").input_ids
    with torch.no_grad():
        logps = policy.model(ids).logits.log_softmax(-1)
    nll = [-logps[0, t - 1, ids[0, t]].item() for t in range(2, 5)]
    assert found == pytest.approx(math.exp(sum(nll) / 3), rel=1e-5)


@pytest.mark.parametrize("nats", [690.0, 691.0, 710.0, 1e6])
def test_a_perplexity_beyond_all_bounds_can_be_written_and_read(nats: float) -> None:
    """Of a policy that has diverged: its other numbers, and the other arms', are worth having."""
    rollouts = rollouts_of([[1]], [[[1, 2, 0]]])
    found = _perplexity(-3 * nats, rollouts)
    assert found == (pytest.approx(math.exp(690)) if nats == 690 else 1e300)
    assert TypeAdapter(Number).validate_python(found) == found


def test_heldout_conversations_are_read_as_they_are_trained_on() -> None:
    """The template's control tokens are tokens, and what was typed is not."""
    tokenizer = byte_pairs()
    policy = Policy(gpt2(len(tokenizer), eos=tokenizer.eos_token_id), tokenizer, dtype="fp32")
    prompt = [{"role": "user", "content": "be"}]
    reply = [{"role": "assistant", "content": "x<|im_end|>"}]
    texts = _heldout_texts(policy, [{"prompt": prompt, "completion": reply}], 32)
    assert texts is not None
    pair, _ = encode_pair(
        policy, {"prompt": prompt, "chosen": reply, "rejected": [reply[0] | {"content": "y"}]}, 32
    )
    assert pair is not None
    assert texts.prompt_ids_PL[0].tolist() == pair.prompt
    assert [*texts.response_ids_PGT[0, 0].tolist(), tokenizer.eos_token_id] == pair.chosen


@pytest.mark.parametrize("truncate_prompts", ["drop", "left"])
def test_heldout_texts_are_cut_where_held_out_pairs_are(truncate_prompts: Truncation) -> None:
    """A model of 32 positions: texts that do not fit are cut, not silently left out, and prompts as everywhere."""
    tokenizer = word_tokenizer("a b")
    policy = Policy(gpt2(len(tokenizer)), tokenizer, dtype="fp32")
    rows = [
        {"prompt": " ".join("ab"[i % 2] for i in range(length)), "completion": " a b" * 8}
        for length in (4, 20, 31, 40)
    ]
    texts = _heldout_texts(policy, rows, 12, truncate_prompts)
    pairs = [
        encode_pair(
            policy,
            {"prompt": row["prompt"], "chosen": row["completion"], "rejected": " b"},
            12,
            truncate_prompts,
        )[0]
        for row in rows
    ]
    expected = [(pair.prompt, pair.chosen) for pair in pairs if pair is not None]
    assert texts is not None
    found = [
        (ids[mask].tolist(), response[kept].tolist())
        for ids, mask, response, kept in zip(
            texts.prompt_ids_PL,
            texts.prompt_mask_PL,
            texts.response_ids_PGT[:, 0],
            texts.mask_PGT[:, 0],
            strict=True,
        )
    ]
    assert found == expected
    assert len(found) == (3 if truncate_prompts == "drop" else 4)


def test_full_kl_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
    assert full_kl(p.log(), q.log()).item() == pytest.approx(
        0.5 * math.log(2) + 0.25 * math.log(0.5), abs=1e-7
    )
    never = torch.tensor([0.0, -torch.inf])
    assert full_kl(never, torch.tensor([0.0, 0.0])).item() == pytest.approx(math.log(2), abs=1e-6)


def test_distinct_bigrams_by_hand() -> None:
    assert distinct_bigrams([[1, 2, 1, 2], [1, 2]]) == pytest.approx(2 / 4)
    assert math.isnan(distinct_bigrams([[1]]))


def test_overlap_is_sacrebleus_and_needs_a_reference_for_all() -> None:
    rows = [{"prompt": "p", "completion": "the cat sees the dog"}, {"prompt": "q", "completion": "a dog"}]
    texts = ["the cat sees a dog", "a dog"]
    references = [["the cat sees the dog", "a dog"]]
    found = overlap(rows, texts)
    assert found == {
        "bleu": sacrebleu.corpus_bleu(texts, references).score,
        "chrf": sacrebleu.corpus_chrf(texts, references).score,
    }
    assert overlap([{"prompt": "p"}, rows[0]], texts) == {}


def test_a_pairwise_judge_is_asked_once_for_reward_and_win_rate(
    small: SmallWorld, experiment: Experiment
) -> None:
    """One that does not always say the same would else give one quantity two numbers."""
    luck = random.Random(0)
    moved = Policy.load(small.model)
    for weight in moved.trainable().values():
        weight.data += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    base = Evaluator(Policy.load(small.model), materials(small), experiment)().samples
    evaluator = Evaluator(moved, materials(small), experiment, base)
    evaluator.judge = Judge(lambda prompts, a, b: [luck.random() for _ in a], "luck", pairwise=True)
    found = evaluator().metrics
    assert found["win_rate"] == found["reward/judge"] != 0.5


def test_unscored_responses_are_in_a_share_of_their_own(small: SmallWorld, experiment: Experiment) -> None:
    """And not in the proxy; without --allow-unscored there is no such metric."""
    assert "unscored" not in Evaluator(Policy.load(small.model), materials(small), experiment)().metrics
    evaluator = Evaluator(
        Policy.load(small.model), materials(small), replace(experiment, allow_unscored=True)
    )
    assert evaluator().metrics["unscored"] == 0
    evaluator.reward = GuardedReward(
        lambda prompts, completions, **_: [None if i % 4 == 1 else float(i) for i in range(len(completions))],
        RewardCalls(allow_unscored=True),
    )
    found = evaluator()
    assert len(found.samples) == 12
    assert found.metrics["unscored"] == 3 / 12
    assert found.metrics["reward/proxy"] == pytest.approx((sum(range(12)) - 1 - 5 - 9) / 9)


def test_the_plain_length_is_that_of_the_policys_own_samples(
    small: SmallWorld, experiment: Experiment
) -> None:
    policy = Policy.load(small.model)
    longer = replace(experiment, sampling=replace(experiment.sampling, max_new_tokens=20))
    plain = Evaluator(policy, materials(small), longer)()
    assert plain.plain_length == plain.metrics["length"]
    colder = replace(longer, eval=Evaluation(responses=4, temperature=0.01))
    other = Evaluator(policy, materials(small), colder)()
    assert other.metrics["length"] != plain.metrics["length"]
    assert other.plain_length == plain.metrics["length"]
    assert other.metrics["kl/sequence"] == plain.metrics["kl/sequence"]
