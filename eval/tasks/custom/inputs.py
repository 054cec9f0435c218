"""The user's files: read, checked against the model, divided by prompt; every row accounted for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from algos import Policy, UserError
from algos.engine.batches.pairs import encode_pair
from algos.engine.batches.prompts import encode_prompts, room_for_prompts
from eval.data import Accounting, Row, load_pairs, load_prompts, settle, split_rows
from eval.data.clean import PAIR
from eval.data.rows import RowError
from eval.data.split import SplitName, Splits, normalised_prompt
from eval.experiment import Experiment
from eval.settings.paths import readable
from eval.tasks.fingerprints import names_function
from eval.tasks.materials import Rows
from eval.tasks.sampled import digest_rows


@dataclass(frozen=True)
class Inputs:
    """What the user's files hold and the model can take, divided; without a file of prompts they are the
    pairs' own."""

    train_prompts: Rows
    validation_prompts: Rows
    test_prompts: Rows
    train_pairs: Rows
    heldout_pairs: Rows
    accounts: list[Accounting]
    notes: list[str]


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
    chosen = experiment.device.removeprefix("cuda:")
    if experiment.learns_reward and chosen not in (experiment.device, "0"):
        # transformers' trainers take the first GPU that they see.
        raise UserError(
            f"a reward model is trained on the first GPU; got --device {experiment.device}. Set "
            f"CUDA_VISIBLE_DEVICES={chosen} and leave out --device, or name --reward and --judge."
        )
    return experiment.model


def read_inputs(experiment: Experiment, base: Policy) -> Inputs:
    """Raises UserError where responses leave no room for prompts, a file cannot be read, rows are malformed, or nothing
    usable is left."""
    room_for_prompts(base, experiment.sampling.max_new_tokens)
    reader = _Reader(experiment, base)
    pairs = reader.pairs(experiment.pairs) if experiment.pairs else _NOTHING
    prompts = reader.prompts(experiment.prompts) if experiment.prompts else reader.prompts_of(pairs)
    given = reader.prompts(experiment.test_prompts) if experiment.test_prompts else None
    test = None if given is None else [row.values["prompt"] for row in given.rows]
    divided = split_rows(prompts.rows, test, needed=_needed(experiment, given is not None))
    divided_pairs = split_rows(pairs.rows, test, needed=("train",)) if pairs.rows else Splits()
    _tell_uses(pairs.account, divided_pairs)
    if given is None:
        _tell_uses(prompts.account, divided)
        held = divided.test
    else:
        for row in divided.test:
            prompts.account.drop("also a test prompt", row.line)
        _tell_uses(prompts.account, Splits(divided.train, divided.validation))
        given.account.uses = {"test": len(given.rows)}
        held = given.rows
    if len(held) > experiment.eval.prompts:
        reader.notes.append(
            f"Evaluation uses the first {experiment.eval.prompts} of {len(held)} test prompts."
        )
    return Inputs(
        train_prompts=_values(divided.train),
        validation_prompts=_values(divided.validation),
        test_prompts=_values(held[: experiment.eval.prompts]),
        train_pairs=_values(divided_pairs.train),
        heldout_pairs=_values(divided_pairs.test),
        accounts=reader.accounts,
        notes=reader.notes,
    )


def wants_columns(experiment: Experiment) -> bool:
    """Whether the pairs' other columns are wanted: of the prompts that are made of pairs a function is given them."""
    named = {"reward": experiment.reward, "judge": experiment.judge}
    return not experiment.prompts and any(
        names_function(spec, what) for what, spec in named.items() if spec is not None
    )


def halves(pairs: Rows) -> tuple[Rows, Rows]:
    """Training pairs in two disjoint parts by the prompt, so that the training reward and a judge that is learned, too,
    share no comparison: the reward's, from which DPO learns, and the judge's. Raises UserError for too few."""
    halves: tuple[list[Any], list[Any]] = ([], [])
    for pair in pairs:
        digest = hashlib.blake2b(
            b"judge" + normalised_prompt(pair["prompt"]).encode(), digest_size=1
        ).digest()
        halves[digest[0] % 2].append(pair)
    if min(map(len, halves)) < 2:
        raise UserError(
            f"{len(pairs)} training pairs are too few to train a reward model and a separate judge. Give more pairs, or name a judge with --judge."
        )
    return halves


@dataclass(frozen=True)
class _Usable:
    """The rows that are left of a file, and its account."""

    rows: list[Row]
    account: Accounting


_TOO_LONG = {"prompt too long", "prompt truncated", "longer than the model"}
_NOTHING = _Usable([], Accounting("", 0))


class _Reader:
    """Files → rows that the model can take. What training would leave out is left out here, and told."""

    def __init__(self, experiment: Experiment, base: Policy) -> None:
        self.experiment, self.base = experiment, base
        self.accounts: list[Accounting] = []
        self.notes: list[str] = []
        self.other_columns: dict[int, dict[str, Any]] = {}
        """Of pairs, by line: a reward is given them with the prompt; what is learned of a pair does not depend on them."""
        self.room = f"the model's {base.max_positions} tokens"
        self.room_for_prompts = f"{self.room} with {experiment.sampling.max_new_tokens} new ones"

    def pairs(self, source: str) -> _Usable:
        rows, account = load_pairs(
            readable(source),
            self.experiment.columns,
            self.experiment.on_bad_row,
            other_columns=wants_columns(self.experiment),
        )
        taken = (*PAIR, "completion")  # of prompts a reference response, which pairs have in `chosen`
        self.other_columns = {
            row.line: {name: value for name, value in row.values.items() if name not in taken} for row in rows
        }
        pairs = [replace(row, values={name: row.values[name] for name in PAIR}) for row in rows]
        return self._fitting(pairs, account, self._check_pair, self.room)

    def prompts(self, source: str) -> _Usable:
        rows, account = load_prompts(readable(source), self.experiment.columns, self.experiment.on_bad_row)
        return self._fitting(rows, account, self._check_prompt, self.room_for_prompts)

    def prompts_of(self, pairs: _Usable) -> _Usable:
        """The distinct prompts of the pairs, each with the preferred response as the data's own completion and the other
        columns of its first pair."""
        found: dict[str, Row] = {}
        unlike: dict[int, int] = {}
        """Lines of first pairs, and of the next one of the prompt whose other columns differ."""
        for row in pairs.rows:
            prompt, chosen, others = row.values["prompt"], row.values["chosen"], self.other_columns[row.line]
            reference = {"completion": chosen} if isinstance(chosen, str) else {}
            values = {"prompt": prompt, **reference, **others}
            first = found.setdefault(normalised_prompt(prompt), Row(values, row.line, row.source))
            firsts = self.other_columns[first.line]
            if others is not firsts and digest_rows([others]) != digest_rows([firsts]):
                unlike.setdefault(first.line, row.line)
        account = Accounting(f"distinct prompts of {pairs.account.file}", len(found))
        prompts = self._fitting(list(found.values()), account, self._check_prompt, self.room_for_prompts)
        for row in prompts.rows:
            if row.line in unlike:
                account.note("other columns differ between pairs of one prompt", unlike[row.line])
        return prompts

    def _fitting(
        self, rows: list[Row], account: Accounting, check: Callable[[Row], tuple[bool, list[str]]], room: str
    ) -> _Usable:
        self.accounts.append(account)
        kept: list[Row] = []
        faults: list[tuple[int, RowError]] = []
        too_long = 0
        for row in rows:
            try:
                fits, reasons = check(row)
            except (
                UserError
            ) as error:  # of a template not made for it, or a token that the model does not have
                faults.append((row.line, RowError("refused by the model or its chat template", str(error))))
                continue
            too_long += not _TOO_LONG.isdisjoint(reasons)
            if fits:
                kept.append(row)
                for reason in reasons:
                    account.note(reason, row.line)
            else:
                account.drop(reasons[0], row.line)
        settle(faults, account, self.experiment.on_bad_row)
        if not kept:
            raise UserError(
                f"nothing that fits the model is left. {' '.join(account.sentences())} Give shorter texts, lower "
                "--max-new-tokens, or pass --truncate-prompts left."
            )
        if too_long:
            self.notes.append(
                f"{account.file}: {too_long} of {account.read} rows do not fit {room}; they are dropped or cut, "
                "as the section on data says."
            )
        return _Usable(kept, account)

    def _check_prompt(self, row: Row) -> tuple[bool, list[str]]:
        length = self.experiment.sampling.max_new_tokens
        kept, counts = encode_prompts(self.base, [row.values], length, self.experiment.truncate_prompts)
        return bool(kept), list(counts)

    def _check_pair(self, row: Row) -> tuple[bool, list[str]]:
        length = self.experiment.sampling.max_new_tokens
        pair, reasons = encode_pair(self.base, row.values, length, self.experiment.truncate_prompts)
        return pair is not None, reasons


def _needed(experiment: Experiment, test_is_given: bool) -> list[SplitName]:
    needed: list[SplitName] = ["train"]
    needed += [] if test_is_given else ["test"]
    return [*needed, "validation"] if experiment.tune else needed


def _tell_uses(account: Accounting, splits: Splits) -> None:
    parts = {"training": splits.train, "validation": splits.validation, "test": splits.test}
    account.uses = {name: len(rows) for name, rows in parts.items() if rows}


def _values(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    return [row.values for row in rows]
