"""The user's own model, data, reward and judge; what is missing is made from what is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from algos import Policy, RewardModel, UserError
from algos.engine.errors import one_line
from algos.engine.pairs import encode_pairs
from algos.engine.prompts import encode_prompts
from algos.engine.template import Text, render_pair
from algos.engine.text import encode_prompt
from eval.data import Accounting, Row, load_pairs, load_prompts, split_rows
from eval.data.split import Splits, normalised_prompt
from eval.experiment import Experiment
from eval.functions import load_function
from eval.plan import Shape
from eval.stages import train_reward_model
from eval.tasks.materials import Materials, Rows, Scorer, StageCost
from eval.tasks.sampled import base_responses, digest_rows, sampled_pairs
from eval.workshop import FACTS, Artefact, Workshop, content_hash


def materials(experiment: Experiment, workshop: Workshop, data_seed: int) -> Materials:
    """Raises UserError where something is missing or nothing usable is left."""
    return _Builder(experiment, workshop, data_seed).build()


@dataclass(frozen=True)
class _Learned:
    """A reward model trained on pairs, and what is to be told of it."""

    scorer: Scorer
    facts: dict[str, Any]
    cost: StageCost


class _Builder:
    def __init__(self, experiment: Experiment, workshop: Workshop, data_seed: int) -> None:
        self.experiment, self.workshop, self.data_seed = experiment, workshop, data_seed
        _require_inputs(experiment)
        assert experiment.model is not None
        self.model = experiment.model
        self.accounts: list[Accounting] = []
        self.notes: list[str] = []
        self.stages: list[dict[str, Any]] = []
        self.base = Policy.load(
            self.model,
            dtype=experiment.dtype,
            device=experiment.device,
            trust_remote_code=experiment.trust_remote_code,
        )
        self.model_key = model_identity(self.model)

    def build(self) -> Materials:
        experiment = self.experiment
        pairs = self._read(load_pairs, experiment.pairs) if experiment.pairs else None
        prompts = (
            self._read(load_prompts, experiment.prompts) if experiment.prompts else _prompts_of(pairs or [])
        )
        given_test = self._read(load_prompts, experiment.test_prompts) if experiment.test_prompts else None
        test_texts: list[Text] | None = [row.values["prompt"] for row in given_test] if given_test else None
        split_prompts = split_rows(
            prompts, test_texts, needed=("train",) if given_test else ("train", "test")
        )
        split_pairs = split_rows(pairs, test_texts, needed=("train",)) if pairs else Splits()
        self._check_fit(prompts, pairs)
        test = self._fitting(_values(given_test if given_test is not None else split_prompts.test))
        train_pairs: Rows = _values(split_pairs.train)
        judge_pairs: Rows = ()
        if pairs and not experiment.judge and not experiment.reward:
            train_pairs, judge_pairs = _halves(train_pairs)
        reward, learned = self._reward(train_pairs)
        judge = self._judge(judge_pairs, reward)
        train_prompts = _values(split_prompts.train)
        pairs_cost = StageCost(labels=len(train_pairs))
        if not pairs and any(arm.needs.source == "pairs" for arm in experiment.arms.values()):
            train_pairs, pairs_cost = self._sampled(train_prompts, reward)
        elif pairs and any(arm.needs.source == "pairs" for arm in experiment.arms.values()):
            self.notes.append(
                "The pairs' labels were not drawn from the training reward, so DPO's β is a regulariser of its own, not the objective's: compare the arms at matched KL."
            )
        return Materials(
            model=self.model,
            train_prompts=train_prompts,
            validation_prompts=_values(split_prompts.validation),
            test_prompts=test,
            reward=reward,
            judge=judge,
            pairs=train_pairs,
            heldout_pairs=_values(split_pairs.test),
            heldout_texts=[
                {"prompt": p["prompt"], "completion": p["chosen"]}
                for p in _rendered(self.base, _values(split_pairs.test))
            ],
            pairs_cost=pairs_cost,
            reward_cost=learned.cost if learned else StageCost(),
            reward_learned=learned is not None,
            facts=self._facts(reward, judge, learned),
        )

    def _read(self, load: Any, source: str) -> list[Row]:
        rows, account = load(source, self.experiment.columns, self.experiment.on_bad_row)
        self.accounts.append(account)
        kept: list[Row] = rows
        return kept

    def _fitting(self, test: Rows) -> Rows:
        """The test prompts to evaluate on; raises UserError where none fits the model."""
        experiment, length = self.experiment, self.experiment.sampling.max_new_tokens
        encoded, _ = encode_prompts(self.base, test, length, experiment.truncate_prompts)
        if not encoded:
            raise UserError(
                f"none of the {len(test)} test prompts fits the model's {self.base.max_positions} positions with "
                f"{length} new tokens. Lower --max-new-tokens or pass --truncate-prompts left."
            )
        return [prompt.row for prompt in encoded[: experiment.eval.prompts]]

    def _check_fit(self, prompts: Sequence[Row], pairs: Sequence[Row] | None) -> None:
        """Counts what does not fit the model, by file."""
        length = self.experiment.sampling.max_new_tokens
        where = {account.file: account for account in self.accounts}
        if self.experiment.prompts:
            for row in prompts:
                self._count(
                    where[row.source],
                    row,
                    encode_prompts(self.base, [row.values], length, self.experiment.truncate_prompts)[1],
                )
        for row in pairs or []:
            self._count(where[row.source], row, encode_pairs(self.base, [row.values], length)[1])

    def _count(self, account: Accounting, row: Row, counts: Mapping[str, int]) -> None:
        for reason in counts:
            kept = reason in ("prompt truncated", "response truncated", "boundary merge")
            (account.note if kept else account.drop)(reason, row.line)

    def _reward(self, pairs: Rows) -> tuple[Scorer, _Learned | None]:
        if self.experiment.reward:
            return self._named(self.experiment.reward, "reward"), None
        learned = self._learn("reward model", pairs)
        return learned.scorer, learned

    def _judge(self, pairs: Rows, reward: Scorer) -> Scorer:
        if self.experiment.judge:
            return self._named(self.experiment.judge, "judge")
        if pairs:
            learned = self._learn("judge model", pairs)
            self.notes.append(
                f"No judge was given: responses are judged by a reward model trained on a disjoint half of the pairs (held-out accuracy {learned.facts['accuracy']:.2f})."
            )
            return learned.scorer
        self.notes.append(
            "No judge was given: responses are judged by the training reward itself, which cannot show over-optimization. Name one with --judge."
        )
        return reward

    def _named(self, spec: str, what: str) -> Scorer:
        if ".py:" in spec or spec.endswith(".py"):
            return Scorer("function", load_function(spec, what).spec, spec)
        model = RewardModel(spec, self.base.device)
        if model.pooling == "model":
            self.notes.append(
                f"The {what} model {spec} keeps the pooling it was trained with (transformers' own: the last token that is not padding)."
            )
        return Scorer("model", spec, spec)

    def _learn(self, name: str, pairs: Rows) -> _Learned:
        """A reward model initialised from the base and trained on the pairs, centred on the base's responses."""
        experiment, settings = self.experiment, self.experiment.reward_model
        rendered = _rendered(self.base, pairs)
        key = {
            "model": self.model_key, "pairs": digest_rows(rendered), "settings": asdict(settings), "seed": self.data_seed,
            "threads": experiment.threads_per_run, "max_new_tokens": experiment.sampling.max_new_tokens,
        }  # fmt: skip

        def make(folder: Path) -> None:
            prompts = [{"prompt": row["prompt"]} for row in rendered]
            own = base_responses(self.base, prompts, experiment.sampling.max_new_tokens, 256, self.data_seed)
            centre = [row["prompt"] + row["completion"] for row in own]
            train_reward_model(
                Path(self.model), rendered, folder, centre_on=centre, **asdict(settings),
                seed=self.data_seed, threads=experiment.threads_per_run, device=str(self.base.device),
            )  # fmt: skip

        built = self.workshop.build(name.replace(" ", "-"), key, make)
        facts = json.loads((built.path / FACTS).read_text(encoding="utf-8"))
        tokens = sum(
            len(self.base.tokenizer(row["prompt"] + row[side]).input_ids)
            for row in rendered
            for side in ("chosen", "rejected")
        )
        cost = StageCost(6.0 * self.base.size * tokens * settings.epochs, built.seconds, 0)
        self._stage(name, built, cost.flops)
        title = (
            "reward model trained on the pairs"
            if name == "reward model"
            else "reward model on a disjoint half of the pairs"
        )
        return _Learned(Scorer("model", str(built.path), title), facts, cost)

    def _sampled(self, prompts: Rows, reward: Scorer) -> tuple[Rows, StageCost]:
        experiment = self.experiment
        assert experiment.reward is not None
        pairs, cost, built = sampled_pairs(
            self.workshop, self.base, prompts, experiment.sampling, count=experiment.sampled_pairs, seed=self.data_seed,
            reward=reward.open(self.base.device), scale=experiment.label_scale,
            identity={"model": self.model_key, "reward": function_identity(experiment.reward)},
        )  # fmt: skip
        self._stage("sampled pairs", built, cost.flops)
        if experiment.label_scale != 1:
            self.notes.append(
                f"Labels were drawn with scale {experiment.label_scale:g}, not 1: DPO's β is then not the objective's; compare the arms at matched KL."
            )
        return pairs, cost

    def _stage(self, name: str, built: Artefact, flops: float) -> None:
        self.stages.append({"name": name, "seconds": built.seconds, "flops": flops, "cached": built.cached})

    def _facts(self, reward: Scorer, judge: Scorer, learned: _Learned | None) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "task": "custom",
            "judge": judge.title,
            "judge_is_gold": False,
            "reward": reward.title,
            "data": [account.as_dict() for account in self.accounts],
            "notes": self.notes,
            "stages": self.stages,
        }
        return facts | ({"reward_model": learned.facts} if learned else {})


def _require_inputs(experiment: Experiment) -> None:
    if not experiment.model:
        raise UserError("the task custom needs a model; got none. Name a directory or a hub id with --model.")
    if not experiment.prompts and not experiment.pairs:
        raise UserError(
            "the task custom needs data; got none. Name prompts with --prompts (and --reward), or preference pairs with --pairs."
        )
    if not experiment.reward and not experiment.pairs:
        raise UserError(
            "prompts alone cannot be learned from; got no reward. Name one with --reward file.py:function, or give --pairs."
        )


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


def _halves(pairs: Rows) -> tuple[Rows, Rows]:
    """Two disjoint parts by the prompt, so that judge and training reward share no comparison."""
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


def _rendered(base: Policy, pairs: Rows) -> list[dict[str, str]]:
    return [render_pair(base.tokenizer, row["prompt"], row["chosen"], row["rejected"]) for row in pairs]


def model_identity(model: str) -> str:
    """What a cache may know a model by: the content of a local one, the commit of one from the hub."""
    if Path(model).exists():
        return content_hash(Path(model))
    from transformers import AutoConfig

    return f"{model}@{getattr(AutoConfig.from_pretrained(model), '_commit_hash', None)}"


def function_identity(spec: str) -> str:
    """What a cache may know a reward by: a model's content, or a function's file and what lies beside it."""
    path = Path(spec.rpartition(":")[0] if ".py:" in spec else spec)
    if path.is_dir():
        return content_hash(path)
    if not path.is_file():
        return spec
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16)
    for file in sorted(path.parent.iterdir()):
        if file.is_file():
            # By size and time: lexicons and helpers that the function reads, without reading them all.
            digest.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    return f"{spec.rpartition(':')[2]}@{digest.hexdigest()}"


def shape(experiment: Experiment) -> tuple[Shape, int | None]:
    """Parameters from the model's configuration, tokens a prompt from the data; the number of pairs, if known."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    _require_inputs(experiment)
    assert experiment.model is not None
    try:
        with torch.device("meta"):  # shapes without weights
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(experiment.model))
        tokenizer = AutoTokenizer.from_pretrained(experiment.model)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read a causal language model at {experiment.model!r}: {one_line(error)}"
        ) from error
    source = experiment.prompts or experiment.pairs or ""
    load = load_prompts if experiment.prompts else load_pairs
    rows, _ = load(source, experiment.columns, experiment.on_bad_row)
    some = [len(encode_prompt(tokenizer, row.values["prompt"])) for row in rows[:256]]
    parameters = sum(p.numel() for p in model.parameters())
    pairs = (
        len(split_rows(rows, needed=("train",)).train)
        if experiment.pairs and not experiment.prompts
        else None
    )
    learned = 0 if experiment.reward else parameters
    return Shape(
        parameters, learned, sum(some) / len(some), float(experiment.sampling.max_new_tokens)
    ), pairs or experiment.sampled_pairs
