"""Draws the pool: every policy answers the same test prompts, and every policy scores every answer."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from algos import Policy, RunError, Sampling, UserError, sample
from algos.engine.batches.prompts import EncodedPrompt, encode_prompts, texts
from algos.engine.errors import one_line
from algos.engine.inputs import embedding_rows
from algos.engine.models.policy import pick_device
from algos.engine.rewards import call_reward
from algos.engine.rollouts import Rollouts
from algos.engine.scoring import score_group
from algos.engine.seeding import derive
from algos.engine.storage import disk, refused
from algos.losses import sequence_logps
from eval.directory.runs import Run
from eval.frontier.answers import BLOCK, Answers, Drawn
from eval.frontier.pool import Pool, describe
from eval.process.jobs import Job, Progress, Update
from eval.process.stopping import Stopped
from eval.process.workers import Workers
from eval.store import Store


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
        """
        settings = store.experiment.frontier
        if settings.samples == 0 or not store.experiment.eval.is_plain:
            return None
        chosen = _policies_of(store)
        data_seed = store.experiment.data_seed_of(min(chosen.values(), default=store.all_runs[0].seed))
        counts = (settings.samples, *(settings.each(len(chosen)) for _ in chosen))
        prompts = min(settings.prompts, len(store.materials(data_seed).test_prompts))
        return cls(("base", *chosen), (0, *chosen.values()), counts, prompts, data_seed)

    @property
    def description(self) -> dict[str, object]:
        return describe(self.samplers, self.seeds, self.counts, self.prompts)

    @property
    def about(self) -> dict[str, object]:
        """All that its answers depend on besides the comparison's settings, as JSON."""
        return {**self.description, "data_seed": self.data_seed}


def _policies_of(store: Store) -> dict[str, int]:
    """Arm → its lowest finished seed. Where every seed has a reward of its own, only arms of one seed can be
    held against the same frontier."""
    chosen: dict[str, int] = {}
    for run in store.all_runs:
        if run.status["status"] == "done":
            chosen.setdefault(run.arm, run.seed)
    if store.experiment.replicate_data and chosen:
        lowest = min(chosen.values())
        return {arm: seed for arm, seed in chosen.items() if seed == lowest}
    return chosen


def update_pool(store: Store, workers: Workers, update: Update) -> None:
    """Makes the comparison's pool where there is none of these policies yet.

    Raises RunError or UserError where that fails, OSError where the disk does not take it, and KeyboardInterrupt where
    the user stopped it. What was sampled and scored until then is kept, and not asked for again.
    """
    plan, pool, drawn = Plan.of(store), store.pool, Drawn(store.path)
    # A session that was killed may have had more workers than this one, which would not write over all it left.
    for part in store.path.glob("frontier.part-*"):
        disk.remove(part)
    if plan is None or (pool is not None and pool.description == plan.description):
        drawn.forget()  # of a session that was killed as soon as the pool was there
        return
    folder = store.path / "frontier"
    drawn.begin(plan.about)
    # The processes share a GPU's memory by the number of runs, however many there are.
    most = workers.count if pick_device(store.experiment.device).type == "cpu" else workers.at_once
    parts = [folder.with_name(f"frontier.part-{i}") for i in range(min(most, plan.prompts))]
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
        workers.do(jobs, update, stopped=_STOPPED)
        Pool.joined([found for part in parts if (found := Pool.load(part)) is not None]).save(folder)
        drawn.forget()
    finally:
        for part in parts:
            shutil.rmtree(part, ignore_errors=True)


def forget_pool(store: Store, runs: Collection[Run]) -> None:
    """Takes the pool away before policies that answered in it are made again: the new ones may be others."""
    again, pool = {(run.arm, run.seed) for run in runs}, store.pool if runs else None
    if pool is not None and again & set(zip(pool.samplers[1:], pool.seeds[1:], strict=True)):
        store.integrity.forget(["frontier"])  # first: what is known and not there is missed
        shutil.rmtree(store.path / "frontier")
    drawn = Drawn(store.path)
    if again & set(zip(drawn.plan.get("samplers", []), drawn.plan.get("seeds", []), strict=False)):
        drawn.forget()


_STOPPED = "what was sampled for the frontier is kept for --resume"


def _died(cause: str) -> str:
    raise RunError(f"a process that drew samples for the frontier died ({cause}); use fewer --workers.")


def _draw(directory: Path, plan: Plan, chunk: list[int], part: Path, progress: Progress) -> str:
    """The pool of some prompts; returns `drawn`, or `stopped` where the user asked to."""
    try:
        store = Store.open(directory)
        torch.set_num_threads(store.experiment.threads_per_run)
        _Drawing(store, plan, chunk, progress).pool().save(part)
    except Stopped:
        return "stopped"
    except (RunError, UserError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and refused(error, directory):
            raise
        # No memory, or a defect, here or in a library: it costs the frontier, not the report on the runs.
        raise RunError(f"{type(error).__name__}: {one_line(error)}") from error
    return "drawn"


class _Drawing:
    """Sampling, then scoring, of a chunk of the test prompts, with one policy in memory at a time."""

    def __init__(self, store: Store, plan: Plan, chunk: Sequence[int], progress: Progress) -> None:
        self.store, self.plan, self.chunk, self.progress = store, plan, chunk, progress
        self.experiment, self.materials = store.experiment, store.materials(plan.data_seed)
        device = pick_device(self.experiment.device)
        calls, dtype = self.experiment.reward_calls, self.experiment.dtype
        self.reward, self.judge = self.materials.scorers(device, calls, dtype)
        # What a pairwise judge compares with, as in the evaluation.
        self.base = {row["prompt_id"]: str(row["completion"]) for row in reversed(store.base_samples)}
        self.drawn = Drawn(store.path)

    def pool(self) -> Pool:
        """Raises Stopped where the user asked to stop."""
        plan, K = self.plan, len(self.plan.samplers)
        drawn_KPN, rewards_K = zip(*(self._sampled(k) for k in range(K)), strict=True)
        logps_KPM = np.stack([self._scored(k, drawn_KPN) for k in range(K)])
        proxy_PM, judge_PM = np.concatenate(rewards_K, axis=-1)
        return Pool(plan.samplers, plan.seeds, plan.counts, logps_KPM, {"proxy": proxy_PM, "judge": judge_PM})

    # A policy is in memory for one call of these two, so that it is gone before the next is loaded.

    def _sampled(self, k: int) -> tuple[list[list[Rollouts]], np.ndarray]:
        """Sampler k's responses to every prompt, in N blocks, and their proxy and judge, [2, P, count]."""
        policy = self._load(k)
        drawn_PN, rewards_P = [], []
        for p, (index, prompt) in enumerate(zip(self.chunk, self._prompts(policy), strict=True)):
            self._tell("sampling", 0.0, k, p)
            answers = self._answers(policy, prompt, index, k)
            drawn_PN.append(answers.blocks(prompt.ids))
            rewards_P.append(answers.scores_2M)
        return drawn_PN, np.stack(rewards_P, axis=1)

    def _answers(self, policy: Policy, prompt: EncodedPrompt, index: int, k: int) -> Answers:
        """Those that are kept, else sampled and scored now, and kept."""
        longest, rows = self.experiment.sampling.max_new_tokens, embedding_rows(policy.model)
        found = self.drawn.read(k, index, self.plan.counts[k], longest, rows)
        if found is None:
            blocks = self._blocks(policy, prompt, k)
            scores = [self._scores(policy, prompt, block, index) for block in blocks]
            found = Answers.of(blocks, np.concatenate(scores, axis=-1))
            self.drawn.write(k, index, found)
        return found

    def _scored(self, k: int, drawn_KPN: Sequence[Sequence[Sequence[Rollouts]]]) -> np.ndarray:
        """log π(y|x) of all samplers' responses under policy k, [P, M] in nats."""
        policy = self._load(k)
        logps_P = []
        for p, drawn_KN in enumerate(zip(*drawn_KPN, strict=True)):
            self._tell("scoring", 0.5, k, p)
            logps_P.append(np.concatenate([_logps(policy, block) for blocks in drawn_KN for block in blocks]))
        return np.stack(logps_P)

    def _tell(self, doing: str, done: float, k: int, p: int) -> None:
        """Raises Stopped where the user asked to stop."""
        samplers = self.plan.samplers
        share = (k + p / len(self.chunk)) / len(samplers)
        if not self.progress(done + 0.5 * share, f"{doing} {samplers[k]}"):
            raise Stopped

    def _load(self, k: int) -> Policy:
        sampler, seed = self.plan.samplers[k], self.plan.seeds[k]
        trained = self.store.run(sampler, seed).folder / "policy"
        model = self.materials.model if sampler == "base" else str(trained)
        return Policy.load(model, reference=False, **self.experiment.loading)

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
        """Proxy and judge of one block, [2, G]; NaN in the proxy where the reward left a response unscored."""
        ids, completions = texts(policy, [prompt], block)
        rows = [prompt.row] * block.G
        proxy = call_reward(self.reward, rows, completions, ids, unscored=True)
        return np.array(
            [proxy, self.judge.scores(rows, completions, ids, [self.base[index]] * block.G, proxy)]
        )


def _logps(policy: Policy, block: Rollouts) -> np.ndarray:
    """log π(y|x) of one block's responses, [G] in nats."""
    block = block.to(policy.device)
    logps_PGT = score_group(policy, block, 1.0)
    total_G: np.ndarray = sequence_logps(logps_PGT.double(), block.mask_PGT)[0].cpu().numpy()
    return total_G
