"""Sections about how it was done: data, failures, configuration, definitions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from eval import format as fmt
from eval import sessions
from eval.glossary import METRICS, TERMS
from eval.report import commands
from eval.report.caveats.validity import accuracy_interval, reward_models
from eval.report.document import Block, Cell, Code, Column, Heads, Row, Section, Text, table
from eval.report.inputs import JUDGE, ReportInput
from eval.report.numbers.frames import Evaluations

MANY_DATA_SEEDS = 3  # a table with the stages of more is folded


def data(comparison: ReportInput) -> Section:
    """Rows read, kept and dropped with the reason; what was built once for all arms; the reward model's accuracy."""
    facts = comparison.facts
    judge = f"The judge is {facts.get('judge', 'unknown')}"
    gold = ", this task's true reward" if facts.get("judge_is_gold") else ""
    blocks: list[Block] = [Text(f"{judge}{gold}. The training reward is {facts.get('reward', 'unknown')}.")]
    if hub := facts.get("hub"):
        named = ", ".join(f"{what} {name}" for what, name in hub.items())
        blocks.append(Text(f"Taken from the hub, at these commits: {named}."))
    blocks += _accuracy(reward_models(facts))
    return Section("data", "Data and preparation", (*blocks, *_accounts(facts), *_stages(facts)))


def _accuracy(models: Mapping[str, Any]) -> list[Block]:
    """How well the reward model of every data seed orders held-out pairs."""
    known = [model for model in models.values() if "accuracy" in model]
    if not known:
        return []
    share = fmt.span([fmt.number(a, 2) for a in sorted(float(m["accuracy"]) for m in known)])
    trained, held = (_pairs(known, name) for name in ("pairs", "heldout_pairs"))
    low, high = accuracy_interval(known[0])
    interval = "" if len(known) > 1 or math.isnan(low) else f"95% interval {low:.2f} to {high:.2f}; "
    who = f"The reward model, trained on{trained} pairs,"
    if len(known) > 1:
        who = f"Each of the {len(known)} data seeds has a reward model of its own, trained on{trained} pairs, which"
    return [
        Text(
            f"{who} orders {share} of{held} held-out pairs as labelled ({interval}chance is 0.5; where labels are noisy, 1 is "
            "out of reach)."
        )
    ]


def _pairs(models: Sequence[Mapping[str, Any]], name: str) -> str:
    """The least and the most that one has, after a space; empty where it is not known."""
    counts = fmt.span([f"{count:,}" for count in sorted(int(m[name]) for m in models if m.get(name))])
    return f" {counts}" if counts else ""


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
    first = next(iter(facts.get("data_seeds") or {}), "")
    caption = f"Of data seed {first}; what is drawn anew differs for the others." if first else ""
    tables_ = [table(file_heads, files, caption, "Data")] if files else []
    return [*tables_, *([table(reason_heads, reasons, heading="Rows dropped or noted")] if reasons else [])]


def _stages(facts: Mapping[str, Any]) -> list[Block]:
    """What each stage of the preparation took; of every data seed, where there are several."""
    seeds: Mapping[str, Any] = facts.get("data_seeds") or {"": facts}
    several = len(seeds) > 1
    rows: list[Row] = [
        [*([seed] if several else []), str(stage.get("name", "")), fmt.duration(float(stage.get("seconds", math.nan))),
         _nominal(stage), "from the cache" if stage.get("cached") else "built"]
        for seed, about in seeds.items() for stage in about.get("stages") or []
    ]  # fmt: skip
    if not rows:
        return []
    once = (
        "Built once, or once for every data seed, and shared by the runs"
        if several
        else "Built once and shared by all arms"
    )
    caption = f"{once} that need them; a cached stage counts what it took when it was built."
    heads: Heads = [
        *([Column("data seed")] if several else []),
        "stage",
        Column("time"),
        Column("cost", "FLOPs"),
        "this time",
    ]
    folded = f"All {len(rows)} stages of {len(seeds)} data seeds" if len(seeds) > MANY_DATA_SEEDS else ""
    return [table(heads, rows, caption, "Preparation", folded)]


def _nominal(stage: Mapping[str, Any]) -> Cell:
    """A base model that comes with the task is counted for no arm, nor is a judge."""
    flops, counted = float(stage.get("flops", math.nan)), stage.get("name") != "judge model"
    return Cell(fmt.compact(flops) if flops else fmt.MISSING, "" if flops and counted else "in no arm's cost")


def runs(view: Evaluations) -> Section:
    """Runs that failed, diverged or have not been run, each with its last evaluation and the reason; a sentence where
    there is none."""
    bad = view.runs[(view.runs["status"] != "done") | (view.runs["diverged"] != "")]
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
    if math.isnan(value):
        return point
    return f"{point}: {fmt.label(JUDGE)} {fmt.number(value, view.judge_decimals)}"


def configuration(comparison: ReportInput) -> Section:
    """All that is needed to repeat it."""
    *before, environment = sessions.sessions(comparison.environment) or [{}]
    packages = environment.pop("packages", None) or {}
    environment.pop("no_frontier", None)  # the frontier's section tells it
    if str(environment.get("commit", "")).endswith("+"):
        environment["commit"] += " (the +: with uncommitted changes)"
    blocks: list[Block] = [
        Text("This command repeats the comparison:"),
        Code(commands.repeat(comparison), "sh"),
        _resolved(comparison),
    ]
    # An algorithm's own are under `hyperparameters` above; of a variant only what it names is there.
    variants, arms = comparison.settings.get("variants") or {}, comparison.facts.get("arms") or {}
    if whole := {arm: about.get("settings", {}) for arm, about in arms.items() if arm in variants}:
        blocks.append(Code(_yaml(whole), "yaml", "Every variant's settings, those of its algorithm included"))
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


def _resolved(comparison: ReportInput) -> Code:
    """experiment.yaml but for what nothing reads here, as `eval.settings.unused` tells it at the start: it would be taken for
    what was done."""
    settings, arms = comparison.settings, (comparison.facts.get("arms") or {}).values()
    own = settings.get("task") == "reviews"  # it has data and a reward model of its own
    drawn = not settings.get("pairs") and (not arms or any(arm.get("source") == "pairs" for arm in arms))
    idle = {
        **dict.fromkeys(("test_prompts", "columns", "on_bad_row"), own),
        **dict.fromkeys(("sampled_pairs", "label_scale"), own or not drawn),
        "reward_model": own or bool(settings.get("reward")),
        "lora_settings": not settings.get("lora"),
        **dict.fromkeys(("tune_seeds", "search"), not settings.get("tune")),
    }
    left_out = [name for name in settings if idle.get(name)]
    text = _yaml({name: value for name, value in settings.items() if name not in left_out})
    if not left_out:
        return Code(text, "yaml", "The whole resolved configuration (experiment.yaml)")
    told = f"# Not read in this comparison, so left out: {', '.join(left_out)}"
    return Code(f"{text}\n{told}", "yaml", "The resolved configuration (experiment.yaml)")


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
    """The glossary's entries of the metrics in this report, and words of the trade."""
    shown = [METRICS[name] for name in METRICS if name in view.metrics]
    rows = [
        [metric.name, metric.label, metric.unit, metric.better or fmt.MISSING, metric.definition]
        for metric in shown
    ]
    metrics = table(["name", "label", "unit", "better", "meaning"], rows)
    words = table(["word", "meaning"], [list(each) for each in TERMS.items()])
    return Section("definitions", "Definitions", (metrics, words))


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
