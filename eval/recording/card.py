"""The model card of a trained policy: what it is, what it was trained on and how, and how it compares with its base."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval import format as fmt
from eval.data.accounting import summary
from eval.data.read import hub_name
from eval.escape import fenced, for_markdown
from eval.glossary import METRICS
from eval.sessions import sessions
from eval.settings.paths import readable
from eval.store import Run, Store

HEADLINE = ("reward/judge", "reward/proxy", "kl/sequence", "win_rate")  # what the hub is told in its own form
_MEASURED = (
    "cost/train_seconds",
    "cost/total_seconds",
    "cost/peak_memory",
)  # of the machine, not of the policy


def write_card(store: Store, run: Run, folder: Path) -> None:
    """README.md in a policy's folder, with the front matter that the Hugging Face hub reads.

    Called when the run's last evaluation is written. What comes from the user, his data and his models is
    escaped. Raises OSError where the folder cannot be written.
    """
    from huggingface_hub import ModelCard

    metrics = _last_metrics(run)
    ModelCard(f"---\n{_front_matter(store, run, metrics)}\n---\n\n{_body(store, run, metrics)}").save(
        folder / "README.md"
    )


def _last_metrics(run: Run) -> dict[str, float]:
    rows = run.read("rows")
    found = rows[-1]["metrics"] if rows else {}
    known = [name for name in METRICS if found.get(name) is not None and name not in _MEASURED]
    return {name: found[name] for name in known}


def _front_matter(store: Store, run: Run, metrics: Mapping[str, float]) -> str:
    """The card's YAML. The hub checks the names in it, so only what looks like one of its own is given."""
    from huggingface_hub import EvalResult, ModelCardData

    asked = store.experiment
    results = [
        EvalResult(
            task_type="text-generation", dataset_type=asked.task, dataset_name="held-out prompts",
            metric_type=name, metric_name=METRICS[name].label, metric_value=round(metrics[name], 6),
        )
        for name in HEADLINE
        if name in metrics
    ]  # fmt: skip
    data = ModelCardData(
        base_model=hub_name(asked.model or "") or None,
        datasets=[name for name in map(hub_name, filter(None, (asked.prompts, asked.pairs))) if name] or None,
        library_name="peft" if asked.lora else "transformers",
        pipeline_tag="text-generation",
        tags=["rlhf-compare", asked.arms[run.arm].name],
        model_name=run.folder.name,
        eval_results=results or None,
    )
    return str(data.to_yaml()).strip()


def _body(store: Store, run: Run, metrics: Mapping[str, float]) -> str:
    facts, asked = store.facts, store.experiment
    arm = (facts.get("arms") or {}).get(run.arm) or {}
    base = readable(asked.model or "") or f"the base model of the task {asked.task}"
    algorithm = asked.arms[run.arm].name
    parts = [
        f"# {for_markdown(run.folder.name)}",
        f"{for_markdown(base)}, trained with {algorithm} by rlhf-compare (arm {for_markdown(run.arm)}, seed {run.seed}). "
        "It has been judged on the held-out prompts of this comparison and on nothing else; the comparison's report "
        "has the other seeds and arms, with intervals.",
        "## Results",
        f"On the same held-out prompts, with the same random numbers. Judge: {for_markdown(str(facts.get('judge', '')))}. "
        f"Training reward: {for_markdown(str(facts.get('reward', '')))}.",
        _results(store.base_metrics, metrics),
        "## Data",
        "\n".join(f"- {for_markdown(summary(account))}" for account in facts.get("data") or [])
        or f"Of the task {asked.task}.",
        "## Settings",
        f"Budget {for_markdown(asked.budget)}, {'LoRA' if asked.lora else 'all weights'}.",
        fenced(_json(arm.get("settings") or {}), "json"),
        "## Use",
        fenced(_loading(asked.lora), "python"),
        "## Repeat",
        fenced(_first_command(store), "sh"),
        f"Versions: {for_markdown(_versions(store.environment))}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _first_command(store: Store) -> str:
    """What began the comparison: those that went on with it need what it left."""
    first, *_ = sessions(store.environment) or [{}]
    return str(first.get("command", ""))


def _results(base: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    rows = ["| metric | unit | base | this policy |", "| :--- | :--- | ---: | ---: |"]
    for name, value in metrics.items():
        metric, before = METRICS[name], base.get(name)
        shown = fmt.MISSING if before is None else fmt.compact(float(before))
        rows.append(f"| {for_markdown(metric.label)} | {metric.unit} | {shown} | {fmt.compact(value)} |")
    return "\n".join(rows) if len(rows) > 2 else ""


def _loading(lora: bool) -> str:
    kind, package = ("AutoPeftModelForCausalLM", "peft") if lora else ("AutoModelForCausalLM", "transformers")
    return (
        f"from {package} import {kind}\nfrom transformers import AutoTokenizer\n\n"
        'folder = "."  # where this file is\n'
        f"model = {kind}.from_pretrained(folder)\ntokenizer = AutoTokenizer.from_pretrained(folder)"
    )


def _versions(environment: Mapping[str, Any]) -> str:
    packages = {"python": environment.get("python", ""), **(environment.get("packages") or {})}
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _json(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, indent=1, ensure_ascii=False, default=str)
