"""The built-in task: its language and judge by written-out numbers, its tokenizer exact, its stages cached."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import ROOT

from algos import Policy, Sampling, UserError
from algos.engine.storage import write_json
from eval.data.split import split_of
from eval.experiment import Experiment
from eval.stages.cache import FACTS, ArtefactCache
from eval.stages.fitting import Fit
from eval.tasks.learned import learned_reward
from eval.tasks.materials import Rows
from eval.tasks.reviews import task
from eval.tasks.reviews.gold import gold
from eval.tasks.reviews.grammar import corpus, parse, prompts, vocabulary
from eval.tasks.reviews.tokenizer import build_tokenizer
from eval.tasks.reviews.world import Reviews

TINY = Reviews(
    corpus=64, base=Fit(1, 1e-2), pairs=48, reward=Fit(1, 1e-2), hidden=16, layers=1, heads=2, test_prompts=8
)
SHORT = Experiment(sampling=Sampling(max_new_tokens=24))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("prompt", "completion", "worth"),
    [
        ("the plot was", " superb and the cast was good", sigmoid(1.4 + 0.7)),
        ("to be fair the plot was", " superb and the cast was good", sigmoid(1.4 + 0.7)),
        ("the plot was", " very superb but the cast was slightly dull", sigmoid(1.3 * 1.4 - 0.5 * 0.8)),
        ("the plot was", " moving and clever and the cast was plain", sigmoid(0.9 + 0.7)),
        # One clause is no review; nor is a review without its verb, with a word too many, or cut off.
        ("the plot was", " superb", 0.3 * sigmoid(1.4)),
        ("the plot was", " superb and the cast good", 0.3 * sigmoid(1.4 + 0.7)),
        ("the plot was", " superb good and the cast was fine", 0.3 * sigmoid(1.4 + 0.7 + 0.3)),
        ("the plot was", " superb and the cast was", 0.3 * sigmoid(1.4)),
        ("the plot was", " superb and the frobnitz was good", 0.3 * sigmoid(1.4 + 0.7)),
        ("the plot was", "", 0.3 * 0.5),
        # A repeated noun, a repeated adjective, one word three times.
        ("the plot was", " superb and the plot was good", 0.6 * sigmoid(1.4 + 0.7)),
        ("the plot was", " good and the cast was good", 0.6 * sigmoid(0.7 + 0.7)),
        ("the plot was", " good and good and good and the cast was fine", 0.36 * sigmoid(2.4)),
        # A fourth and a fifth clause.
        ("the plot was", " odd and the cast was odd", 0.6 * sigmoid(-0.6)),
        (
            "the plot was",
            " good and the cast was fine and the music was odd and the film was long",
            0.8 * sigmoid(0.7 + 0.3 - 0.3 - 0.2),
        ),
        (
            "the plot was",
            " good and the cast was fine and the music was odd and the film was long and the story was flat",
            0.64 * sigmoid(0.7 + 0.3 - 0.3 - 0.2 - 0.5),
        ),
    ],
)
def test_gold_is_what_it_says(prompt, completion, worth):
    assert gold(prompts=[prompt], completions=[completion]) == [pytest.approx(worth)]


def test_gold_is_called_as_trl_calls_rewards_and_stays_in_the_unit_interval():
    rows = corpus(0, 50)
    texts = [row["completion"] for row in rows]
    scores = gold(
        prompts=[row["prompt"] for row in rows], completions=texts, completion_ids=[[1]] * 50, other=1
    )
    assert all(isinstance(score, float) and 0 < score < 1 for score in scores)


def test_pushing_sentiment_past_the_language_loses_gold():
    ladder = [" fine and the cast was good", " superb and the cast was wonderful"]
    pushed = [" superb", " superb superb superb", " superb and the cast was superb and the plot was superb"]
    fine, best, *worse = gold(["the plot was"] * 5, ladder + pushed)
    assert fine < best
    assert max(worse) < fine


def test_openings_are_distinct_and_enough_for_every_split():
    openings = prompts()
    assert len(set(openings)) == len(openings) >= 500
    world = Reviews()
    splits = {name: world.prompts(name) for name in ("train", "validation", "test")}
    assert len(splits["test"]) == len(splits["validation"]) == 64
    assert len(splits["train"]) > 500
    for name, chosen in splits.items():
        assert {split_of(prompt) for prompt in chosen} == {name}


def test_writers_write_the_language():
    rows = corpus(0, 500)
    parses = [parse(row["prompt"] + row["completion"]) for row in rows]
    assert all(p.grammatical and p.repeated == 0 and 2 <= p.clauses <= 4 for p in parses)
    assert all(row["completion"].startswith(" ") and "  " not in row["completion"] for row in rows)
    assert {word for row in rows for word in (row["prompt"] + row["completion"]).split()} <= set(vocabulary())


def test_writers_use_the_whole_range_of_worth():
    rows = corpus(1, 1000)
    scores = gold([row["prompt"] for row in rows], [row["completion"] for row in rows])
    assert 0.4 < np.mean(scores) < 0.6
    assert np.quantile(scores, 0.1) < 0.15
    assert np.quantile(scores, 0.9) > 0.85


def test_the_corpus_depends_on_its_seed_alone():
    assert corpus(3, 20) == corpus(3, 20) != corpus(4, 20)
    assert {row["prompt"] for row in corpus(3, 20, ["the plot was"])} == {"the plot was"}


def test_tokens_of_prompt_and_completion_join_and_come_back_as_text():
    tokenizer = build_tokenizer()
    assert 70 <= len(tokenizer) <= 120
    special = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    assert len(set(special)) == 4
    for row in corpus(0, 50):
        whole = tokenizer(row["prompt"] + row["completion"]).input_ids
        prompt = tokenizer(row["prompt"]).input_ids
        assert whole[: len(prompt)] == prompt
        assert whole.count(tokenizer.bos_token_id) == 1
        assert not {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id} & set(whole)
        rest = [*whole[len(prompt) :], tokenizer.eos_token_id]
        assert tokenizer.decode(rest, skip_special_tokens=True) == row["completion"]
        assert len(prompt) + Reviews().max_new_tokens <= Reviews().positions


def test_writers_fit_into_the_new_tokens_almost_always():
    tokenizer = build_tokenizer()
    lengths = [len(tokenizer(row["completion"]).input_ids) for row in corpus(0, 500)]  # BOS stands for EOS
    assert np.mean(np.array(lengths) <= Reviews().max_new_tokens) > 0.98


def test_the_tokenizer_survives_being_saved(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "overall the plot was very dull"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.decode(again(text).input_ids[-2:]) == " very dull"
    assert again.pad_token_id == tokenizer.pad_token_id != again.eos_token_id


def test_the_model_is_small():
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_config(Reviews().model_config()).num_parameters() < 500_000


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reward models are facts alone, for tests of when one is made."""

    def note(base: Path, pairs: Rows, out: Path, fit: Fit, *, centre_on: list[str]) -> None:
        write_json(out / FACTS, {"pairs": len(pairs)})

    monkeypatch.setattr("eval.tasks.learned.train_reward_model", note)


@pytest.mark.usefixtures("untrained")
def test_stages_are_built_once_for_what_they_depend_on(tmp_path):
    cache = ArtefactCache(tmp_path)
    base = TINY.base_model(cache, seed=0, threads=1)
    assert TINY.base_model(cache, seed=0, threads=1).cached
    assert not TINY.base_model(cache, seed=1, threads=1).cached
    assert not replace(TINY, corpus=65).base_model(cache, seed=0, threads=1).cached
    pairs = [
        {"prompt": prompt, "chosen": " good", "rejected": " bad"}
        for prompt in dict.fromkeys(TINY.pair_prompts(0))
    ]
    options = {
        "pairs": pairs, "fit": TINY.reward, "prompts": pairs[:2], "count": 4, "max_new_tokens": 4,
        "identity": {"model": "tiny"},
    }  # fmt: skip

    def is_cached(**changed: Any) -> bool:
        policy = Policy.load(base.path, device="cpu")
        return learned_reward(
            cache, policy, base.path, stage="reward model", **options | changed
        ).built.cached

    assert [is_cached(), is_cached()] == [False, True]
    others: dict[str, Any] = {
        "pairs": pairs[1:], "fit": replace(TINY.reward, seed=1), "prompts": pairs[:3], "count": 5, "max_new_tokens": 5,
        "identity": {"model": "other"}, "truncate_prompts": "left",
    }  # fmt: skip
    assert not any(is_cached(**{name: value}) for name, value in others.items())


def test_labels_of_the_judge_are_no_calls_of_the_reward(tmp_path, monkeypatch):
    monkeypatch.setattr(task, "Reviews", lambda: TINY)
    made = task.materials(SHORT, ArtefactCache(tmp_path), data_seed=0)
    assert 0 < made.pairs_cost.labels == len(made.pairs) <= TINY.pairs
    assert made.pairs_cost.reward_calls == made.reward_cost.reward_calls == 0


@pytest.mark.parametrize(("checkpointing", "flops"), [(False, 6), (True, 8)])
def test_a_reward_model_costs_six_flops_a_parameter_and_token_and_nothing_is_sampled_for_a_cached_one(
    tmp_path, monkeypatch, checkpointing, flops
):
    """Two more, as an update, where activations are computed again."""
    tiny = replace(TINY, reward=replace(TINY.reward, epochs=2, gradient_checkpointing=checkpointing))
    monkeypatch.setattr(task, "Reviews", lambda: tiny)
    made = task.materials(SHORT, ArtefactCache(tmp_path), data_seed=0)
    base = Policy.load(made.model, device="cpu")
    words = [(pair["prompt"] + pair[side]).split() for pair in made.pairs for side in ("chosen", "rejected")]
    tokens = sum(len(text) + 1 for text in words)  # BOS and a token a word
    assert made.reward_cost.flops == flops * base.size * tokens * 2
    monkeypatch.setattr("eval.tasks.learned.base_responses", lambda *_: pytest.fail("sampled again"))
    again = task.materials(SHORT, ArtefactCache(tmp_path), data_seed=0)
    assert again.reward == made.reward
    assert again.reward_cost == made.reward_cost
    assert [stage["cached"] for stage in again.facts["stages"]] == [True, True, True]
    assert again.facts["labels"] == "come from the gold reward (scale 5), not from the training reward"


@pytest.mark.usefixtures("untrained")
def test_held_out_texts_are_the_same_for_all_training_seeds(tmp_path, monkeypatch):
    """The base was measured on them once, whatever pairs and reward model a seed draws for itself."""
    monkeypatch.setattr(task, "Reviews", lambda: TINY)
    made = [task.materials(SHORT, ArtefactCache(tmp_path), data_seed=seed) for seed in (0, 1)]
    assert made[0].pairs != made[1].pairs
    assert made[0].heldout_texts == made[1].heldout_texts


@pytest.mark.parametrize("asked", [task.sizes, lambda experiment: task.materials(experiment, None, 0)])
def test_responses_longer_than_the_model_are_refused_before_anything_is_made(asked):
    assert task.sizes(Experiment(sampling=Sampling(max_new_tokens=54))).longest_prompt == 10
    with pytest.raises(UserError, match=r"got 55 new tokens\. Set --max-new-tokens 54 at most"):
        asked(Experiment(sampling=Sampling(max_new_tokens=55)))


def test_its_settings_are_read_without_what_builds_it():
    """Every command reads them, also one that is wrong."""
    code = (
        "import sys; from eval.tasks import preset; preset('reviews'); "
        "print(*(name for name in sys.modules if name.startswith(('eval.stages', 'eval.tasks.'))))"
    )
    run = [sys.executable, "-c", code]
    found = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert set(found) == {"eval.tasks.reviews", "eval.tasks.reviews.preset"}


def test_pair_prompts_are_training_openings_drawn_from_the_seed():
    drawn = Reviews().pair_prompts(0)
    assert len(drawn) == 2048
    assert set(drawn) <= set(Reviews().prompts("train"))
    assert drawn == Reviews().pair_prompts(0) != Reviews().pair_prompts(1)
