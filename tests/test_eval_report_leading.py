"""The three comparisons (own end, equal cost, matched KL): which leads the verdict, and what each claims."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from report_cases import OWN, twelve, two_paths, with_betas, with_facts
from report_words import said
from report_world import World, with_ends, with_paths, world

from eval.report.numbers.frames import evaluations
from eval.report.numbers.standings import standings
from eval.report.sections import claims, verdict


def test_matched_kl_leads_where_beta_is_not_the_objectives() -> None:
    first, second, *_ = verdict.read(with_facts(two_paths(), **OWN)).sentences
    assert first.startswith(
        "At matched KL (reinforce and dpo at 2.0 nats, which reinforce passed after 79% of its training), over 5 seeds, "
        "reinforce is highest, "
    )
    assert "dpo's β is not the KL coefficient of the other arm (see below)" in first
    assert second.startswith("The same holds")
    plain = verdict.read(two_paths()).sentences
    assert plain[0].startswith(
        "At the end of training, over 5 seeds, reinforce has the highest mean judge reward, 0.710"
    )
    assert "β" not in " ".join(plain)


def test_matched_kl_leads_where_the_arms_have_different_betas() -> None:
    first, second, *_ = verdict.read(with_betas(two_paths(), 0.01, 1.0)).sentences
    assert first.startswith("At matched KL")
    assert first.endswith(
        "This comparison comes first because the arms' β differ (reinforce 0.01 and dpo 1), so they do not maximise one objective."
    )
    assert second.endswith("The arms end at 2.0 (dpo) and 3.0 nats (reinforce) from the base.")
    assert "β" not in said(with_betas(two_paths(), 0.3, 0.3))


def test_own_ends_at_different_betas_carry_a_warning_where_matched_kl_cannot_be_read() -> None:
    first = verdict.read(with_betas(one_pair_unread(), 0.01, 1.0, 0.1)).sentences[0]
    assert first.startswith("At the end of training, over 3 seeds, dpo")
    assert first.endswith(
        "These ends are not on equal terms: the arms' β differ (reinforce 0.01, dpo 0.1 and ppo 1), so they do not maximise one "
        "objective, and the ends lie at 2.0 (dpo), 2.5 (ppo) and 3.0 nats (reinforce) from the base."
    )


def test_a_sweep_of_beta_is_said_by_its_range() -> None:
    first = verdict.read(with_betas(twelve(3), *(0.02 * i for i in range(1, 13)))).sentences[0]
    assert "the arms' β differ (0.02 to 0.24), so they" in first


def test_different_betas_are_said_of_one_seed_too() -> None:
    text = said(with_betas(world(Path("x"), seeds=1), 0.01, 0.1, 1.0))
    assert "These ends are not on equal terms: the arms' β differ (reinforce 0.01, ppo 0.1 and dpo 1)" in text
    assert "β" not in said(with_betas(world(Path("x"), seeds=1), 0.1, 0.1, 0.1))


def test_a_beta_of_its_own_and_different_ones_are_both_said() -> None:
    first = verdict.read(with_betas(with_facts(world(Path("x")), **OWN), 0.01, 1.0, 0.3)).sentences[0]
    assert (
        "dpo's β is not the KL coefficient of an objective (see below) and those of the others differ"
        in first
    )
    assert "(reinforce 0.01 and ppo 1)." in first


def test_the_beta_of_an_arm_that_did_not_finish_is_no_difference() -> None:
    made = world(Path("x"), failed=[("dpo", seed) for seed in range(3)])
    assert "β" not in said(with_betas(made, 0.1, 0.1, 1.0))


def test_own_ends_lead_with_a_warning_where_matched_kl_cannot_be_read() -> None:
    start, near = (0.0, 0.0, 0.4), [(1.0, 0.5, 0.55), (2.0, 1.0, 0.6)]
    jumps = [(1.0, 2.5, 0.6), (2.0, 3.0, 0.7)]
    made = with_paths(
        {
            arm: [[start, *((cost, kl, judge + noise) for cost, kl, judge in ends)] for noise in noises]
            for arm, ends, noises in (("ppo", jumps, (0.0, 0.01, -0.01)), ("dpo", near, (0.003, 0.0, 0.001)))
        }
    )
    first, *rest = verdict.read(with_facts(made, **OWN)).sentences
    assert first.startswith("At the end of training, over 3 seeds, ppo")
    assert "the ends lie at 1.0 (dpo) and 3.0 nats (ppo) from the base" in first
    (silent,) = [text for text in rest if text.startswith("At matched KL")]
    assert silent == "At matched KL nothing can be claimed: ppo passed 1.0 nats too far from any evaluation."


def one_pair_unread() -> World:
    """ppo below both others at matched KL, which cannot be read against each other: reinforce passed dpo's last KL
    before its first evaluation."""
    ends = {
        "reinforce": [(1.0, 2.2, 0.70), (2.0, 3.0, 0.75)],
        "ppo": [(1.0, 1.0, 0.50), (2.0, 2.5, 0.60)],
        "dpo": [(1.0, 1.0, 0.70), (2.0, 2.0, 0.80)],
    }
    noises = {"reinforce": (0.0, 0.01, -0.02), "ppo": (0.05, -0.1, 0.02), "dpo": (0.01, 0.0, -0.01)}
    return with_paths(
        {
            arm: [
                [(0.0, 0.0, 0.4), *((c, kl, judge + noise) for c, kl, judge in path)] for noise in noises[arm]
            ]
            for arm, path in ends.items()
        }
    )


def test_no_arm_is_called_highest_that_was_not_read_beside_every_other() -> None:
    made = with_facts(one_pair_unread(), **OWN)
    found = standings(evaluations(made)).kl
    assert [(pair.first, pair.second) for pair in found.pairs if pair.rough] == [("dpo", "reinforce")]
    assert found.leader is None
    first, *rest = verdict.read(made).sentences
    assert first.startswith("At the end of training, over 3 seeds, dpo has the highest mean judge reward")
    (matched,) = [text for text in rest if text.startswith("At matched KL")]
    assert "highest" not in matched
    assert "no two arms can be told apart; nothing can be claimed of dpo against reinforce there." in matched


def test_an_arm_that_hardly_moved_is_named_where_it_cannot_be_placed() -> None:
    def path(kl: float, judge: float, noise: float) -> list[tuple[float, float, float]]:
        return [(0.0, 0.0, 0.4), (1.0, kl / 2, judge - 0.1 + noise), (2.0, kl, judge + noise)]

    ends = {"ppo": (2.0, 0.6), "reinforce": (2.2, 0.8), "dpo": (0.01, 0.41)}
    noises = (0.0, 0.01, -0.01, 0.02)
    made = with_paths(
        {arm: [path(*end, noise * (1 + i)) for noise in noises] for i, (arm, end) in enumerate(ends.items())}
    )
    (matched,) = [text for text in verdict.read(made).sentences if text.startswith("At matched KL")]
    assert "reinforce is highest, ahead of ppo; dpo hardly left the base and cannot be placed." in matched


def test_where_no_arm_is_above_all_others_pairs_are_said() -> None:
    found = standings(evaluations(one_pair_unread())).kl
    told = tuple(dataclasses.replace(pair, p_holm=0.01) for pair in found.pairs)
    text = claims.claim(dataclasses.replace(found, pairs=told), detailed=False)
    assert "no arm is above all others: reinforce is ahead of ppo and dpo is ahead of ppo; nothing" in text


def test_an_arm_that_another_beats_on_their_common_seeds_is_not_called_the_best() -> None:
    """Its mean is higher for seeds that the other did not finish."""
    first = verdict.read(with_ends({"a": [0.5, 0.501, 0.499, 0.9, 0.9], "b": [0.6, 0.6, 0.6]})).sentences[0]
    assert "highest" not in first
    assert "no arm is above all others: b is ahead of a by 0.100" in first


def test_ends_near_the_base_are_told_apart_in_the_warning() -> None:
    def paths(kl: float) -> list[list[tuple[float, float, float]]]:
        return [[(0.0, 0.0, 0.4), (1.0, kl, 0.5 + noise)] for noise in (0.0, 0.01, -0.01)]

    made = with_facts(with_paths({"ppo": paths(0.047), "dpo": paths(0.033)}), **OWN)
    (warned,) = [text for text in verdict.read(made).sentences if " lie at " in text]
    assert "0.033 (dpo) and 0.047 nats (ppo)" in warned


def test_the_warning_stands_without_kl() -> None:
    made = with_facts(world(Path("x")), **OWN)
    results = made.results[made.results["metric"] != "kl/sequence"]
    first = verdict.read(dataclasses.replace(made, results=results)).sentences[0]
    assert first.endswith(
        " These ends are not on equal terms: dpo's β is not the KL coefficient that the others share (see below)."
    )


def test_a_difference_at_equal_cost_is_not_that_at_the_end() -> None:
    slow = [(1.0, 0.0, 0.4), (3.0, 1.0, 0.5), (9.0, 2.0, 0.9)]
    fast = [(1.0, 0.0, 0.4), (2.0, 1.0, 0.7), (5.0, 2.0, 0.75)]
    noise = (0.0, 0.01, -0.01, 0.004)
    made = with_paths({arm: [[*path[:1], *((c, k, j + d * (1 + i)) for c, k, j in path[1:])] for d in noise]
                       for i, (arm, path) in enumerate((("slow", slow), ("fast", fast)))})  # fmt: skip
    text = said(made)
    assert (
        "At the end of training, over 4 seeds, slow has the highest mean judge reward, 0.901, ahead of fast"
        in text
    )
    place = "At equal total cost (5 FLOPs, where fast ends; slow has spent 50% of its budget there)"
    assert f"{place} fast has the highest mean judge reward" in text
