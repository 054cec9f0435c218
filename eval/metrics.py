"""A policy on held-out prompts → numbers and samples. Definitions: eval/glossary.py and docs/metrics.md."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from algos import Policy, Sampling, UserError, sample
from algos.engine.batches.pairs import encode_pairs
from algos.engine.batches.prompts import EncodedPrompt, encode_prompts, room_for_prompts, texts
from algos.engine.batches.recorded import collate, recorded
from algos.engine.batches.responses import split_tokens
from algos.engine.forward import groups_per_forward, response_logits, token_logps
from algos.engine.inputs import precision
from algos.engine.memory import SHORTER
from algos.engine.rewards import call_reward
from algos.engine.rollouts import Rollouts
from algos.engine.scoring import score_policy, score_reference
from algos.engine.seeding import derive
from algos.engine.settings import Truncation
from algos.engine.text.template import render_pair
from algos.engine.text.tokens import end_of
from algos.losses import sequence_logps
from eval.directory.kinds import LARGEST
from eval.experiment import Experiment
from eval.judge import wins
from eval.settings.parts import Evaluation
from eval.tasks.materials import Materials

MAX_HELDOUT = 128  # texts and pairs: enough for two digits, few enough to cost little


@dataclass(frozen=True)
class Evaluated:
    """Metrics by name, and one record a response."""

    metrics: dict[str, float]
    samples: list[dict[str, Any]]
    plain_length: float
    """Mean tokens of the policy's own samples, of which KL and entropy are; those that are judged may be decoded otherwise."""


class Evaluator:
    """Evaluates one policy, again and again as it learns: same prompts, same random numbers every time."""

    def __init__(
        self,
        policy: Policy,
        materials: Materials,
        experiment: Experiment,
        base: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.policy, self.settings = policy, experiment.eval
        self.calls = experiment.reward_calls
        self.reward, self.judge = materials.scorers(policy.device, self.calls, experiment.dtype)
        self.base = base
        length = experiment.sampling.max_new_tokens
        self.decoding = self.settings.sampling(length)
        self.sampling = Sampling(max_new_tokens=length, group_size=self.settings.responses)
        self.seed = derive(experiment.data_seed, "evaluation")
        self.prompts, _ = encode_prompts(policy, materials.test_prompts, length, experiment.truncate_prompts)
        heldout = materials.heldout_pairs[:MAX_HELDOUT]
        pairs, _ = encode_pairs(policy, heldout, length, experiment.truncate_prompts)
        self.pairs = collate(policy, pairs) if pairs else None
        self.texts = _heldout_texts(
            policy, materials.heldout_texts[:MAX_HELDOUT], length, experiment.truncate_prompts
        )
        self._pairs_reference: Tensor | None = None

    @torch.no_grad()
    def __call__(self) -> Evaluated:
        """Without `base` samples: the base itself, which everything else is then compared with.

        What is read and judged is decoded as the settings say; KL and entropy are expectations over the
        policy's own samples, and are measured on such, drawn beside the others where they are not the same.
        """
        prompts, settings = [p.ids for p in self.prompts], self.settings
        rollouts = sample(
            self.policy, prompts, self.decoding, self.seed,
            greedy=settings.decoding == "greedy", top_p=settings.top_p, top_k=settings.top_k,
        )  # fmt: skip
        ids, completions = texts(self.policy, self.prompts, rollouts)
        rows = [prompt.row for prompt in self.prompts for _ in range(rollouts.G)]
        proxy = call_reward(self.reward, rows, completions, ids, unscored=True)
        against = [record["completion"] for record in self.base] or completions
        judged = self.judge.scores(rows, completions, ids, against, proxy)
        token_stats = own_stats = _token_statistics(self.policy, rollouts, self.settings)
        own = rollouts
        if not self.settings.is_plain:
            own = sample(self.policy, prompts, self.sampling, self.seed)
            own_stats = _token_statistics(self.policy, own, self.settings)
        samples = _records(self.prompts, rollouts, completions, judged, proxy, token_stats["kl"])
        metrics = {
            "reward/judge": _mean(judged),
            "reward/proxy": _scored_mean(proxy),
            # A pairwise judge has said it already, and may say otherwise when it is asked again.
            "win_rate": _mean(judged)
            if self.judge.pairwise
            else wins(self.judge, rows, samples, self.base or samples),
            "kl/sequence": _mean(own_stats["kl"]),
            "kl/sequence_k1": _mean(own_stats["k1"]),
            "entropy": sum(own_stats["entropy"]) / int(own.mask_PGT.sum()),
            "perplexity/reference": _perplexity(sum(token_stats["reference"]), rollouts),
            "length": float(rollouts.lengths_PG.float().mean()),
            "eos_rate": float(rollouts.ended_PG.float().mean()),
            "distinct_2": distinct_bigrams(ids),
            **overlap(rows, completions),
            **self._heldout(),
        }
        if self.calls.allow_unscored:
            metrics["unscored"] = _mean([math.isnan(score) for score in proxy])
        return Evaluated(metrics, samples, float(own.lengths_PG.float().mean()))

    def proxy_of(self, samples: Sequence[Mapping[str, Any]]) -> float:
        """The mean training reward of stored samples, which another reward may have scored when they were drawn.

        Raises UserError where they answer other prompts than these.
        """
        prompts = {i: as_text(prompt.row["prompt"]) for i, prompt in enumerate(self.prompts)}
        if any(record["prompt"] != prompts.get(record["prompt_id"]) for record in samples):
            raise UserError(
                "the base's stored responses answer other prompts than the test has. Remove the comparison's folder base, "
                "and go on with --resume: it is made again."
            )
        rows = [self.prompts[record["prompt_id"]].row for record in samples]
        completions = [record["completion"] for record in samples]
        ids = self.policy.tokenizer(completions, add_special_tokens=False).input_ids
        return _scored_mean(call_reward(self.reward, rows, completions, ids, unscored=True))

    def _heldout(self) -> dict[str, float]:
        """Forgetting, and the order of held-out pairs under the implicit reward."""
        found: dict[str, float] = {}
        if self.texts is not None:
            logps_PGT, _ = score_policy(self.policy, self.texts, 1.0)
            total = float(sequence_logps(logps_PGT, self.texts.mask_PGT).sum())
            found["perplexity/heldout"] = _perplexity(total, self.texts)
        if self.pairs is not None:
            if self._pairs_reference is None:
                self._pairs_reference = sequence_logps(
                    score_reference(self.policy, self.pairs, 1.0), self.pairs.mask_PGT
                )
            logps_PG = sequence_logps(score_policy(self.policy, self.pairs, 1.0)[0], self.pairs.mask_PGT)
            margin_P = (logps_PG - self._pairs_reference).diff(dim=-1).squeeze(-1).neg()
            # The base's own margins are rounding: within it, a tie.
            right_P = (margin_P > 1e-4).float() + 0.5 * (margin_P.abs() <= 1e-4).float()
            found["preference_accuracy"] = float(right_P.mean())
        return found


def _heldout_texts(
    policy: Policy,
    rows: Sequence[Mapping[str, Any]],
    max_new_tokens: int,
    truncate_prompts: Truncation = "drop",
) -> Rollouts | None:
    """As held-out pairs are read (`encode_pair`): cut where those are, and left out where their prompt leaves no room."""
    front = room_for_prompts(policy, max_new_tokens) if truncate_prompts == "left" else None
    kept = []
    for row in rows:
        text = render_pair(policy.tokenizer, row["prompt"], row["completion"], row["completion"])
        prompt, response, _ = split_tokens(policy, text["prompt"], text["chosen"])
        prompt = prompt if front is None else end_of(policy.tokenizer, prompt, front)
        room = math.inf if policy.max_positions is None else policy.max_positions - len(prompt)
        if prompt and response and room >= 1:
            kept.append((prompt, response[: int(min(max_new_tokens, room))]))
    return recorded(policy, [p for p, _ in kept], [[r] for _, r in kept]) if kept else None


def _token_statistics(policy: Policy, rollouts: Rollouts, settings: Evaluation) -> dict[str, list[float]]:
    """Per response, in nats: full-vocabulary KL to the reference, its k1 estimate, entropy and the
    reference's log-probability, each summed over tokens. At temperature 1."""

    def attempt(groups: int) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {"kl": [], "k1": [], "entropy": [], "reference": []}
        for part in rollouts.micro_batches(groups):
            for name, x_PGT in of_tokens(policy, part).items():
                found[name] += sequence_logps(x_PGT, part.mask_PGT).flatten().tolist()
        return found

    # Two models' logits stand side by side.
    groups = min(settings.batch_size // rollouts.G, groups_per_forward(policy.model, rollouts, logits=2))
    with policy.reference_at_hand():
        return policy.portions.run("evaluation", groups, attempt, SHORTER)


def of_tokens(policy: Policy, part: Rollouts) -> dict[str, Tensor]:
    """What `_token_statistics` sums, [P, G, T]."""
    with precision(policy.device, policy.dtype):
        logits_PGTV, _ = response_logits(policy.model, part, 1.0)
        with policy.reference() as reference:
            ref_logits_PGTV, _ = response_logits(reference, part, 1.0)
    logps_PGT, entropy_PGT = token_logps(logits_PGTV, part.response_ids_PGT)
    ref_logps_PGT, _ = token_logps(ref_logits_PGTV, part.response_ids_PGT)
    return {
        "kl": full_kl(logits_PGTV, ref_logits_PGTV),
        "k1": logps_PGT - ref_logps_PGT,
        "entropy": entropy_PGT,
        "reference": ref_logps_PGT,
    }


def full_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL(π‖π_ref) of the next-token distributions, [..., V] → [...], in nats. Never below 0 but by rounding."""
    logps, ref_logps = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    terms = logps.exp() * (logps - ref_logps)
    return torch.where(logps == -torch.inf, 0.0, terms).sum(-1).clamp(min=0)


def distinct_bigrams(responses: Sequence[list[int]]) -> float:
    """Distinct token bigrams over all bigrams of the responses together (Li et al. 2016); NaN without any."""
    bigrams = [pair for ids in responses for pair in itertools.pairwise(ids)]
    return len(set(bigrams)) / len(bigrams) if bigrams else math.nan


def overlap(rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU and chrF (sacrebleu's defaults) against the data's own `completion`, where all rows have one."""
    references = [text for row in rows if isinstance(text := row.get("completion"), str)]
    if len(references) < len(rows):
        return {}
    import sacrebleu

    return {
        "bleu": sacrebleu.corpus_bleu(list(completions), [references]).score,
        "chrf": sacrebleu.corpus_chrf(list(completions), [references]).score,
    }


def _records(
    prompts: Sequence[EncodedPrompt], rollouts: Rollouts, completions: Sequence[str],
    judged: Sequence[float], proxy: Sequence[float], kl: Sequence[float],
) -> list[dict[str, Any]]:  # fmt: skip
    G = rollouts.G
    lengths, ended = rollouts.lengths_PG.flatten().tolist(), rollouts.ended_PG.flatten().tolist()
    return [
        {
            "prompt_id": i // G, "sample": i % G, "prompt": as_text(prompts[i // G].row["prompt"]), "completion": completions[i],
            "judge": judged[i], "proxy": proxy[i], "length": lengths[i], "ended": ended[i], "kl": kl[i],
        }
        for i in range(len(completions))
    ]  # fmt: skip


def as_text(prompt: Any) -> str:
    """A prompt for people to read: chat messages as `role: content` lines."""
    return (
        prompt
        if isinstance(prompt, str)
        else "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
    )


def _perplexity(logp: float, rollouts: Rollouts) -> float:
    """Of all response tokens, from the sum of their log-probabilities; at most what a comparison's files hold."""
    cross_entropy = -logp / int(rollouts.mask_PGT.sum())
    return LARGEST if cross_entropy >= math.log(LARGEST) else math.exp(cross_entropy)


def _scored_mean(scores: Sequence[float]) -> float:
    """The mean of the scored responses; NaN is one that the reward left unscored."""
    return _mean([score for score in scores if not math.isnan(score)])


def _mean(values: Sequence[float]) -> float:
    """NaN of nothing: a reward may leave every response unscored where that is allowed."""
    return sum(values) / len(values) if values else math.nan
