"""The user's files: read, divided by prompt, checked against the model; every row accounted for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from algos import Policy, UserError
from algos.engine.pairs import encode_pairs
from algos.engine.prompts import encode_prompts
from algos.engine.template import Text
from eval.data import Accounting, Row, load_pairs, load_prompts, split_rows
from eval.data.split import Splits, normalised_prompt
from eval.experiment import Experiment
from eval.tasks.materials import Rows


@dataclass(frozen=True)
class Inputs:
    """What the user's files hold, divided; without a file of prompts they are the pairs' own."""

    train_prompts: Rows
    validation_prompts: Rows
    test_prompts: Rows
    train_pairs: Rows
    heldout_pairs: Rows
    accounts: list[Accounting]


def require_inputs(experiment: Experiment) -> str:
    """The model's name. Raises UserError where the task has not enough to work on."""
    if not experiment.model:
        raise UserError("the task custom needs a model; got none. Name a directory or a hub id with --model.")
    if not experiment.prompts and not experiment.pairs:
        raise UserError(
            "the task custom needs data; got none. Name prompts with --prompts (and --reward), or preference "
            "pairs with --pairs."
        )
    if not experiment.reward and not experiment.pairs:
        raise UserError(
            "prompts alone cannot be learned from; got no reward. Name one with --reward file.py:function, or "
            "give --pairs."
        )
    return experiment.model


def read_inputs(experiment: Experiment, base: Policy) -> Inputs:
    """Raises UserError where a file cannot be read or nothing usable is left of it."""
    accounts: list[Accounting] = []

    def read(load: Callable[..., tuple[list[Row], Accounting]], source: str | None) -> list[Row]:
        if source is None:
            return []
        rows, account = load(source, experiment.columns, experiment.on_bad_row)
        accounts.append(account)
        return rows

    pairs, prompts = read(load_pairs, experiment.pairs), read(load_prompts, experiment.prompts)
    given_test = read(load_prompts, experiment.test_prompts)
    _count_misfits(experiment, base, prompts, pairs, {account.file: account for account in accounts})
    test_texts: list[Text] | None = [row.values["prompt"] for row in given_test] if given_test else None
    divided = split_rows(
        prompts or _prompts_of(pairs), test_texts, needed=("train",) if given_test else ("train", "test")
    )
    divided_pairs = split_rows(pairs, test_texts, needed=("train",)) if pairs else Splits()
    return Inputs(
        train_prompts=_values(divided.train),
        validation_prompts=_values(divided.validation),
        test_prompts=_fitting(experiment, base, _values(given_test or divided.test)),
        train_pairs=_values(divided_pairs.train),
        heldout_pairs=_values(divided_pairs.test),
        accounts=accounts,
    )


def _count_misfits(
    experiment: Experiment,
    base: Policy,
    prompts: Iterable[Row],
    pairs: Iterable[Row],
    accounts: Mapping[str, Accounting],
) -> None:
    """Tells the accounts what does not fit the model; training leaves the same rows out."""
    length = experiment.sampling.max_new_tokens
    for row in prompts:
        _, reasons = encode_prompts(base, [row.values], length, experiment.truncate_prompts)
        _tell(accounts[row.source], row, reasons)
    for row in pairs:
        _, reasons = encode_pairs(base, [row.values], length)
        _tell(accounts[row.source], row, reasons)


def _tell(account: Accounting, row: Row, reasons: Iterable[str]) -> None:
    for reason in reasons:
        kept = reason in ("prompt truncated", "response truncated", "boundary merge")
        (account.note if kept else account.drop)(reason, row.line)


def _fitting(experiment: Experiment, base: Policy, test: Rows) -> Rows:
    """The test prompts to evaluate on; raises UserError where none fits the model."""
    length = experiment.sampling.max_new_tokens
    encoded, _ = encode_prompts(base, test, length, experiment.truncate_prompts)
    if not encoded:
        raise UserError(
            f"none of the {len(test)} test prompts fits the model's {base.max_positions} positions with "
            f"{length} new tokens. Lower --max-new-tokens or pass --truncate-prompts left."
        )
    return [prompt.row for prompt in encoded[: experiment.eval.prompts]]


def _prompts_of(pairs: Sequence[Row]) -> list[Row]:
    """The distinct prompts of the pairs, with the preferred response as the data's own completion."""
    found: dict[str, Row] = {}
    for row in pairs:
        chosen = row.values["chosen"]
        values = {"prompt": row.values["prompt"]} | (
            {"completion": chosen} if isinstance(chosen, str) else {}
        )
        found.setdefault(normalised_prompt(row.values["prompt"]), Row(values, row.line, row.source))
    return list(found.values())


def _values(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    return [row.values for row in rows]
