"""The section on tuning: what was tried for every arm, what it came to, which was chosen, and what that cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from eval import format as fmt
from eval.report.document import Block, Cell, Column, Heads, Row, Section, Text, table
from eval.report.inputs import ReportInput


def section(comparison: ReportInput) -> Section | None:
    """None where nothing was tuned."""
    told = comparison.tuning
    arms: Mapping[str, Any] = told.get("arms", {})
    if not arms:
        return None
    blocks: list[Block] = [Text(_how(told)), _summary(arms)]
    blocks += [_tries(name, about, str(told["objective"])) for name, about in arms.items()]
    return Section("tuning", "Tuning", tuple(blocks))


def _how(told: Mapping[str, Any]) -> str:
    seeds = [f"{seed:,}" for seed in told["seeds"]]
    spent = [tried for about in told["arms"].values() for tried in about["tries"]]
    return (
        f"Before the comparison every arm got the same: {told['tries']} tries, each with a budget of {fmt.in_powers(str(told['budget']))} a run and "
        f"the training seed{'s' * (len(seeds) > 1)} {fmt.listing(seeds)}. A try is measured by {fmt.label(told['objective'])} on "
        f"{told['prompts']} validation prompts. The first is the setting that the arm began with; the best one, of equal ones "
        "the earliest, is what the comparison ran. No run of the comparison has these seeds or is judged on these prompts. "
        f"Together the tries took {fmt.compact(_total(spent, 'flops'))} FLOPs and {fmt.duration(_total(spent, 'seconds'))} of training; "
        "this is in no arm's cost."
    )


def _summary(arms: Mapping[str, Any]) -> Block:
    values = [
        value for about in arms.values() for value in (_value(about, 1), _value(about, about["chosen"]))
    ]
    decimals = fmt.decimals_for(values)
    rows: list[Row] = []
    for name, about in arms.items():
        tries, chosen = about["tries"], about["chosen"]
        failed = sum(tried["status"] == "failed" for tried in tries)
        settings = tries[chosen - 1]["settings"] if chosen else {}
        rows.append([
            Cell(name, arm=name),
            Cell(str(len(tries)), f"{failed} failed" if failed else ""),
            fmt.number(_value(about, 1), decimals),
            Cell(fmt.number(_value(about, chosen), decimals), f"try {chosen}" if chosen else "all failed: as it began"),
            ", ".join(f"{setting} {_word(value)}" for setting, value in settings.items()) or fmt.MISSING,
            fmt.compact(_total(tries, "flops")),
            fmt.duration(_total(tries, "seconds")),
        ])  # fmt: skip
    heads: Heads = [
        "arm", Column("tries"), Column("as it began"), Column("chosen"), "chosen settings", Column("cost", "FLOPs"), Column("time"),
    ]  # fmt: skip
    caption = (
        "The chosen value is the highest of several that are noisy, so it flatters the arm; what the arm is worth the comparison "
        "tells, on other prompts and seeds. An arm that stops before its budget ends has spent less than it was allowed."
    )
    return table(heads, rows, caption)


def _tries(name: str, about: Mapping[str, Any], objective: str) -> Block:
    tries, space = about["tries"], about["space"]
    decimals = fmt.decimals_for(math.nan if t["value"] is None else t["value"] for t in tries)
    rows: list[Row] = [
        [
            Cell(str(tried["number"]), "chosen" if tried["number"] == about["chosen"] else ""),
            *(_word(tried["settings"][setting]) for setting in space),
            fmt.number(math.nan if tried["value"] is None else tried["value"], decimals),
            tried["error"] if tried["status"] == "failed" else tried["status"],
        ]
        for tried in tries
    ]
    heads: Heads = [
        Column("try"),
        *(Column(setting, numeric="choices" not in values) for setting, values in space.items()),
        Column(fmt.label(objective)),
        "how it ended",
    ]
    searched = "; ".join(f"{setting}: {_extent(values)}" for setting, values in space.items())
    return table(heads, rows, f"Searched: {searched}.", heading=name, folded=f"All {len(tries)} tries")


def _extent(values: Mapping[str, Any]) -> str:
    if "choices" in values:
        return ", ".join(map(_word, values["choices"]))
    return f"{_word(values['low'])} to {_word(values['high'])}" + (" on a log scale" if values["log"] else "")


def _value(about: Mapping[str, Any], number: int | None) -> float:
    value = about["tries"][number - 1]["value"] if number else None
    return math.nan if value is None else float(value)


def _total(tries: Sequence[Mapping[str, Any]], what: str) -> float:
    return sum(float(tried[what]) for tried in tries)


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
