"""What the verdict says that its intervals hold for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from report_cases import with_facts
from report_words import held
from report_world import World, with_ends

from eval import stats
from eval.report.caveats import conditions
from eval.report.numbers.frames import evaluations
from eval.report.numbers.standings import standings

ANY = with_ends({"ppo": [0.5]})
CLEAR = {"reinforce": [0.90, 0.91, 0.92, 0.90, 0.91], "ppo": [0.60, 0.62, 0.61, 0.61, 0.6]}
UNCLEAR = {"reinforce": [0.64, 0.60, 0.63, 0.59, 0.61], "ppo": [0.60, 0.62, 0.61, 0.61, 0.6]}


def with_samples(made: World, spread: float, prompts: int = 40) -> World:
    """Prompts on which the arms differ by `spread` (standard deviation), the same for all seeds."""
    generator = np.random.default_rng(0)
    effects = spread * generator.normal(size=prompts)
    rows = [
        {"arm": arm, "seed": seed, "prompt_id": i, "length": 10, "judge": 0.5 + sign * effects[i] / 2}
        for arm, sign in (("base", 0), ("reinforce", 1), ("ppo", -1))
        for seed in range(1 if arm == "base" else 5)
        for i in range(prompts)
    ]
    return dataclasses.replace(made, samples=pd.DataFrame(rows))


def test_other_prompts_are_mentioned_where_they_matter() -> None:
    quiet, loud = with_samples(with_ends(UNCLEAR), 0.001), with_samples(with_ends(UNCLEAR), 0.5)
    assert "choice of prompts" not in held(quiet)
    pair = standings(evaluations(loud)).end.pairs[0]
    effect = conditions.prompt_effect(loud, pair)
    samples = loud.samples.groupby(["arm", "prompt_id"])["judge"].mean()
    difference = samples["reinforce"] - samples["ppo"]
    assert effect.mean == pytest.approx(difference.mean())
    assert effect.half_width == pytest.approx(1.96 * difference.std() / np.sqrt(40), rel=0.1)
    assert (
        f"A different choice of prompts would move the difference between reinforce and ppo by about ± {effect.half_width:.3f} "
        f"(95%), of seeds by ± {pair.difference.half_width:.3f}."
    ) in held(loud)
    assert held(loud) == held(loud)


def test_a_claim_that_the_prompts_leave_standing_is_made_over_both() -> None:
    quiet, loud = with_samples(with_ends(CLEAR), 0.001), with_samples(with_ends(CLEAR), 0.5)
    assert "prompts together reinforce" not in held(quiet)
    pair = standings(evaluations(loud)).end.pairs[0]
    effect = conditions.prompt_effect(loud, pair)
    both = stats.combined(pair.difference, effect)
    assert both.half_width > pair.difference.half_width
    assert held(loud).endswith(
        f" Over seeds and test prompts together reinforce is ahead of ppo by 0.300 [{both.low:.3f}, {both.high:.3f}] (seeds "
        f"alone ± {pair.difference.half_width:.3f}, prompts alone ± {effect.half_width:.3f})."
    )


def test_few_prompts_speak_of_other_prompts_too() -> None:
    assert "choice of prompts would move" in held(with_samples(with_ends(UNCLEAR), 0.5, prompts=15))
    assert "together reinforce is ahead" in held(with_samples(with_ends(CLEAR), 0.5, prompts=15))
    one = held(with_samples(with_ends(UNCLEAR), 0.5, prompts=1))
    assert "choice of prompts" not in one + held(with_samples(with_ends(CLEAR), 0.5, prompts=1))


def test_holms_pairs_are_those_that_have_a_p_value() -> None:
    ends = {"reinforce": [0.9, 0.91, 0.93], "ppo": [0.6, 0.65, 0.61], "dpo": [0.7, 0.72, 0.71]}
    assert "Holm's correction for 3 pairs." in held(with_ends(ends))
    assert "Holm" not in held(with_ends(CLEAR)), "there is one pair"
    assert "(1 at the end, 3 at equal cost and" in held(
        with_ends(ends | {"dpo": [0.7]})
    )  # of one common seed
    assert "(3 at the end, 6 at equal cost and" in held(with_ends(ends | {"best": [0.99]}))


def test_every_comparisons_pairs_are_told_where_their_numbers_differ() -> None:
    found = standings(evaluations(with_ends(CLEAR | {"dpo": [0.7, 0.72, 0.71, 0.7, 0.7]})))
    fewer = {
        "cost": dataclasses.replace(found.end, kind="cost", pairs=found.end.pairs[:1]),
        "kl": dataclasses.replace(found.end, kind="kl", pairs=found.end.pairs[:2]),
    }
    assert (
        "are judged at 5% after Holm's correction for all pairs of a comparison (3 at the end, 1 at equal cost and 2 at "
        "matched KL)."
    ) in conditions.sentence(ANY, dataclasses.replace(found, **fewer))
    alike = dict.fromkeys(fewer, found.end)
    assert "correction for 3 pairs." in conditions.sentence(ANY, dataclasses.replace(found, **alike))
    rough = dataclasses.replace(found.end.pairs[0], rough=("ppo",))
    silent = dataclasses.replace(found.end, kind="kl", pairs=(rough,))
    assert "correction for 3 pairs." in conditions.sentence(
        ANY, dataclasses.replace(found, cost=found.end, kl=silent)
    )


def test_the_data_seed_is_said() -> None:
    made = with_samples(with_ends(CLEAR), 0.1)
    assert "data seed 0, which all seeds share" in held(made)
    assert "these 40 test prompts" in held(made)
    anew = dataclasses.replace(made, settings={"replicate_data": True})
    assert "drawn anew for every seed" in held(anew)
    assert held(with_ends({"ppo": [0.5], "dpo": [0.6]})) == ""


@pytest.mark.parametrize(
    ("varies", "shared", "anew"),
    [
        (
            ["pairs", "reward model"],
            "this data and reward (data seed 0, which all seeds share; --replicate-data varies the pairs and the reward model)",
            "pairs and reward models drawn anew for every seed",
        ),
        (
            ["reward model"],
            "this data and reward (data seed 0, which all seeds share; --replicate-data varies the reward model)",
            "these pairs with a reward model trained on them anew for every seed",
        ),
        (
            ["pairs"],
            "this data and reward (data seed 0, which all seeds share; --replicate-data varies the pairs)",
            "this reward with pairs drawn anew for every seed",
        ),
        ([], "this data and reward", "this data and reward"),
    ],
    ids=["both", "reward model", "pairs", "nothing"],
)
def test_intervals_hold_for_what_the_data_seed_draws(varies: list[str], shared: str, anew: str) -> None:
    made = with_facts(with_samples(with_ends(CLEAR), 0.1), varies=varies)
    replicated = dataclasses.replace(made, settings={"replicate_data": True})
    assert f"They hold for {shared} and these 40 test prompts." in held(made)
    assert f"They hold for {anew} and these 40 test prompts." in held(replicated)
    noted = [conditions.nothing_replicated(each, evaluations(each)) for each in (made, replicated)]
    assert noted[0] == []
    assert [said.rpartition(": ")[2] for said in noted[1]] == (
        ["all seeds share data and reward."] if varies == [] else []
    )


def test_one_prompt_is_said_as_one() -> None:
    assert "and this 1 test prompt." in held(with_samples(with_ends(CLEAR), 0.5, prompts=1))
