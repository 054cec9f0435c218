"""The experiment: one validation for Python, YAML and the command line; layers in their order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from algos import UserError
from eval.experiment import Experiment, extended
from eval.settings.layers import layered, load_yaml
from eval.settings.parts import Evaluation
from eval.store import Store
from run_compare import parse


def test_plain_data_and_back_is_the_same_experiment() -> None:
    experiment = Experiment.from_dict(
        layered(
            {"algos": ["ppo", "low"], "variants": {"low": {"algorithm": "ppo", "beta": 0.01}}, "lora": True}
        )
    )
    text = yaml.safe_dump(experiment.to_dict(), sort_keys=False)
    assert Experiment.from_dict(yaml.safe_load(text)) == experiment


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bugdet": "1k"}, r"unknown setting 'bugdet'; did you mean 'budget'\?"),
        ({"sampling": {"max_new_token": 3}}, r"'sampling\.max_new_token'; did you mean 'max_new_tokens'\?"),
        ({"ppo": {"clip_rang": 0.1}}, r"'hyperparameters\.ppo\.clip_rang'; did you mean 'clip_range'\?"),
        ({"ppo": {"clip_range": 2}}, r"clip_range must be in \(0, 1\); got 2"),
        ({"seeds": "three"}, r"seeds: .*integer.*got 'three'"),
        ({"seeds": 0}, r"seeds must be at least 1; got 0"),
        ({"eval": {"points": 0}}, r"eval points must be at least 1; got 0"),
        ({"algos": ["pqo"]}, r"unknown algorithm 'pqo'; did you mean 'ppo'\?"),
        ({"algos": ["ppo", "ppo"]}, r"algos must be each named once"),
        ({"budget": "12parsecs"}, r"unknown budget unit 'parsecs'"),
        ({"model": "gpt2"}, r"the task reviews brings its own model"),
        (
            {"algos": ["x"], "variants": {"x": {"algorithm": "ppo", "bta": 1}}},
            r"'variants\.x\.bta'; did you mean 'beta'\?",
        ),
        ({"algos": ["x"], "variants": {"x": {"beta": 1}}}, r"variant 'x' needs an algorithm"),
        ({"variants": {"ppo": {"algorithm": "ppo"}}}, r"variant's name must be one of its own.*got 'ppo'"),
        ({"first_seed": -1}, r"first_seed must be at least 0; got -1"),
        ({"tune": -1}, r"tune must be at least 0; got -1"),
        ({"tune_seeds": 0}, r"tune_seeds must be at least 1; got 0"),
        ({"tune": 2, "first_seed": 999_998}, r"training seeds must be below 1000000.*got 1000000"),
        ({"search": {"pqo": {}}}, r"unknown arm 'search\.pqo'; did you mean 'ppo'\?"),
        ({"sampling": {"group_size": 1}}, r"reinforce needs at least 2 responses a prompt; got 1"),
        ({"sampling": {"top_k": 5}, "algos": ["dpo"]}, r"got top_p=1\.0, top_k=5\. Train with 1\.0 and 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Experiment.from_dict(layered(values))
    assert "\n" not in str(caught.value)


def test_ranges_are_the_same_from_python() -> None:
    with pytest.raises(UserError, match="eval points must be at least 1"):
        Evaluation(points=0)


def test_later_layers_win_and_shared_settings_reach_all_algorithms() -> None:
    experiment = Experiment.from_dict(
        layered({"beta": 0.3, "ppo": {"beta": 0.2}}, {"learning_rate": 1e-3}, {"beta": 0.4})
    )
    arms = experiment.arms
    assert [arms[name].beta for name in ("reinforce", "ppo", "dpo")] == [0.4, 0.4, 0.4]
    assert {arm.learning_rate for arm in arms.values()} == {1e-3}
    below = Experiment.from_dict(layered({"beta": 0.3}, {"ppo": {"beta": 0.2}}))
    assert [below.arms[name].beta for name in ("reinforce", "ppo", "dpo")] == [0.3, 0.2, 0.3]


def test_command_line_over_yaml_over_preset(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text("seeds: 7\nbudget: 3k\nppo:\n  beta: 0.2\n  clip_range: 0.1\n", encoding="utf-8")
    found = parse(
        ["--config", str(file), "--beta", "0.5", "--ppo.gae-lambda", "0.9", "--seeds", "4"]
    ).experiment
    assert (found.seeds, found.budget) == (4, "3k")
    ppo = found.hyperparameters.ppo
    assert (ppo.beta, ppo.clip_range, ppo.gae_lambda) == (0.5, 0.1, 0.9)
    own = parse(["--beta", "0.5", "--ppo.beta", "0.25"]).experiment.arms
    assert [own[name].beta for name in ("reinforce", "ppo", "dpo")] == [0.5, 0.25, 0.5]


def test_naming_a_model_makes_the_task_custom() -> None:
    assert parse(["--model", "some/model", "--pairs", "p.jsonl"]).experiment.task == "custom"
    assert parse([]).experiment.task == "reviews"


def test_columns_map_names() -> None:
    found = parse(
        ["--model", "m", "--pairs", "p", "--columns", "prompt=question,chosen=a", "rejected=b"]
    ).experiment
    assert found.columns == {"prompt": "question", "chosen": "a", "rejected": "b"}
    with pytest.raises(UserError, match="--columns takes ours=yours"):
        parse(["--columns", "prompt"])


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


def test_seeds_count_from_the_first(tmp_path: Path) -> None:
    experiment = Experiment(algos=("ppo", "dpo"), seeds=2, first_seed=7)
    store = Store.create(tmp_path / "out", experiment)
    assert [(run.arm, run.seed) for run in store.all_runs] == [("ppo", 7), ("dpo", 7), ("ppo", 8), ("dpo", 8)]
    assert [run.folder.name for run in store.all_runs][-1] == "dpo-s8"
    assert [experiment.data_seed_of(seed) for seed in experiment.training_seeds] == [0, 0]
    own = replace(experiment, replicate_data=True)
    assert [own.data_seed_of(seed) for seed in own.training_seeds] == [7, 8]
    assert parse(["--first-seed", "3"]).experiment.training_seeds == range(3, 6)


def test_a_comparison_may_only_grow() -> None:
    stored = Experiment(seeds=3, algos=("ppo",))
    grown = extended(stored, replace(stored, seeds=5, algos=("ppo", "dpo")))
    assert (grown.seeds, grown.algos) == (5, ("ppo", "dpo"))
    assert extended(stored, replace(stored, seeds=1)).seeds == 3
    with pytest.raises(UserError, match="made with budget = 10k; got 1k"):
        extended(stored, replace(stored, budget="1k"))
    with pytest.raises(UserError, match="made with first_seed = 0; got 4"):
        extended(stored, replace(stored, first_seed=4))
    with pytest.raises(UserError, match=r"seeds, algorithms and variants may grow; log_with, .* may change"):
        extended(stored, replace(stored, budget="1k"))
    otherwise = replace(
        stored, log_with=("tensorboard",), reward_timeout=1.0, reward_retries=0, checkpoint_every=5.0
    )
    assert extended(stored, otherwise) == otherwise


def test_a_variant_that_has_run_stays_what_it_was() -> None:
    stored = Experiment(algos=("low",), variants={"low": {"algorithm": "ppo", "beta": 0.01}})
    more = {**stored.variants, "high": {"algorithm": "ppo", "beta": 1.0}}
    assert extended(stored, replace(stored, algos=("high",), variants=more)).algos == ("low", "high")
    with pytest.raises(UserError, match=r"made with variants = .*0\.01.*; got .*0\.5"):
        extended(stored, replace(stored, variants={"low": {"algorithm": "ppo", "beta": 0.5}}))
