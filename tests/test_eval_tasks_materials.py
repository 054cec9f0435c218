"""What arms share comes back as it was saved, and what its making took is charged to whom it was made for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_world import FIRST, SECOND
from report_world import world
from safetensors.torch import load_file
from small_world import SmallWorld
from transformers import AutoTokenizer, CodeGenConfig, CodeGenForCausalLM

from algos import DPO, PPO, Policy, Sampling, UserError
from algos.engine.calls import RewardCalls, RewardError
from algos.engine.rewards import call_reward
from algos.engine.settings import Truncation
from algos.engine.storage import write_json
from eval.experiment import Experiment
from eval.recording.recorder import costs_before
from eval.report.sections import details
from eval.settings.parts import RewardTraining
from eval.stages.cache import ArtefactCache
from eval.stages.fitting import Fit
from eval.tasks import materials_of
from eval.tasks.custom.sizes import sizes
from eval.tasks.materials import Materials, Rows, Scorer, StageCost
from eval.tasks.sampled import sampled_pairs

SCORER, STRICT = (Scorer("function", f"rewards.py:{name}", name) for name in ("score", "strict"))
MADE = Materials(
    model="model",
    train_prompts=[{"prompt": "a"}],
    validation_prompts=[],
    test_prompts=[],
    reward=SCORER,
    judge=SCORER,
    pairs=[{"prompt": "a", "chosen": "b", "rejected": "c"}],
    heldout_pairs=[],
    heldout_texts=[],
    pairs_cost=StageCost(flops=5.0, seconds=2.0, labels=1, reward_calls=4),
    reward_cost=StageCost(flops=7.0, seconds=3.0),
)


def test_materials_come_back_as_they_were(tmp_path: Path) -> None:
    texts = [{"prompt": "b", "completion": "c"}]
    made = replace(
        MADE, test_prompts=[{"prompt": "b"}], judge=STRICT, heldout_texts=texts, facts={"notes": ["n"]}
    )
    for number, each in enumerate((MADE, made)):
        each.save(tmp_path / str(number))
        assert Materials.load(tmp_path / str(number)) == each
    assert Materials.load(tmp_path / "2") is None


@pytest.mark.parametrize(
    ("algorithm", "learned", "expected"),
    [
        (DPO(), False, (5.0, 2.0, 1.0, 4.0)),
        (DPO(), True, (5.0, 2.0, 1.0, 4.0)),
        (DPO(on_policy=True), False, (7.0, 3.0, 0.0, 0.0)),
        (PPO(), False, (7.0, 3.0, 0.0, 0.0)),
        (PPO(), True, (12.0, 5.0, 1.0, 4.0)),
    ],
)
def test_an_arm_is_charged_what_it_needs_before_training(
    algorithm: DPO | PPO, learned: bool, expected: tuple[float, ...]
) -> None:
    found = costs_before(algorithm, replace(MADE, reward_learned=learned))
    assert found == dict(zip(("flops", "seconds", "labels", "reward_calls"), expected, strict=True))


def test_pairs_alone_need_a_family_with_a_classifier(small: SmallWorld, tmp_path: Path) -> None:
    config = CodeGenConfig(vocab_size=64, n_embd=16, n_layer=1, n_head=4, n_positions=32, rotary_dim=4)
    CodeGenForCausalLM(config).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(small.model).save_pretrained(tmp_path / "model")
    experiment = Experiment(
        task="custom", model=str(tmp_path / "model"), pairs=small.pairs, device="cpu",
        sampling=Sampling(max_new_tokens=6),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"no sequence classifier.*--reward and --judge"):
        materials_of(experiment, ArtefactCache(tmp_path / "cache"), 0)
    with_reward = replace(experiment, reward=small.reward(), judge=small.reward("strict"))
    made = materials_of(with_reward, ArtefactCache(tmp_path / "cache"), 0)
    assert made.pairs
    assert made.facts["varies"] == []


def test_one_judge_measures_all_data_seeds(small: SmallWorld, tmp_path: Path) -> None:
    """What runs and the base are held against is no part of the data that `--replicate-data` draws anew."""
    experiment = Experiment(
        task="custom", model=small.model, pairs=small.pairs, device="cpu", replicate_data=True,
        sampling=Sampling(max_new_tokens=6), reward_model=RewardTraining(epochs=1, batch_size=64),
    )  # fmt: skip
    first, second = (materials_of(experiment, ArtefactCache(tmp_path), seed) for seed in (0, 1))
    assert first.judge == second.judge
    assert first.reward != second.reward
    assert first.judge.where != first.reward.where
    assert first.pairs == second.pairs
    assert first.facts["varies"] == ["reward model"]
    # The judge's half is not DPO's, which a plan knows.
    assert sizes(experiment).pairs == len(first.pairs)
    # It begins elsewhere, too: with one head both would err alike. A step at 1e-5 hardly moves them.
    heads = [
        load_file(Path(one.where, "model.safetensors"))["score.weight"] for one in (first.reward, first.judge)
    ]
    assert float((heads[0] - heads[1]).abs().max()) > 1e-3


def written(path: Path, rows: Rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_plan_counts_the_recorded_pairs_beside_a_file_of_prompts(small: SmallWorld, tmp_path: Path) -> None:
    """And those of test prompts, which leave training, not."""
    rows = [json.loads(line) for line in Path(small.pairs).read_text(encoding="utf-8").splitlines()]
    experiment = Experiment(
        task="custom", model=small.model, prompts=small.prompts, pairs=small.pairs, reward=small.reward(), device="cpu",
        sampling=Sampling(max_new_tokens=6), test_prompts=written(tmp_path / "test.jsonl", rows[:30]),
    )  # fmt: skip
    made = materials_of(experiment, ArtefactCache(tmp_path / "cache"), 0)
    assert sizes(experiment).pairs == len(made.pairs) < len(rows)
    sampled = replace(experiment, pairs=None, sampled_pairs=17)
    assert (sizes(sampled).pairs, sizes(experiment, quick=True).pairs) == (17, None)


def test_pairs_are_sampled_from_prompts_that_are_cut(small: SmallWorld, tmp_path: Path) -> None:
    """The same as the other arms train on; dropped, they would leave DPO none, or the short ones alone."""
    rows = [{"prompt": f"{'red ' * 40}{'dog ' * i}"} for i in range(60)] + [
        {"prompt": "cat " * i} for i in range(1, 20)
    ]
    experiment = Experiment(
        task="custom", model=small.model, prompts=written(tmp_path / "prompts.jsonl", rows), reward=small.reward(),
        truncate_prompts="left", sampled_pairs=200, device="cpu", sampling=Sampling(max_new_tokens=6),
    )  # fmt: skip
    made = materials_of(experiment, ArtefactCache(tmp_path / "cache"), 0)
    sources = {pair["prompt"] for pair in made.pairs}
    assert sources == {row["prompt"] for row in made.train_prompts}
    assert sum(len(prompt) > 160 for prompt in sources) > 30


def test_whether_prompts_are_cut_is_in_the_key_of_sampled_pairs(small: SmallWorld, tmp_path: Path) -> None:
    base = Policy.load(small.model, device="cpu")
    reward = Scorer("function", small.reward(), "score").open("cpu")

    def path(rows: Rows, truncate_prompts: Truncation) -> Path:
        return sampled_pairs(
            ArtefactCache(tmp_path), base, rows, Sampling(max_new_tokens=6), count=4, seed=0, scale=1.0, identity={},
            reward=reward, truncate_prompts=truncate_prompts,
        )[2].path  # fmt: skip

    long = [{"prompt": f"{'red ' * 40}{end}"} for end in ("good", "bad")]
    rows = [*long, {"prompt": "dog"}]
    assert path(rows, "drop") == path(rows, "drop") != path(rows, "left")
    with pytest.raises(
        UserError, match=r"any of 2 prompts with 6 tokens; got 2 × prompt too long\. Give shorter"
    ):
        path(long, "drop")


def test_a_reward_model_is_centred_on_prompts_that_are_cut(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of pairs whose prompts leave room for their recorded responses, and none for as long ones as are sampled."""
    seen: list[list[str]] = []

    def note(base: Path, pairs: Rows, out: Path, fit: Fit, *, centre_on: list[str]) -> None:
        seen.append(centre_on)
        write_json(out / "facts.json", {"dropped_too_long": 0, "pairs": len(pairs), "heldout_pairs": 0})

    monkeypatch.setattr("eval.tasks.learned.train_reward_model", note)
    words = ("good", "bad", "dog", "cat", "the", "a", "sees", "likes")
    ends = [f"{first} {second}" for first in words for second in words]
    long = [{"prompt": f"{'red ' * 25}{end}", "chosen": " good", "rejected": " bad"} for end in ends]
    short = [{"prompt": end, "chosen": " good", "rejected": " bad"} for end in ends]

    def centred(pairs: Rows, truncate_prompts: Truncation) -> str:
        experiment = Experiment(
            task="custom", model=small.model, prompts=small.prompts, pairs=written(tmp_path / "pairs.jsonl", pairs),
            judge=small.reward(), device="cpu", sampling=Sampling(max_new_tokens=6), truncate_prompts=truncate_prompts,
        )  # fmt: skip
        return materials_of(experiment, ArtefactCache(tmp_path / "cache"), 0).reward.where

    with pytest.raises(
        UserError, match=r"cannot answer any of .* × prompt too long.*--truncate-prompts left"
    ):
        centred(long, "drop")
    dropped, cut = centred([*long, *short], "drop"), centred([*long, *short], "left")
    assert dropped != cut == centred([*long, *short], "left")
    assert [any(text.startswith("red red") for text in texts) for texts in seen] == [False, True]


def test_a_scorer_of_no_task_is_no_gold() -> None:
    with pytest.raises(UserError, match="no built-in task 'other' with a judge"):
        Scorer("gold", "other", "").judge("cpu")


def test_what_compares_two_responses_is_no_reward(tmp_path: Path) -> None:
    """Refused before anything trains, with the place where it belongs; as a judge it is welcome."""
    file = tmp_path / "own.py"
    file.write_text("def prefers(prompts, a, b):\n    return [1.0] * len(a)\n", encoding="utf-8")
    scorer = Scorer("function", f"{file}:prefers", "prefers")
    with pytest.raises(UserError, match=r"the reward prefers compares two responses.*Name it with --judge"):
        scorer.open("cpu")
    assert scorer.judge("cpu").pairwise


def test_a_comparison_keeps_to_the_commit_that_it_began_with(
    small: SmallWorld, moved_model: str, tmp_path: Path
) -> None:
    asked = Experiment(
        task="custom",
        model=moved_model,
        prompts=small.prompts,
        reward=small.reward(),
        sampling=Sampling(max_new_tokens=8),
    )
    made = materials_of(asked, ArtefactCache(tmp_path / "cache"), 0)
    assert made.model == made.facts["hub"]["model"] == f"{moved_model}@{SECOND}"
    comparison = replace(world(tmp_path), facts={"hub": made.facts["hub"]})
    (told,) = [block.text for block in details.data(comparison).blocks if "hub" in block.text]
    assert told == f"Taken from the hub, at these commits: model {moved_model}@{SECOND}."
    tagged = materials_of(replace(asked, model=f"{moved_model}@v1"), ArtefactCache(tmp_path / "cache"), 0)
    assert tagged.model == f"{moved_model}@{FIRST}"


def test_a_reward_that_is_the_judge_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(completions: list[str], **_: Any) -> list[float | None]:
        asked.append(len(completions))
        return [float(len(text)) if text else None for text in completions]

    monkeypatch.setattr("eval.tasks.materials.load_function", lambda *_: counted)
    calls = RewardCalls(reward_retries=0, allow_unscored=True)
    reward, judge = MADE.scorers("cpu", calls)
    rows = [{"prompt": "a"}] * 2
    proxy = call_reward(reward, rows, ["b", "c d"], [[1], [2]], unscored=True)
    assert judge.scores(rows, ["b", "c d"], [[1], [2]], ["", ""], proxy) == proxy == [1.0, 3.0]
    assert asked == [2]
    unscored = call_reward(reward, rows, ["b", ""], [[1], [2]], unscored=True)
    with pytest.raises(RewardError):  # a judge has to score them all
        judge.scores(rows, ["b", ""], [[1], [2]], ["", ""], unscored)
    _, other = replace(MADE, judge=STRICT).scorers("cpu", calls)
    assert other.scores(rows, ["b", "c d"], [[1], [2]], ["", ""], [7.0, 7.0]) == [1.0, 3.0]


def test_a_model_that_scores_has_the_precision_of_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any]] = []

    def opened(where: str, device: Any, *, dtype: Any) -> Any:
        asked.append((where, dtype))
        return lambda **_: []

    monkeypatch.setattr("eval.tasks.materials.RewardModel", opened)
    reward, judge = (Scorer("model", where, where) for where in ("r", "j"))
    replace(MADE, reward=reward, judge=judge).scorers("cpu", RewardCalls(), "bf16")
    reward.open("cpu")
    assert asked == [("r", "bf16"), ("j", "bf16"), ("r", "auto")]
