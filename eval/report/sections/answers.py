"""The same prompts, answered by the base and by every arm, side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eval import format as fmt
from eval.report.document import Answer, Answers, Block, Section, Text
from eval.report.inputs import BASE, JUDGE, ReportInput
from eval.report.numbers.apart import apart
from eval.report.numbers.frames import Evaluations

if TYPE_CHECKING:
    from pandas import DataFrame

PROMPTS = 6
Run = tuple[str, int]  # arm, seed
LONGEST = {"prompt": 600, "completion": 1200}  # characters shown


def section(comparison: ReportInput, view: Evaluations) -> Section:
    """Prompts evenly spaced through the sorted ids: chosen before anyone looked at an answer."""
    shown = _shown(comparison.samples, view)
    chosen = _last_answers(comparison.samples, shown)
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
            f"same random numbers. {_another(shown)}The highest judge score is bold, none where two share it. Responses are shown "
            "unedited, control characters spelled out."
        )
    ]
    decimals = {name: fmt.reward_decimals(chosen[name].astype(float)) - 1 for name in ("judge", "proxy")}
    for prompt_id in ids:
        rows = chosen[chosen["prompt_id"] == prompt_id]
        blocks.append(_card(rows, shown, decimals))
    return Section("answers", "The same prompts, side by side", tuple(blocks))


def _shown(samples: DataFrame, view: Evaluations) -> list[Run]:
    """The base, and of every arm with samples its lowest finished seed (or lowest seed); where seeds are far from the others
    of their arm, one more, so that both kinds are seen: the farthest, or the lowest of the others if the first is far."""
    found: list[Run] = []
    for arm in (BASE, *view.arms) if len(samples) else ():
        there = {int(seed) for seed in samples.loc[samples["arm"] == arm, "seed"]}
        done = view.runs[(view.runs["arm"] == arm) & (view.runs["status"] == "done")]["seed"]
        seeds = sorted(there & set(done)) or sorted(there)
        if not seeds:
            continue
        far = _outlying(view, arm)
        typical = [seed for seed in seeds if seed not in far]
        others = typical if seeds[0] in far else [seed for seed in far if seed in there]
        found += [(arm, seed) for seed in (seeds[0], *others[:1])]
    return found


def _outlying(view: Evaluations, arm: str) -> list[int]:
    """Seeds that came to another outcome than the others, the farthest first."""
    found = {
        seed: each.gaps[seed]
        for each in apart(view, arm)
        for seed in each.far(view.base.get(JUDGE, math.nan))
    }
    return sorted(found, key=found.__getitem__, reverse=True)


def _another(shown: Sequence[Run]) -> str:
    """What the text adds where some arm answers twice."""
    twice = len(shown) > len({arm for arm, _ in shown})
    return (
        "Of an arm of which a seed lies far from the others, one more answers, named by its seed. "
        if twice
        else ""
    )


def _last_answers(samples: DataFrame, shown: Sequence[Run]) -> DataFrame:
    """Rows of these runs at their last kept point, one a prompt."""
    import pandas

    parts = []
    for arm, seed in shown:
        rows = samples[(samples["arm"] == arm) & (samples["seed"] == seed)]
        parts.append(rows[rows["point"] == rows["point"].max()].drop_duplicates("prompt_id"))
    return pandas.concat(parts) if parts else samples


def _spaced(ids: list[Any]) -> list[Any]:
    if len(ids) <= PROMPTS:
        return ids
    return [ids[round(i * (len(ids) - 1) / (PROMPTS - 1))] for i in range(PROMPTS)]


def _card(rows: DataFrame, shown: Sequence[Run], decimals: dict[str, int]) -> Answers:
    by_run = {(row["arm"], int(row["seed"])): row for row in rows.to_dict("records")}
    judged = sorted(
        (value for row in by_run.values() if not math.isnan(value := _value(row, "judge"))), reverse=True
    )
    best = judged[0] if len(judged) > 1 and judged[0] > judged[1] else math.nan
    answers = [
        Answer(
            run[0],
            _scores(row, decimals),
            _cut(row["completion"], "completion"),
            _value(row, "judge") == best,
            seed=str(run[1]) if before[0] == run[0] else "",
        )
        for before, run in itertools.pairwise([("", 0), *shown])
        if (row := by_run.get(run)) is not None
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
