"""The experiment: one validation for Python, YAML and the command line; layers in their order."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from algos import UserError
from eval.experiment import Experiment
from eval.settings.layers import layered
from eval.settings.parts import Evaluation
from eval.settings.resume import extended
from eval.store import Store
from eval.tuning.settled import settled
from run_compare import parse


def test_plain_data_and_back_is_the_same_experiment() -> None:
    experiment = Experiment.from_dict(
        layered(
            {"algos": ["ppo", "low"], "variants": {"low": {"algorithm": "ppo", "beta": 0.01}}, "lora": True}
        )
    )
    text = yaml.safe_dump(experiment.to_dict(), sort_keys=False)
    assert Experiment.from_dict(yaml.safe_load(text)) == experiment


def test_a_variant_that_is_no_arm_is_said_to_be_none(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    two = "{low: {algorithm: ppo, beta: 0.01}, high: {algorithm: ppo, beta: 1.0}}"
    file.write_text(f"variants: {two}\n", encoding="utf-8")
    config = ["--config", str(file)]
    assert parse(config).notes == ("variants low, high are no arms here: algos does not name them",)
    assert parse([*config, "--algos", "low", "ppo", "high"]).notes == ()
    some = [*config, "--algos", "low", "ppo"]
    said = ("variant high is no arm here: algos does not name it",)
    assert parse(some).notes == said
    # An arm that a sweep makes others of is none itself, and of one that is gone on with all was said.
    swept = parse([*some, "--sweep", "low.gamma=0.9", "--sweep", "beta=0.1,0.2"])
    assert swept.notes == (*said, "low keeps the beta of its own")
    assert "low" in swept.experiment.unused_variants
    Store.create(tmp_path / "out", swept.experiment)
    resumed = ["--resume", str(tmp_path / "out")]
    assert parse(resumed).notes == parse([*resumed, "--config", str(file)]).notes == ()
    file.write_text(f"variants: {two[:-1]}, more: {{algorithm: dpo}}}}\n", encoding="utf-8")
    (told,) = parse([*resumed, "--config", str(file)]).notes
    assert told.startswith("variant more is no arm")
    assert parse([*resumed, "--config", str(file), "--algos", "+more"]).notes == ()


def test_ranges_are_the_same_from_python() -> None:
    with pytest.raises(UserError, match="eval points must be at least 1"):
        Evaluation(points=0)


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


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("rloo", "is RLOO by its default"),
        ("GRPO", "scale-by-group-std"),
        ("remax", "baseline greedy"),
        ("pp", "did you mean 'ppo'?"),
    ],
)
def test_names_of_other_libraries_are_pointed_home(name: str, told: str) -> None:
    with pytest.raises(
        UserError, match=f"unknown algorithm '{name}'.*{re.escape(told)}.* Use one of reinforce, ppo, dpo"
    ):
        parse(["--algos", name])
    with pytest.raises(UserError, match="did you mean 'learning_rate'"):
        parse(["--sweep", "lr=1e-5,1e-4"])


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        (["--lr", "1e-4"], "--learning-rate"),
        (["--ppo.cliprange=0.1"], "--ppo.clip-range"),
        (["--cliprange", "0.1"], "--ppo.clip-range"),
        (["--critic_learning_rate", "1e-4"], "--reinforce.value-learning-rate or --ppo.value-learning-rate"),
        (["--num-generations", "4"], "--group-size"),
        (["--sampling.num_generations", "4"], "--group-size"),
        (["--dpo.cliprange", "0.2"], "--ppo.clip-range"),
        (["--eval.response-length", "4"], "--max-new-tokens"),
    ],
)
def test_options_of_other_libraries_are_pointed_home(given: list[str], ours: str) -> None:
    name = given[0].partition("=")[0].replace("_", "-")
    with pytest.raises(UserError, match=f"^there is no option {name}; here it is {re.escape(ours)}.$"):
        parse(given)


def test_what_is_a_value_is_no_option() -> None:
    assert parse(["--out", "lr"]).out == Path("lr")


def betas(*told: str) -> list[float]:
    arms = parse(list(told)).experiment.arms
    return [arms[name].beta for name in ("reinforce", "ppo", "dpo")]


def test_arms_seek_one_objective_unless_pairs_are_recorded(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text("model: m\npairs: p\n", encoding="utf-8")
    own = ("--model", "m", "--prompts", "q", "--reward", "r.py:score")
    assert betas(*own) == betas("--task", "custom", *own) == [0.05, 0.05, 0.05]
    assert betas(*own, "--pairs", "p") == betas("--config", str(file)) == [0.05, 0.05, 0.1]
    assert betas(*own, "--beta", "0.2") == [0.2, 0.2, 0.2]
    assert betas(*own, "--dpo.beta", "0.3") == [0.05, 0.05, 0.3]


def test_a_number_in_a_file_is_the_budget_it_is_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    for number in ("2000", "2000.5"):
        file.write_text(f"budget: {number}\n", encoding="utf-8")
        assert parse(["--config", str(file)]).experiment == parse(["--budget", number]).experiment


def test_names_of_options_may_have_underscores(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text("trust_remote_code: true\nmodel: m\npairs: p\n", encoding="utf-8")
    told = ["--config", str(file), "--trust{}remote{}code", "--out=my_out", "--test{}prompts", "a_b.jsonl"]
    told += ["--learning{}rate", "5e-5", "--reward{}model.batch{}size=4", "--ppo.gae{}lambda", "0.5"]
    told += ["--frontier.samples", "64", "--group{}size=8", "--sweep", "ppo.clip_range=0.1,0.2", "--dry{}run"]
    hyphens, underscores = (parse([text.replace("{}", sign) for text in told]) for sign in "-_")
    assert underscores == hyphens
    assert {arm.learning_rate for arm in underscores.experiment.arms.values()} == {5e-5}
    assert (underscores.out, underscores.experiment.test_prompts) == (Path("my_out"), "a_b.jsonl")
    joined = parse(["--learning_rate=5e-5"]).experiment
    assert joined == parse(["--learning-rate", "5e-5"]).experiment
    assert joined.arms["ppo"].learning_rate == 5e-5


def test_values_that_look_like_options_keep_their_underscores(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["--model=--my_model", "--pairs", "p"]).experiment.model == "--my_model"
    with pytest.raises(UserError, match="unknown algorithm '--_x'"):
        parse(["--algos", "ppo", "--_x"])
    with pytest.raises(SystemExit):
        parse(["--algos", "ppo", "--", "--learning_rate"])
    assert "--learning_rate" in capsys.readouterr().err


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


def test_an_arms_name_leaves_room_for_those_of_its_tries() -> None:
    def named(length: int, **settings: Any) -> Experiment:
        return Experiment(algos=("dpo",), variants={"x" * length: {"algorithm": "dpo"}}, **settings)

    named(150)
    named(150 - len("-try-10"), tune=10)
    with pytest.raises(UserError, match=r"at most 150 letters.*\(151\)"):
        named(151)
    with pytest.raises(UserError, match=r"at most 143 letters.* where --tune 10 adds to it; got .*\(144\)"):
        named(144, tune=10)


def test_arms_are_built_once() -> None:
    experiment = Experiment(algos=("low",), variants={"low": {"algorithm": "ppo", "beta": 0.01}})
    assert experiment.arms is experiment.arms
    assert replace(experiment, variants={"low": {"algorithm": "ppo", "beta": 1}}).arms["low"].beta == 1


def test_a_variant_that_has_run_stays_what_it_was() -> None:
    stored = Experiment(algos=("low",), variants={"low": {"algorithm": "ppo", "beta": 0.01}})
    more = {**stored.variants, "high": {"algorithm": "ppo", "beta": 1.0}}
    assert extended(stored, replace(stored, algos=("high",), variants=more)).algos == ("low", "high")
    with pytest.raises(UserError, match=r"made with variants = .*0\.01.*; got .*0\.5"):
        extended(stored, replace(stored, variants={"low": {"algorithm": "ppo", "beta": 0.5}}))


def test_the_arguments_that_made_a_tuned_comparison_also_resume_it(tmp_path: Path) -> None:
    file, out = tmp_path / "e.yaml", tmp_path / "out"
    file.write_text(
        "algos: [ppo, low]\ntune: 2\nhyperparameters: {ppo: {learning_rate: 3.0e-3}}\n"
        "variants: {low: {algorithm: ppo, beta: 0.01}}\nsearch: {low: {beta: {low: 0.001, high: 0.1}}}\n",
        encoding="utf-8",
    )
    made = parse(["--config", str(file), "--ppo.clip-range", "0.3"]).experiment
    chosen = {"ppo": {"learning_rate": 1e-4, "clip_range": 0.1}, "low": {"beta": 0.05}}
    stored = settled(made, made.arms, chosen)
    Store.create(out, stored)
    again = ["--resume", str(out), "--config", str(file)]
    for more in ([], ["--ppo.clip-range", "0.3"], ["--ppo.clip-range", "0.1"]):
        assert parse([*again, *more, "--seeds", "5"]).experiment == replace(stored, seeds=5)
    grown = parse([*again, "--sweep", "low.gamma=0.9"]).experiment
    assert grown.algos == ("ppo", "low", "low-gamma-0.9")
    assert grown.variants["low-gamma-0.9"] == {"algorithm": "ppo", "beta": 0.01, "gamma": 0.9}
    assert grown.arms | stored.arms == grown.arms
    with pytest.raises(UserError, match=r"hyperparameters = {'ppo': {'clip_range': 0\.1}}; got .*0\.7}}\."):
        parse([*again, "--ppo.clip-range", "0.7"])
    file.write_text("variants: {low: {algorithm: ppo, beta: 0.02}}\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"variants = {'low': {'beta': 0\.05}}; got {'low': {'beta': 0\.02}}\."
    ):
        parse(again)


@pytest.mark.parametrize(
    ("text", "above", "refused"),
    [
        ("sampling: {group_size: 1}", ["--group-size", "4"], "got 1. Set --group-size 2"),
        (
            "{tune: 2, search: {ppo: {learning_rate: {low: 1.0e-4, high: 1.0e-2}}}, ppo: {learning_rate: 1.0e-6}}",
            ["--ppo.learning-rate", "1e-3"],
            "search.ppo.learning_rate must hold 1e-06",
        ),
        ("algos: [mine]", ["--algos", "ppo"], "unknown algorithm 'mine'"),
        ("seeds: 0", ["--seeds", "2"], "seeds must be at least 1"),
    ],
)
def test_a_file_is_judged_with_what_the_command_line_says_over_it(
    tmp_path: Path, text: str, above: list[str], refused: str
) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(refused)):
        parse(["--config", str(file)])
    found = parse(["--config", str(file), *above]).experiment
    assert type(found) is Experiment
    assert found == Experiment.from_dict(found.to_dict())


def test_settings_without_what_they_belong_to_are_told(tmp_path: Path) -> None:
    lora = ["--lora-settings.rank", "64", "--lora-settings.alpha", "8"]
    assert parse(lora).notes == (
        "lora_settings.rank 64, lora_settings.alpha 8 have no effect without --lora",
    )
    tune = ["--tune-seeds", "4"]
    assert parse(tune).notes == ("tune_seeds 4 has no effect without --tune",)
    assert parse([*lora, "--lora", *tune, "--tune", "2"]).notes == ()
    own = ["--model", "m", "--reward", "hub/reward", "--judge", "hub/judge", "--prompts", "hub/prompts"]
    sampled = ["--label-scale", "2", "--sampled-pairs", "64"]
    assert parse([*own, *sampled]).notes == ()
    given = [*own, *sampled, "--pairs", "hub/pairs", "--reward-model.epochs", "2"]
    assert parse(given).notes == (
        "sampled_pairs 64, label_scale 2.0 have no effect here: pairs are given, so none are sampled",
        "reward_model.epochs 2 has no effect here: with --reward no reward model is trained",
    )
    (told,) = parse([*own, *sampled, "--algos", "ppo"]).notes
    assert told.endswith("have no effect here: no arm learns from pairs")
    file = tmp_path / "e.yaml"
    file.write_text("search: {ppo: {beta: {low: 0.01, high: 0.5}}}", encoding="utf-8")
    assert parse(["--config", str(file)]).notes == ("search has no effect without --tune",)
    # Of a comparison that is gone on with all was said.
    Store.create(tmp_path / "out", parse(lora).experiment)
    assert parse(["--resume", str(tmp_path / "out")]).notes == ()
