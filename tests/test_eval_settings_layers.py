"""Settings as plain data: layers in their order, and mistakes in a file said in one line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from algos import UserError
from eval.experiment import Experiment
from eval.settings.layers import layered, load_yaml


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bugdet": "1k"}, r"unknown setting 'bugdet'; did you mean 'budget'\?"),
        ({"sampling": {"max_new_token": 3}}, r"'sampling\.max_new_token'; did you mean 'max_new_tokens'\?"),
        (
            {"group_size": 8},
            r"'group_size'; did you mean 'sampling\.group_size' \(group_size under sampling\)\?",
        ),
        ({"max_new_tokens": 8}, r"did you mean 'sampling\.max_new_tokens'"),
        ({"points": 3}, r"did you mean 'eval\.points'"),
        ({"gae_lambda": 0.9}, r"did you mean 'hyperparameters\.ppo\.gae_lambda'"),
        (
            {"group-size": 8},
            r"'group-size'; did you mean 'sampling\.group_size' \(group_size under sampling\)\?",
        ),
        (
            {"learning-rate": 1},
            r"'learning-rate'; did you mean 'learning_rate'\? Known here: task, .*; in a file also beta, learning_rate, reinforce, ppo, dpo, sweep\.$",
        ),
        ({"sweeps": {}}, r"'sweeps'; did you mean 'sweep'\?"),
        ({"ppo": {"clip-range": 0.1}}, r"'clip_range'\? Known here: beta, [^;]*\.$"),
        ({"eval.prompts": 8}, r"'eval\.prompts'; did you mean prompts under eval\?"),
        ({"eval.promts": 8}, r"'eval\.promts'; did you mean prompts under eval\?"),
        ({"reward-model.learning-rate": 1}, r"did you mean learning_rate under reward_model\?"),
        ({"ppo.clip_range": 0.1}, r"'ppo\.clip_range'; did you mean clip_range under ppo\?"),
        ({"seeds.ppo": 1}, r"unknown setting 'seeds\.ppo'\. Known here"),
        ({"algos": "reinforce"}, r"^algos must be a list, such as \[reinforce\]; got 'reinforce'\."),
        ({"log_with": "wandb"}, r"^log_with must be a list, such as \[wandb\]; got 'wandb'\."),
        ({"algos": None}, r"^algos must be a list; got nothing\."),
        ({"eval": 8}, r"^eval takes settings by name; got 8\."),
        ({"columns": "prompt"}, r"^columns takes values by name; got 'prompt'\."),
        ({"temperature": 1}, r"unknown setting 'temperature'\. Known here: task,"),  # of sampling and of eval
        (
            {"top_k": 0},
            r"'top_k': what is learned from is drawn from the whole distribution.* set eval\.top_k \(",
        ),
        (
            {"sampling": {"top-p": 1}},
            r"'sampling\.top-p': what is learned.* set eval\.top_p \(--eval\.top-p\)\.$",
        ),
        ({"ppo": {"top_k": 5}}, r"'hyperparameters\.ppo\.top_k': what is learned from"),
        ({"eval": {"top-k": 5}}, r"'eval\.top-k'; did you mean 'top_k'\?"),
        ({"eval": {"top_kk": 5}}, r"'eval\.top_kk'; did you mean 'top_k'\?"),
        ({"ppo": {"clip_rang": 0.1}}, r"'hyperparameters\.ppo\.clip_rang'; did you mean 'clip_range'\?"),
        ({"ppo": {"clip_range": 2}}, r"clip_range must be in \(0, 1\); got 2"),
        ({"seeds": "three"}, r"seeds: .*integer.*got 'three'"),
        ({"ppo": 5}, r"^ppo takes settings by name; got 5\. Known here: .*clip_range"),
        ({"ppo": None}, r"^ppo takes settings by name; got nothing\. Known here: "),
        ({"hyperparameters": 5}, r"^hyperparameters takes settings by name; got 5\. Known here: reinforce"),
        ({"seeds": True}, r"^seeds takes a number; got true\."),
        ({"objective_beta": False}, r"^objective_beta takes a number; got false\."),
        ({"dpo": {"epochs": True}}, r"^hyperparameters\.dpo\.epochs takes a number; got true\."),
        ({"seeds": 0}, r"seeds must be at least 1; got 0"),
        ({"eval": {"points": 0}}, r"eval points must be at least 1; got 0"),
        ({"frontier": {"samples": 1}}, r"frontier samples must be 0 \(no frontier\) or at least 2; got 1"),
        ({"algos": ["pqo"]}, r"unknown algorithm 'pqo'; did you mean 'ppo'\?"),
        ({"algos": ["ppo", "ppo"]}, r"algos must be each named once"),
        (
            {"algos": ["ppo", "PPO"], "variants": {"PPO": {"algorithm": "ppo"}}},
            r"algos must be each named once, in whatever case; got ppo PPO",
        ),
        ({"budget": -3}, r"cannot read the budget '-3'\. Write a number and a unit"),
        ({"budget": True}, r"budget: .*valid string; got True"),
        ({"budget": "12parsecs"}, r"unknown budget unit 'parsecs'"),
        ({"model": "gpt2"}, r"the task reviews brings its own model"),
        (
            {"sampled_pairs": 512},
            r"^the task reviews brings its own prompts, pairs and reward model; got sampled_pairs 512\. Leave it out, or use --task custom\.$",
        ),
        ({"label_scale": 5}, r"got label_scale 5\.0\. Leave"),
        ({"reward_model": {"epochs": 3}}, r"got reward_model\.epochs 3\. Leave"),
        ({"test_prompts": "mine.jsonl"}, r"got test_prompts mine\.jsonl\. Leave"),
        ({"on_bad_row": "skip"}, r"got on_bad_row skip\. Leave"),
        ({"columns": {"prompt": "question"}}, r"got columns \{'prompt': 'question'\}\. Leave"),
        (
            {"algos": ["x"], "variants": {"x": {"algorithm": "ppo", "bta": 1}}},
            r"'variants\.x\.bta'; did you mean 'beta'\?",
        ),
        ({"algos": ["x"], "variants": {"x": {"beta": 1}}}, r"variant 'x' needs an algorithm"),
        (
            {"variants": {"x": {"beta": 1}}},
            r"variant 'x' needs an algorithm, one of reinforce, ppo, dpo; got None",
        ),
        (
            {"variants": {"x": {"algorithm": "ppo", "ppo_epochz": 8}}},
            r"'variants\.x\.ppo_epochz'; did you mean 'ppo_epochs'\?",
        ),
        (
            {"variants": {"x": {"algorithm": "ppo", "ppo_epochs": 10**6}}},
            r"x\.ppo_epochs must be at most 10,000",
        ),
        ({"variants": {"ppo": {"algorithm": "ppo"}}}, r"variant's name must be one of its own.*got 'ppo'"),
        ({"first_seed": -1}, r"first_seed must be at least 0; got -1"),
        ({"tune": -1}, r"tune must be at least 0; got -1"),
        ({"tune_seeds": 0}, r"tune_seeds must be at least 1; got 0"),
        ({"tune": 2, "first_seed": 999_998}, r"training seeds must be below 1000000.*got 1000000"),
        ({"search": {"pqo": {}}}, r"unknown arm 'search\.pqo'; did you mean 'ppo'\?"),
        ({"before_tuning": {"pqo": {}}}, r"unknown arm 'before_tuning\.pqo'; did you mean 'ppo'\?"),
        ({"before_tuning": {"ppo": {"bta": 1}}}, r"'before_tuning\.ppo\.bta'; did you mean 'beta'\?"),
        ({"sampling": {"group_size": 1}}, r"reinforce needs at least 2 responses a prompt; got 1"),
        ({"label_scale": math.inf}, r"label_scale must be above 0 and finite; got inf"),
        ({"label_scale": math.nan}, r"label_scale must be above 0 and finite; got nan"),
        ({"objective_beta": math.inf}, r"objective_beta must be above 0 and finite; got inf"),
        ({"objective_beta": 0}, r"objective_beta must be above 0 and finite; got 0"),
        (
            {"reward_model": {"learning_rate": math.inf}},
            r"reward-model learning_rate must be above 0 and finite; got inf",
        ),
        ({"sampling": {"temperature": math.inf}}, r"temperature must be above 0 and finite; got inf"),
        ({"eval": {"temperature": math.inf}}, r"temperature must be above 0 and finite; got inf"),
        (
            {"sampling": {"missing_eos_penalty": math.inf}},
            r"missing_eos_penalty must be at least 0 and finite; got inf",
        ),
        ({"ppo": {"weight_decay": math.inf}}, r"weight_decay must be at least 0 and finite; got inf"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Experiment.from_dict(layered(values))
    assert "\n" not in str(caught.value)
    assert "?." not in str(caught.value)


def test_a_setting_of_files_alone_is_not_proposed_for_itself() -> None:
    with pytest.raises(UserError, match=r"unknown setting 'learning_rate'\. Known here: .*; in a file also"):
        Experiment.from_dict({"learning_rate": 1e-3})


def test_later_layers_win_and_shared_settings_reach_all_algorithms() -> None:
    experiment = Experiment.from_dict(
        layered({"beta": 0.3, "ppo": {"beta": 0.2}}, {"learning_rate": 1e-3}, {"beta": 0.4})
    )
    arms = experiment.arms
    assert [arms[name].beta for name in ("reinforce", "ppo", "dpo")] == [0.4, 0.4, 0.4]
    assert {arm.learning_rate for arm in arms.values()} == {1e-3}
    below = Experiment.from_dict(layered({"beta": 0.3}, {"ppo": {"beta": 0.2}}))
    assert [below.arms[name].beta for name in ("reinforce", "ppo", "dpo")] == [0.3, 0.2, 0.3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "must hold settings by name"),
        ("a: [", "is not YAML"),
        ("a: !!python/object:os.system x", "is not YAML"),
    ],
)
def test_files_that_are_no_settings(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_yaml(file)
