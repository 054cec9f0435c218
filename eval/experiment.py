"""What the user asked for: typed, validated once, the same from Python, YAML and the command line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
import yaml

from algos import ALGORITHMS, Algorithm, Budget, LoRA, Sampling, UserError
from algos.engine.algorithm import require
from algos.engine.policy import Precision

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

SHARED = ("beta", "learning_rate")
"""Settings that, named without an algorithm, are meant for all of them."""


@dataclass(frozen=True)
class Evaluation:
    """How every policy is evaluated: the same prompts, the same random numbers."""

    prompts: int = 64
    """Held-out test prompts; fewer where there are not as many."""
    responses: int = 1
    """Responses a prompt."""
    points: int = 5
    """Evaluations along training, evenly spaced over the run, the end included."""
    batch_size: int = 64
    """Responses in one forward pass."""

    def __post_init__(self) -> None:
        for setting in fields(self):
            require(
                getattr(self, setting.name) >= 1,
                f"eval {setting.name}",
                "at least 1",
                getattr(self, setting.name),
            )


@dataclass(frozen=True)
class RewardTraining:
    """How a reward model is trained where only pairs are given, from the model itself."""

    epochs: int = 1
    learning_rate: float = 1e-5
    batch_size: int = 32

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "reward-model epochs", "at least 1", self.epochs)
        require(self.learning_rate > 0, "reward-model learning_rate", "above 0", self.learning_rate)
        require(self.batch_size >= 1, "reward-model batch_size", "at least 1", self.batch_size)


@dataclass(frozen=True)
class Experiment:
    """One comparison: what is trained, on what, how it is judged, and how much each arm may spend."""

    task: Literal["reviews", "custom"] = "reviews"
    """`reviews`, the embedded task, or `custom`: your model and data. Set by --model, --prompts or --pairs."""
    algos: tuple[str, ...] = tuple(ALGORITHMS)
    """Arms to compare: algorithms, or names given under `variants`."""
    seeds: int = 3
    """Runs an arm, with training seeds 0, 1, …"""
    model: str | None = None
    """The model to start from: a directory or a hub id."""
    prompts: str | None = None
    """Prompts to train and evaluate on: JSONL, CSV, Parquet, or a data set's name."""
    pairs: str | None = None
    """Preference pairs (prompt, chosen, rejected): JSONL, CSV, Parquet, or a data set's name."""
    test_prompts: str | None = None
    """Prompts to evaluate on, instead of the hashed split."""
    columns: Annotated[dict[str, str], tyro.conf.Suppress] = field(default_factory=dict)
    """Your names for the data's columns, by ours: {prompt: question, chosen: answer_a}."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """What to do about malformed rows: stop and list them, or leave them out and count them."""
    truncate_prompts: Literal["drop", "left"] = "drop"
    """Prompts too long for the model: dropped and counted, or cut on the left."""
    reward: str | None = None
    """The training reward: file.py:function, or a reward model's directory or hub id."""
    judge: str | None = None
    """The judge, used in evaluation only: file.py:function, or a reward model."""
    sampled_pairs: int = 1024
    """Pairs sampled from the base and labelled by the reward, where no pairs are given and an arm needs them."""
    label_scale: float = 1.0
    """s in P(a preferred) = σ(s·(r_a − r_b)) of sampled pairs; at 1, DPO's beta is the objective's."""
    reward_model: RewardTraining = field(default_factory=RewardTraining)
    budget: str = "10k"
    """What each arm may spend: 300updates, 20k (completions), 2e15flops, 90s, …"""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(default_factory=Sampling)
    eval: Evaluation = field(default_factory=Evaluation)
    lora: bool = False
    """Train low-rank adapters instead of all weights; --lora-settings.rank and so on shape them."""
    lora_settings: LoRA = field(default_factory=LoRA)
    dtype: Precision = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    """Run code that comes with a hub model. Off unless you trust its author."""
    threads_per_run: int = 1
    """CPU threads of every run; a part of the result, as sums are split by threads."""
    data_seed: int = 0
    """Varies sampled pairs, reward models and the random numbers of evaluation; shared by all seeds."""
    replicate_data: bool = False
    """Give every seed pairs and a reward model of its own."""
    hyperparameters: Annotated[Hyperparameters, tyro.conf.arg(name="")] = field(
        default_factory=Hyperparameters
    )
    variants: Annotated[dict[str, dict[str, Any]], tyro.conf.Suppress] = field(default_factory=dict)
    """More arms, by name: {algorithm: ppo, beta: 0.01, …}; what is not named is as for the algorithm."""

    def __post_init__(self) -> None:
        require(self.seeds >= 1, "seeds", "at least 1", self.seeds)
        require(len(self.algos) >= 1, "algos", "at least one arm", "none")
        require(len(set(self.algos)) == len(self.algos), "algos", "each named once", " ".join(self.algos))
        require(self.sampled_pairs >= 2, "sampled_pairs", "at least 2", self.sampled_pairs)
        require(self.label_scale > 0, "label_scale", "above 0", self.label_scale)
        require(self.threads_per_run >= 1, "threads_per_run", "at least 1", self.threads_per_run)
        Budget.parse(self.budget)
        if self.task == "reviews" and (self.model or self.prompts or self.pairs or self.reward or self.judge):
            raise UserError(
                "the task reviews brings its own model, data, reward and judge; got some of yours. Use --task custom."
            )
        for name, arm in self.arms.items():
            wanted = arm.needs.group_size
            if arm.needs.source == "prompts" and self.sampling.group_size < wanted:
                raise UserError(
                    f"{name} needs at least {wanted} responses a prompt; got {self.sampling.group_size}. Set --group-size {wanted}."
                )

    @property
    def arms(self) -> dict[str, Algorithm]:
        """Every arm's algorithm with its settings."""
        return {name: self._arm(name) for name in self.algos}

    def _arm(self, name: str) -> Algorithm:
        if name in ALGORITHMS:
            arm: Algorithm = getattr(self.hyperparameters, name)
            return arm
        if name not in self.variants:
            raise UserError(
                f"unknown algorithm {name!r}{suggestion(name, [*ALGORITHMS, *self.variants])}. Use one of {', '.join([*ALGORITHMS, *self.variants])}."
            )
        settings = dict(self.variants[name])
        kind = settings.pop("algorithm", None)
        if kind not in ALGORITHMS:
            raise UserError(
                f"variant {name!r} needs an algorithm, one of {', '.join(ALGORITHMS)}; got {kind!r}."
            )
        base: Algorithm = getattr(self.hyperparameters, kind)
        return build(type(base), {**asdict(base), **settings}, f"variants.{name}")

    @property
    def adapter(self) -> LoRA | None:
        return self.lora_settings if self.lora else None

    def data_seed_of(self, seed: int) -> int:
        """The seed of pairs and reward model for one training seed."""
        return seed if self.replicate_data else self.data_seed

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as experiment.yaml holds it; `from_dict` reads it back."""
        plain: dict[str, Any] = _plain(self)
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Experiment:
        """Raises UserError for an unknown key (with a suggestion) or a value of the wrong type or range."""
        return build(cls, values, "")


def build(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """A dataclass from plain data, validated by pydantic; unknown keys are errors. Raises UserError."""
    from pydantic import TypeAdapter, ValidationError

    _refuse_unknown(kind, values, where)
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *map(str, first["loc"])]).strip(".")
        raise UserError(f"{place}: {first['msg']}; got {first['input']!r}.") from None


def _refuse_unknown(kind: type, values: Mapping[str, Any], where: str) -> None:
    from typing import get_type_hints

    hints = get_type_hints(kind)
    known = [setting.name for setting in fields(kind)]
    for key, value in values.items():
        place = f"{where}.{key}".strip(".")
        if key not in known:
            raise UserError(
                f"unknown setting {place!r}{suggestion(str(key), known)}. Known here: {', '.join(known)}."
            )
        inner = Hyperparameters if key == "hyperparameters" else hints.get(key)
        if is_dataclass(inner) and isinstance(inner, type) and isinstance(value, Mapping):
            _refuse_unknown(inner, value, place)


def suggestion(word: str, known: list[str]) -> str:
    """`, did you mean 'x'?` where something known is near, else nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping. Raises UserError where it is missing, not YAML or not a mapping."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Name a YAML file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold settings by name; got {type(values).__name__}.")
    return values


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, later layers over earlier ones. In every layer a shared setting (`beta`,
    `learning_rate`) stands for all algorithms, and an algorithm may be named at the top (`ppo: …`)."""
    result: dict[str, Any] = {}
    for layer in layers:
        values = dict(layer)
        own = {name: dict(values.pop(name)) for name in ALGORITHMS if isinstance(values.get(name), Mapping)}
        shared = {name: values.pop(name) for name in SHARED if name in values}
        if shared or own:
            nested = {name: {**shared, **own.get(name, {})} for name in ALGORITHMS}
            values["hyperparameters"] = _merged(nested, values.get("hyperparameters", {}))
        result = _merged(result, values)
    return result


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {setting.name: _plain(getattr(value, setting.name)) for setting in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def extended(stored: Experiment, asked: Experiment) -> Experiment:
    """A stored comparison with more seeds or arms. Raises UserError where anything else differs."""
    for setting in fields(Experiment):
        before, now = getattr(stored, setting.name), getattr(asked, setting.name)
        if setting.name not in ("seeds", "algos", "variants") and before != now:
            raise UserError(
                f"this comparison was made with {setting.name} = {_plain(before)}; got {_plain(now)}. "
                "Resume with the same settings (only --seeds and --algos may grow), or name another folder with --out."
            )
    return replace(
        asked, seeds=max(asked.seeds, stored.seeds), algos=tuple(dict.fromkeys((*stored.algos, *asked.algos)))
    )
