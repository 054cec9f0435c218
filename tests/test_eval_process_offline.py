"""--offline: no network is asked, what is cached is taken, and what is not is refused by name."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hub_world import FIRST
from small_world import SmallWorld

from algos.engine.errors import UserError
from eval.experiment import Experiment
from eval.memory.footprint import Need
from eval.process.offline import go_offline, refuse_hub_ids

ROOT = Path(__file__).parents[1]


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """What going offline changes is put back."""
    import datasets
    from huggingface_hub import constants

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    return monkeypatch


def test_offline_reaches_libraries_that_are_imported_already(as_before: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    assert not huggingface_hub.is_offline_mode()
    go_offline()
    assert huggingface_hub.is_offline_mode()
    assert datasets.config.HF_HUB_OFFLINE
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["HF_DATASETS_OFFLINE"] == "1"
    assert os.environ["WANDB_MODE"] == "offline"


def test_offline_reaches_libraries_that_are_not(tmp_path: Path) -> None:
    code = (
        "from eval.process.offline import go_offline; go_offline(); import datasets, huggingface_hub; "
        "print(huggingface_hub.is_offline_mode(), datasets.config.HF_HUB_OFFLINE)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert said.split() == ["True", "True"]


@pytest.fixture
def cached(cached_model: str, cached_dataset: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A model and a dataset that are cached. The libraries' own switches are off: what asks nobody does so by itself."""
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, lambda *_, **__: pytest.fail("a network was asked"))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a network was asked"))
    return cached_model, cached_dataset


@pytest.mark.parametrize("name", ["model", "reward", "judge"])
def test_offline_takes_a_model_that_is_cached(name: str, cached: tuple[str, str]) -> None:
    cached_model, _ = cached
    for here in (cached_model, f"{cached_model}@{FIRST}", f"{cached_model}@main"):
        refuse_hub_ids(Experiment(task="custom", **{name: here}))
    for other in (
        "nobody/other",
        "something",
        f"{cached_model}:score",
        f"{cached_model}@v9",
        "a/b/c",
        "x" * 5000,
        "no.py:score",
    ):
        with pytest.raises(UserError, match=f"^--offline: {name} '{other}' is not on this machine"):
            refuse_hub_ids(Experiment(task="custom", **{name: other}))


@pytest.mark.parametrize("name", ["prompts", "pairs", "test_prompts"])
def test_offline_takes_a_dataset_that_is_cached(name: str, cached: tuple[str, str]) -> None:
    import datasets

    _, cached_dataset = cached
    for here in (cached_dataset, f"{cached_dataset}:test", f"{cached_dataset}/default:train"):
        refuse_hub_ids(Experiment(task="custom", **{name: here}))
    for other in ("owner/other", f"{cached_dataset}/other", f"{cached_dataset}@v1", "name", f"{cached_dataset}.jsonl", "x" * 5000, "a/b/c/d"):  # fmt: skip
        with pytest.raises(UserError, match=f"^--offline: {name} '{other}' is not on this machine"):
            refuse_hub_ids(Experiment(task="custom", **{name: other}))
    assert datasets.config.HF_HUB_OFFLINE is False


def test_offline_a_model_is_no_dataset(cached: tuple[str, str]) -> None:
    cached_model, cached_dataset = cached
    for source in ({"pairs": cached_model}, {"model": cached_dataset}):
        with pytest.raises(UserError, match="is not on this machine"):
            refuse_hub_ids(Experiment(task="custom", **source))


def test_offline_imports_no_library_for_what_lies_here(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("datasets", "huggingface_hub", "eval.data.hub"):
        monkeypatch.setitem(sys.modules, library, None)  # importing it fails
    here = {
        "model": small.model,
        "prompts": small.prompts,
        "pairs": f"{tmp_path}:train",
        "reward": small.reward(),
    }
    refuse_hub_ids(Experiment(task="custom", **here))
    refuse_hub_ids(Experiment())


def test_a_comparison_of_what_is_cached_is_planned_offline(
    small: SmallWorld, cached: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eval.memory import room
    from run_compare import main

    cached_model, _ = cached
    monkeypatch.setattr(room, "need_of", lambda *_: Need({}, {"training": 0}))  # takes seconds
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "WANDB_MODE"):
        monkeypatch.setenv(name, "")  # what going offline changes is put back
    arguments = small.arguments(tmp_path / "out", "--offline", "--dry-run")
    assert main([arg if arg != small.model else cached_model for arg in arguments]) == 0


def test_the_command_line_goes_offline_first(
    small: SmallWorld, tmp_path: Path, as_before: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from run_compare import main

    arguments = [
        arg if arg != small.model else "owner/name" for arg in small.arguments(tmp_path / "out", "--offline")
    ]
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        "error: --offline: model 'owner/name' is not on this machine, and no hub is asked for it. "
        "Give a file or directory, or leave --offline out.\n"
    )
    assert not (tmp_path / "out").exists()
