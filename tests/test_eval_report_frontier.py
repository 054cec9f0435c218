"""The frontier in the report: where arms stand, what is said of them, and what is flagged as impossible."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frontier_world import FrontierWorld
from report_world import World, world

from eval.frontier.plain import PLAIN
from eval.frontier.pool import Pool
from eval.report.caveats import validity
from eval.report.document import Picture, Section, Table, Text
from eval.report.figures import theme
from eval.report.inputs import JUDGE, PROXY
from eval.report.numbers import frames
from eval.report.numbers.frames import evaluations
from eval.report.numbers.reachable import Reachable, objective_beta, reachable
from eval.report.sections import frontier, reached, verdict
from eval.settings.parts import Evaluation

BETA = 0.5  # of the spread of the rewards


@pytest.fixture(scope="module")
def space() -> FrontierWorld:
    return FrontierWorld.random(0)


@pytest.fixture(scope="module")
def drawn(space: FrontierWorld) -> Pool:
    """`reinforce` is the best possible policy at its β, the others follow other rewards."""
    best = space.optimum(BETA * space.spread)[0]
    logps_KPM, counts, rewards_PM = space.sampled([space.ref_PS, best, *space.arms(0)[1:]], 400, 0)
    rewards = {"proxy": rewards_PM, "judge": rewards_PM}
    return Pool(("base", "reinforce", "ppo", "dpo"), (0, 0, 0, 0), counts, logps_KPM, rewards)


@pytest.fixture
def comparison(drawn: Pool, space: FrontierWorld, tmp_path: Path) -> World:
    made = replace(world(tmp_path), pool=drawn)
    made.settings["objective_beta"] = BETA * space.spread
    return made


@pytest.fixture
def best(comparison: World) -> dict[str, Reachable]:
    return reachable(comparison)


@pytest.fixture(autouse=True)
def _drawing() -> Iterator[None]:
    with theme.drawing():
        yield


def section_of(comparison: World) -> Section:
    view = frames.evaluations(comparison)
    return frontier.section(comparison, view, theme.styles(view.arms), reachable(comparison))


def test_the_best_possible_policy_leaves_nothing(best: dict[str, Reachable]) -> None:
    point = best[PROXY].arms["reinforce"]
    assert abs(point.left.mean) < 0.02 * point.reward
    assert abs(point.regret.mean) < 0.02 * point.reward
    assert best[PROXY].share("reinforce") == pytest.approx(1, abs=0.02)
    assert point.inside


def test_others_leave_what_the_exact_frontier_says(best: dict[str, Reachable], space: FrontierWorld) -> None:
    for arm, policy in zip(("ppo", "dpo"), space.arms(0)[1:], strict=True):
        gain = (space.mean(policy) - space.mean(space.ref_PS)).mean()
        possible = float(space.gain_at(space.kl(policy).mean()))
        assert best[PROXY].share(arm) == pytest.approx(gain / possible, abs=0.04)


def test_one_prompt_is_said_as_one(comparison: World, drawn: Pool) -> None:
    rewards = {name: values[:1] for name, values in drawn.rewards.items()}
    made = replace(comparison, pool=replace(drawn, logps_KPM=drawn.logps_KPM[:, :1], rewards=rewards))
    captions = [block.caption for block in section_of(made).blocks if isinstance(block, Table)]
    assert captions == ["One policy per arm (seed 0), many responses to 1 test prompt."] * 2


def test_arms_of_which_nothing_was_drawn_are_named(comparison: World) -> None:
    """As when drawing failed after arms were added: the samples are those of before."""
    view, best = evaluations(comparison), reachable(comparison)
    assert not any("without" in said for said in frontier.caveats(comparison, view, best))
    arms = {arm: point for arm, point in best[PROXY].arms.items() if arm != "ppo"}
    found = {PROXY: replace(best[PROXY], arms=arms)}
    assert "The frontier was drawn without ppo." in frontier.caveats(comparison, view, found)


def test_no_objective_is_reported_that_was_not_trained_for(comparison: World) -> None:
    """A penalty for the length limit, or another temperature: the optimum of what was trained for is another policy."""
    arms = {arm: {"source": "prompts", "settings": {"beta": 0.1}} for arm in ("reinforce", "ppo")}
    made = replace(comparison, settings={"sampling": {"missing_eos_penalty": 0.0, "temperature": 1.0}})
    made.facts.update(arms=arms, beta_is_objective=True)
    assert objective_beta(made) == 0.1
    assert validity.other_objective(made, evaluations(made)) == []
    for sampling, said in (
        ({"missing_eos_penalty": 2.0}, "subtracted 2 from the reward of every response that hit"),
        (
            {"temperature": 0.5},
            "at temperature 0.5; rewards and KL here, and the frontier, are of the policies at temperature 1.",
        ),
        (
            {"greedy_prefix": 2},
            "the first 2 tokens of every response were greedy and carried neither loss nor KL",
        ),
        ({"greedy_prefix": 1}, "the first token of every response was greedy"),
    ):
        other = replace(made, settings={"sampling": sampling})
        assert objective_beta(other) is None
        assert objective_beta(replace(other, settings={"sampling": sampling, "objective_beta": 0.2})) == 0.2
        (sentence,) = validity.other_objective(other, evaluations(other))
        assert said in sentence


def test_an_arm_above_the_frontier_is_flagged(comparison: World, drawn: Pool) -> None:
    assert not any(
        "above" in sentence
        for sentence in frontier.caveats(comparison, evaluations(comparison), reachable(comparison))
    )
    own = drawn.of("dpo")
    logps = drawn.logps_KPM.copy()
    logps[3, :, own] = logps[0, :, own] + 1e-3  # a KL of nearly 0, with the reward of a trained policy
    cheating = replace(comparison, pool=replace(drawn, logps_KPM=logps))
    found = frontier.caveats(cheating, evaluations(cheating), reachable(cheating))
    assert any("dpo lies above the frontier" in sentence for sentence in found)
    best = reachable(cheating)
    assert math.isnan(best[PROXY].share("dpo"))  # so near to the base a share is that of two noises
    assert "dpo" not in reached.shares(best)


def test_samples_that_do_not_fit_their_probabilities_are_flagged(comparison: World, drawn: Pool) -> None:
    assert not any(
        "not drawn from" in sentence for sentence in frontier.caveats(comparison, evaluations(comparison), {})
    )
    hotter = replace(drawn, logps_KPM=1.5 * drawn.logps_KPM)  # scored at temperature 2/3
    made = replace(comparison, pool=hotter)
    assert any("not drawn from" in sentence for sentence in frontier.caveats(made, evaluations(made), {}))


def test_an_arm_beyond_the_solid_part_is_named(comparison: World, space: FrontierWorld) -> None:
    far = space.optimum(0.01 * space.spread, np.random.default_rng(5).normal(size=space.ref_PS.shape))[0]
    logps_KPM, counts, rewards_PM = space.sampled([space.ref_PS, far], 60, 0)
    pool = Pool(("base", "ppo"), (0, 0), counts, logps_KPM, {"proxy": rewards_PM, "judge": rewards_PM})
    made = replace(comparison, pool=pool)
    found = frontier.caveats(made, evaluations(made), reachable(made))
    assert any("ppo went further" in sentence for sentence in found)
    few_KPM, counts, few_PM = space.sampled([space.ref_PS, far], 4, 0)
    few = replace(
        comparison,
        pool=replace(pool, logps_KPM=few_KPM, counts=counts, rewards={"proxy": few_PM, "judge": few_PM}),
    )
    found = frontier.caveats(few, evaluations(few), reachable(few))
    assert (
        "For judge reward the answers are too few to know the frontier at any KL: draw more with --frontier.samples."
        in found
    )
    assert not any("went further" in sentence for sentence in found)


def test_objective_beta_is_declared_or_shared(comparison: World) -> None:
    made = replace(comparison, settings={})
    arms = {
        "reinforce": {"source": "prompts", "settings": {"beta": 0.1}},
        "dpo": {"source": "pairs", "settings": {"beta": 0.3}},
    }
    made.facts.update(arms=arms, beta_is_objective=False)
    assert objective_beta(made) == 0.1  # DPO's β is not the objective's here
    made.facts.update(beta_is_objective=True)
    assert objective_beta(made) is None
    assert objective_beta(replace(made, settings={"objective_beta": 0.2})) == 0.2


def test_the_section_has_figure_tables_and_how_to_read_them(comparison: World) -> None:
    made = section_of(comparison)
    assert [block.stem for block in made.blocks if isinstance(block, Picture)] == ["reward-kl"]
    tables = [block for block in made.blocks if isinstance(block, Table)]
    assert [row[0].arm for row in tables[0].rows] == ["base", "reinforce", "ppo", "dpo"]
    assert tables[0].columns[-1].label.startswith("regret at β")
    assert ("share of possible gain", "") in [(column.label, column.unit) for column in tables[0].columns]


def test_shares_can_be_recomputed_from_the_tables(comparison: World, best: dict[str, Reachable]) -> None:
    """Each table has the base that its shares count from, which is not the evaluation's."""
    section = section_of(comparison)
    for table in (block for block in section.blocks if isinstance(block, Table)):
        base, *rows = ([cell.text.replace("−", "-") for cell in row] for row in table.rows)
        assert (base[:2], set(base[3:])) == (["base", "0.00"], {"–"})
        assert float(base[2]) == pytest.approx(best[PROXY].base, abs=0.0006)
        for _, _, reward, left, share, *_ in rows:
            gain = float(reward) - float(base[2])
            assert float(share.removeprefix("at least ").rstrip("%")) == pytest.approx(
                100 * gain / (gain + float(left.removeprefix("at most "))), abs=0.6
            )
    assert "The base's reward is estimated from the same answers" in texts_of(section)[""]


def test_what_choosing_among_the_bases_responses_gets_is_said(
    comparison: World, best: dict[str, Reachable], drawn: Pool
) -> None:
    told = texts_of(section_of(comparison))["Best of N"]
    assert told.startswith(reached.best_of_n(best))
    assert told.endswith(
        "an arm is told apart where the 95% interval of the difference over these prompts leaves out 0."
    )
    assert any("Without training" in sentence for sentence in verdict.read(comparison).sentences)
    # The differences are those of the same prompts.
    proxy = drawn.rewards["proxy"]
    for n, over in best[JUDGE].over_arms.items():
        for arm, difference in over.items():
            own = proxy[:, drawn.of(arm)].mean()
            assert difference.mean == pytest.approx(best[JUDGE].best_of[n][1] - own)
            assert difference.n == len(proxy)
            assert difference.has_interval


def test_what_the_tables_hold_is_said_once_below_them(comparison: World) -> None:
    section = section_of(comparison)
    captions = [block.caption for block in section.blocks if isinstance(block, Table)]
    assert captions == ["One policy per arm (seed 0), many responses to each of 16 test prompts."] * 2
    how = texts_of(section)[""]
    assert how.startswith("“Left on the table” is the frontier's reward at the arm's KL minus the arm's own")
    assert "The objective is E[r] − β·KL, its regret the shortfall" in how
    assert "(per prompt: base 400, reinforce 400, ppo 400 and dpo 400)" in how
    # Without a β of one objective that is said, once for both.
    apart = replace(comparison, settings={}, facts={**comparison.facts, "arms": {}})
    how = texts_of(section_of(apart))[""]
    assert "Arms share no β of one objective, so objective and regret are not shown; --objective-beta" in how
    assert "The objective is" not in how


def test_the_caption_says_whose_samples_each_part_of_the_figure_rests_on(
    comparison: World, drawn: Pool
) -> None:
    (picture,) = section_of(comparison).pictures
    noise = "samples drawn for the frontier, star and paths from the evaluation's, so near the base they differ by noise."
    assert picture.caption.endswith(f" Line and diamonds come from {noise}")
    proxy = drawn.rewards["proxy"].copy()
    proxy[:, ::4] = np.nan
    made = replace(comparison, pool=replace(drawn, rewards={**drawn.rewards, "proxy": proxy}))
    assert section_of(made).pictures[0].caption.endswith(f" Line comes from {noise}")


def test_a_judge_of_a_small_scale_keeps_its_digits(comparison: World, drawn: Pool) -> None:
    small = {name: 1e-5 * values for name, values in drawn.rewards.items()}
    made = replace(comparison, pool=replace(drawn, rewards=small), settings={"objective_beta": 1e-5})
    for table in (block for block in section_of(made).blocks if isinstance(block, Table)):
        _, _, *others = table.rows  # the base has no such numbers, and the best possible leaves nothing
        for reward, left, _, objective, regret in (row[2:] for row in others):
            for text in (reward.text, left.text, left.small, objective.text, regret.text, regret.small):
                assert re.search("[1-9]", text), text


def test_it_is_said_where_the_paths_are_on_more_prompts(comparison: World) -> None:
    """Of those that were evaluated, not of those that were asked for."""

    def told(prompts: int) -> str:
        base = comparison.samples[comparison.samples["arm"] == "base"].iloc[[0] * prompts]
        asked = {**comparison.settings, "eval": {"prompts": 64}}
        made = replace(comparison, samples=base.assign(prompt_id=range(prompts)), settings=asked)
        return " ".join(block.text for block in section_of(made).blocks if isinstance(block, Text))

    assert "The paths are on" not in told(16)  # as many as the pool
    assert "The paths are on all 20 test prompts, the frontier on 16 of them." in told(20)


def test_without_samples_the_paths_are_drawn_alone(comparison: World) -> None:
    made = section_of(replace(comparison, pool=None))
    assert any(isinstance(block, Picture) for block in made.blocks)
    assert any(isinstance(block, Text) and "No samples" in block.text for block in made.blocks)


def texts_of(section: Section) -> dict[str, str]:
    return {block.label: block.text for block in section.blocks if isinstance(block, Text)}


def test_the_reason_is_given_where_samples_could_not_be_drawn(comparison: World, drawn: Pool) -> None:
    failed = {**comparison.environment, "no_frontier": "MemoryError: no 3 GiB"}
    made = replace(comparison, pool=None, environment=failed)
    told = texts_of(section_of(made))["No frontier"]
    assert "is not known: MemoryError: no 3 GiB. To try again: rlhf-compare --resume" in told
    assert "No samples" not in told
    assert frontier.caveats(made, evaluations(made), {}) == []
    # Those of an earlier session, of fewer policies, are still there.
    again = replace(made, pool=drawn)
    caveat, *_ = frontier.caveats(again, evaluations(again), reachable(again))
    assert "of an earlier session, as drawing it anew failed: MemoryError: no 3 GiB." in caveat


def test_a_sample_that_the_reward_left_unscored_leaves_the_judges_frontier_alone(
    comparison: World, drawn: Pool, best: dict[str, Reachable]
) -> None:
    proxy = drawn.rewards["proxy"].copy()
    proxy[:, ::4] = np.nan
    made = replace(comparison, pool=replace(drawn, rewards={**drawn.rewards, "proxy": proxy}))
    found = reachable(made)
    assert list(found) == [JUDGE]
    assert found[JUDGE].arms == best[JUDGE].arms
    assert found[JUDGE].best_of == {}  # the proxy chooses
    assert best[JUDGE].best_of != {}
    section = section_of(made)
    assert sum(isinstance(block, Table) for block in section.blocks) == 1
    told = texts_of(section)["No frontier of the proxy reward"]
    assert told.startswith("The training reward left 25% of the samples for the frontier unscored.")
    assert all(
        "black line" in picture.caption and "diamonds" not in picture.caption for picture in section.pictures
    )
    (sentence,) = reached.sentences(found)
    assert "in judge reward: reinforce 100%" in sentence
    assert all("proxy" not in caveat for caveat in frontier.caveats(made, evaluations(made), found))


UNUSUAL: list[dict[str, Any]] = [
    {"decoding": "greedy"}, {"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}, {"greedy_prefix": 2},
]  # fmt: skip


def test_the_settings_of_plain_samples_are_the_evaluations() -> None:
    asked = asdict(Evaluation())
    assert {name: asked[name] for name in PLAIN} == PLAIN
    assert Evaluation().is_plain
    assert {name for settings in UNUSUAL for name in settings} == set(PLAIN)
    assert not any(Evaluation(**settings).is_plain for settings in UNUSUAL)


def test_plain_decoding_has_a_frontier_and_a_regret(comparison: World) -> None:
    plain = replace(comparison, settings={**comparison.settings, "eval": asdict(Evaluation())})
    assert any(isinstance(block, Table) for block in section_of(plain).blocks)
    assert any("of the gain" in sentence for sentence in verdict.read(plain).sentences)


@pytest.mark.parametrize("settings", UNUSUAL, ids=lambda settings: next(iter(settings)))
def test_other_decoding_has_no_frontier_objective_or_regret(
    comparison: World, settings: dict[str, Any]
) -> None:
    made = replace(comparison, settings={**comparison.settings, "eval": asdict(Evaluation(**settings))})
    assert reachable(made) == {}
    section = section_of(made)
    assert not any(isinstance(block, Table) for block in section.blocks)
    assert sum(isinstance(block, Text) and "decoded otherwise" in block.text for block in section.blocks) == 1
    assert all("black line" not in block.caption for block in section.pictures)
    assert not any("of the gain" in sentence for sentence in verdict.read(made).sentences)
    assert frontier.caveats(made, evaluations(made), reachable(made)) == []


def test_many_arms_have_a_curve_an_algorithm(tmp_path: Path) -> None:
    arms = {f"{name}-{i}": name for name in ("reinforce", "ppo", "dpo") for i in range(4)}
    made = section_of(world(tmp_path, arms))
    pictures = [block for block in made.blocks if isinstance(block, Picture)]
    assert [picture.stem for picture in pictures] == ["frontier", "reward-kl"]
    colours = {
        line.get_color() for line in pictures[0].figure.axes[0].get_lines() if len(line.get_xdata()) == 4
    }
    assert len(colours) >= 3
