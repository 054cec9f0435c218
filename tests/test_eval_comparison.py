"""A comparison that is begun, gone on with from wherever, or stopped by a mistake before anything trains."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from lexicon_world import LEXICON, PREPARED, REFUSED, again, begun
from small_world import SmallWorld

from eval.experiment import Experiment
from eval.process.jobs import Job
from eval.recording.session import Session
from eval.sessions import sessions
from eval.store import Store
from run_compare import main

# Where it is gone on with ----------------------------------------------------------------------------------


def test_a_comparison_of_relative_paths_goes_on_from_everywhere(
    world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one whose reward model was learned into a cache beside it."""
    assert main(begun("--judge", "lexicon.py:score", "--reward-model.epochs", "1", data="pairs")) == PREPARED
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    made = Store.open(world.folder / "out").materials(0)
    assert Path(made.reward.where).is_absolute()
    assert made.facts["judge"] == "lexicon.py:score"
    assert made.facts["data"][0]["file"] == "pairs.jsonl"
    assert main(again(world, "--seeds", "2", "--replicate-data")) == REFUSED
    assert "made with replicate_data" in capsys.readouterr().err
    for named in (world.pairs, "../world/pairs.jsonl"):
        assert main(again(world, "--seeds", "2", "--algos", "+dpo", "--pairs", named)) == PREPARED
    assert main(again(world, "--pairs", world.prompts)) == REFUSED
    assert f"made with pairs = {world.pairs}; got {world.prompts}" in capsys.readouterr().err


def test_materials_are_made_from_everywhere(
    world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(begun()) == PREPARED
    monkeypatch.chdir(tmp_path)
    assert (
        main(again(world, "--algos", "+dpo")) == PREPARED
    )  # samples pairs for the prompts, labelled by the reward


# Mistakes --------------------------------------------------------------------------------------------------


def test_a_pairwise_judge_that_fails_is_found_before_anything_trains(
    world: SmallWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = begun("--judge", "lexicon.py:broken", "--reward-retries", "0")
    assert main(broken) == REFUSED
    assert "the judge broken raised KeyError" in capsys.readouterr().err
    assert not (world.folder / "out").exists()
    (world.folder / "lexicon.py").write_text(
        LEXICON.replace('raise KeyError("no such word")', "return [0.5 for _ in a]")
    )
    assert main(broken) == PREPARED


def test_a_mistake_behind_a_link_is_told_and_leaves_the_folder_empty(
    world: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    assert main(begun("--out", str(link), reward="rewards.py:raises")) == REFUSED
    assert "raised KeyError" in capsys.readouterr().err
    assert link.is_symlink()
    assert list(real.iterdir()) == []


def test_a_folder_that_cannot_be_removed_hides_no_error(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(_: Path) -> None:
        raise PermissionError("not here")

    monkeypatch.setattr(Path, "rmdir", refused)
    assert main(begun(reward="rewards.py:raises")) == REFUSED
    assert "raised KeyError" in capsys.readouterr().err


# What is kept of when and where it was worked on ------------------------------------------------------------


def stopped(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("place", ["_prepare", "evaluate_base", "tune"])
def test_a_comparison_that_is_stopped_before_its_first_run_knows_its_command(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The model cards name it, as what repeats the comparison."""
    command = begun()
    with monkeypatch.context() as patch:
        patch.setattr(f"eval.comparison.{place}", stopped)
        assert main(command) == 130
    assert main(again(world)) == PREPARED
    first, second = sessions(Store.open(world.folder / "out").environment)
    assert first["command"] == shlex.join(["rlhf-compare", *command])
    assert second["command"] == shlex.join(["rlhf-compare", *again(world)])
    assert (first["runs"], second["runs"]) == (0, 0)  # of which none was made in another place than the last


def test_a_session_that_could_not_go_on_is_none(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(begun()) == PREPARED
    (world.folder / "words.txt").write_text("bad", encoding="utf-8")
    monkeypatch.setattr(Store, "evaluated", True)
    assert main(again(world)) == REFUSED
    assert len(sessions(Store.open(world.folder / "out").environment)) == 1


def test_a_run_counts_where_it_took_a_step(tmp_path: Path) -> None:
    """Not one that waited, or was only loaded, as the user stopped; nor twice."""
    store = Store.create(tmp_path / "out", Experiment())
    session = Session(store, "rlhf-compare", 1)
    ppo, dpo, waiting = (
        Job(name, lambda _: "done", lambda _: "failed") for name in ("ppo-s0", "dpo-s0", "x-s0")
    )
    session.write()
    for job, fraction, words in (
        (ppo, 0.0, "loading"),
        (ppo, 0.5, ""),
        (ppo, 1.0, "done"),
        (waiting, 0.0, "loading"),
    ):
        session.update(job, fraction, words)
    session.update(waiting, 1.0, "stopped")
    assert store.environment["runs"] == 1
    session.update(dpo, 0.1, "")
    assert store.environment["runs"] == 2
    session.end()
    assert store.environment["finished"] >= store.environment["started"]
