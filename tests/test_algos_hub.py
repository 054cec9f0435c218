"""Models on the Hugging Face hub: by name and revision, from the cache without a network, refused at once without either."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import pytest
from hub_world import FIRST, SECOND
from small_world import SmallWorld
from tiny import same_weights

from algos import Policy, RewardModel
from algos.engine.errors import UserError
from algos.engine.models import hub
from algos.engine.models.loading import base_of, read_config, read_tokenizer


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
    monkeypatch.setattr(hub, "why_unreachable", lambda: pytest.fail("the hub was asked"))
    with pytest.raises(UserError, match="there is no model directory") as caught:
        read_config(name, False)
    assert str(caught.value).isprintable()


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


def test_a_revision_is_what_is_loaded(small: SmallWorld, moved_model: str, tmp_path: Path) -> None:
    first, second = Policy.load(small.model), Policy.load(str(tmp_path / "second"))
    assert not same_weights(first, second)
    for revision, expected in (("v1", first), (FIRST, first), ("refs/pr/2", second), (SECOND, second)):
        name = f"{moved_model}@{revision}"
        assert same_weights(Policy.load(name), expected)
        assert hub.is_cached(name)
        assert read_config(name, False).vocab_size == len(read_tokenizer(name, False))
    assert same_weights(Policy.load(moved_model), second)
    assert not hub.is_cached(f"{moved_model}@v3")
    with pytest.raises(UserError, match="no directory 'nobody/something@v3'"):
        Policy.load(f"{moved_model}@v3")


def test_a_revision_leads_out_of_no_folder(moved_model: str) -> None:
    for revision in ("", "../main", "refs/../main", "/etc", "v1 "):
        assert not hub.is_cached(f"{moved_model}@{revision}")
        with pytest.raises(UserError, match="no model directory"):
            Policy.load(f"{moved_model}@{revision}")


def test_a_directory_may_have_an_at_in_its_name(small: SmallWorld, tmp_path: Path) -> None:
    shutil.copytree(small.model, tmp_path / "mine@v1")
    assert same_weights(Policy.load(tmp_path / "mine@v1"), Policy.load(small.model))


def test_an_adapter_belongs_to_a_commit(
    small: SmallWorld, cached_model: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    adapted = Policy.load(cached_model, lora=True)
    adapted.save(tmp_path / "adapter")
    request.getfixturevalue("moved_model")
    assert base_of(str(tmp_path / "adapter")) == f"{cached_model}@{FIRST}"
    assert same_weights(Policy.load(tmp_path / "adapter"), adapted)


def test_a_slow_hub_is_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and never answers the question: the library is left to try on."""
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(hub, "_TIMEOUTS", (5.0, 0.2, 0.2, 0.2))
        assert hub.why_unreachable() == ""
