"""Our REINFORCE (leave-one-out) and DPO against TRL's RLOO and DPO, configured alike: the same curve, or why not.

    python -m benchmarks.same_curve            # the tables of docs/same_curve.md, about 20 minutes on one busy core

Every final policy is evaluated by our Evaluator on the same test prompts. Seeds are not paired: the two libraries draw
other samples and other orders from the same seed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from eval.process.quiet import quiet

if TYPE_CHECKING:
    import pandas as pd

    from algos import Algorithm, Policy
    from eval.experiment import Experiment
    from eval.tasks.materials import Materials

STORIES = Path(__file__).parents[2] / "shared" / "data"
UPDATES = {"reviews": 60, "stories": 30}
EPOCHS = {"reviews": 2, "stories": 1}
SETTINGS: dict[str, dict[str, Any]] = {
    "reviews": {
        "sampling": {"max_new_tokens": 24, "group_size": 4, "prompts_per_iteration": 16},
        "reinforce": {"beta": 0.1, "learning_rate": 2e-3},
        "dpo": {"beta": 0.3, "learning_rate": 3e-4},
    },
    "stories": {
        "task": "custom",
        "model": str(STORIES / "stories260k"),
        "prompts": str(STORIES / "stories_prompts.jsonl"),
        "pairs": str(STORIES / "stories_pairs.jsonl"),
        "reward": f"{STORIES / 'sentiment_reward.py'}:vader",
        "judge": f"{STORIES / 'sentiment_reward.py'}:afinn",
        "sampling": {"max_new_tokens": 48, "group_size": 4, "prompts_per_iteration": 16},
        "reinforce": {"beta": 0.1, "learning_rate": 5e-4},
        "dpo": {"beta": 0.1, "learning_rate": 3e-4},
    },
}
WHOLE = 128
"""Tokens of a recorded response that are kept: more than any has, so that EOS closes all of them, as in TRL."""
FINAL = {"reward/judge": "judge", "reward/proxy": "proxy", "kl/sequence": "KL [nats]", "length": "length"}
CURVE = {"reinforce": ("reward/train", "reward"), "dpo": ("margin", "rewards/margins")}
"""What both libraries log at every update, by our name and by theirs."""
THIRDS = ("first third", "second third", "last third")


@dataclass(frozen=True)
class World:
    """A task, its settings and what both libraries share."""

    name: str
    experiment: Experiment
    materials: Materials

    @classmethod
    def build(cls, name: str, cache: Path) -> World:
        from eval.experiment import Experiment
        from eval.settings.layers import layered
        from eval.stages.cache import ArtefactCache
        from eval.tasks import materials_of, preset

        settings = SETTINGS[name] | {"device": "cpu", "algos": ["reinforce", "dpo"], "eval": {"responses": 4}}
        experiment = Experiment.from_dict(layered(preset(name), settings))
        return cls(name, experiment, materials_of(experiment, ArtefactCache(cache), 0))

    def algorithm(self, name: str) -> Algorithm:
        from dataclasses import replace

        from algos import DPO

        chosen: Algorithm = getattr(self.experiment.hyperparameters, name)
        return replace(chosen, epochs=EPOCHS[self.name]) if isinstance(chosen, DPO) else chosen

    def base(self) -> Policy:
        from algos import Policy

        return Policy.load(self.materials.model, device="cpu")

    def reward(self) -> Any:
        return self.materials.reward.open("cpu")


Trained: TypeAlias = "tuple[Policy, list[float], float]"
"""A policy with the base as its reference, what was logged at each update, and seconds."""


def ours(world: World, name: str, seed: int) -> Trained:
    """`train()`; the clock includes tokenisation and the reference's log-probabilities."""
    from dataclasses import replace

    from algos import train

    policy, sampling = world.base(), world.experiment.sampling
    data: dict[str, Any] = {
        "prompts": world.materials.train_prompts, "reward": world.reward(), "sampling": sampling,
        "budget": f"{UPDATES[world.name]}updates",
    }  # fmt: skip
    if name == "dpo":
        data = {"pairs": world.materials.pairs, "sampling": replace(sampling, max_new_tokens=WHOLE)}
    start = time.perf_counter()
    history = train(world.algorithm(name), policy, **data, seed=seed)
    seconds = time.perf_counter() - start
    return policy, [row[CURVE[name][0]] for row in history.rows], seconds


def theirs(world: World, name: str, seed: int, positions: bool = False) -> Trained:
    """TRL's trainer; the clock includes its construction, where it tokenises and loads the reference."""
    from transformers import AutoModelForCausalLM, PrinterCallback

    policy = world.base()
    model = AutoModelForCausalLM.from_pretrained(world.materials.model, dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        build = _rloo if name == "reinforce" else _dpo
        reward, start = world.reward(), time.perf_counter()
        trainer = build(world, model, policy, reward, _arguments(world.algorithm(name), seed, folder))
        trainer.remove_callback(PrinterCallback)
        if positions:
            for each in (trainer.model, trainer.ref_model):
                each.register_forward_pre_hook(_positions_from_mask, with_kwargs=True)
        trainer.train()
        seconds = time.perf_counter() - start
    policy.model.load_state_dict(trainer.model.state_dict())
    key = CURVE[name][1]
    return policy, [row[key] for row in trainer.state.log_history if key in row], seconds


def _arguments(algorithm: Algorithm, seed: int, folder: str) -> dict[str, Any]:
    """Our hyper-parameters under TRL's names; fp32 on the CPU, nothing saved or reported."""
    beta_1, beta_2 = algorithm.adam_betas
    return {
        "output_dir": folder, "seed": seed, "beta": algorithm.beta, "learning_rate": algorithm.learning_rate,
        "lr_scheduler_type": algorithm.schedule, "warmup_steps": 0, "max_grad_norm": algorithm.max_grad_norm,
        "weight_decay": algorithm.weight_decay, "adam_beta1": beta_1, "adam_beta2": beta_2,
        "adam_epsilon": algorithm.adam_eps, "gradient_accumulation_steps": 1, "disable_dropout": True,
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "save_strategy": "no", "report_to": "none",
        "logging_steps": 1, "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip


def _rloo(world: World, model: Any, policy: Policy, reward: Any, arguments: Mapping[str, Any]) -> Any:
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    sampling = world.experiment.sampling
    settings = RLOOConfig(
        **arguments, max_steps=UPDATES[world.name], num_generations=sampling.group_size, num_iterations=1,
        per_device_train_batch_size=sampling.prompts_per_iteration * sampling.group_size,
        max_completion_length=sampling.max_new_tokens, temperature=sampling.temperature, top_p=1.0, top_k=0,
        normalize_advantages=False, mask_truncated_completions=False,
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": row["prompt"]} for row in world.materials.train_prompts])
    trainer = RLOOTrainer(
        model=model, reward_funcs=reward, args=settings, train_dataset=rows, processing_class=policy.tokenizer
    )
    assert sorted(trainer.eos_token_ids) == policy.eos_ids
    return trainer


def _dpo(world: World, model: Any, policy: Policy, reward: Any, arguments: Mapping[str, Any]) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    algorithm: Any = world.algorithm("dpo")
    settings = DPOConfig(
        **arguments, num_train_epochs=algorithm.epochs, per_device_train_batch_size=algorithm.batch_size, max_length=None
    )  # fmt: skip
    columns = ("prompt", "chosen", "rejected")
    rows = Dataset.from_list([{key: row[key] for key in columns} for row in world.materials.pairs])
    return DPOTrainer(model=model, args=settings, train_dataset=rows, processing_class=policy.tokenizer)


def _positions_from_mask(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Position ids where a forward has none, as `generate` gives them."""
    from algos.engine.inputs import positions

    if kwargs.get("position_ids") is None and kwargs.get("past_key_values") is None:
        kwargs["position_ids"] = positions(kwargs["attention_mask"].bool())
    return args, kwargs


LIBRARIES: dict[str, Callable[[World, str, int], Trained]] = {
    "ours": ours,
    "TRL": theirs,
    "TRL, positions": partial(theirs, positions=True),
}


def libraries(task: str, name: str) -> list[str]:
    """Absolute positions and padding on the left make the third worth a look: GPT-2, sampling."""
    return list(LIBRARIES) if (task, name) == ("reviews", "reinforce") else ["ours", "TRL"]


def measure(world: World, name: str, library: str, seed: int) -> dict[str, Any]:
    """One run, its curve in thirds, and its final policy evaluated by our Evaluator."""
    import numpy as np

    from eval.metrics import Evaluator

    policy, curve, seconds = LIBRARIES[library](world, name, seed)
    found = Evaluator(policy, world.materials, world.experiment)().metrics
    thirds = [float(np.mean(part)) for part in np.array_split(curve, 3)]
    return {
        "task": world.name, "algorithm": name, "library": library, "seed": seed, "updates": len(curve),
        **{title: found[key] for key, title in FINAL.items()},
        **dict(zip(THIRDS, thirds, strict=True)), "seconds": seconds,
    }  # fmt: skip


def padding_shift(world: World) -> dict[str, float]:
    """What missing position ids do behind padding on the left: the mean nats a response that the base's log-probability
    of its own loses, by the number of padding tokens and over all."""
    import torch

    from algos import sample
    from algos.engine.batches.prompts import encode_prompts
    from algos.engine.forward import forward

    policy, sampling = world.base(), world.experiment.sampling
    prompts, _ = encode_prompts(policy, world.materials.train_prompts[:256], sampling.max_new_tokens)
    drawn = sample(policy, [prompt.ids for prompt in prompts], sampling, seed=0)
    L, ids_BT = drawn.prompt_ids_PL.shape[1], drawn.response_ids_PGT.flatten(0, 1)
    with torch.no_grad():
        right_BT = forward(policy.model, drawn, 1.0, torch.float32).logps_PGT.flatten(0, 1)
        logits_BSV = policy.model(
            input_ids=drawn.input_ids_BS(), attention_mask=drawn.attention_mask_BS().long()
        ).logits
        shifted_BT = logits_BSV[:, L - 1 : -1].log_softmax(-1).gather(-1, ids_BT[..., None]).squeeze(-1)
    lost_PG = (
        ((right_BT - shifted_BT) * drawn.mask_PGT.flatten(0, 1)).sum(-1).unflatten(0, (drawn.P, drawn.G))
    )
    padding_P = L - drawn.prompt_mask_PL.sum(-1)
    found = {str(int(n)): float(lost_PG[padding_P == n].mean()) for n in padding_P.unique()}
    return found | {"all": float(lost_PG.mean())}


def table(runs: pd.DataFrame, library: str) -> str:
    """Ours and another's: mean ± half the t interval over seeds, and Welch's interval of the difference."""
    from scipy.stats import ttest_ind

    from eval.stats import mean_interval

    logged = CURVE[runs["algorithm"].iloc[0]][0]
    lines = [f"| | ours | {library} | ours − {library} |", "|---|---|---|---|"]
    for column in (*FINAL.values(), *THIRDS, "seconds"):
        sides = [runs.loc[runs["library"] == side, column].to_numpy() for side in ("ours", library)]
        cells = [f"{each.mean:.3f} ± {each.half_width:.3f}" for each in map(mean_interval, sides)]
        low, high = ttest_ind(*sides, equal_var=False).confidence_interval(0.95)
        gap = f"{sides[0].mean() - sides[1].mean():+.3f} [{low:+.3f}, {high:+.3f}]"
        name = f"{logged}, {column}" if column in THIRDS else column
        lines.append(f"| {name} | {' | '.join(cells)} | {gap if low <= 0 <= high else f'**{gap}**'} |")
    return "\n".join(lines)


def main() -> None:
    import pandas as pd

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--algos", nargs="+", choices=list(CURVE), default=list(CURVE))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/rlhf-compare").expanduser())
    parser.add_argument("--runs", type=Path, help="runs as JSON lines; those it holds are not made again")
    options = parser.parse_args()
    quiet()
    import torch

    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    if options.runs and options.runs.is_file():
        rows = [json.loads(line) for line in options.runs.read_text(encoding="utf-8").splitlines()]
    for task in options.tasks:
        if task == "stories" and not STORIES.is_dir():
            print(f"stories is left out: there is no {STORIES}.")
            continue
        world = World.build(task, options.cache)
        _run(world, options.algos, range(options.seeds), rows, options.runs)
        if "reinforce" in options.algos:
            print(f"{task}, nats lost without position ids, by padding:")
            print(", ".join(f"{padding}: {lost:.2f}" for padding, lost in padding_shift(world).items()))
    for (task, name), runs in pd.DataFrame(rows).groupby(["task", "algorithm"], sort=False):
        for library in [each for each in runs["library"].unique() if each != "ours"]:
            print(f"\n{task}, {name}: ours against {library}\n\n{table(runs, library)}")


def _run(
    world: World, algos: Sequence[str], seeds: Sequence[int], rows: list[dict[str, Any]], kept: Path | None
) -> None:
    """Adds the runs that are not there yet, one after another: they share no clock."""
    done = {(row["task"], row["algorithm"], row["library"], row["seed"]) for row in rows}
    for name in algos:
        for seed in seeds:
            for library in libraries(world.name, name):
                if (world.name, name, library, seed) not in done:
                    rows.append(measure(world, name, library, seed))
                    print(rows[-1], flush=True)
                    if kept:
                        with kept.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(rows[-1]) + "\n")


if __name__ == "__main__":
    main()
