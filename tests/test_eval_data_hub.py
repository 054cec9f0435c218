"""Datasets on the Hugging Face hub: asked for by name, from the cache without a network, refused at once without either."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest
from report_world import world
from small_world import SmallWorld
from tiny import same_weights

from algos import Policy, RewardModel, Sampling
from algos.engine.errors import UserError
from algos.engine.models import hub
from algos.engine.models.loading import base_of, read_config, read_tokenizer
from eval.data import read_rows
from eval.experiment import Experiment
from eval.memory.footprint import Need
from eval.process.offline import refuse_hub_ids
from eval.report.sections import details
from eval.stages.cache import ArtefactCache
from eval.stages.fitting import Fit
from eval.stages.reward_model import train_reward_model
from eval.tasks import materials_of

ROWS = [{"prompt": "a", "n": 1}, {"prompt": "b\u2028c", "n": 2}]


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


FIRST, SECOND = "0" * 40, "1" * 40


def keep(cache: Path, model: str, commit: str, *references: str) -> None:
    """A commit of nobody/something in the hub's cache, as the hub's own client lays it out."""
    kept = cache / "models--nobody--something"
    shutil.copytree(model, kept / "snapshots" / commit)
    for reference in references:
        file = kept / "refs" / reference
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(commit)


@pytest.fixture
def cached_model(small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    from huggingface_hub import constants

    keep(tmp_path, small.model, FIRST, "main")
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


@pytest.fixture
def moved_model(small: SmallWorld, cached_model: str, tmp_path: Path) -> str:
    """The branch main has moved to other weights, which are tagged v2, since what is tagged v1."""
    import torch

    policy = Policy.load(small.model)
    with torch.no_grad():
        next(iter(policy.trainable().values())).add_(1.0)
    policy.save(tmp_path / "second")
    (tmp_path / "models--nobody--something" / "refs" / "v1").write_text(FIRST)
    keep(tmp_path, str(tmp_path / "second"), SECOND, "main", "refs/pr/2")
    return cached_model


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


def test_a_comparison_keeps_to_the_commit_that_it_began_with(
    small: SmallWorld, moved_model: str, tmp_path: Path
) -> None:
    asked = Experiment(
        task="custom",
        model=moved_model,
        prompts=small.prompts,
        reward=small.reward(),
        sampling=Sampling(max_new_tokens=8),
    )
    made = materials_of(asked, ArtefactCache(tmp_path / "cache"), 0)
    assert made.model == made.facts["hub"]["model"] == f"{moved_model}@{SECOND}"
    comparison = dataclasses.replace(world(tmp_path), facts={"hub": made.facts["hub"]})
    (told,) = [block.text for block in details.data(comparison).blocks if "hub" in block.text]
    assert told == f"Taken from the hub, at these commits: model {moved_model}@{SECOND}."
    tagged = materials_of(
        dataclasses.replace(asked, model=f"{moved_model}@v1"), ArtefactCache(tmp_path / "cache"), 0
    )
    assert tagged.model == f"{moved_model}@{FIRST}"


def test_a_reward_model_is_trained_from_a_revision(
    small: SmallWorld, moved_model: str, tmp_path: Path
) -> None:
    pairs = [{"prompt": f"a {i}", "chosen": " b", "rejected": " c d"} for i in range(20)]
    scores = []
    for number, name in enumerate((f"{moved_model}@v1", small.model)):
        fit = Fit(epochs=1, learning_rate=1e-3, batch_size=8)
        train_reward_model(name, pairs, tmp_path / f"reward-{number}", fit, centre_on=["a b"])
        made = RewardModel(tmp_path / f"reward-{number}")
        scores.append(made(prompts=["a", "a"], completions=[" b", " c d"], completion_ids=[[5], [6, 7]]))
    assert scores[0] == scores[1]
    assert scores[0][0] != scores[0][1]


def test_a_slow_hub_is_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and never answers the question: the library is left to try on."""
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(hub, "_TIMEOUTS", (5.0, 0.2, 0.2, 0.2))
        assert hub.why_unreachable() == ""


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


def test_without_a_hub_no_revision_of_a_dataset_is_told_from_another(cached_dataset: str) -> None:
    told = _refusal(f"{cached_dataset}@v1:train")
    assert "the hub cannot be asked for the revision of 'owner/name@v1' (HF_HUB_OFFLINE is set)" in told
    assert "Leave @v1 out" in told


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
