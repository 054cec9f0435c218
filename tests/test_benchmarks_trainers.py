"""benchmarks/trainers: the same work for every contestant, floors that count right, workers that answer."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import rollouts_of
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from algos.engine.batches.responses import closed
from algos.engine.forward import forward
from algos.engine.models.policy import Policy
from benchmarks.trainers import floors
from benchmarks.trainers.contest import workers
from benchmarks.trainers.floors import Cost, Work, needed
from benchmarks.trainers.gate import STEP, Gate, synchronise
from benchmarks.trainers.ours import ALGORITHMS
from benchmarks.trainers.phases import OLD, REFERENCE, REWARD, SAMPLING, UPDATE, Stopwatch
from benchmarks.trainers.worlds import (
    EOS,
    NEVER,
    PAD,
    PROMPT_TOKENS,
    RESPONSE_TOKENS,
    SEQUENCES,
    SIZES,
    Case,
    last_is_odd,
)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case.build(tmp_path_factory.mktemp("case"), "tiny", 2, 1, "fp32")


@pytest.fixture(scope="module")
def model(case: Case) -> Any:
    return AutoModelForCausalLM.from_pretrained(case.model, attn_implementation="eager")


# The work ----------------------------------------------------------------------------------------------


def test_every_contestant_is_given_the_same(case: Case, tmp_path: Path) -> None:
    again = Case.build(tmp_path, "tiny", 2, 1, "fp32")
    assert asdict(Case.read(case.folder)) == asdict(case)
    assert asdict(again) | {"folder": case.folder} == asdict(case)
    weights = [(each.model / "model.safetensors").read_bytes() for each in (case, again)]
    assert weights[0] == weights[1]


def test_prompts_and_responses_are_as_long_as_the_page_says(case: Case) -> None:
    policy = Policy.load(case.model, device="cpu")
    prompts = policy.tokenizer(case.prompts).input_ids
    assert {len(ids) for ids in prompts} == set(range(PROMPT_TOKENS[0], PROMPT_TOKENS[1] + 1))
    assert len(prompts) == case.steps * SEQUENCES == 2 * len(case.pairs)
    for name in ("chosen", "rejected"):
        responses = policy.tokenizer([pair[name] for pair in case.pairs]).input_ids
        assert {len(closed(policy, ids)) for ids in responses} == {RESPONSE_TOKENS}


@pytest.mark.parametrize("size", ["gpt2", "half-billion"])
def test_words_are_tokens_to_whoever_reads_the_directory(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers has tokenizers of its own for some families, whatever lies beside their weights."""
    small = replace(SIZES[size], layers=1, width=32, heads=2, vocabulary=64, steps=1)
    monkeypatch.setitem(SIZES, size, small)
    case = Case.build(tmp_path, size, 1, 1, "fp32")
    for tokenizer in (
        Policy.load(case.model, device="cpu").tokenizer,
        AutoTokenizer.from_pretrained(case.model),
    ):
        assert tokenizer(case.prompts).input_ids == [
            [int(w[1:]) for w in text.split()] for text in case.prompts
        ]


def test_no_text_makes_eos_or_pad_likely(case: Case, model: Any) -> None:
    ids = AutoTokenizer.from_pretrained(case.model)(
        case.prompts[:SEQUENCES], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits_BSV = model(**ids).logits
    assert torch.allclose(logits_BSV[..., [EOS, PAD]], torch.tensor(NEVER), atol=1e-3)
    assert float(logits_BSV.softmax(-1)[..., [EOS, PAD]].max()) < 1e-9


def test_responses_that_end_when_they_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded ones and those that are drawn, and no floor for what nobody could count beforehand."""
    monkeypatch.setitem(SIZES, "tiny", replace(SIZES["tiny"], ends=1 / 32, steps=64))
    case = Case.build(tmp_path, "tiny", 2, 1, "fp32")
    lengths = [len(pair[name].split()) + 1 for pair in case.pairs for name in ("chosen", "rejected")]
    # Of a geometric law with mean 32 that is cut at 64 the mean is 32·(1 − (31/32)⁶⁴).
    assert sum(lengths) / len(lengths) == pytest.approx(32 * (1 - (31 / 32) ** 64), rel=0.1)
    assert (min(lengths), max(lengths)) == (2, RESPONSE_TOKENS)
    model = AutoModelForCausalLM.from_pretrained(case.model)
    ids = AutoTokenizer.from_pretrained(case.model)(
        case.prompts[:SEQUENCES], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        ends_BS = model(**ids).logits.softmax(-1)[..., EOS]
    assert float(ends_BS.mean()) == pytest.approx(1 / 32, rel=0.2)


def test_sizes_are_those_of_the_page() -> None:
    millions = {name: _parameters(name) / 1e6 for name in SIZES}
    assert millions == pytest.approx(
        {"tiny": 0.446, "small": 27.4, "small-ending": 27.4, "gpt2": 124.4, "half-billion": 494.0}, rel=0.01
    )


def _parameters(size: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(SIZES[size].config()).parameters())


def test_the_reward_reads_the_last_token() -> None:
    assert last_is_odd([[2, 3], [3, 2], [5]], prompts=["a", "b", "c"]) == [1.0, 0.0, 1.0]


# Floors ------------------------------------------------------------------------------------------------


def counted(work: Any) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def test_flops_of_forward_and_backward(model: Any) -> None:
    """Sequences of one length, so that torch's count has no padding in it."""
    ids_BS, T = torch.full((4, 40), 5), 16
    expected = Cost.of(model).flops([40] * 4, 4 * T)
    with torch.no_grad():
        found = counted(lambda: model(input_ids=ids_BS, logits_to_keep=T, use_cache=False))
    assert found == pytest.approx(expected, rel=0.02)
    both = counted(lambda: model(input_ids=ids_BS, logits_to_keep=T, use_cache=False).logits.sum().backward())
    assert both == pytest.approx((1 + floors.BACKWARD) * expected, rel=0.02)


def test_flops_of_a_prompt_read_once(model: Any) -> None:
    cache, prompt, read = DynamicCache(config=model.config), 24, 15

    def work() -> None:
        model.base_model(input_ids=torch.full((2, prompt), 5), past_key_values=cache)
        cache.batch_repeat_interleave(4)
        model.base_model(input_ids=torch.full((8, read), 5), past_key_values=cache)

    with torch.no_grad():
        assert counted(work) == pytest.approx(Cost.of(model).groups([prompt] * 2, 4, read), rel=0.02)


@pytest.mark.parametrize("G", [1, 4])
def test_ours_computes_what_is_needed(model: Any, G: int) -> None:
    """Of prompts and responses of one length."""
    P, L, T, cost = 8 // G, 24, 16, Cost.of(model)
    rollouts = rollouts_of([[5] * L] * P, [[[7] * T] * G] * P)
    trunk = cost.flops([L + T - 1] * P, 0) if G == 1 else cost.groups([L] * P, G, T - 1)
    expected = trunk + 2 * cost.head * P * G * T - cost.spared(P * L, P)
    with torch.no_grad():
        forward(model, rollouts, 1.0, torch.float32)  # tried out
        assert counted(lambda: forward(model, rollouts, 1.0, torch.float32)) == pytest.approx(
            expected, rel=0.02
        )


def test_flops_of_one_more_token(model: Any) -> None:
    cache, context = DynamicCache(config=model.config), 40
    with torch.no_grad():
        model(input_ids=torch.full((1, context), 5), past_key_values=cache)
        found = counted(lambda: model(input_ids=torch.tensor([[5]]), past_key_values=cache))
    assert found == pytest.approx(Cost.of(model).decoding(context), rel=0.02)


def test_what_a_step_needs(case: Case) -> None:
    work = {name: needed(case, name) for name in ALGORITHMS}
    assert work["dpo"].keys() == {REFERENCE, UPDATE}
    assert work["ppo"].keys() == {SAMPLING, REWARD, REFERENCE, OLD, UPDATE}
    assert work["dpo"][UPDATE].flops == pytest.approx(3 * work["dpo"][REFERENCE].flops)
    # Prompts are read once for a pair or a group of four, and once for each of PPO's responses.
    assert work["reinforce"][UPDATE].flops < work["dpo"][UPDATE].flops < work["ppo"][UPDATE].flops / 4
    critic = work["ppo-separate"][OLD].flops - work["ppo"][OLD].flops
    assert work["ppo-separate"][UPDATE].flops - work["ppo"][UPDATE].flops == pytest.approx(12 * critic)
    assert work["reinforce"][SAMPLING].flops < work["ppo"][SAMPLING].flops
    assert work["ppo"][REWARD] == Work()


def fastest(work: Callable[[], Any]) -> float:
    """Seconds of the fastest of fifty calls: others may use the machine."""
    taken = []
    for _ in range(50):
        synchronise()
        start = time.perf_counter()
        work()
        synchronise()
        taken.append(time.perf_counter() - start)
    return min(taken)


def test_rates_are_those_of_a_machine(case: Case) -> None:
    """Of one product and one copy, within what sizes and other work on the machine make of them."""
    rates = floors.Rates(case)
    found, square = rates(), torch.randn(512, 512, device=rates.weights.device)
    flops_per_second = 2 * 512**3 / fastest(lambda: torch.mm(square, square))
    bytes_per_second = rates.weights.nbytes / fastest(rates.weights.clone)
    assert 0.1 < found["flops_per_second"] / flops_per_second < 10
    assert 0.1 < found["bytes_per_second"] / bytes_per_second < 10


# Workers -----------------------------------------------------------------------------------------------


def test_the_gate_lets_one_step_through_at_a_time() -> None:
    answers = io.StringIO()
    gate = Gate(io.StringIO(f"{STEP}\n{STEP}\n"), answers, lambda: {"phases": {}})
    gate()
    gate()
    with pytest.raises(SystemExit):
        gate()
    first, *steps = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert first["seconds"] is None
    assert len(steps) == 2
    assert all(step["seconds"] > 0 and step["peak"] >= step["memory"] > 0 for step in steps)


@pytest.mark.parametrize(
    ("contestant", "algorithm", "before", "during"),
    [("ours", "dpo", {REFERENCE}, set()), ("phases", "ppo", set(), {SAMPLING, REWARD, REFERENCE, UPDATE})],
)
def test_a_worker_of_ours_answers(
    case: Case, contestant: str, algorithm: str, before: set[str], during: set[str]
) -> None:
    """Also that the engine still has the functions whose time is told, and that they are where the time goes."""
    with workers(case, [contestant], algorithm) as started:
        worker = started[contestant]
        assert worker.ready["phases"].keys() == before
        answer = worker.step()
    assert answer["phases"].keys() - {OLD} == during
    assert 0.7 * bool(during) <= sum(answer["phases"].values()) / answer["seconds"] <= 1
    assert answer["peak"] >= worker.ready["memory"] > 0
    assert worker.process.returncode == 0


def test_time_inside_a_timed_function_counts_once() -> None:
    class Engine:
        @staticmethod
        def outer() -> str:
            return Engine.inner()

        @staticmethod
        def inner() -> str:
            return "done"

    watch = Stopwatch()
    watch.watch("outer", Engine, "outer")
    watch.watch("inner", Engine, "inner")
    assert Engine.outer() == "done"
    assert watch.taken().keys() == {"outer"}
    assert Engine.inner() == "done"
    assert watch.taken().keys() == {"inner"}
