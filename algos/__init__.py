"""Preference-optimization algorithms for language models, each usable alone. See docs/python.md."""

from typing import TYPE_CHECKING, Any

from algos.dpo import DPO
from algos.engine.algorithm import Algorithm, Needs, Outputs, State
from algos.engine.budget import Budget
from algos.engine.errors import RunError, UserError
from algos.engine.rollouts import Rollouts
from algos.engine.settings import LoRA, Sampling
from algos.ppo import PPO
from algos.reinforce import REINFORCE

if TYPE_CHECKING:
    from algos.engine.calls import GuardedReward, RewardCalls
    from algos.engine.models.policy import Policy
    from algos.engine.rewards import Reward, RewardModel
    from algos.engine.sampling import sample
    from algos.engine.state import TrainState
    from algos.engine.trainer import History, Hook, train

ALGORITHMS: dict[str, type[Algorithm]] = {kind.name: kind for kind in (REINFORCE, PPO, DPO)}

__all__ = [
    "ALGORITHMS", "DPO", "PPO", "REINFORCE", "Algorithm", "Budget", "GuardedReward", "History", "Hook", "LoRA", "Needs",
    "Outputs", "Policy", "Reward", "RewardCalls", "RewardModel", "Rollouts", "RunError", "Sampling", "State", "TrainState",
    "UserError", "sample", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What needs a model imports transformers, which takes seconds: it is loaded when it is first asked for, so
    that settings can be read, and mistakes in them told, before."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from algos.engine import calls, rewards, sampling, state, trainer
    from algos.engine.models import policy

    globals().update(
        GuardedReward=calls.GuardedReward, History=trainer.History, Hook=trainer.Hook, Policy=policy.Policy,
        Reward=rewards.Reward, RewardCalls=calls.RewardCalls, RewardModel=rewards.RewardModel, sample=sampling.sample,
        TrainState=state.TrainState, train=trainer.train,
    )  # fmt: skip
    return globals()[name]


def __dir__() -> list[str]:
    """With the names that are loaded late, for whoever looks for them by completion."""
    return sorted({*globals(), *__all__})
