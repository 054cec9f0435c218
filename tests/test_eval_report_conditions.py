"""Claims that the seeds make at the end of training and the prompts do not settle."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from report_words import held
from report_world import World, with_ends
from scipy.stats import t as student

from eval import stats
from eval.report.caveats import collected, conditions
from eval.report.caveats import runs as caveats
from eval.report.numbers.frames import evaluations
from eval.report.numbers.pairs import Pair
from eval.report.numbers.standings import Standing, standings

Runs = dict[str, np.ndarray]
"""Arm → judge_NP, its seeds' rewards by prompt."""
ANY = with_ends({"ppo": [0.5]})


def favoured(
    seeds: int, prompts: int, draw: int = 0, lead: float = 0.0, arms: tuple[str, ...] = ("ppo", "dpo")
) -> Runs:
    """Arms that prompts favour by chance (sd 1), each `lead` above the next over all prompts; training and responses
    move a run's rewards besides (sd 0.25 a run, 1 a response)."""
    generator = np.random.default_rng(draw)
    runs = {}
    for place, arm in enumerate(reversed(arms)):
        favour_P, moved_N1 = generator.normal(size=prompts), 0.25 * generator.normal(size=(seeds, 1))
        runs[arm] = lead * place + favour_P + moved_N1 + generator.normal(size=(seeds, prompts))
    return runs


def with_answers(runs: Runs, made: World = ANY) -> World:
    """The comparison with these rewards by prompt, and 0.5 for the base on each."""
    prompts = next(iter(runs.values())).shape[1]
    everyone = {"base": np.full((1, prompts), 0.5), **runs}
    who_R = [(arm, seed) for arm, judge_NP in everyone.items() for seed in range(len(judge_NP))]
    columns = {
        "arm": np.repeat([arm for arm, _ in who_R], prompts),
        "seed": np.repeat([seed for _, seed in who_R], prompts),
        "prompt_id": np.tile(np.arange(prompts), len(who_R)),
        "judge": np.concatenate([judge_NP.ravel() for judge_NP in everyone.values()]),
    }
    return dataclasses.replace(made, samples=pd.DataFrame(columns))


def compared(runs: Runs) -> World:
    """A comparison whose runs ended so."""
    return with_answers(runs, with_ends({arm: list(judge_NP.mean(axis=1)) for arm, judge_NP in runs.items()}))


def end_of(runs: Runs) -> Standing:
    """Two arms at their ends."""
    values = {arm: dict(enumerate(judge_NP.mean(axis=1))) for arm, judge_NP in runs.items()}
    first, second = sorted(values, key=lambda arm: -runs[arm].mean())
    found = stats.paired_difference(list(values[first].values()), list(values[second].values()))
    pair = Pair(first, second, values[first], values[second], found.estimate, found.p_value)
    return Standing("end", (pair,), values)


def claims(runs: Runs) -> tuple[bool, bool]:
    """Whether the seeds tell the two arms apart, and whether that is said to be unsettled."""
    end = end_of(runs)
    return end.pairs[0].told_apart, bool(conditions.unsettled(with_answers(runs), end))


@pytest.mark.parametrize("prompts", [8, 64])
def test_what_prompts_happen_to_favour_is_named(prompts: int) -> None:
    """Of two arms alike over all prompts 20 seeds often claim a difference; few such claims go unmarked."""
    found = [claims(favoured(20, prompts, draw)) for draw in range(30)]
    told, named = (sum(counts) for counts in zip(*found, strict=True))
    assert told >= 6
    assert told - named <= 3


def test_below_16_prompts_their_interval_is_students() -> None:
    runs = favoured(5, 8)
    (pair,) = end_of(runs).pairs
    difference_P = (runs[pair.first] - runs[pair.second]).mean(axis=0)
    effect = conditions.prompt_effect(with_answers(runs), pair)
    assert effect.mean == pytest.approx(pair.difference.mean)
    assert effect.half_width == pytest.approx(student.ppf(0.975, 7) * difference_P.std(ddof=1) / math.sqrt(8))


def test_a_claim_that_the_prompts_could_undo_is_said() -> None:
    runs = next(runs for draw in range(40) if claims(runs := favoured(10, 8, draw)) == (True, True))
    (pair,) = end_of(runs).pairs
    both = stats.combined(pair.difference, conditions.prompt_effect(with_answers(runs), pair))
    assert pair.difference.excludes_zero
    assert both.low < 0 < both.high
    told = f"At the end of training the seeds tell {pair.first} from {pair.second}, but "
    assert held(compared(runs)).endswith(
        f"{told}over seeds and test prompts together the interval includes 0."
    )
    assert "ahead" not in held(compared(runs)).rpartition("Holm")[2]
    assert held(compared(runs)).count("together the") == 1


def test_seeds_and_prompts_are_taken_together() -> None:
    """Each excludes 0 alone, both at once do not."""
    told = (runs for draw in range(40) if claims(runs := favoured(5, 8, draw, lead=0.5)) == (True, True))
    effects = [conditions.prompt_effect(with_answers(runs), end_of(runs).pairs[0]) for runs in told]
    assert any(effect.excludes_zero for effect in effects)


def test_every_claim_is_looked_at_and_many_are_counted() -> None:
    """The best arm is ahead on every prompt; of the five below it each prompt favours others."""
    generator = np.random.default_rng(0)
    means = {f"arm{place}": 0.1 * place for place in range(5)} | {"best": 10.0}
    runs = {}
    for arm, mean in means.items():
        favour_P = generator.normal(size=8)
        runs[arm] = mean + favour_P - favour_P.mean() + 0.01 * generator.normal(size=(5, 8))
    made = compared(runs)
    end = standings(evaluations(made)).end
    pairs = conditions.unsettled(made, end)
    assert all(pair.told_apart for pair in end.pairs)
    assert pairs == [pair for pair in end.pairs if pair.first != "best"]
    shown = ", ".join(f"{pair.first} from {pair.second}" for pair in pairs[:4])
    assert f"the seeds tell {shown} and 6 more, but" in held(made)
    assert held(made).endswith("the intervals include 0.")


def test_what_both_settle_is_not_said() -> None:
    clear = favoured(10, 64, lead=3.0)
    assert claims(clear) == (True, False)
    alike = next(runs for draw in range(40) if claims(runs := favoured(3, 8, draw)) == (False, False))
    without = dataclasses.replace(compared(clear), samples=pd.DataFrame())
    assert not any("the seeds tell" in held(made) for made in (compared(clear), compared(alike), without))


def test_few_prompts_are_a_caveat() -> None:
    def said(made: World) -> list[str]:
        return caveats.few_prompts(made, evaluations(made))

    assert caveats.few_prompts in collected.CAVEATS
    one, few, enough = (with_answers(favoured(3, prompts)) for prompts in (1, 15, 16))
    assert said(one)[0].startswith("With 1 test prompt much depends on which were taken")
    assert said(few)[0].startswith("With 15 test prompts much depends on which were taken")
    assert said(enough) == said(dataclasses.replace(ANY, samples=pd.DataFrame())) == []
