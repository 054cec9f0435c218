"""Draws the pool: every policy answers the same test prompts, and every policy scores every answer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from algos import Policy, RunError, Sampling, sample
from algos.engine.policy import pick_device
from algos.engine.prompts import EncodedPrompt, encode_prompts, texts
from algos.engine.rewards import call_reward
from algos.engine.rollouts import Rollouts
from algos.engine.scoring import score_group
from algos.engine.seeding import derive
from algos.losses import sequence_logps
from eval.frontier.pool import Pool, describe
from eval.launch import Job, Report, Update, Workers
from eval.store import Store

BLOCK = 256  # responses decoded at once; fixed, so that no rounding depends on prompts or workers
ARM_SHARE = 3  # all arms together draw at most so many times what the reference draws


@dataclass(frozen=True)
class Plan:
    """Which policies answer, how often, and how many prompts."""

    samplers: tuple[str, ...]
    seeds: tuple[int, ...]
    counts: tuple[int, ...]
    prompts: int
    data_seed: int

    @classmethod
    def of(cls, store: Store) -> Plan | None:
        """The reference and one policy an arm, that of its lowest finished seed; None where it is switched off,
        and where what is judged is not sampled from the policies themselves, of which alone a frontier tells.

        With more than three arms each draws less, so that the pool's size, though not the number of policies
        that score it, stays the same.
        """
        settings = store.asked.frontier
        if settings.samples == 0 or not store.asked.eval.is_plain:
            return None
        chosen = _policies_of(store)
        data_seed = store.asked.data_seed_of(min(chosen.values(), default=store.all_runs[0].seed))
        each = min(settings.samples, -(-ARM_SHARE * settings.samples // max(len(chosen), 1)))
        counts = (settings.samples, *(each for _ in chosen))
        prompts = min(settings.prompts, len(store.materials(data_seed).test_prompts))
        return cls(("base", *chosen), (0, *chosen.values()), counts, prompts, data_seed)

    @property
    def description(self) -> dict[str, object]:
        return describe(self.samplers, self.seeds, self.counts, self.prompts)


def _policies_of(store: Store) -> dict[str, int]:
    """Arm → its lowest finished seed. Where every seed has a reward of its own, only arms of one seed can be
    held against the same frontier."""
    chosen: dict[str, int] = {}
    for run in store.all_runs:
        if run.status["status"] == "done":
            chosen.setdefault(run.arm, run.seed)
    if store.asked.replicate_data and chosen:
        lowest = min(chosen.values())
        return {arm: seed for arm, seed in chosen.items() if seed == lowest}
    return chosen


def update_pool(store: Store, workers: Workers, update: Update) -> None:
    """Makes the comparison's pool where there is none of these policies yet. Raises RunError where a reward fails."""
    plan = Plan.of(store)
    pool = store.pool
    if plan is None or (pool is not None and pool.description == plan.description):
        return
    folder = store.path / "frontier"
    parts = [folder.with_name(f"frontier.part-{i}") for i in range(min(max(workers.count, 1), plan.prompts))]
    jobs = [
        Job(
            f"frontier {i + 1} of {len(parts)}",
            partial(_draw, store.path, plan, chunk.tolist(), part),
            _died,
        )
        for i, (part, chunk) in enumerate(
            zip(parts, np.array_split(np.arange(plan.prompts), len(parts)), strict=True)
        )
    ]
    try:
        workers.do(jobs, update)
        Pool.joined([found for part in parts if (found := Pool.load(part)) is not None]).save(folder)
    finally:
        for part in parts:
            shutil.rmtree(part, ignore_errors=True)


def _died(cause: str) -> str:
    raise RunError(f"a process that drew samples for the frontier died ({cause}); use fewer --workers.")


def _draw(directory: Path, plan: Plan, chunk: list[int], part: Path, report: Report) -> str:
    """The pool of some prompts."""
    store = Store.open(directory)
    torch.set_num_threads(store.asked.threads_per_run)
    _Drawing(store, plan, chunk, report).pool().save(part)
    return "drawn"


class _Drawing:
    """Sampling, then scoring, of a chunk of the test prompts, with one policy in memory at a time."""

    def __init__(self, store: Store, plan: Plan, chunk: Sequence[int], report: Report) -> None:
        self.store, self.plan, self.chunk, self.report = store, plan, chunk, report
        self.experiment, self.materials = store.asked, store.materials(plan.data_seed)
        device = pick_device(self.experiment.device)
        calls = self.experiment.reward_calls
        self.reward = self.materials.reward.open(device, calls)
        self.judge = self.materials.judge.judge(device, calls)
        # What a pairwise judge compares with, as in the evaluation.
        self.base = {row["prompt_id"]: str(row["completion"]) for row in reversed(store.base_samples)}

    def pool(self) -> Pool:
        plan = self.plan
        drawn_PKN: list[list[list[Rollouts]]] = [[] for _ in self.chunk]  # N blocks
        scores_PK: list[list[np.ndarray]] = [[] for _ in self.chunk]  # each [2, count]
        for k, policy in enumerate(self._policies("sampling", 0.0)):
            for p, (index, prompt) in enumerate(zip(self.chunk, self._prompts(policy), strict=True)):
                blocks = self._blocks(policy, prompt, k)
                drawn_PKN[p].append(blocks)
                scores_PK[p] += [self._scores(policy, prompt, block, index) for block in blocks]
        logps_KPM = np.empty((len(plan.samplers), len(self.chunk), sum(plan.counts)))
        for k, policy in enumerate(self._policies("scoring", 0.5)):
            for p, drawn_KN in enumerate(drawn_PKN):
                logps_KPM[k, p] = np.concatenate(
                    [_logps(policy, block) for drawn in drawn_KN for block in drawn]
                )
        proxy_PM, judge_PM = np.stack([np.concatenate(scores, axis=-1) for scores in scores_PK], axis=1)
        return Pool(plan.samplers, plan.seeds, plan.counts, logps_KPM, {"proxy": proxy_PM, "judge": judge_PM})

    def _policies(self, doing: str, done: float) -> Iterator[Policy]:
        for k, (sampler, seed) in enumerate(zip(self.plan.samplers, self.plan.seeds, strict=True)):
            self.report(done + 0.5 * k / len(self.plan.samplers), f"{doing} {sampler}")
            trained = self.store.run(sampler, seed).folder / "policy"
            yield Policy.load(
                self.materials.model if sampler == "base" else str(trained),
                dtype=self.experiment.dtype,
                device=self.experiment.device,
                trust_remote_code=self.experiment.trust_remote_code,
            )

    def _prompts(self, policy: Policy) -> list[EncodedPrompt]:
        length, truncate = self.experiment.sampling.max_new_tokens, self.experiment.truncate_prompts
        prompts, _ = encode_prompts(policy, self.materials.test_prompts, length, truncate)
        return [prompts[index] for index in self.chunk]

    def _blocks(self, policy: Policy, prompt: EncodedPrompt, k: int) -> list[Rollouts]:
        """This sampler's responses to one prompt; every sampler has random numbers of its own."""
        sampling, count = (
            Sampling(max_new_tokens=self.experiment.sampling.max_new_tokens),
            self.plan.counts[k],
        )
        found = []
        for start in range(0, count, BLOCK):
            seed = derive(self.plan.data_seed, "frontier", self.plan.samplers[k], start)
            found.append(sample(policy, [prompt.ids], sampling, seed, group_size=min(BLOCK, count - start)))
        return found

    def _scores(self, policy: Policy, prompt: EncodedPrompt, block: Rollouts, index: int) -> np.ndarray:
        """Proxy and judge of one block, [2, G]."""
        ids, completions = texts(policy, [prompt], block)
        rows = [prompt.row] * block.G
        proxy = call_reward(self.reward, rows, completions, ids)
        return np.array([proxy, self.judge.scores(rows, completions, ids, [self.base[index]] * block.G)])


def _logps(policy: Policy, block: Rollouts) -> np.ndarray:
    """log π(y|x) of one block's responses, [G] in nats."""
    logps_PGT = score_group(policy, block, 1.0)
    total_G: np.ndarray = sequence_logps(logps_PGT.double(), block.mask_PGT)[0].cpu().numpy()
    return total_G
