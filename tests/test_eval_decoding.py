"""What is judged is decoded as asked; KL and entropy stay expectations over the policy's own samples."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import SmallWorld, compared

from algos import Policy, Sampling, UserError, sample
from algos.engine.batches.prompts import encode_prompts, texts
from eval.experiment import Experiment
from eval.metrics import Evaluated, Evaluator
from eval.settings.parts import Evaluation
from eval.tasks.materials import Materials, Scorer

PROMPTS = [{"prompt": f"the {word} dog"} for word in ("red", "green", "blue", "good")]
OF_TEXT = {"reward/judge", "reward/proxy", "length", "eos_rate", "distinct_2", "perplexity/reference"}
OF_POLICY = {"kl/sequence", "kl/sequence_k1", "entropy"}


@pytest.fixture(scope="module")
def policy(small: SmallWorld) -> Policy:
    """Moved a little from its reference."""
    made = Policy.load(small.model, device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.trainable().values():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return made


def evaluated(small: SmallWorld, policy: Policy, **settings: Any) -> Evaluated:
    reward = Scorer("function", small.reward(), "score")
    materials = Materials(
        model=small.model, train_prompts=PROMPTS, validation_prompts=PROMPTS, test_prompts=PROMPTS,
        reward=reward, judge=replace(reward, where=small.reward("strict")),
    )  # fmt: skip
    experiment = Experiment(
        task="custom", model=small.model, prompts=small.prompts, reward=small.reward(),
        sampling=Sampling(max_new_tokens=6), eval=Evaluation(**settings),
    )  # fmt: skip
    return Evaluator(policy, materials, experiment)()


def completions(found: Evaluated) -> list[str]:
    return [record["completion"] for record in found.samples]


@pytest.mark.parametrize(
    "settings", [{"decoding": "greedy"}, {"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-3}]
)
def test_decoding_that_leaves_no_choice_is_greedy(
    small: SmallWorld, policy: Policy, settings: dict[str, Any]
) -> None:
    found = evaluated(small, policy, **settings)
    encoded, _ = encode_prompts(policy, PROMPTS, 6)
    greedy = sample(policy, [p.ids for p in encoded], Sampling(max_new_tokens=6), 0, greedy=True)
    assert completions(found) == texts(policy, encoded, greedy)[1]


@pytest.mark.parametrize(
    "settings",
    [{"decoding": "greedy"}, {"responses": 4, "top_k": 2}, {"responses": 4, "top_p": 0.5},
     {"responses": 4, "greedy_prefix": 3}, {"responses": 4, "temperature": 0.5}],
)  # fmt: skip
def test_kl_and_entropy_are_those_of_plain_samples(
    small: SmallWorld, policy: Policy, settings: dict[str, Any]
) -> None:
    plain = evaluated(small, policy, responses=settings.get("responses", 1))
    found = evaluated(small, policy, **settings)
    assert {name: found.metrics[name] for name in OF_POLICY} == {
        name: plain.metrics[name] for name in OF_POLICY
    }
    assert plain.metrics["kl/sequence"] > 0.05
    assert completions(found) != completions(plain)
    assert any(found.metrics[name] != plain.metrics[name] for name in OF_TEXT)
    assert found.metrics["length"] == sum(record["length"] for record in found.samples) / len(found.samples)


def test_a_greedy_prefix_is_the_same_in_every_response_and_the_rest_is_not(
    small: SmallWorld, policy: Policy
) -> None:
    found = evaluated(small, policy, responses=8, greedy_prefix=2)
    for i in range(0, len(found.samples), 8):
        words = [text.split() for text in completions(found)[i : i + 8]]
        assert len({tuple(w[:2]) for w in words}) == 1
        assert len({tuple(w) for w in words}) > 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"decoding": "beam"}, "decoding must be one of sample, greedy"),
        ({"decoding": "greedy", "temperature": 0.5}, "eval temperature must be as it is by default"),
        ({"decoding": "greedy", "top_p": 0.9}, "eval top_p must be"),
        ({"decoding": "greedy", "greedy_prefix": 2}, "eval greedy_prefix must be"),
        ({"decoding": "greedy", "responses": 2}, "eval responses must be 1 where decoding is greedy"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"top_p": 0.0}, "top_p must be"),
        ({"top_k": -1}, "top_k must be"),
        ({"greedy_prefix": -1}, "greedy_prefix must be"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Evaluation(**wrong)
    assert "\n" not in str(caught.value)


def test_from_the_command_line_to_the_rows(small: SmallWorld, tmp_path: Path) -> None:
    """Training with a temperature and a greedy prefix, evaluation by nucleus: every number is defined."""
    out = tmp_path / "out"
    more = ("--seeds", "1", "--temperature", "0.7", "--greedy-prefix", "2", "--frontier.samples", "0",
            "--eval.top-p", "0.8", "--eval.responses", "2")  # fmt: skip
    assert compared([*small.arguments(out), *more]) == 0
    for arm in ("reinforce", "ppo", "dpo"):
        rows = [json.loads(line) for line in (out / f"runs/{arm}-s0/rows.jsonl").read_text().splitlines()]
        assert len(rows) == 3
        assert all(math.isfinite(rows[-1]["metrics"][name]) for name in OF_TEXT | OF_POLICY)
        events = (out / f"runs/{arm}-s0/events.jsonl").read_text().splitlines()
        assert math.isfinite(json.loads(events[-1])["gradient_norm"])
