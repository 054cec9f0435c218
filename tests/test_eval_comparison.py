"""A comparison that is begun, gone on with from wherever, or stopped by a mistake before anything trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from lexicon_world import LEXICON, PREPARED, REFUSED, again, begun
from small_world import SmallWorld

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
