"""Shared by all tests: one thread, no network, and where the material beside the project lies."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that would reach for the network fails at once instead
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from hub_world import FIRST, ROWS, SECOND, keep
from lexicon_world import lexicon_world
from small_world import SmallWorld, sketch, small_world

if TYPE_CHECKING:
    from report_world import World

torch.set_num_threads(1)

SHARED_DATA = Path(__file__).parents[1] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real material beside the project; tests that need it are skipped without it."""
    if not (SHARED_DATA / "stories260k").is_dir():
        pytest.skip("../shared/data is not here: no pretrained model to test against")
    return SHARED_DATA


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    """Files of a small comparison: model, prompts, pairs, rewards."""
    return small_world(tmp_path_factory.mktemp("small"))


@pytest.fixture
def world(small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallWorld:
    """Files of its own, in the working directory; comparisons stop as soon as all that runs need is there."""

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("eval.comparison.tune", stopped)
    made = lexicon_world(small, tmp_path / "world")
    monkeypatch.chdir(made.folder)
    return made


@pytest.fixture(scope="session", autouse=True)
def estimated_once() -> Iterator[None]:
    """How much memory a run needs takes seconds to tell, and every command asks: the same question is answered once.

    Of whoever asks `eval.memory.room`, as commands do; the functions themselves are in `eval.memory.footprint`.
    """
    from eval.memory import room

    def once(estimate: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[str, Any] = {}

        def answer(*asked: Any) -> Any:
            plain = [
                replace(each, config=each.config.to_dict()) if isinstance(each, room.Load) else each
                for each in asked
            ]
            question = repr(plain)
            if question not in known:
                known[question] = estimate(*asked)
            return known[question]

        return answer

    with pytest.MonkeyPatch.context() as patch:
        for name in ("need_of", "reward_model_need"):
            patch.setattr(room, name, once(getattr(room, name)))
        yield


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers begin with what is loaded here, for tests of what they do: one that is spawned loads it for five seconds."""
    from eval.process.workers import Workers

    begin = Workers.__init__

    def begun(self: Workers, *arguments: Any) -> None:
        begin(self, *arguments)
        self.context = multiprocessing.get_context("fork")  # type: ignore[assignment]

    monkeypatch.setattr(Workers, "__init__", begun)


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are empty files, for tests of what comes before them."""
    sketch(monkeypatch)


@pytest.fixture
def clean() -> World:
    """The comparison of which no caveat has anything to say."""
    from report_cases import nothing_amiss

    return nothing_amiss()


@pytest.fixture(scope="session")
def never_stopped(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The comparison of `faults.first`, made in one go."""
    from faults import first, start

    out = tmp_path_factory.mktemp("never") / "stopped"
    assert start(first(small, out)).wait() == 0
    return out


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the children of `faults.start` say."""
    monkeypatch.setenv("FAULTS_LOG", str(tmp_path / "log.txt"))
    return tmp_path / "log.txt"


@pytest.fixture
def cached_model(small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The small world's model, in the hub's cache."""
    from huggingface_hub import constants

    keep(tmp_path, small.model, FIRST, "main")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return "nobody/something"


@pytest.fixture
def moved_model(small: SmallWorld, cached_model: str, tmp_path: Path) -> str:
    """The branch main has moved to other weights, which are refs/pr/2 too, since what is tagged v1."""
    from algos import Policy

    policy = Policy.load(small.model)
    with torch.no_grad():
        next(iter(policy.trainable().values())).add_(1.0)
    policy.save(tmp_path / "second")
    (tmp_path / "models--nobody--something" / "refs" / "v1").write_text(FIRST)
    keep(tmp_path, str(tmp_path / "second"), SECOND, "main", "refs/pr/2")
    return cached_model


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
