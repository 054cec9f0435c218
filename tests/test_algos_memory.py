"""Memory that runs out is met with smaller portions, and nothing else changes."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import rollouts_of, same_weights, tiny_policy
from tiny_runs import ALGORITHMS, run

from algos import PPO, Policy, RunError, Sampling, UserError, sample
from algos.engine import loop, sampling, scoring
from algos.engine.algorithm import Outputs
from algos.engine.fast.direct import direct
from algos.engine.fast.stepping import LayerStepper
from algos.engine.forward import forward
from algos.engine.memory import Portions, out_of_memory
from algos.engine.models.loading import compute_dtype
from algos.engine.rollouts import Rollouts
from algos.engine.scoring import score_policy, score_reference

CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
FULL: dict[str, Callable[[], BaseException]] = {
    "gpu": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": lambda: RuntimeError(CPU),
    "driver": lambda: RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    "cublas": lambda: RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    ),
    "cublas handle": lambda: RuntimeError(
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`"
    ),
}


@pytest.fixture
def full() -> Callable[[], BaseException]:
    """One kind for all tests: that every kind is met alike is `test_halves_until_it_fits`'s to show."""
    return FULL["cpu"]


class Small:
    """A forward pass that holds so many prompts; beyond, memory is full. Remembers what it was given."""

    def __init__(self, room: int, full: Callable[[], BaseException], spare: int = 0) -> None:
        self.room, self.full, self.spare, self.seen = room, full, spare, list[int]()

    def __call__(self, model: Any, part: Any, *arguments: Any) -> Any:
        self.seen.append(part.P)
        outputs = forward(model, part, *arguments)
        if self.room < part.P:
            self.spare -= 1
            if self.spare < 0:
                raise self.full()
        return outputs


# Training ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_step_that_does_not_fit_is_that_of_a_smaller_micro_batch(
    name: str, full: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, though its first attempt had left gradients behind."""
    asked, found, algorithm = tiny_policy(), tiny_policy(), ALGORITHMS[name]
    if name == "ppo":
        algorithm = replace(algorithm, minibatches=1)
    expected = run(algorithm, asked, micro_batch=1).rows
    small = Small(1, full, spare=1)
    monkeypatch.setattr(loop, "forward", small)
    rows = run(algorithm, found, micro_batch=2).rows
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in expected]
    assert same_weights(found, asked)
    # One part of two went through and one did not; from then on none is larger than one.
    assert small.seen[:2] == [2, 2]
    assert set(small.seen[2:]) == {1}


@pytest.mark.parametrize("full", FULL.values(), ids=FULL)
def test_halves_until_it_fits(full: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    small = Small(1, full)
    monkeypatch.setattr(loop, "forward", small)
    run(ALGORITHMS["reinforce"], budget="2iterations", micro_batch=100)
    assert small.seen == [4, 2, 1, 1, 1, 1, 1, 1, 1, 1]


def test_what_did_not_fit_is_let_go_before_it_is_tried_again(full: Callable[[], BaseException]) -> None:
    """The first update's forward is made ahead of it: were it held, the smaller parts would have less room."""
    seen: list[weakref.ref[Any]] = []

    class Fills(PPO):
        def loss(self, outputs: Outputs, prepared: Rollouts) -> Any:
            if not seen:
                seen.append(weakref.ref(outputs.logps_PGT))
                raise full()
            assert seen[0]() is None
            return super().loss(outputs, prepared)

    run(Fills(), budget="1iterations")
    assert seen


def test_a_step_that_fits_in_no_part_says_what_helps(
    full: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "forward", Small(0, full))
    policy = tiny_policy()
    with pytest.raises(RunError, match="out of memory in training") as caught:
        run(ALGORITHMS["ppo"], policy)
    for remedy in ("--gradient-checkpointing", "--lora", "--max-new-tokens"):
        assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)
    assert same_weights(policy, tiny_policy())


def test_no_room_for_the_optimizer_says_what_helps(
    full: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: Any) -> None:
        raise full()

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(RunError, match=r"out of memory in the optimizer's step.*--lora"):
        run(ALGORITHMS["ppo"])


def test_other_errors_are_not_taken_for_full_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Small(0, lambda: RuntimeError("shapes do not match"))
    monkeypatch.setattr(loop, "forward", small)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(ALGORITHMS["reinforce"], micro_batch=4)
    assert small.seen == [4]


def test_what_full_memory_looks_like() -> None:
    assert all(out_of_memory(make()) for make in FULL.values())
    assert out_of_memory(torch.OutOfMemoryError("no words that anyone would know"))
    assert not out_of_memory(RuntimeError("out of luck"))
    assert not out_of_memory(ValueError(CPU))


def test_memory_is_freed_before_the_next_attempt() -> None:
    """A failed attempt's tensors hang on its traceback."""
    alive: list[bool] = []

    class Tensor:
        def __del__(self) -> None:
            alive.append(False)

    def attempt(size: int) -> int:
        held = Tensor()
        if size > 1:
            raise RuntimeError(CPU)
        assert len(alive) == 2, "the failed attempts are still in memory"
        return size if held else 0

    assert Portions().run("training", 4, attempt, "") == 1


# Without gradient ------------------------------------------------------------------------------------


def test_scoring_in_smaller_parts_is_the_same(
    full: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny_policy(double=True)
    rollouts = rollouts_of([[1], [2, 1], [1, 1, 2]], [[[1, 2, 0]], [[2]], [[2, 2]]])
    expected = [score_policy(policy, rollouts, 1.0)[0], score_reference(policy, rollouts, 1.0)]
    small = Small(1, full)
    monkeypatch.setattr(scoring, "forward", small)
    found = [score_policy(policy, rollouts, 1.0)[0], score_reference(policy, rollouts, 1.0)]
    assert small.seen == [3, 1, 1, 1, 1, 1, 1]  # the reference begins with what fitted the policy
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours[rollouts.mask_PGT], theirs[rollouts.mask_PGT])
    monkeypatch.setattr(scoring, "forward", Small(0, full))
    with pytest.raises(RunError, match=r"out of memory in scoring.*--max-new-tokens"):
        score_policy(policy, rollouts, 1.0)


def test_sampling_fewer_rows_at_once_is_the_same(
    full: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down to one response at a time: a group may be larger than what fits."""
    settings, prompts = Sampling(max_new_tokens=6, group_size=4, greedy_prefix=1), [[1], [2, 1, 2], [1, 2]]
    expected = sample(tiny_policy(), prompts, settings, 3)
    whole, room, seen = LayerStepper.step, [0], list[int]()

    def step(self: LayerStepper, token_B: torch.Tensor) -> torch.Tensor:
        seen.append(len(token_B))
        if len(token_B) > room[0]:
            raise full()
        return whole(self, token_B)

    monkeypatch.setattr(LayerStepper, "step", step)
    for rows in (5, 1):
        room[0] = 8  # for the trial of its layers
        direct((policy := tiny_policy()).model)
        room[0] = rows
        found = sample(policy, prompts, settings, 3)
        assert torch.equal(found.response_ids_PGT, expected.response_ids_PGT)
        assert torch.equal(found.mask_PGT, expected.mask_PGT)
        assert torch.equal(found.ended_PG, expected.ended_PG)
        assert found.fixed_PGT is not None
        assert torch.equal(found.fixed_PGT, expected.fixed_PGT)
        torch.testing.assert_close(found.sampler_logps_PGT, expected.sampler_logps_PGT)
    assert min(seen) == 1
    room[0] = 0
    with pytest.raises(RunError, match=r"out of memory in sampling.*--max-new-tokens"):
        sample(tiny_policy(), prompts, settings, 3)


def test_rows_at_once_are_bounded_and_cover_everything() -> None:
    for P, G, rows in ((5, 4, 8), (5, 4, 9), (3, 4, 3), (3, 4, 1), (1, 1, 256), (2, 7, 256)):
        seen = torch.zeros(P, G)
        for part in sampling._portions(P, G, rows):
            assert seen[part].numel() <= max(rows, 1)
            seen[part] += 1
        assert bool((seen == 1).all())


def test_no_room_for_the_model_says_what_helps(
    full: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    tiny_policy().save(tmp_path)

    def deepcopy(*_: Any) -> None:
        raise full()

    monkeypatch.setattr("algos.engine.models.frozen.copy", SimpleNamespace(deepcopy=deepcopy))
    with pytest.raises(UserError, match=r"not enough memory for .* and its frozen reference.*--lora"):
        Policy.load(tmp_path, device="cpu")


# Precision --------------------------------------------------------------------------------------------


def test_auto_is_bf16_only_where_the_gpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for has in (True, False):
        # Without `including_emulation=False` torch says yes of every GPU that can imitate it.
        def supported(has: bool = has, including_emulation: bool = True) -> bool:
            return has or including_emulation

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        assert compute_dtype("auto", gpu) == (torch.bfloat16 if has else torch.float32)
    assert compute_dtype("auto", cpu) == torch.float32
    assert compute_dtype("bf16", cpu) == torch.bfloat16
    assert compute_dtype("fp32", gpu) == torch.float32
