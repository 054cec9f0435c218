"""The user's own model, data, reward and judge; what is missing is made from what is there."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from algos import Policy, RewardModel
from algos.engine.seeding import derive
from algos.engine.text.template import render_pair
from eval.data import Accounting
from eval.experiment import Experiment
from eval.functions import load_function
from eval.settings.paths import readable
from eval.stages.cache import ArtefactCache
from eval.stages.fitting import Fit
from eval.stages.reward_model import require_classifier
from eval.tasks.custom.inputs import halves, read_inputs, require_inputs
from eval.tasks.fingerprints import model_key, names_function, reward_key
from eval.tasks.learned import Learned, learned_reward, stage_fact
from eval.tasks.materials import Materials, Rows, Scorer, StageCost
from eval.tasks.sampled import sampled_pairs

CENTRED_ON = 256  # responses of the base, to the pairs' prompts


def materials(experiment: Experiment, cache: ArtefactCache, data_seed: int) -> Materials:
    """Raises UserError where something is missing or nothing usable is left."""
    return _Builder(experiment, cache, data_seed).build()


class _Builder:
    def __init__(self, experiment: Experiment, cache: ArtefactCache, data_seed: int) -> None:
        self.experiment, self.cache, self.data_seed = experiment, cache, data_seed
        model = require_inputs(experiment)
        self.stages: list[dict[str, Any]] = []
        self.base = Policy.load(model, reference=False, **experiment.loading)
        self.model = _place(model)
        if experiment.learns_reward:
            require_classifier(self.model)
        self.inputs = read_inputs(experiment, self.base)
        self.accounts, self.notes = list(self.inputs.accounts), list(self.inputs.notes)
        self.model_key = model_key(self.model)

    def build(self) -> Materials:
        experiment, inputs = self.experiment, self.inputs
        train_pairs: Rows = inputs.train_pairs
        judge_pairs: Rows = ()
        if not experiment.reward and not experiment.judge:
            train_pairs, judge_pairs = halves(train_pairs)
        reward, learned = self._reward(train_pairs)
        judge, learned_judge = self._judge(judge_pairs, reward)
        pairs_cost = StageCost(labels=len(train_pairs))
        if experiment.samples_pairs:
            train_pairs, pairs_cost = self._sampled(inputs.train_prompts, reward)
        return Materials(
            model=self.model,
            train_prompts=inputs.train_prompts,
            validation_prompts=inputs.validation_prompts,
            test_prompts=inputs.test_prompts,
            reward=reward,
            judge=judge,
            pairs=train_pairs,
            heldout_pairs=inputs.heldout_pairs,
            heldout_texts=[
                {"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in inputs.heldout_pairs
            ],
            pairs_cost=pairs_cost,
            reward_cost=learned.cost if learned else StageCost(),
            reward_learned=learned is not None,
            facts=self._facts(reward, judge, learned, learned_judge),
        )

    def _reward(self, pairs: Rows) -> tuple[Scorer, Learned | None]:
        if self.experiment.reward:
            return self._named(self.experiment.reward, "reward"), None
        return self._learn("reward model", pairs, self.data_seed)

    def _judge(self, pairs: Rows, reward: Scorer) -> tuple[Scorer, Learned | None]:
        """The judge that was named, one learned from `pairs`, or the training reward itself."""
        if self.experiment.judge:
            return self._named(self.experiment.judge, "judge"), None
        if pairs:
            # The same for all: what runs and the base are measured by is no part of the data that is drawn anew.
            # And from a head of its own: from the reward model's it would share the errors that it is there to show.
            seed = derive(self.experiment.data_seed, "judge model") % 2**31
            scorer, learned = self._learn("judge model", pairs, seed)
            self.notes.append(
                f"No judge was given: responses are judged by a reward model trained on a disjoint half of the pairs (held-out accuracy {learned.facts['accuracy']:.2f})."
            )
            return scorer, learned
        return reward, None

    def _named(self, given: str, what: str) -> Scorer:
        spec = readable(given)
        if names_function(spec, what):
            return Scorer("function", load_function(spec, what).spec, spec)
        model = RewardModel(spec, self.base.device)
        if model.pooling == "model":
            self.notes.append(
                f"The {what} model {spec} keeps the pooling it was trained with (transformers' own: the last token that is not padding)."
            )
        return Scorer("model", _place(spec), spec)

    def _learn(self, name: str, pairs: Rows, seed: int) -> tuple[Scorer, Learned]:
        """A reward model initialised from the base and trained on the pairs, centred on the base's responses."""
        experiment, rendered = self.experiment, _rendered(self.base, pairs)
        fit = Fit(
            **asdict(experiment.reward_model), seed=seed, threads=experiment.threads_per_run, device=str(self.base.device),
            dtype=experiment.dtype, gradient_checkpointing=experiment.gradient_checkpointing,
            micro_batch=experiment.micro_batch,
        )  # fmt: skip
        learned = learned_reward(
            self.cache, self.base, self.model, rendered, fit, stage=name,
            prompts=[{"prompt": row["prompt"]} for row in rendered], count=CENTRED_ON,
            max_new_tokens=experiment.sampling.max_new_tokens, identity={"model": self.model_key},
            truncate_prompts=experiment.truncate_prompts,
        )  # fmt: skip
        self.stages.append(stage_fact(name, learned.built, learned.cost.flops))
        account = Accounting(f"pairs for the {name}", len(pairs))
        account.drop("longer than the model", rows=learned.facts["dropped_too_long"])
        account.uses = {"training": learned.facts["pairs"], "held out": learned.facts["heldout_pairs"]}
        self.accounts.append(account)
        title = (
            "a reward model trained on the pairs"
            if name == "reward model"
            else "a reward model trained on a disjoint half of the pairs"
        )
        return Scorer("model", str(learned.built.path), title), learned

    def _sampled(self, prompts: Rows, reward: Scorer) -> tuple[Rows, StageCost]:
        experiment = self.experiment
        assert experiment.reward is not None
        pairs, cost, built = sampled_pairs(
            self.cache, self.base, prompts, experiment.sampling, count=experiment.sampled_pairs, seed=self.data_seed,
            reward=reward.open(self.base.device, experiment.reward_calls, experiment.dtype), scale=experiment.label_scale,
            identity={"model": self.model_key, "reward": reward_key(experiment.reward)},
            truncate_prompts=experiment.truncate_prompts,
        )  # fmt: skip
        self.stages.append(stage_fact("sampled pairs", built, cost.flops))
        account = Accounting("pairs sampled from the model", experiment.sampled_pairs)
        account.drop("identical, empty or unscored", rows=experiment.sampled_pairs - len(pairs))
        account.uses = {"training": len(pairs)}
        self.accounts.append(account)
        return pairs, cost

    def _facts(
        self, reward: Scorer, judge: Scorer, learned: Learned | None, learned_judge: Learned | None
    ) -> dict[str, Any]:
        scale, sampled = self.experiment.label_scale, not self.experiment.pairs
        anew = {
            "pairs": any(stage["name"] == "sampled pairs" for stage in self.stages),
            "reward model": learned is not None,
        }
        facts: dict[str, Any] = {
            "task": "custom",
            "judge": judge.title,
            "judge_is_gold": False,
            "judge_is_reward": judge == reward,
            "reward": reward.title,
            "beta_is_objective": sampled and scale == 1,
            "labels": f"were drawn from the training reward at scale {scale:g}"
            if sampled
            else "were not drawn from the training reward",
            "varies": [what for what, varies in anew.items() if varies],
            "data": [account.as_dict() for account in self.accounts],
            "notes": self.notes,
            "stages": self.stages,
            "hub": self._from_hub(reward, judge),
        }
        models = {"reward_model": learned, "judge_model": learned_judge}
        return facts | {name: model.facts for name, model in models.items() if model}

    def _from_hub(self, reward: Scorer, judge: Scorer) -> dict[str, str]:
        """The models that were taken from the hub, with their commits."""
        models = {"model": self.model}
        models |= {
            name: one.where for name, one in (("reward", reward), ("judge", judge)) if one.kind == "model"
        }
        return {name: where for name, where in models.items() if not Path(where).is_absolute()}


def _place(model: str) -> str:
    """Where a model that was loaded lies wherever and whenever the comparison is gone on with: its directory, or its
    commit on the hub, where a name alone may mean something else tomorrow."""
    return str(Path(model).resolve()) if os.path.isdir(model) else model_key(model)


def _rendered(base: Policy, pairs: Rows) -> list[dict[str, str]]:
    return [render_pair(base.tokenizer, row["prompt"], row["chosen"], row["rejected"]) for row in pairs]
