"""Datasets on the Hugging Face hub: asked for by name, from the cache without a network, refused at once without either."""

from __future__ import annotations

import time

import pytest
from hub_world import ROWS

from algos.engine.errors import UserError
from algos.engine.models import hub
from eval.data import read_rows


def _refusal(source: str) -> str:
    with pytest.raises(UserError) as caught:
        read_rows(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_hub_name_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[str | None, ...]] = []

    def load_dataset(*name: str, split: str, revision: str | None) -> datasets.Dataset:
        asked.append((*name, split, revision))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub, "why_unreachable", lambda: "")
    assert [row.values for row in read_rows("trl-lib/ultrafeedback_binarized").rows] == ROWS
    read_rows("trl-lib/ultrafeedback_binarized:test")
    read_rows("openai/summarize/comparisons:validation")
    read_rows("openai/summarize/comparisons@refs/pr/1:validation")
    name, of = "trl-lib/ultrafeedback_binarized", ("openai/summarize", "comparisons", "validation")
    assert asked == [(name, "train", None), (name, "test", None), (*of, None), (*of, "refs/pr/1")]
    for not_a_name in (
        "nowhere",
        "/a/b",
        "a/b.jsonl",
        "a/b/c/d",
        "http://a/b",
        "a/b\x00",
        "a/b@",
        "x" * 5000,
        "",
    ):
        assert "no file or directory" in _refusal(not_a_name)
    assert len(asked) == 4


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


def test_without_a_hub_its_cached_datasets_are_read(cached_dataset: str) -> None:
    assert [row.values for row in read_rows(cached_dataset).rows] == ROWS


def test_without_a_hub_no_revision_of_a_dataset_is_told_from_another(cached_dataset: str) -> None:
    told = _refusal(f"{cached_dataset}@v1:train")
    assert "the hub cannot be asked for the revision of 'owner/name@v1' (HF_HUB_OFFLINE is set)" in told
    assert "Leave @v1 out" in told
