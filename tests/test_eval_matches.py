"""Win rates of every two arms: asked for once, kept, and never in the way of a report."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_world import SmallWorld, compared

from algos import UserError
from algos.engine.calls import RewardError
from algos.engine.storage import read_json, write_json
from eval import matches
from eval.store import Store
from eval.tasks.materials import Scorer
from run_compare import main

Wins = Callable[..., float]
ONE_RUN_EACH = {"reinforce-s0": {"dpo": 0.25}, "dpo-s0": {"reinforce": 0.75}}


def arguments(small: SmallWorld, out: Path) -> list[str]:
    """Two arms of one run, under a judge of pairs."""
    return small.arguments(
        out, "--judge", small.reward("compares"), "--algos", "reinforce", "dpo", "--seeds", "1", "--budget", "1iterations",
        "--eval.points", "1", "--frontier.samples", "0", "--reward-retries", "0",
    )  # fmt: skip


def resumed(small: SmallWorld, out: Path) -> int:
    return main(["--resume", str(out), "--cache", small.cache, "--workers", "1"])


def held(store: Store) -> dict[str, dict[str, float]]:
    """matches.json without its checksum."""
    return Store.open(store.path).matches


@pytest.fixture(scope="module")
def finished(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison whose report is not drawn."""
    out = tmp_path_factory.mktemp("matches") / "out"
    assert compared(arguments(small, out)) == 0
    return out


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Store:
    return Store.open(shutil.copytree(finished, tmp_path / "out"))


@pytest.fixture
def several(store: Store) -> Store:
    """Three arms, of which the third is the second again; nothing asked yet."""
    shutil.copytree(store.run("dpo", 0).folder, store.run("ppo", 0).folder)
    store.experiment = replace(store.experiment, algos=("reinforce", "dpo", "ppo"))
    write_json(store.path / "matches.json", {})
    return store


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every match that the judge is asked for is won; their number tells which were asked."""
    found: list[str] = []

    def won(judge: object, rows: object, a: object, b: object) -> float:
        found.append("asked")
        return 1.0

    monkeypatch.setattr(matches, "wins", won)
    return found


def failing(monkeypatch: pytest.MonkeyPatch, *fails: int, error: BaseException | None = None) -> None:
    """The judge does not give the matches of these numbers."""
    calls = iter(range(100))

    def won(judge: object, rows: object, a: object, b: object) -> float:
        if next(calls) in fails:
            raise error or RewardError("the judge gave up")
        return 0.5

    monkeypatch.setattr(matches, "wins", won)


def match(store: Store) -> list[str]:
    """What is said."""
    said: list[str] = []
    matches.update_matches(store, store.materials(0), said.append)
    return said


def test_a_pair_is_asked_once_for_both_of_its_arms(store: Store, asked: list[str]) -> None:
    """A judge that does not always say the same would else give them win rates that do not add up."""
    found = store.matches
    assert found.keys() == ONE_RUN_EACH.keys()
    assert found["reinforce-s0"]["dpo"] + found["dpo-s0"]["reinforce"] == 1
    write_json(store.path / "matches.json", {})
    assert match(store) == []
    assert asked == ["asked"]
    assert held(store) == {"reinforce-s0": {"dpo": 1.0}, "dpo-s0": {"reinforce": 0.0}}


def test_what_is_there_is_not_asked_again(store: Store, asked: list[str]) -> None:
    write_json(store.path / "matches.json", ONE_RUN_EACH)
    assert match(store) == []
    assert asked == []
    assert held(store) == ONE_RUN_EACH


def test_a_match_that_fails_is_told_in_a_line_and_costs_no_other(
    several: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, 0)
    assert match(several) == [
        "no win rate in 1 of 3 matches, for which --resume asks again: the judge gave up"
    ]
    assert held(several) == {
        "reinforce-s0": {"ppo": 0.5},
        "dpo-s0": {"ppo": 0.5},
        "ppo-s0": {"reinforce": 0.5, "dpo": 0.5},
    }
    assert match(several) == []
    assert all(list(rows.values()) == [0.5, 0.5] for rows in held(several).values())


def test_a_judge_that_takes_long_to_fail_is_not_asked_for_all(
    several: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matches, "PATIENCE", -1.0)
    failing(monkeypatch, 0)
    assert len(match(several)) == 1
    assert not any(held(several).values())


def test_a_judge_that_cannot_be_opened_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise UserError("the judge is gone")

    write_json(store.path / "matches.json", {})
    monkeypatch.setattr("eval.tasks.materials.Scorer.judge", gone)
    (line,) = match(store)
    assert line.endswith("asks again: the judge is gone")
    assert held(store) == {"reinforce-s0": {}, "dpo-s0": {}}


def test_a_judge_that_is_a_model_is_not_loaded_for_what_it_has_scored(store: Store) -> None:
    write_json(store.path / "matches.json", {})
    prompts = len(store.materials(0).test_prompts)
    first, second = (
        [row["judge"] for row in store.responses(store.run(arm, 0), prompts)] for arm in ("reinforce", "dpo")
    )
    won = sum((x > y) + 0.5 * (x == y) for x, y in zip(first, second, strict=True)) / len(first)
    said: list[str] = []
    scores = replace(store.materials(0), judge=Scorer("model", str(store.path / "no-model"), "a model"))
    matches.update_matches(store, scores, said.append)
    assert said == []
    found = held(store)
    assert found["reinforce-s0"]["dpo"] == won
    assert found["dpo-s0"]["reinforce"] == pytest.approx(1 - won)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("No space left on device")])
def test_what_was_asked_before_an_interruption_is_kept(
    several: Store, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    failing(monkeypatch, 1, error=error)
    with pytest.raises(type(error)):
        match(several)
    assert held(several) == {"reinforce-s0": {"dpo": 0.5}, "dpo-s0": {"reinforce": 0.5}, "ppo-s0": {}}


def test_runs_that_are_made_again_are_forgotten_on_both_sides(store: Store) -> None:
    write_json(store.path / "matches.json", ONE_RUN_EACH)
    matches.forget_matches(store, [])
    assert held(store) == ONE_RUN_EACH
    matches.forget_matches(store, [store.run("dpo", 0)])
    assert held(store) == {"reinforce-s0": {}}


def test_a_run_that_is_made_again_is_matched_again(
    small: SmallWorld, store: Store, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.comparison.draw", lambda store: store.path / "report.html")
    assert resumed(small, store.path) == 0
    assert asked == []
    shutil.rmtree(store.run("dpo", 0).folder)
    assert resumed(small, store.path) == 0
    assert len(asked) == 1


@pytest.mark.usefixtures("sketched")
def test_a_judge_that_fails_leaves_the_report(
    small: SmallWorld, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (store.path / "matches.json").unlink()
    failing(monkeypatch, 0, 1)
    assert resumed(small, store.path) == 0
    said = capsys.readouterr()
    assert "no win rate in 1 of 1 matches" in said.err
    assert f"report: {store.path / 'report.html'}" in said.out
    assert (store.path / "report.html").is_file()
    assert read_json(store.path / "matches.json") == {"reinforce-s0": {}, "dpo-s0": {}}
