"""Recorded pairs as batches: the reference's log-probabilities and what caches them, and every pair once an epoch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import pair, tiny_policy

from algos import DPO, Policy, train
from algos.engine.batches.pairs import encode_pairs
from algos.engine.batches.recorded import PairSource, collate, reference_key, reference_logps
from algos.engine.budget import Meter
from algos.engine.scoring import score_reference
from algos.engine.versions import installed

PAIRS = [pair("a", " b", " a b"), pair("b a", " a a a", " b"), pair("a b", " a", " b b a b")]


def test_cached_reference_logps_are_the_same_numbers(tmp_path: Path) -> None:
    policy = tiny_policy()
    pairs, _ = encode_pairs(policy, PAIRS, 8)
    computed = reference_logps(policy, pairs, 1.0)
    written = reference_logps(policy, pairs, 1.0, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    stamp = file.stat().st_mtime_ns
    read = reference_logps(policy, pairs, 1.0, tmp_path)
    assert file.stat().st_mtime_ns == stamp
    for a, b, c in zip(computed, written, read, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    for one, logps in zip(pairs, computed, strict=True):
        exact = score_reference(policy, collate(policy, [one]), 1.0)[0]
        mask = collate(policy, [one]).mask_PGT[0]
        torch.testing.assert_close(logps[mask], exact[mask], atol=1e-5, rtol=1e-5)


def test_the_cache_is_keyed_by_everything_it_depends_on(tmp_path: Path) -> None:
    policy = tiny_policy()
    pairs, _ = encode_pairs(policy, PAIRS, 8)
    reference_logps(policy, pairs, 1.0, tmp_path)
    reference_logps(policy, pairs, 0.7, tmp_path)
    reference_logps(policy, pairs[:2], 1.0, tmp_path)
    reference_logps(policy, encode_pairs(policy, PAIRS, 2)[0], 1.0, tmp_path)
    reference_logps(tiny_policy(seed=1), pairs, 1.0, tmp_path)
    policy.dtype = torch.bfloat16
    reference_logps(policy, pairs, 1.0, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 6


def test_the_reference_is_hashed_once_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the state and for the cache; and once behind it, for what must not have changed."""
    hashed: list[int] = []
    whole = Policy.reference_digest
    monkeypatch.setattr(Policy, "reference_digest", lambda policy: hashed.append(1) or whole(policy))
    train(DPO(batch_size=2), tiny_policy(), pairs=PAIRS, reference_cache=tmp_path)
    assert len(hashed) == 2
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    reference_logps(tiny_policy(), encode_pairs(tiny_policy(), PAIRS, None)[0], 1.0, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1  # known or hashed, it is the same


@pytest.mark.parametrize("what", ["torch", "transformers", "rlhf-compare"])
def test_the_cache_is_keyed_by_versions(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    pairs, _ = encode_pairs(policy, PAIRS, 8)
    before = reference_key(policy, pairs, 1.0)
    assert reference_key(policy, pairs, 1.0) == before
    monkeypatch.setattr(
        "algos.engine.batches.recorded.installed", lambda name: "99.0" if name == what else installed(name)
    )
    assert reference_key(policy, pairs, 1.0) != before


def test_a_source_visits_every_pair_once_an_epoch_in_another_order() -> None:
    policy = tiny_policy()
    pairs, _ = encode_pairs(policy, [pair("a", " b" * n, " a") for n in range(1, 8)], 16)
    source = PairSource(
        policy, pairs, batch_size=3, epochs=2, seed=0, ref_logps=reference_logps(policy, pairs, 1.0)
    )
    meter = Meter()
    batches = [source.next(i, meter) for i in range(6)]
    lengths = [[int(n) for n in batch.lengths_PG[:, 0]] for batch in batches]
    assert [len(batch) for batch in lengths] == [3, 3, 1, 3, 3, 1]
    first, second = ([n for batch in half for n in batch] for half in (lengths[:3], lengths[3:]))
    assert sorted(first) == sorted(second) == list(range(2, 9))
    assert first != second
    assert (source.progress(0), source.progress(3), source.progress(6)) == (0, 0.5, 1)
    assert meter.completions == 28
