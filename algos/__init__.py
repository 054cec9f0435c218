"""Preference-optimization algorithms for language models, each usable alone. See README.md."""

from algos.dpo import DPO
from algos.engine.algorithm import Algorithm
from algos.engine.budget import Budget
from algos.engine.errors import RunError, UserError
from algos.engine.policy import LoRA, Policy
from algos.engine.rewards import Reward, RewardModel
from algos.engine.sampling import Sampling, sample
from algos.engine.trainer import History, train
from algos.ppo import PPO
from algos.reinforce import REINFORCE

ALGORITHMS: dict[str, type[Algorithm]] = {"reinforce": REINFORCE, "ppo": PPO, "dpo": DPO}

__all__ = [
    "ALGORITHMS", "DPO", "PPO", "REINFORCE", "Algorithm", "Budget", "History", "LoRA", "Policy", "Reward",
    "RewardModel", "RunError", "Sampling", "UserError", "sample", "train",
]  # fmt: skip
