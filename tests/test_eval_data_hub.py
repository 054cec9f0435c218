"""Datasets on the Hugging Face hub: asked for by name, from the cache without a network, refused at once without either."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest
from small_world import SmallWorld
from tiny import same_weights

from algos import Policy, RewardModel
from algos.engine import loading
from algos.engine.errors import UserError
from algos.engine.loading import read_config, read_tokenizer
from eval.data import read_rows
from eval.experiment import Experiment
from eval.memory.footprint import Need
from eval.process.offline import refuse_hub_ids

ROWS = [{"prompt": "a", "n": 1}, {"prompt": "b\u2028c", "n": 2}]


def _refusal(source: str) -> str:
    with pytest.raises(UserError) as caught:
        read_rows(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_hub_name_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(*name: str, split: str) -> datasets.Dataset:
        asked.append((*name, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [row.values for row in read_rows("trl-lib/ultrafeedback_binarized").rows] == ROWS
    read_rows("trl-lib/ultrafeedback_binarized:test")
    read_rows("openai/summarize/comparisons:validation")
    name = "trl-lib/ultrafeedback_binarized"
    assert asked == [(name, "train"), (name, "test"), ("openai/summarize", "comparisons", "validation")]
    for not_a_name in ("nowhere", "/a/b", "a/b.jsonl", "a/b/c/d", "http://a/b", "a/b\x00", "x" * 5000, ""):
        assert "no file or directory" in _refusal(not_a_name)
    assert len(asked) == 3


def test_a_hub_that_cannot_be_reached_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # discard: nothing listens there
    start = time.monotonic()
    message = _refusal("nobody/nothing")
    assert time.monotonic() - start < 5
    assert "no file or directory 'nobody/nothing'" in message
    assert "refused" in message
    assert datasets.config.HF_HUB_OFFLINE is False


@pytest.mark.parametrize("name", ["nobody/nothing", "gpt3"])
def test_a_model_that_nobody_has_is_said_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for load in (Policy.load, RewardModel, lambda name: read_config(name, False), lambda name: read_tokenizer(name, False)):  # fmt: skip
        start = time.monotonic()
        with pytest.raises(UserError) as caught:
            load(name)
        assert time.monotonic() - start < 5
        message = str(caught.value)
        assert "\n" not in message
        assert all(told in message for told in (f"no directory '{name}'", "refused", "Check the name"))
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize(
    "name", ["/a/b", "./a", "../a", "~/a", "a/b/c", "nobody/no thing", "a..b", "a\x1b[31m", "x" * 5000, ""]
)
def test_what_cannot_be_on_a_hub_is_not_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "why_unreachable", lambda: pytest.fail("the hub was asked"))
    with pytest.raises(UserError, match="there is no model directory") as caught:
        read_config(name, False)
    assert str(caught.value).isprintable()


@pytest.fixture
def cached_model(small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Laid out as the hub's own client lays it out."""
    from huggingface_hub import constants

    kept = tmp_path / "models--nobody--something"
    shutil.copytree(small.model, kept / "snapshots" / ("0" * 40))
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return "nobody/something"


def test_without_a_hub_a_cached_model_is_loaded(
    small: SmallWorld, cached_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for it, the hub refuses the connection."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    assert same_weights(Policy.load(cached_model), Policy.load(small.model))
    assert time.monotonic() - start < 10
    assert constants.HF_HUB_OFFLINE is False


def test_a_slow_hub_is_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and never answers the question: the library is left to try on."""
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(loading, "_TIMEOUTS", (5.0, 0.2, 0.2, 0.2))
        assert loading.why_unreachable() == ""


@pytest.fixture
def cached_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """As the library leaves one that it has loaded, with the configuration `default`."""
    import datasets

    source = tmp_path / "f.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    datasets.load_dataset("json", data_files=str(source), cache_dir=str(tmp_path / "made"))
    (made,) = (tmp_path / "made" / "json").iterdir()
    cached = tmp_path / "cache" / "owner___name" / "default"
    shutil.copytree(made, cached)
    for file in cached.rglob("*.arrow"):
        file.rename(file.with_name(file.name.replace("json-", "name-")))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return "owner/name"


def test_without_a_hub_its_cached_datasets_are_read(cached_dataset: str) -> None:
    assert [row.values for row in read_rows(cached_dataset).rows] == ROWS


# --offline


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
    refuse_hub_ids(Experiment(task="custom", **{name: cached_model}))
    for other in ("nobody/other", "something", f"{cached_model}:score", "a/b/c", "x" * 5000, "no.py:score"):
        with pytest.raises(UserError, match=f"^--offline: {name} '{other}' is not on this machine"):
            refuse_hub_ids(Experiment(task="custom", **{name: other}))


@pytest.mark.parametrize("name", ["prompts", "pairs", "test_prompts"])
def test_offline_takes_a_dataset_that_is_cached(name: str, cached: tuple[str, str]) -> None:
    import datasets

    _, cached_dataset = cached
    for here in (cached_dataset, f"{cached_dataset}:test", f"{cached_dataset}/default:train"):
        refuse_hub_ids(Experiment(task="custom", **{name: here}))
    for other in ("owner/other", f"{cached_dataset}/other", "name", f"{cached_dataset}.jsonl", "x" * 5000, "a/b/c/d"):  # fmt: skip
        with pytest.raises(UserError, match=f"^--offline: {name} '{other}' is not on this machine"):
            refuse_hub_ids(Experiment(task="custom", **{name: other}))
    assert datasets.config.HF_HUB_OFFLINE is False


def test_offline_a_model_is_no_dataset(cached: tuple[str, str]) -> None:
    cached_model, cached_dataset = cached
    for source in ({"pairs": cached_model}, {"model": cached_dataset}):
        with pytest.raises(UserError, match="is not on this machine"):
            refuse_hub_ids(Experiment(task="custom", **source))


def test_offline_imports_no_library_for_what_lies_here(
    small: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("datasets", "huggingface_hub", "eval.data.hub"):
        monkeypatch.setitem(sys.modules, library, None)  # importing it fails
    refuse_hub_ids(Experiment(task="custom", model=small.model, prompts=small.prompts, reward=small.reward()))


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
