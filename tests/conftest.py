"""Shared by all tests: one thread, no network, and where the material beside the project lies."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that would reach for the network fails at once instead
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from small_world import SmallWorld, small_world

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
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are empty files, for tests of what comes before them: drawing would take most of the time."""
    from eval.report import theme

    def empty(_: object, folder: Path, stem: str) -> None:
        (folder / f"{stem}.svg").write_text("<svg/>", encoding="utf-8")
        (folder / f"{stem}.png").write_bytes(b"")

    monkeypatch.setattr(theme, "save", empty)


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
