"""Every evaluation metric: one name, one unit, one definition, one direction. Code, report and docs read it here."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """What one metric means. `better` is "higher", "lower" or None where neither is."""

    name: str
    label: str
    unit: str
    definition: str
    better: str | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the most that it can be, infinite where nothing is known."""
        return _BOUNDS.get(self.name) or _BOUNDS.get(self.unit) or (-math.inf, math.inf)


_BOUNDS = {
    "share": (0.0, 1.0), "0-100": (0.0, 100.0), "tokens": (0.0, math.inf), "nats/token": (0.0, math.inf),
    "per token": (1.0, math.inf), "kl/sequence": (0.0, math.inf),
}  # fmt: skip
"""By unit or name; perplexities are per token."""

_DEFINITIONS = [
    Metric(
        "reward/judge", "judge reward", "reward",
        "Judge's score of responses to held-out prompts, or a pairwise judge's probability that they beat the base's: the primary metric. Training never sees it, unless --reward is given without --judge and serves as both.",
        "higher",
    ),
    Metric(
        "reward/proxy", "proxy reward", "reward",
        "Training reward of the same responses, before any KL penalty; with --allow-unscored the mean over those that it scored. Where --replicate-data gives every seed a reward model of its own, a run is scored by its seed's model, the base by the mean over all.",
        "higher",
    ),
    Metric(
        "unscored", "left unscored", "share",
        "Share of the same responses that the training reward left unscored, and that reward/proxy is without; only with --allow-unscored.",
    ),
    Metric(
        "kl/sequence", "KL to reference", "nats",
        "KL(π‖π_ref) of whole responses, y ~ π at temperature 1: sum over tokens of the full-vocabulary KL at each position (unbiased, low variance).",
    ),
    Metric(
        "kl/sequence_k1", "KL, k1 estimate", "nats",
        "Σ_t log π − log π_ref of the sampled tokens: a control for kl/sequence, same expectation, higher variance.",
    ),
    Metric(
        "win_rate", "win rate against base", "share",
        "Share of responses to held-out prompts that the judge prefers to the base's response to the same prompt with the same random numbers; ties count half.",
        "higher",
    ),
    Metric("length", "response length", "tokens", "Response tokens, the first EOS included."),
    Metric(
        "eos_rate", "ended by EOS", "share",
        "Share of responses that end by themselves rather than at the length limit.",
    ),
    Metric(
        "distinct_2", "distinct bigrams", "share",
        "Distinct bigrams over all bigrams of the held-out responses taken together: low means the responses are alike.",
        "higher",
    ),
    Metric(
        "entropy", "entropy", "nats/token",
        "Mean entropy of the policy's next-token distribution along its own responses.",
    ),
    Metric(
        "perplexity/reference", "perplexity under the base", "per token",
        "exp of the mean negative log-likelihood of the policy's responses under the base model: fluency.",
        "lower",
    ),
    Metric(
        "perplexity/heldout", "perplexity of held-out text", "per token",
        "exp of the mean negative log-likelihood of held-out text under the policy: forgetting.",
        "lower",
    ),
    Metric(
        "bleu", "BLEU", "0-100",
        "Corpus BLEU (sacrebleu) against the data's own response, where it has one.",
        "higher",
    ),
    Metric(
        "chrf", "chrF", "0-100",
        "Corpus chrF (sacrebleu) against the data's own response, where it has one.",
        "higher",
    ),
    Metric(
        "preference_accuracy", "preference accuracy", "share",
        "Share of held-out pairs that the policy's implicit reward log π − log π_ref orders as labelled.",
        "higher",
    ),
    Metric(
        "cost/train_flops", "training cost", "FLOPs",
        "Nominal FLOPs of training this run, evaluation excluded.",
        "lower",
    ),
    Metric(
        "cost/total_flops", "total cost", "FLOPs",
        "Training cost plus what this arm needs before training: the sampled pairs it learns from, a reward model trained for it, and that model's pairs.",
        "lower",
    ),
    Metric(
        "cost/train_seconds", "training time", "s",
        "Wall-clock seconds of training, evaluation excluded.",
        "lower",
    ),
    Metric(
        "cost/total_seconds", "total time", "s",
        "Training time plus that of what this arm needs before training.",
        "lower",
    ),
    Metric(
        "cost/peak_memory", "peak memory", "MiB",
        "Peak resident memory of the process on a CPU, peak allocated memory on a GPU, from the start of the run to its end, evaluations included.",
        "lower",
    ),
    Metric(
        "cost/preference_labels", "preference labels", "pairs",
        "Labelled pairs this arm depends on, directly or through its reward model.",
        "lower",
    ),
    Metric(
        "cost/reward_calls", "reward calls", "completions",
        "Completions scored by the training reward: in training, and before it where it labelled the pairs that this arm needs; evaluation excluded.",
        "lower",
    ),
]  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in _DEFINITIONS}

TERMS = {
    "nat": "The unit of KL and entropy with natural logarithms: 1 nat is 1.44 bits. At a KL of 1 nat a policy's responses are, on the geometric mean, e = 2.7 times as likely under it as under the base.",
    "k1": "The plainest estimate of a KL: log π − log π_ref of what was sampled. Right on average, even negative on a few samples.",
    "regret": "How far an arm's E[r] − β·KL falls short of the best that any policy could reach at this β.",
    "Holm": "A correction of p-values for asking about several pairs at once: it holds the chance of even one false “told apart” among them at 5%.",
}
"""Words that the report uses, beside its metrics."""

_TRAINING = [
    Metric("learning_rate", "learning rate", "", "that of the iteration's steps"),
    Metric(
        "length/train", "response length", "tokens", "mean response length of the batch, the EOS included"
    ),
    Metric("eos_rate/train", "ended by EOS", "share", "responses of the batch that end by EOS"),
    Metric("loss", "loss", "", "what is descended"),
    Metric("gradient_norm", "gradient norm", "", "of policy and critic together, before clipping"),
    Metric(
        "entropy/train",
        "entropy",
        "nats/token",
        "mean entropy of the next-token distribution at the tokens that carry loss",
    ),
    Metric(
        "reward/train",
        "training reward",
        "reward",
        "mean training reward of the batch, before KL, after the penalty for a missing EOS",
    ),
    Metric("reward_std/train", "spread of the reward", "reward", "its standard deviation over the batch"),
    Metric(
        "unscored/train",
        "left unscored",
        "share",
        "responses of the batch that the reward left unscored; only where there are any",
    ),
    Metric(
        "kl/train",
        "KL to reference, k1",
        "nats",
        "mean over responses of Σ_t log π − log π_ref at the sampled tokens (k1, not clamped): an estimate of what β multiplies",
    ),
    Metric(
        "sampler_gap_max",
        "sampler vs training",
        "nats",
        "largest difference of a token's log-probability between the sampler and the training forward: rounding of cached decoding",
    ),
    Metric("advantage_mean", "advantage, mean", "reward", "of the advantages before whitening"),
    Metric("advantage_std", "advantage, spread", "reward", "their standard deviation"),
    Metric("policy_loss", "policy loss", "", "the policy's part of the loss"),
    Metric(
        "ema",
        "moving average",
        "reward",
        "moving average of the return after this iteration, not yet divided by `ema_weight`",
    ),
    Metric("ema_weight", "its weight", "", "what the average has to be divided by to be unbiased"),
    Metric("value_loss", "value loss", "reward²", "the critic's part of the loss, before its coefficient"),
    Metric(
        "explained_variance",
        "explained variance",
        "",
        "1 − Var(R − V)/Var(R) over tokens that carry loss: 1 is a perfect critic, 0 one no better than a constant; null where "
        "returns do not vary but by rounding",
    ),
    Metric("beta", "β", "", "β after this iteration's adaptation: the next iteration's"),
    Metric("clip_fraction", "clipped tokens", "share", "tokens whose ratio lies outside 1 − ε … 1 + ε_high"),
    Metric(
        "approx_kl",
        "KL old to new, k3",
        "nats/token",
        "k3 estimate of KL(old policy ‖ new one), mean over tokens",
    ),
    Metric("ratio_max", "largest ratio", "", "largest ratio of a token"),
    Metric(
        "margin",
        "implicit reward margin",
        "reward",
        "mean of z = β·h, the implicit reward of the chosen response less that of the rejected one, always against the reference; of token means for the losses that average",
    ),
    Metric(
        "accuracy",
        "pairs ordered right",
        "share",
        "pairs with a positive margin; a margin that rounding in fp32 could have made counts half",
    ),
    Metric(
        "chosen_logps",
        "log π of chosen",
        "nats",
        "mean log-probability of the chosen responses, summed over tokens; it can fall while the margin grows",
    ),
    Metric("rejected_logps", "log π of rejected", "nats", "the same of the rejected ones"),
]

TRAINING: dict[str, Metric] = {metric.name: metric for metric in _TRAINING}
"""What training logs every iteration; unit "" where a number has none."""
