"""The same prompts, answered by the base and by every arm, side by side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from eval import format as fmt
from eval.report.document import Answer, Answers, Block, Section, Text
from eval.report.inputs import BASE, ReportInput
from eval.report.numbers.frames import Evaluations

if TYPE_CHECKING:
    from pandas import DataFrame

PROMPTS = 6
LONGEST = {"prompt": 600, "completion": 1200}  # characters shown


def section(comparison: ReportInput, view: Evaluations) -> Section:
    """Prompts evenly spaced through the sorted ids: chosen before anyone looked at an answer."""
    chosen = _last_of_first_seed(comparison.samples, view)
    ids = (
        _spaced(sorted(chosen["prompt_id"].unique(), key=lambda found: (isinstance(found, str), found)))
        if len(chosen)
        else []
    )
    if not ids:
        return Section("answers", "The same prompts, side by side", (Text("No responses were kept."),))
    blocks: list[Block] = [
        Text(
            f"{len(ids)} held-out prompts, evenly spaced through all of them rather than chosen by their responses. Each arm "
            "answers with its lowest-numbered finished seed (if none finished, its lowest) at its last evaluation, all with the "
            "same random numbers. The highest judge score is bold. Responses are shown unedited, control characters spelled out."
        )
    ]
    decimals = {name: fmt.reward_decimals(chosen[name].astype(float)) - 1 for name in ("judge", "proxy")}
    for prompt_id in ids:
        rows = chosen[chosen["prompt_id"] == prompt_id]
        blocks.append(_card(rows, [BASE, *view.arms], decimals))
    return Section("answers", "The same prompts, side by side", tuple(blocks))


def _last_of_first_seed(samples: DataFrame, view: Evaluations) -> DataFrame:
    """Rows of the base, and of every arm's lowest finished seed (or lowest seed) at its last kept point."""
    import pandas

    parts = []
    for arm in (BASE, *view.arms):
        rows = samples[samples["arm"] == arm] if len(samples) else samples
        if not len(rows):
            continue
        done = view.runs[(view.runs["arm"] == arm) & (view.runs["status"] == "done")]["seed"]
        finished = rows[rows["seed"].isin(done)]
        rows = finished if len(finished) else rows
        rows = rows[rows["seed"] == rows["seed"].min()]
        parts.append(rows[rows["point"] == rows["point"].max()].drop_duplicates("prompt_id"))
    return pandas.concat(parts) if parts else samples


def _spaced(ids: list[Any]) -> list[Any]:
    if len(ids) <= PROMPTS:
        return ids
    return [ids[round(i * (len(ids) - 1) / (PROMPTS - 1))] for i in range(PROMPTS)]


def _card(rows: DataFrame, arms: list[str], decimals: dict[str, int]) -> Answers:
    by_arm = {row["arm"]: row for row in rows.to_dict("records")}
    judged = sorted(
        (value for row in by_arm.values() if not math.isnan(value := _value(row, "judge"))), reverse=True
    )
    best = judged[0] if len(judged) > 1 and judged[0] > judged[1] else math.nan
    answers = [
        Answer(
            arm, _scores(row, decimals), _cut(row["completion"], "completion"), _value(row, "judge") == best
        )
        for arm in arms
        if (row := by_arm.get(arm)) is not None
    ]
    return Answers(_cut(rows["prompt"].iloc[0], "prompt"), tuple(answers))


def _scores(row: dict[Any, Any], decimals: dict[str, int]) -> str:
    parts = [f"judge {fmt.number(_value(row, 'judge'), decimals['judge'])}"]
    for name, shown, unit in (("proxy", decimals["proxy"], ""), ("kl", 2, " nats"), ("length", 0, " tokens")):
        value = _value(row, name)
        if not math.isnan(value):
            parts.append(f"{'KL' if name == 'kl' else name} {fmt.number(value, shown)}{unit}")
    ended = row.get("ended")
    cut = ended is not None and ended == ended and not bool(ended)
    return " · ".join([*parts, "cut at the length limit"] if cut else parts)


def _value(row: dict[Any, Any], name: str) -> float:
    value = row.get(name)
    return math.nan if value is None else float(value)


def _cut(text: Any, kind: str) -> str:
    """The beginning of a long response, but both ends of a long prompt: its end is what was answered."""
    whole, limit = "" if text is None or text != text else str(text), LONGEST[kind]
    if len(whole) <= limit:
        return whole
    left_out = f" […{len(whole) - limit:,} characters left out…] "
    if kind == "completion":
        return whole[:limit] + left_out.rstrip()
    return whole[: limit // 2] + left_out + whole[len(whole) - limit // 2 :]
