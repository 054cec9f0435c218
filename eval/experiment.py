"""What the user asked for: typed, validated once, the same from Python, YAML and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, make_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import tyro

from algos import ALGORITHMS, Algorithm, LoRA, Sampling, UserError
from algos.engine.calls import RewardCalls
from algos.engine.settings import Precision, Truncation
from eval.recording.trackers import TrackerName
from eval.settings.checks import check
from eval.settings.layers import build, plain, suggestion
from eval.settings.limits import TUNING_SEED
from eval.settings.parts import Evaluation, Frontier, RewardTraining
from eval.tuning.search import Space, space

if TYPE_CHECKING:
    Hyperparameters = Any
else:
    # One field an algorithm, so that a new one needs no line here and has its flags on the command line.
    Hyperparameters = make_dataclass(
        "Hyperparameters",
        [(name, kind, field(default_factory=kind)) for name, kind in ALGORITHMS.items()],
        frozen=True,
        namespace={"__doc__": "The settings of each algorithm."},
    )

_KNOWN_AS = {
    "rloo": ": reinforce is RLOO by its default baseline, leave_one_out.",
    "remax": ": reinforce with --reinforce.baseline greedy is ReMax.",
    "grpo": ": reinforce with --reinforce.scale-by-group-std scales advantages as GRPO does; docs/architecture.md shows how to add GRPO itself.",
}
"""What people look for by another name."""


@dataclass(frozen=True)
class Experiment:
    """One comparison: what is trained, on what, how it is judged, and how much each arm may spend."""

    task: Literal["reviews", "custom"] = "reviews"
    """`reviews`, the built-in task, or `custom`: your model and data. --model, --prompts or --pairs select `custom`."""
    algos: tuple[str, ...] = tuple(ALGORITHMS)
    """Arms to compare: algorithms, or names defined under `variants` in a --config file."""
    seeds: int = 3
    """Training runs per arm, with seeds first_seed, first_seed + 1, …"""
    first_seed: int = 0
    """The training seed of each arm's first run."""
    model: str | None = None
    """The model to start from: a directory or a hub id, owner/name or owner/name@revision."""
    prompts: str | None = None
    """Prompts to train and evaluate on: JSONL, JSON, CSV, Parquet, a saved data set's folder, or a data set's name on the hub."""
    pairs: str | None = None
    """Preference pairs (prompt, chosen, rejected): JSONL, JSON, CSV, Parquet, a saved data set's folder, or a data set's name on the hub."""
    test_prompts: str | None = None
    """Prompts to evaluate on, instead of the hashed split."""
    columns: Annotated[dict[str, str], tyro.conf.Suppress] = field(default_factory=dict)
    """Your names for the data's columns, by ours: {prompt: question, chosen: answer_a}."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """What to do about malformed rows: stop and list them, or leave them out and count them."""
    truncate_prompts: Truncation = "drop"
    """Prompts too long for the model: dropped and counted, or cut on the left."""
    reward: str | None = None
    """The training reward: file.py:function, or a reward model's directory or hub id."""
    judge: str | None = None
    """The judge, used in evaluation only: file.py:function, or a reward model. Without one, a given --reward is also the judge, which cannot reveal over-optimization."""
    sampled_pairs: int = 1024
    """Pairs sampled from the base and labelled by the reward, where no pairs are given and an arm needs them."""
    label_scale: float = 1.0
    """s in P(a preferred) = σ(s·(r_a − r_b)) of sampled pairs; at 1, DPO's beta is the objective's."""
    reward_model: RewardTraining = field(default_factory=RewardTraining)
    budget: str = "10k"
    """What each arm may spend: 300updates, 20k (completions), 2e15flops, 90s, …"""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(default_factory=Sampling)
    eval: Evaluation = field(default_factory=Evaluation)
    frontier: Frontier = field(default_factory=Frontier)
    objective_beta: float | None = None
    """β of the objective E[r] − β·KL reported for every arm. By default the β shared by all arms whose β is the objective's KL coefficient; if they share none, no objective is reported."""
    lora: bool = False
    """Train low-rank adapters instead of all weights; --lora-settings.rank and so on shape them."""
    lora_settings: LoRA = field(default_factory=LoRA)
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more FLOPs per update (half more with --lora)."""
    micro_batch: int = 0
    """Prompts (each with its responses) per forward and backward pass, fewer if memory runs out; 0: chosen to fit."""
    dtype: Precision = "auto"
    """What matrix products are computed in; auto: bf16 on a GPU that has it, fp32 elsewhere."""
    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto: the GPU where there is one, else the CPU."""
    trust_remote_code: bool = False
    """Run code that comes with a hub model. Off unless you trust its author."""
    reward_timeout: float = 600.0
    """Time limit for a call of the reward or the judge, in seconds; 0: no limit."""
    reward_retries: int = 2
    """Retries after a call of the reward or the judge that raised an exception or timed out."""
    allow_unscored: bool = False
    """Let the reward return None for responses it cannot score: they are left out of baselines and losses."""
    log_with: tuple[TrackerName, ...] = ()
    """Also log every run to tensorboard or wandb (kept on this machine unless WANDB_MODE=online); files always."""
    checkpoint_every: float = 60.0
    """Seconds between checkpoints of a run, more where saving takes long; 0: one after every iteration."""
    threads_per_run: int = 1
    """CPU threads per run. Changes results in the last digits, so it is recorded."""
    data_seed: int = 0
    """Seed of sampled pairs, reward models and the random numbers of evaluation; shared by all training seeds."""
    replicate_data: bool = False
    """Redraw for every training seed what --data-seed controls: sampled pairs and a learned reward model. Data and rewards that you give stay the same."""
    hyperparameters: Annotated[Hyperparameters, tyro.conf.arg(name="")] = field(
        default_factory=Hyperparameters
    )
    variants: Annotated[dict[str, dict[str, Any]], tyro.conf.Suppress] = field(default_factory=dict)
    """More arms, by name, where `algos` names them: {algorithm: ppo, beta: 0.01, …}; what is not named is as for the algorithm."""
    tune: int = 0
    """Tries (combinations of settings) for every arm before the comparison, scored on validation prompts; 0: no tuning."""
    tune_seeds: int = 2
    """Training runs per try; with one, tuning picks settings that got lucky with that seed."""
    search: Annotated[dict[str, dict[str, dict[str, Any]]], tyro.conf.Suppress] = field(default_factory=dict)
    """What tuning may try, by arm or algorithm: {ppo: {learning_rate: {low: 1e-5, high: 1e-3, log: true}}}."""
    before_tuning: Annotated[dict[str, dict[str, Any]], tyro.conf.Suppress] = field(default_factory=dict)
    """Arms that were tuned, and are not to be again, with what tuning wrote over: a variant as it was, of an algorithm the settings that were tuned."""

    def __post_init__(self) -> None:
        check(self)

    @cached_property
    def arms(self) -> dict[str, Algorithm]:
        """Every arm's algorithm with its settings."""
        return {name: self.arm(name) for name in self.algos}

    def arm(self, name: str) -> Algorithm:
        """An algorithm or a variant, with its settings. Raises UserError where there is none of this name."""
        if name in ALGORITHMS:
            arm: Algorithm = getattr(self.hyperparameters, name)
            return arm
        if name not in self.variants:
            known = [*ALGORITHMS, *self.variants]
            hint = _KNOWN_AS.get(name.lower()) or suggestion(name, known)
            raise UserError(f"unknown algorithm {name!r}{hint} Use one of {', '.join(known)}.")
        settings = dict(self.variants[name])
        kind = settings.pop("algorithm", None)
        if kind not in ALGORITHMS:
            raise UserError(
                f"variant {name!r} needs an algorithm, one of {', '.join(ALGORITHMS)}; got {kind!r}."
            )
        base: Algorithm = getattr(self.hyperparameters, kind)
        return build(type(base), {**asdict(base), **settings}, f"variants.{name}")

    @property
    def unused_variants(self) -> tuple[str, ...]:
        """Variants that are no arms: `algos` does not name them."""
        return tuple(name for name in self.variants if name not in self.algos)

    @property
    def wants_pairs(self) -> bool:
        """Whether an arm learns from recorded pairs."""
        return any(arm.needs.source == "pairs" for arm in self.arms.values())

    @property
    def samples_pairs(self) -> bool:
        """Whether pairs are wanted and none given, so that they are sampled from the model and labelled by the reward."""
        return self.task == "custom" and not self.pairs and self.wants_pairs

    @property
    def learns_reward(self) -> bool:
        """Whether no reward was given, and one is trained on the pairs, from the model."""
        return self.task == "custom" and not self.reward

    @property
    def reward_judges(self) -> bool:
        """Whether the reward that was given is the judge, too."""
        return self.reward is not None and self.judge in (None, self.reward)

    @property
    def untuned(self) -> tuple[str, ...]:
        """The arms that tuning still has to find settings for."""
        return tuple(name for name in self.algos if name not in self.before_tuning) if self.tune else ()

    def named_by(self, name: str) -> dict[str, Any]:
        """The settings that a variant names itself: it stands for them, so they are neither swept nor tuned. What
        tuning chose is not among them."""
        if name in ALGORITHMS:
            return {}
        variant = self.before_tuning.get(name, self.variants.get(name, {}))
        return {setting: value for setting, value in variant.items() if setting != "algorithm"}

    def space(self, name: str) -> Space:
        """What tuning may try for an arm: `search` under its own name, else under its algorithm's, else the default."""
        arm = self.arm(name)
        own = self.search.get(name)
        return space(arm, own or self.search.get(arm.name), () if own else self.named_by(name), name)

    @property
    def training_seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def tuning_seeds(self) -> range:
        """Those of the runs of tries, where there are any to come."""
        return range(TUNING_SEED, TUNING_SEED + self.tune_seeds * bool(self.untuned))

    @property
    def reward_calls(self) -> RewardCalls:
        """How the reward is called."""
        return RewardCalls(self.reward_timeout, self.reward_retries, self.allow_unscored)

    @property
    def adapter(self) -> LoRA | None:
        return self.lora_settings if self.lora else None

    @property
    def loading(self) -> dict[str, Any]:
        """How every policy is loaded, as `Policy.load` takes it."""
        return {"dtype": self.dtype, "device": self.device, "trust_remote_code": self.trust_remote_code}

    def data_seed_of(self, seed: int) -> int:
        """The seed of pairs and reward model for one training seed."""
        return seed if self.replicate_data else self.data_seed

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as experiment.yaml holds it; `from_dict` reads it back."""
        values: dict[str, Any] = plain(self)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises UserError for an unknown key (with a suggestion) or a value of the wrong type or range."""
        built: Self = build(cls, values, "")
        return built


@dataclass(frozen=True)
class Draft(Experiment):
    """Settings that others may still be laid over. Each is of its type, and each part is checked as such; what must hold
    between them is not, until an Experiment is made of them."""

    def __post_init__(self) -> None:
        pass
