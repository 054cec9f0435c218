"""The pool of samples: it comes back as it was saved, its parts are joined, and what fits no pool is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from algos.engine.storage import DamagedFile
from eval.frontier.pool import Pool


def a_pool(prompts: int = 2) -> Pool:
    random = np.random.default_rng(0)
    rewards = {name: random.normal(size=(prompts, 5)) for name in ("proxy", "judge")}
    return Pool(("base", "ppo"), (0, 3), (3, 2), -random.random((2, prompts, 5)), rewards)


def test_a_pool_is_what_was_saved(tmp_path: Path) -> None:
    pool = a_pool()
    pool.save(tmp_path / "frontier")
    again = Pool.load(tmp_path / "frontier")
    assert again is not None
    assert again.description == pool.description
    np.testing.assert_array_equal(again.logps_KPM, pool.logps_KPM)
    np.testing.assert_array_equal(again.rewards["judge"], pool.rewards["judge"])
    assert Pool.load(tmp_path / "nothing") is None


def test_parts_are_joined_by_prompt() -> None:
    first, second = a_pool(2), a_pool(3)
    joined = Pool.joined([first, second])
    assert joined.logps_KPM.shape == (2, 5, 5)
    np.testing.assert_array_equal(joined.logps_KPM[:, 2:], second.logps_KPM)
    np.testing.assert_array_equal(joined.rewards["proxy"][:2], first.rewards["proxy"])


def test_what_the_reward_left_unscored_is_kept_as_such(tmp_path: Path) -> None:
    """But nothing is missing of a judge, and nothing is infinite."""
    pool = a_pool()

    def kept(name: str, value: float) -> np.ndarray:
        damaged = pool.rewards[name].copy()
        damaged[1, 2] = value
        folder = tmp_path / f"{name} {value}"
        replace(pool, rewards={**pool.rewards, name: damaged}).save(folder)
        found = Pool.load(folder)
        assert found is not None
        return np.argwhere(np.isnan(found.rewards[name]))

    assert kept("proxy", np.nan).tolist() == [[1, 2]]
    for name, value in (("proxy", np.inf), ("judge", np.nan)):
        with pytest.raises(DamagedFile, match=f"{name} holds what is none"):
            kept(name, value)


def test_a_pool_of_one_response_of_the_base_is_refused(tmp_path: Path) -> None:
    """There is no best of one, and no command samples it."""
    pool = a_pool()
    rewards = {name: values[:, 2:] for name, values in pool.rewards.items()}
    alone = replace(pool, counts=(1, 2), logps_KPM=pool.logps_KPM[:, :, 2:], rewards=rewards)
    alone.save(tmp_path / "frontier")
    with pytest.raises(DamagedFile, match="the base has fewer than two responses"):
        Pool.load(tmp_path / "frontier")


def test_a_sampler_has_its_own_places() -> None:
    pool = a_pool()
    assert (pool.of("base"), pool.of("ppo")) == (slice(0, 3), slice(3, 5))


def test_counts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        replace(a_pool(), counts=(3, 3))


def test_safetensors_full_disk_is_the_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("eval.frontier.pool.save_file", fails)
    with pytest.raises(OSError, match="No space left"):
        a_pool().save(tmp_path / "frontier")
