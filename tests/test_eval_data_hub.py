"""Datasets on the Hugging Face hub: asked for by name, from the cache without a network, refused at once without either."""

from __future__ import annotations

import json
import shutil
import socket
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


def test_without_a_hub_a_cached_model_is_loaded(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Laid out as the hub's own client lays it out; asked for it, the hub refuses the connection."""
    from huggingface_hub import constants

    kept = tmp_path / "models--nobody--something"
    shutil.copytree(small.model, kept / "snapshots" / ("0" * 40))
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    assert same_weights(Policy.load("nobody/something"), Policy.load(small.model))
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


def test_without_a_hub_its_cached_datasets_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert [row.values for row in read_rows("owner/name").rows] == ROWS
