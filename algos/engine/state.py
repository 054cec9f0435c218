"""`TrainState`: everything that changes during training, saved and restored whole.

There is no generator to save: every random number is a function of (seed, iteration), and a batch of
rollouts never outlives its iteration.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from algos.engine.algorithm import Algorithm, State
from algos.engine.budget import Meter
from algos.engine.critic import Critic
from algos.engine.errors import RunError, one_line
from algos.engine.policy import Policy
from algos.engine.seeding import digest
from algos.engine.storage import (
    atomic_directory,
    existing,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)


@dataclass
class TrainState:
    """Policy, critic, optimizer, the algorithm's own tensors, what was spent and logged."""

    algorithm: Algorithm
    policy: Policy
    critic: Critic | None
    optimizer: torch.optim.Optimizer
    seed: int
    own: State
    context: dict[str, str] = field(default_factory=dict)
    """What else tells this run from another: its data, sampling and budget."""
    meter: Meter = field(default_factory=Meter)
    history: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def start(cls, algorithm: Algorithm, policy: Policy, seed: int) -> TrainState:
        """Before the first iteration."""
        kind = algorithm.needs.values
        critic = Critic(policy.model, kind) if kind else None
        parameters = list(policy.trainable().values()) + (list(critic.parameters()) if critic else [])
        optimizer = torch.optim.AdamW(
            parameters,
            lr=algorithm.learning_rate,
            betas=algorithm.adam_betas,
            eps=algorithm.adam_eps,
            weight_decay=algorithm.weight_decay,
        )
        return cls(algorithm, policy, critic, optimizer, seed, algorithm.init_state())

    @property
    def iteration(self) -> int:
        return self.meter.iterations

    @property
    def parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def save(self, directory: Path) -> None:
        """Writes `state.safetensors` and `state.json`, atomically: the old one stays until the new is whole."""
        tensors: dict[str, Tensor] = {f"policy/{name}": p for name, p in self.policy.trainable().items()}
        if self.critic is not None:
            tensors |= {f"critic/{name}": p for name, p in self.critic.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": value for name, value in slots.items()}
        tensors |= {f"own/{name}": value for name, value in self.own.items()}
        with atomic_directory(directory) as temporary:
            write_tensors(temporary / "state.safetensors", tensors)
            write_json(
                temporary / "state.json",
                {**self._identity(), "meter": self.meter.as_dict(), "history": self.history},
            )

    def load(self, directory: Path) -> bool:
        """Restores what `save` wrote; False where there is nothing. Raises RunError for another run's state."""
        found = existing(directory)
        if found is None:
            return False
        try:
            record = read_json(found / "state.json")
            tensors = read_tensors(found / "state.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise RunError(
                f"the checkpoint {found} is broken ({one_line(error)}). Remove it to start again."
            ) from error
        for key, mine in self._identity().items():
            if record.get(key) != mine:
                raise RunError(
                    f"the checkpoint {found} belongs to another run: its {key} is {record.get(key)}, this one's {mine}. Use another folder."
                )
        with torch.no_grad():
            for name, p in self.policy.trainable().items():
                p.copy_(tensors[f"policy/{name}"])
        if self.critic is not None:
            self.critic.load_state_dict(_below(tensors, "critic/"))
        self._load_optimizer(_below(tensors, "optimizer/"))
        self.own = _below(tensors, "own/")
        self.meter = Meter.from_dict(record["meter"])
        self.history = record["history"]
        return True

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, name = key.split("/")
            slots.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(
            {"state": slots, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )

    def _identity(self) -> dict[str, Any]:
        shapes = digest((name, tuple(p.shape)) for name, p in self.policy.trainable().items())
        own = {"algorithm": repr(self.algorithm), "seed": self.seed, "parameters": shapes}
        return {**own, "reference": self.policy.reference_digest(), **self.context}


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
