"""Pairs that are sampled from the base: in the form in which recorded ones come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_world import SmallWorld

from algos import DPO, Policy, Sampling, train
from eval.experiment import Experiment
from eval.stages.cache import ArtefactCache
from eval.tasks import materials_of
from eval.tasks.sampled import label

ASK: dict[str, str] = {"role": "user", "content": "Which dog?"}
BEGUN = {"role": "assistant", "content": "The red"}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("the dog", {"prompt": "the dog", "chosen": " good", "rejected": " bad"}),
        (
            [ASK],
            {
                "prompt": [ASK],
                "chosen": [{"role": "assistant", "content": " good"}],
                "rejected": [{"role": "assistant", "content": " bad"}],
            },
        ),
        (
            [ASK, BEGUN],
            {
                "prompt": [ASK],
                "chosen": [{"role": "assistant", "content": "The red good"}],
                "rejected": [{"role": "assistant", "content": "The red bad"}],
            },
        ),
    ],
)
def test_responses_take_the_form_of_their_prompt(prompt: Any, expected: dict[str, Any]) -> None:
    ended = [False, False]
    assert label([{"prompt": prompt}], [" good", " bad"], ended, [1.0, 0.0], 1e3, 0) == [expected]
    assert label([{"prompt": prompt}], [" bad", " good"], ended, [0.0, 1.0], 1e3, 0) == [expected]
    cut = [True, False]
    assert label([{"prompt": prompt}], [" good", " bad"], cut, [1.0, 0.0], 1e3, 0) == [
        expected | {"chosen_truncated": True}
    ]
    assert label([{"prompt": prompt}], [" bad", " good"], cut, [0.0, 1.0], 1e3, 0) == [
        expected | {"rejected_truncated": True}
    ]


@pytest.mark.parametrize("begun", [(), (BEGUN,)], ids=["asked", "begun"])
def test_dpo_trains_on_pairs_sampled_from_conversations(
    small: SmallWorld, tmp_path: Path, begun: tuple[dict[str, str], ...]
) -> None:
    rows = [json.loads(line) for line in Path(small.prompts).read_text(encoding="utf-8").splitlines()]
    chat = [{"prompt": [{"role": "user", "content": row["prompt"]}, *begun]} for row in rows]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat), encoding="utf-8")
    (tmp_path / "rewards.py").write_text(
        "def score(completions, **_):\n    return [float(messages[0]['content'].count('good')) for messages in completions]\n",
        encoding="utf-8",
    )
    experiment = Experiment(
        task="custom", model=small.model, prompts=str(tmp_path / "chat.jsonl"), reward=f"{tmp_path / 'rewards.py'}:score",
        sampled_pairs=24, device="cpu", sampling=Sampling(max_new_tokens=6),
    )  # fmt: skip
    materials = materials_of(experiment, ArtefactCache(tmp_path / "cache"), 0)
    assert len(materials.pairs) > 10
    assert materials.facts["varies"] == ["pairs"]
    policy = Policy.load(small.model, device="cpu")
    history = train(
        DPO(batch_size=4, learning_rate=1e-2), policy, pairs=materials.pairs, sampling=experiment.sampling,
        budget="2updates",
    )  # fmt: skip
    assert history.rows[-1]["updates"] == 2
    assert set(history.counts) <= {"response truncated"}, "none is refused"
