"""Paths mean the same from every working directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_world import SmallWorld

from eval.settings.paths import anchored, readable, same_place
from run_compare import parse


def test_paths_are_anchored_and_the_hubs_names_are_not(
    world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(world.folder))
    (world.folder / "saved").mkdir()
    asked = [
        "--model", "~/model", "--pairs", "saved:test", "--prompts", "~/prompts.jsonl", "--test-prompts", "owner/data:test",
        "--reward", "lexicon.py:score", "--judge", "owner/judge@v1", "--out", "~/o", "--cache", "~/c",
    ]  # fmt: skip
    options, here = parse(asked), str(world.folder)
    found = options.experiment
    assert found.model == f"{here}/model"
    assert found.pairs == f"{here}/saved:test"
    assert found.prompts == f"{here}/prompts.jsonl"
    assert found.test_prompts == "owner/data:test"
    assert found.reward == f"{here}/lexicon.py:score"
    assert found.judge == "owner/judge@v1"
    assert (options.out, options.cache) == (world.folder / "o", world.folder / "c")
    assert anchored(found) == found
    assert readable(f"{here}/lexicon.py:score") == "lexicon.py:score"
    assert readable("owner/judge") == "owner/judge"
    monkeypatch.chdir(tmp_path)
    assert readable(f"{here}/model") == "world/model"
    assert same_place("world/saved:test", f"{here}/saved:test")
    assert not same_place("world/saved:test", f"{here}/saved:train")
    assert not same_place(None, "owner/name")
