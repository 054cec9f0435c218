"""Sections about how it was done: diagnostics, data, failures, configuration, definitions, and what to do next."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from eval import format as fmt
from eval import sessions
from eval.glossary import METRICS
from eval.report import commands, diagnostics, verdict
from eval.report.document import Block, Cell, Code, Column, Heads, Picture, Row, Section, Text, table
from eval.report.frames import Evaluations
from eval.report.inputs import JUDGE, ReportInput
from eval.report.standings import Standing, Standings
from eval.report.theme import Style

MORE_SEEDS = 2  # that are proposed to whoever wants to be surer, where the verdict proposes no number


def training(comparison: ReportInput, look: dict[str, Style]) -> Section:
    """One figure an algorithm, with the metrics that it logged."""
    events = comparison.events
    blocks: list[Block] = []
    for number, algorithm in enumerate(dict.fromkeys(style.algorithm for style in look.values())):
        own = {arm: style for arm, style in look.items() if style.algorithm == algorithm}
        rows = events[events["arm"].isin(own)] if len(events) else events
        metrics = diagnostics.logged(rows) if len(rows) else []
        if not metrics:
            blocks.append(Text(f"{algorithm}: nothing was logged during training.", label="No diagnostics"))
            continue
        caption = (
            f"{algorithm}: what training logged, against updates. Thin lines are seeds, bold lines their mean. "
            f"Averaged over up to {diagnostics.BINS} stretches of training (maxima stay maxima); values that are not finite are "
            "not drawn; logarithmic where values span orders of magnitude."
        )
        figure = diagnostics.figure(rows, own, metrics)
        blocks.append(
            Picture(f"diagnostics-{number + 1}", figure, caption, f"Training diagnostics of {algorithm}")
        )
    return Section("diagnostics", "Diagnostics of training", tuple(blocks))


def data(comparison: ReportInput) -> Section:
    """Rows read, kept and dropped with the reason; what was built once for all arms; the reward model's accuracy."""
    facts = comparison.facts
    judge = f"The judge is {facts.get('judge', 'unknown')}"
    gold = ", the truth of this task (gold)" if facts.get("judge_is_gold") else ""
    blocks: list[Block] = [Text(f"{judge}{gold}. The training reward is {facts.get('reward', 'unknown')}.")]
    if hub := facts.get("hub"):
        named = ", ".join(f"{what} {name}" for what, name in hub.items())
        blocks.append(Text(f"Taken from the hub, at these commits: {named}."))
    model = facts.get("reward_model") or {}
    if "accuracy" in model:
        count = f" {model['pairs']:,}" if "pairs" in model else ""
        accuracy = fmt.number(float(model["accuracy"]), 3)
        blocks.append(
            Text(
                f"The reward model's accuracy on held-out pairs is {accuracy} (trained on{count} pairs; chance is 0.5)."
            )
        )
    return Section("data", "Data and preparation", (*blocks, *_accounts(facts), *_stages(facts)))


def _accounts(facts: Mapping[str, Any]) -> list[Block]:
    """What became of every row of every file, and the reasons with the lines they concern."""
    files: list[Row] = []
    reasons: list[Row] = []
    for entry in facts.get("data") or []:
        name, read, kept = str(entry.get("file", "")), int(entry.get("read", 0)), int(entry.get("kept", 0))
        uses = ", ".join(f"{use} {rows:,}" for use, rows in (entry.get("uses") or {}).items())
        files.append([name, f"{read:,}", f"{read - kept:,}", f"{kept:,}", uses or fmt.MISSING])
        for reason, told in (entry.get("reasons") or {}).items():
            about = told if isinstance(told, Mapping) else {"rows": told}
            count, lines = int(about["rows"]), list(about.get("lines", []))
            shown = ", ".join(map(str, lines)) + (", …" if lines and count > len(lines) else "")
            what = "dropped" if about.get("dropped", True) else "kept, but noted"
            reasons.append([name, reason, what, f"{count:,}", shown or fmt.MISSING])
    file_heads: Heads = [
        "file",
        Column("read", "rows"),
        Column("dropped", "rows"),
        Column("kept", "rows"),
        "kept for",
    ]
    reason_heads: Heads = ["file", "reason", "", Column("rows"), "lines"]
    tables_ = [table(file_heads, files, heading="Data")] if files else []
    return [*tables_, *([table(reason_heads, reasons, heading="Rows dropped or noted")] if reasons else [])]


def _stages(facts: Mapping[str, Any]) -> list[Block]:
    rows = [
        [str(stage.get("name", "")), fmt.duration(float(stage.get("seconds", math.nan))),
         fmt.compact(float(stage.get("flops", math.nan))), "from the cache" if stage.get("cached") else "built"]
        for stage in facts.get("stages") or []
    ]  # fmt: skip
    if not rows:
        return []
    caption = "Built once and shared by all arms that need them; a cached stage counts what it took when it was built."
    return [
        table(["stage", Column("time"), Column("cost", "FLOPs"), "this time"], rows, caption, "Preparation")
    ]


def runs(view: Evaluations) -> Section:
    """Runs that failed, diverged or have not been run, each with its last evaluation and the reason; a sentence where
    there is none."""
    marked = view.runs.assign(diverged=view.runs.get("diverged", ""))
    marked = marked.fillna({"error": "", "diverged": ""})
    bad = marked[(marked["status"] != "done") | (marked["diverged"] != "")]
    if not len(bad):
        return Section(
            "failed", "Failed runs", (Text(f"None: all {len(view.runs)} runs reached their end."),)
        )
    rows: list[Row] = [
        [
            Cell(run["arm"], arm=run["arm"]),
            str(run["seed"]),
            f"{run['status']}{', diverged' * bool(run['diverged'])}",
            _share(run["fraction"]),
            _last_evaluation(view, run["arm"], run["seed"]),
            " ".join(str(run[why]) for why in ("error", "diverged") if run[why]),
        ]
        for run in bad.to_dict("records")
    ]
    heads: Heads = ["arm", Column("seed"), "status", Column("budget used"), "last evaluation", "why"]
    caption = (
        "Runs that did not reach their end are in no mean. Where one was evaluated before it ended, figures show it up "
        "to there. A run that diverged went on to its end and counts."
    )
    return Section("failed", "Failed runs", (table(heads, rows, caption),))


def _last_evaluation(view: Evaluations, arm: str, seed: int) -> str:
    rows = view.ends[(view.ends["arm"] == arm) & (view.ends["seed"] == seed)]
    if not len(rows):
        return fmt.MISSING
    point = f"point {int(rows['point'].iloc[0])}"
    value = float(rows[JUDGE].iloc[0]) if JUDGE in rows else math.nan
    return point if math.isnan(value) else f"{point}: {fmt.label(JUDGE)} {fmt.number(value, 3)}"


def configuration(comparison: ReportInput) -> Section:
    """All that is needed to repeat it."""
    *before, environment = sessions.sessions(comparison.environment) or [{}]
    packages = environment.pop("packages", None) or {}
    environment.pop("no_frontier", None)  # the frontier's section tells it
    blocks: list[Block] = []
    blocks += [
        Text("This command repeats the comparison:"),
        Code(commands.repeat(comparison), "sh"),
        Code(_yaml(comparison.experiment), "yaml", "The whole resolved configuration (experiment.yaml)"),
    ]
    arms = comparison.facts.get("arms") or {}
    if arms:
        settings = {arm: about.get("settings", {}) for arm, about in arms.items()}
        blocks.append(Code(_yaml(settings), "yaml", "Every arm's settings"))
    rows = [[key, _flat(value)] for key, value in environment.items()]
    rows += (
        [["packages", ", ".join(f"{name} {version}" for name, version in packages.items())]]
        if packages
        else []
    )
    rows += [_earlier(session, comparison.environment) for session in before]
    return Section(
        "configuration", "Configuration and versions", (*blocks, table(["where it ran", ""], rows))
    )


def _earlier(session: Mapping[str, Any], last: Mapping[str, Any]) -> list[str]:
    """What is told of a session before the last one."""
    when = " to ".join(str(session[name]) for name in ("started", "finished") if session.get(name))
    told = [
        f"command {session.get('command', '')}",
        f"runs {session.get('runs', 0)}",
        *sessions.changes(session, last),
    ]
    return [f"before, {when or 'at an unknown time'}", ", ".join(told)]


def definitions(view: Evaluations) -> Section:
    """The glossary's entries of the metrics in this report."""
    shown = [METRICS[name] for name in METRICS if name in view.metrics]
    rows = [
        [metric.name, metric.label, metric.unit, metric.better or fmt.MISSING, metric.definition]
        for metric in shown
    ]
    return Section(
        "definitions", "Definitions", (table(["name", "label", "unit", "better", "meaning"], rows),)
    )


def what_next(comparison: ReportInput, view: Evaluations, found: Standings) -> Section:
    """The leading arm's policy, how to load it, how to train it alone, how to be surer."""
    blocks: list[Block] = _use(comparison, view, found.end) if found.end.ranking else []
    more = verdict.proposed_seeds(comparison, view, found) or view.runs["seed"].nunique() + MORE_SEEDS
    blocks += [
        Text("To be surer, add seeds; finished runs are kept:"),
        Code(commands.resume(comparison, more), "sh"),
    ]
    return Section("next", "What to do next", tuple(blocks))


def _use(comparison: ReportInput, view: Evaluations, end: Standing) -> list[Block]:
    arm, rows = end.ranking[0], view.runs
    done = rows[
        (rows["arm"] == arm) & (rows["status"] == "done") & (rows["policy"].fillna("") != "")
    ].sort_values("seed")
    blocks: list[Block] = []
    if len(done):
        where = (comparison.path / str(done["policy"].iloc[0])).as_posix()
        blocks += [
            Text(
                f"{arm} has the highest mean{_reservation(end)}. Its policy of seed {done['seed'].iloc[0]} is in {where} (the lowest seed, not the best: "
                "choosing the best on these prompts would flatter it). To load it:"
            ),
            Code(_loading(where), "python"),
        ]
    return [*blocks, Text("To train it alone:"), Code(commands.alone(comparison, arm), "sh")]


def _reservation(end: Standing) -> str:
    """Of which arms it is not known that the one of the highest mean is above them; on their common seeds one may be
    above it."""
    arm, *others = end.ranking
    told = {pair.rival(arm): pair.first for pair in end.of(arm) if pair.told_apart}
    level = [other for other in others if other not in told]
    above = [other for other in others if told.get(other) == other]
    said = [f"it is not told apart from {fmt.listing(level, link='or')}"] if level else []
    said += [f"on the seeds of both it is below {fmt.listing(above)}"] if above else []
    return f", though {' and '.join(said)}" if said else ""


def _loading(where: str) -> str:
    quoted = json.dumps(where, ensure_ascii=False)
    return (
        f"from algos import Policy\n\npolicy = Policy.load({quoted})\n\n"
        "# or with transformers alone\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({quoted})\ntokenizer = AutoTokenizer.from_pretrained({quoted})"
    )


def _yaml(value: Any) -> str:
    """YAML of anything: paths, tuples and the like become strings and lists first."""
    import yaml

    plain = json.loads(json.dumps(value, default=str))
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)).rstrip()


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(inner)}" for key, inner in value.items())
    return (", ".join(map(str, value)) or "none") if isinstance(value, list | tuple) else str(value)


def _share(fraction: Any) -> str:
    return fmt.MISSING if fraction is None or math.isnan(fraction) else f"{100 * fraction:.0f}%"
