"""Datasets on the Hugging Face hub: asked for by name, from the cache without a network, refused at once without either."""

from __future__ import annotations

import json
import shutil
import socket
import time
from pathlib import Path

import pytest

from algos.engine.errors import UserError
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


def test_a_slow_hub_is_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and never answers the question: the library is left to try on."""
    from huggingface_hub import constants

    from eval.data import hub

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(hub, "_TIMEOUTS", (5.0, 0.2, 0.2, 0.2))
        assert hub.why_unreachable() == ""


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
