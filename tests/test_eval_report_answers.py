"""The same prompts side by side: which prompts and whose responses, how much of them, which score is bold."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from report_world import PROMPTS, World, with_ends, world

from eval.report import page
from eval.report.document import Answers, Document, Section
from eval.report.numbers.frames import evaluations
from eval.report.sections.answers import LONGEST, section

ARMS = {"ppo": "ppo", "dpo": "dpo"}


def shown(made: World) -> Section:
    return section(made, evaluations(made))


def cards(made: World) -> list[Answers]:
    return [block for block in shown(made).blocks if isinstance(block, Answers)]


def judged(made: World, **judge: float) -> World:
    """The comparison in which the judge gave every response of an arm this score."""
    return dataclasses.replace(made, samples=made.samples.assign(judge=made.samples["arm"].map(judge)))


def best(made: World) -> list[set[str]]:
    """For each card, whose score is marked as the best."""
    return [{answer.arm for answer in card.answers if answer.best} for card in cards(made)]


@pytest.mark.parametrize(
    ("judge", "arms"),
    [
        ({"base": 0.1, "ppo": 0.3, "dpo": 0.2}, {"ppo"}),
        ({"base": 0.3, "ppo": 0.1, "dpo": 0.2}, {"base"}),
        ({"base": 0.1, "ppo": 0.3, "dpo": 0.3}, set()),
        ({"base": 0.1, "ppo": 0.1, "dpo": 0.3}, {"dpo"}),
        ({"base": float("nan"), "ppo": 0.3, "dpo": 0.2}, {"ppo"}),
    ],
    ids=["one", "the base", "a tie for the best", "a tie below it", "one not judged"],
)
def test_the_highest_judge_score_is_marked_where_one_is(judge: dict[str, float], arms: set[str]) -> None:
    assert best(judged(world(Path("x"), ARMS, 1), **judge)) == [arms] * 6


def test_one_response_alone_is_not_the_best() -> None:
    made = world(Path("x"), ARMS, 1)
    alone = dataclasses.replace(made, samples=made.samples[made.samples["arm"] == "base"])
    assert best(alone) == [set()] * 6


def test_the_best_is_bold_in_markdown() -> None:
    made = judged(world(Path("x"), ARMS, 1), base=0.1, ppo=0.3, dpo=0.2)
    text = page.markdown(Document("", "", (shown(made),)))
    assert (
        text.count("ppo: **judge 0.30 ")
        == text.count("tokens**\n\n```text\n") + text.count("limit**\n\n")
        == 6
    )
    assert text.count("dpo: judge 0.20 ") == text.count("base: judge 0.10 ") == 6
    assert text.count("**") == 2 * (6 + 6), "and the word Prompt"


def test_prompts_are_spaced_from_the_first_to_the_last() -> None:
    made = world(Path("x"), ARMS, 1)
    numbers = made.samples["prompt_id"].str[1:].astype(int)
    twice = [
        made.samples.assign(prompt_id=numbers + 8 * i, prompt=f"{i} " + made.samples["prompt"])
        for i in (0, 1)
    ]
    wide = dataclasses.replace(made, samples=pd.concat(twice).sample(frac=1, random_state=0))
    places = [0, 3, 6, 9, 12, 15]
    assert [card.prompt for card in cards(wide)] == [f"{i // 8} {PROMPTS[i % 8]}" for i in places]
    few = dataclasses.replace(made, samples=made.samples[made.samples["prompt_id"].isin(["p0", "p5"])])
    assert [card.prompt for card in cards(few)] == [PROMPTS[0], PROMPTS[5]]


def test_each_arm_answers_with_its_lowest_finished_seed() -> None:
    made = world(
        Path("x"), {**ARMS, "reinforce": "reinforce"}, 3, failed=[("ppo", 0), *(("dpo", s) for s in range(3))]
    )
    named = made.samples["arm"] + made.samples["seed"].astype(str)
    made = dataclasses.replace(made, samples=made.samples.assign(completion=named))
    for card in cards(made):
        assert [answer.text for answer in card.answers] == ["base0", "ppo1", "dpo0", "reinforce0"]


@pytest.mark.parametrize(
    ("ends", "arms", "texts"),
    [
        ([0.80, 0.79, 0.81, 0.80, 0.23], ["ppo", "ppo, seed 4"], ["ppo0", "ppo4"]),
        ([0.80, 0.79, 0.81, 0.80, 0.81], ["ppo"], ["ppo0"]),
        ([0.774, 0.778, 0.779, 0.777, 0.758], ["ppo"], ["ppo0"]),
        ([0.80, 0.79, 0.81, 0.80, 0.805, 0.79, 0.23, 0.1], ["ppo", "ppo, seed 7"], ["ppo0", "ppo7"]),
        ([0.23, 0.79, 0.81, 0.80, 0.80], ["ppo", "ppo, seed 1"], ["ppo0", "ppo1"]),
    ],
    ids=[
        "one collapsed",
        "all alike",
        "one a little apart",
        "the farthest of two",
        "the first is the one that collapsed",
    ],
)
def test_a_seed_far_from_the_others_answers_too(ends: list[float], arms: list[str], texts: list[str]) -> None:
    made = with_ends({"ppo": ends, "dpo": [0.7, 0.71, 0.69, 0.7, 0.71, 0.7, 0.7, 0.69][: len(ends)]})
    named = made.samples["arm"] + made.samples["seed"].astype(str)
    made = dataclasses.replace(made, samples=made.samples.assign(completion=named, judge=0.5))
    for card in cards(made):
        assert [answer.text for answer in card.answers] == ["base0", *texts, "dpo0"]
    written = page.markdown(Document("", "", (shown(made),)))
    drawn = page.html(Document("", "", (shown(made),)), {}, Path())
    for arm in arms:
        assert f"\n{arm}: judge" in written
        assert f">{arm.replace(',', '</bdi>,')}" in drawn
    assert ("one more answers" in written) == (len(arms) > 1)


def test_an_outlying_seed_without_samples_is_left_out() -> None:
    made = with_ends({"ppo": [0.80, 0.79, 0.81, 0.80, 0.23]})
    kept = dataclasses.replace(made, samples=made.samples[made.samples["seed"] < 4])
    assert [answer.arm for answer in cards(kept)[0].answers] == ["base", "ppo"]


def test_of_several_points_the_last_is_shown() -> None:
    made = world(Path("x"), ARMS, 1)
    earlier = made.samples[made.samples["arm"] == "ppo"].assign(point=1, completion="half trained")
    both = dataclasses.replace(made, samples=pd.concat([made.samples, earlier]))
    assert cards(both) == cards(made)


def test_a_long_response_is_cut_at_its_end_and_a_long_prompt_in_its_middle() -> None:
    made = world(Path("x"), ARMS, 1)
    response, prompt = LONGEST["completion"], LONGEST["prompt"]
    texts = {"completion": "r" * response + "END", "prompt": "BEGIN" + "p" * prompt + "END"}
    (card, *_) = cards(dataclasses.replace(made, samples=made.samples.assign(**texts)))
    assert {answer.text for answer in card.answers} == {"r" * response + " […3 characters left out…]"}
    half = prompt // 2
    beginning, end = ("BEGIN" + "p" * prompt)[:half], ("p" * prompt + "END")[-half:]
    assert card.prompt == f"{beginning} […8 characters left out…] {end}"
    whole = made.samples.assign(completion="r" * response, prompt="p" * prompt)
    (card, *_) = cards(dataclasses.replace(made, samples=whole))
    assert {answer.text for answer in card.answers} == {"r" * response}
    assert card.prompt == "p" * prompt


def test_scores_are_told_with_their_units_and_what_is_missing_left_out() -> None:
    made = world(Path("x"), ARMS, 1)
    scores = [answer.scores for answer in cards(made)[1].answers]
    assert scores[0] == "judge 0.38 · proxy 0.70 · KL 0.00 nats · length 12 tokens"
    assert scores[1] == "judge 0.38 · proxy 0.70 · KL 2.40 nats · length 12 tokens"
    assert cards(made)[0].answers[0].scores.endswith(" · cut at the length limit")
    unscored = dataclasses.replace(made, samples=made.samples.assign(proxy=None, kl=None))
    assert cards(unscored)[1].answers[1].scores == "judge 0.38 · length 12 tokens"


def test_scores_of_a_small_scale_keep_their_digits() -> None:
    made = judged(world(Path("x"), ARMS, 1), base=2.51e-5, ppo=3.49e-5, dpo=3.1e-5)
    assert [answer.scores.split(" · ")[0] for answer in cards(made)[0].answers] == [
        "judge 0.000025", "judge 0.000035", "judge 0.000031",
    ]  # fmt: skip


def test_where_no_response_was_kept_it_is_said() -> None:
    made = world(Path("x"), ARMS, 1)
    (block,) = shown(dataclasses.replace(made, samples=made.samples[:0])).blocks
    assert getattr(block, "text", "") == "No responses were kept."
