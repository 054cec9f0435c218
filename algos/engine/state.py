"""`TrainState`: everything that changes during training, saved and restored whole.

There is no generator to save: every random number is a function of (seed, iteration), and a batch of
rollouts never outlives its iteration.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from algos.engine.algorithm import Algorithm, State, require_algorithm
from algos.engine.budget import Meter
from algos.engine.critic import Critic
from algos.engine.errors import RunError, UserError
from algos.engine.models.policy import Policy
from algos.engine.optimizer import adamw
from algos.engine.resuming import refuse_another_run, refuse_other_keys
from algos.engine.rollouts import Rollouts
from algos.engine.seeding import digest
from algos.engine.storage import (
    DamagedFile,
    atomic_directory,
    disk,
    existing,
    read_json,
    read_tensors,
    saved_states,
    write_json,
    write_tensors,
)
from algos.engine.versions import installed

logger = logging.getLogger(__name__)

KEPT = 2  # the newest version of a checkpoint, and the one to go back to where the disk damaged it


@dataclass
class TrainState:
    """Policy, critic, optimizer, the algorithm's own tensors, what was spent and logged."""

    algorithm: Algorithm
    policy: Policy
    critic: Critic | None
    optimizer: torch.optim.Optimizer
    seed: int
    algorithm_state: State
    reference_digest: str
    """A hash of the reference's weights as they were when training began."""
    config_digest: str
    """A hash of the model's configuration, likewise."""
    context: dict[str, Any] = field(default_factory=dict)
    """What else tells this run from another: its data, sampling and budget."""
    meter: Meter = field(default_factory=Meter)
    history: list[dict[str, float]] = field(default_factory=list)
    idle: int = 0
    """Iterations in a row without an update."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What the caller of `train` keeps with the state, as JSON."""
    prepared: Rollouts | None = None
    """The batch of the iteration just made, as `prepare` returned it, for hooks; None before the first made here. Not saved,
    and gone before the next is sampled."""

    @classmethod
    def start(cls, algorithm: Algorithm, policy: Policy, seed: int) -> TrainState:
        """Before the first iteration. Raises UserError for what is no algorithm, and where there is nothing to train."""
        require_algorithm(algorithm)
        if not policy.trainable():
            raise UserError(
                "no weight of the policy is to be trained: all have requires_grad=False. Load an adapter with "
                "is_trainable=True, or by Policy.load, which does."
            )
        kind = algorithm.needs.values
        critic = Critic(policy.model, kind) if kind else None
        optimizer = adamw(algorithm, policy, critic)
        return cls(
            algorithm,
            policy,
            critic,
            optimizer,
            seed,
            algorithm_state=algorithm.init_state(),
            reference_digest=policy.reference_digest(),
            config_digest=policy.config_digest(),
        )

    @property
    def iteration(self) -> int:
        return self.meter.iterations

    @property
    def parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def save(self, folder: str | Path) -> Path:
        """Writes `folder/<iteration>/`, whole or not at all, and keeps the version before it; returns where."""
        folder = Path(folder)
        with atomic_directory(folder / f"{self.iteration:08}") as temporary:
            write_tensors(temporary / "state.safetensors", self._tensors())
            write_json(temporary / "state.json", self._record())
        for old in saved_states(folder)[:-KEPT]:
            disk.remove(old)
        return saved_states(folder)[-1]

    def load(self, folder: str | Path) -> bool:
        """Restores the newest whole version that `save` wrote; False where there is none at all.

        A damaged version is named in a warning and the one before it is used. Raises RunError where none
        is whole, and where the newest whole one belongs to another run, with the difference.
        """
        found = saved_states(Path(folder))
        for saved in reversed(found):
            try:
                record, tensors = read_state(saved), read_tensors(saved / "state.safetensors")
            except DamagedFile as error:
                logger.warning("%s The checkpoint before it is used, if there is one.", error)
                continue
            self._restore(saved, record, tensors)
            return True
        if found:
            raise RunError(
                f"no checkpoint in {folder} is as it was written. Remove the folder to start again."
            )
        return False

    def _restore(self, saved: Path, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        refuse_another_run(saved, record["identity"], self._identity())
        refuse_other_keys(saved, record, self._record())
        refuse_other_keys(saved, record["meter"], self.meter.as_dict())
        refuse_other_keys(saved, tensors, self._tensors())
        for name, p in self.policy.trainable().items():
            if tensors[f"policy/{name}"].shape != p.shape:  # copying would repeat what is smaller
                raise RunError(
                    f"the checkpoint {saved} has {name} in another shape. Remove it to start again."
                )
        with torch.no_grad():
            for name, p in self.policy.trainable().items():
                p.copy_(tensors[f"policy/{name}"])
        if self.critic is not None:
            # Not strictly: what is frozen is the policy's. That nothing else is missing was asked above.
            self.critic.load_state_dict(_below(tensors, "critic/"), strict=False)
        self._load_optimizer(_below(tensors, "optimizer/"))
        self.algorithm_state = _below(tensors, "own/")
        self.meter = Meter(**record["meter"])
        self.history = [{name: _number(value) for name, value in row.items()} for row in record["history"]]
        self.idle, self.notes = record["idle"], record["notes"]
        self.policy.portions.limits.update(record["portions"])

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, name = key.split("/")
            slots.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(
            {"state": slots, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )

    def _tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {f"policy/{name}": p for name, p in self.policy.trainable().items()}
        if self.critic is not None:
            frozen = {name for name, p in self.critic.named_parameters() if not p.requires_grad}
            tensors |= {f"critic/{k}": x for k, x in self.critic.state_dict().items() if k not in frozen}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": value for name, value in slots.items()}
        # Copies: an algorithm may keep one tensor under two names, which a file of tensors may not.
        return tensors | {f"own/{name}": value.clone() for name, value in self.algorithm_state.items()}

    def _record(self) -> dict[str, Any]:
        return {
            "identity": self._identity(),
            "meter": self.meter.as_dict(),
            "history": [{name: _plain(value) for name, value in row.items()} for row in self.history],
            "idle": self.idle,
            "portions": self.policy.portions.limits,
            "notes": self.notes,
        }

    def _identity(self) -> dict[str, Any]:
        """All that the rest of the run depends on and a checkpoint does not hold."""
        policy = self.policy
        identity = {
            "algorithm": {"name": self.algorithm.name, **asdict(self.algorithm)},
            "seed": self.seed,
            "model": {
                "parameters": digest((name, tuple(p.shape)) for name, p in policy.trainable().items()),
                "reference": self.reference_digest,
                "config": self.config_digest,
                "dtype": str(policy.dtype),
                "device": policy.device.type,
            },
            "threads": torch.get_num_threads(),
            "versions": {name: installed(name) for name in ("torch", "transformers")},
            **self.context,
        }
        return dict(json.loads(json.dumps(identity, default=str)))


def read_state(saved: Path) -> dict[str, Any]:
    """What a version holds besides tensors. Raises DamagedFile where any file of it is not what was written."""
    existing(saved)
    return read_json(saved / "state.json")


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _plain(value: float) -> float | str:
    """JSON has no word for what is not finite."""
    return value if math.isfinite(value) else str(value)


def _number(value: float | str) -> float:
    return float(value) if isinstance(value, str) else value
