"""The section on what to do next: the policy that came out highest and what speaks against it, and how to be surer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from eval import format as fmt
from eval.report import commands
from eval.report.caveats import conditions
from eval.report.document import Block, Code, Section, Text
from eval.report.inputs import JUDGE, ReportInput
from eval.report.numbers.frames import Evaluations
from eval.report.numbers.standings import Standing, Standings
from eval.report.sections import claims, forecast

if TYPE_CHECKING:
    from pandas import DataFrame

MORE_SEEDS = 2  # that are proposed to whoever wants to be surer, where the verdict proposes no number


def section(comparison: ReportInput, view: Evaluations, found: Standings) -> Section:
    """The leading arm's policy, how to load it, how to train it alone, how to be surer."""
    blocks: list[Block] = _use(comparison, view, found.end) if found.end.ranking else []
    proposed = forecast.proposal(comparison, view, found).seeds
    more = proposed or view.runs["seed"].nunique() + MORE_SEEDS
    blocks += [
        Text("To be surer, add seeds; finished runs are kept:"),
        Code(commands.resume(comparison, more), "sh"),
    ]
    return Section("next", "What to do next", tuple(blocks))


def _use(comparison: ReportInput, view: Evaluations, end: Standing) -> list[Block]:
    arm = end.ranking[0]
    done = _done(view, arm)
    done = done[done["policy"] != ""]
    blocks: list[Block] = []
    if len(done):
        where, seed = (comparison.path / str(done["policy"].iloc[0])).as_posix(), done["seed"].iloc[0]
        why = _why(arm, len(end.ranking) > 1, _reservations(comparison, view, end))
        whose = "Its" if why else f"{arm}'s"
        blocks += [
            Text(
                f"{why}{whose} policy of seed {seed} is in {where} (the first finished seed, not the best: picking the best "
                "on these prompts would flatter it). To load it:"
            ),
            Code(_loading(where), "python"),
        ]
    return [*blocks, Text("To train it alone:"), Code(commands.alone(comparison, arm), "sh")]


def _why(arm: str, several: bool, reservations: list[str]) -> str:
    """Why this arm is shown, where there are others, and all that speaks against using it."""
    but = fmt.listing(reservations)
    if several:
        return f"{arm} has the highest mean{f', though {but}' if but else ''}. "
    return f"Before using {arm}, know that {but}. " if but else ""


def _done(view: Evaluations, arm: str) -> DataFrame:
    runs = view.runs
    return runs[(runs["arm"] == arm) & (runs["status"] == "done")].sort_values("seed")


def _reservations(comparison: ReportInput, view: Evaluations, end: Standing) -> list[str]:
    """What speaks against the arm of the highest mean: that it ends below the base; of whom it is not known that it is above
    them; who is above it on their common seeds; which of its runs diverged."""
    arm, *others = end.ranking
    told = {pair.rival(arm): pair.first for pair in end.of(arm) if pair.told_apart}
    gain = conditions.gain(comparison, view, arm).estimate
    level = [other for other in others if other not in told]
    above = [other for other in others if told.get(other) == other]
    said = []
    if gain.mean < 0 and (gain.excludes_zero or not gain.has_interval):
        where = "" if gain.has_interval else " in its one run" if gain.n == 1 else " in every run"
        said.append(f"it ended below the untouched base{where}")
    elif JUDGE in view.base and not gain.excludes_zero:
        level.append("the untouched base")
    contrary = claims.above_it(arm, end.of(arm))
    also = f" ({contrary})" if contrary else ""
    said += [f"it is not told apart from {fmt.listing(level, link='or')}{also}"] if level else []
    said += [f"on the seeds of both it is below {fmt.listing(above)}"] if above else []
    return [*said, *_diverged(view, arm)]


def _diverged(view: Evaluations, arm: str) -> list[str]:
    done = _done(view, arm)
    seeds = [str(seed) for seed in done.loc[done["diverged"] != "", "seed"]]
    which = f"run of seed {seeds[0]}" if len(seeds) == 1 else f"runs of seeds {fmt.listing(seeds)}"
    return [f"its {which} diverged"] if seeds else []


def _loading(where: str) -> str:
    quoted = json.dumps(where, ensure_ascii=False)
    return (
        f"from algos import Policy\n\npolicy = Policy.load({quoted})\n\n"
        "# or with transformers alone\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({quoted})\ntokenizer = AutoTokenizer.from_pretrained({quoted})"
    )
