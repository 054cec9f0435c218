"""What a comparison was begun with stays what it was, from wherever it is gone on with, or is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_world import SmallWorld

from algos import UserError
from algos.engine.storage import read_json, write_json
from eval.settings.paths import anchored, readable, same_place
from eval.store import Store
from eval.tasks.materials import Scorer
from run_compare import _unless_mended, main, parse

PREPARED, REFUSED = 130, 2

LEXICON = '''
"""Used as: rlhf-compare --prompts prompts.jsonl --reward lexicon.py:score, which makes reports/."""
from pathlib import Path

def score(prompts, completions, **columns):
    good = (Path(__file__).parent / "words.txt").read_text().split()
    return [float(sum(text.split().count(word) for word in good)) for text in completions]

def broken(prompts, a, b):
    raise KeyError("no such word")
'''


@pytest.fixture
def world(small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallWorld:
    """Files of its own, in the working directory; comparisons stop as soon as all that runs need is there."""

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("eval.comparison.tune", stopped)
    made = SmallWorld(tmp_path / "world")
    shutil.copytree(small.folder, made.folder, ignore=shutil.ignore_patterns("cache"))
    (made.folder / "lexicon.py").write_text(LEXICON, encoding="utf-8")
    (made.folder / "words.txt").write_text("good", encoding="utf-8")
    monkeypatch.chdir(made.folder)
    return made


def begun(*more: str, data: str = "prompts", reward: str = "lexicon.py:score") -> list[str]:
    """A command line of paths that begin in the working directory."""
    source = (
        ["--pairs", "pairs.jsonl"] if data == "pairs" else ["--prompts", "prompts.jsonl", "--reward", reward]
    )
    return [
        "--model", "model", *source, "--out", "out", "--cache", "cache", "--workers", "1", "--seeds", "1",
        "--algos", "reinforce", "--budget", "1iterations", "--max-new-tokens", "4", "--eval.points", "1", "--sampled-pairs",
        "16", "--frontier.samples", "0", "--device", "cpu", "--prompts-per-iteration", "4", *more,
    ]  # fmt: skip


def again(world: SmallWorld, *more: str) -> list[str]:
    return [
        "--resume",
        str(world.folder / "out"),
        "--cache",
        str(world.folder / "cache"),
        "--workers",
        "1",
        *more,
    ]


def swap_pairs(file: Path) -> None:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    swapped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in swapped), encoding="utf-8")


# Data ------------------------------------------------------------------------------------------------------


def test_a_seed_with_data_of_its_own_is_made_from_the_same_file(
    world: SmallWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(begun("--replicate-data", "--judge", "lexicon.py:score", data="pairs")) == PREPARED
    swap_pairs(Path(world.pairs))
    assert main(again(world, "--seeds", "2")) == REFUSED
    said = capsys.readouterr().err
    assert "the data are not what this comparison began with: train_prompts, " in said
    assert "heldout_texts, pairs (from " in said
    assert "pairs.jsonl) differ. Put them back as they were" in said
    assert not (world.folder / "out" / "materials" / "1").exists()
    swap_pairs(Path(world.pairs))
    assert main(again(world, "--seeds", "2")) == PREPARED
    assert (world.folder / "out" / "materials" / "1").exists()


def test_a_file_of_data_is_asked_for_only_where_it_is_read(world: SmallWorld) -> None:
    assert main(begun()) == PREPARED
    Path(world.prompts).unlink()
    assert main(again(world, "--seeds", "2")) == PREPARED


# The reward ------------------------------------------------------------------------------------------------


def test_what_a_reward_reads_beside_it_is_part_of_it(
    world: SmallWorld, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "evaluated", True)
    assert main(begun()) == PREPARED
    for unread in ("log.txt", "README.md", "prompts.jsonl"):  # its docstring alone names the last
        (world.folder / unread).write_text("otherwise", encoding="utf-8")
    assert main(again(world)) == PREPARED
    (world.folder / "words.txt").write_text("bad", encoding="utf-8")
    capsys.readouterr()
    assert main(again(world)) == REFUSED
    said = capsys.readouterr().err
    assert (
        "lexicon.py:score is not what this comparison began with: words.txt beside it differs; nor is the judge"
        in said
    )
    (world.folder / "words.txt").write_text("good", encoding="utf-8")
    assert main(again(world)) == PREPARED


def test_sources_of_before_files_beside_were_kept_still_do(
    world: SmallWorld, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "evaluated", True)
    assert main(begun()) == PREPARED
    file = world.folder / "out" / "sources.json"
    seeds = {
        seed: {name: [source["where"], source["content"]] for name, source in sources.items()}
        for seed, sources in read_json(file).items()
    }
    write_json(file, seeds)
    assert main(again(world)) == PREPARED
    (world.folder / "lexicon.py").write_text(LEXICON + "\n", encoding="utf-8")
    assert main(again(world)) == REFUSED
    assert (
        "lexicon.py:score is not what this comparison began with: its content differs"
        in capsys.readouterr().err
    )


def test_a_reward_may_be_mended_until_something_is_evaluated(
    world: SmallWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(begun("--algos", "dpo")) == PREPARED
    out = world.folder / "out"
    before = read_json(out / "sources.json")
    run = Store.open(out).run("dpo", 0)
    point = {"completions": 1, "tokens": 1, "flops": 1.0, "seconds": 1.0, "metrics": {}}
    run.folder.mkdir(parents=True)
    counted = {"updates": 1, **point}
    run.append("rows", counted | {"point": 0})
    (world.folder / "words.txt").write_text("dog", encoding="utf-8")
    capsys.readouterr()
    assert main(again(world)) == PREPARED
    said = capsys.readouterr()
    assert (
        "the reward changed before anything was evaluated: the comparison begins again" in said.out + said.err
    )
    assert not run.folder.exists()
    after = read_json(out / "sources.json")
    assert after["0"]["reward"]["beside"] != before["0"]["reward"]["beside"]
    assert Store.reading(out).materials(0).pairs
    run.folder.mkdir(parents=True)
    run.append("rows", counted | {"point": 1})
    (world.folder / "words.txt").write_text("cat", encoding="utf-8")
    assert main(again(world)) == REFUSED


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


def test_no_resume_is_proposed_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that failed for their reward or judge may be run again as they are, or the comparison made again."""
    store = Store.create(tmp_path / "out", parse([]).experiment)
    run = store.run("ppo", 0)
    run.finish(
        status="failed",
        error="the judge broken raised KeyError",
        diverged="",
        fraction=0.5,
        updates=1,
        seconds=1.0,
        policy="",
        effective={},
    )
    assert _unless_mended(store, [run]) == ""  # nothing was evaluated: it may be mended
    monkeypatch.setattr(Store, "evaluated", True)
    said = _unless_mended(store, [run])
    assert said.endswith(
        f"make another comparison: rlhf-compare --config {tmp_path / 'out' / 'experiment.yaml'}"
    )
    run.finish(**run.status | {"error": "out of memory"})
    assert _unless_mended(store, [run]) == ""


def test_a_scorer_of_no_task_is_no_gold() -> None:
    with pytest.raises(UserError, match="no embedded task 'other' with a judge"):
        Scorer("gold", "other", "").judge("cpu")


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


# Mistakes --------------------------------------------------------------------------------------------------


def test_a_mistake_behind_a_link_is_told_and_leaves_the_folder_empty(
    world: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    assert main(begun("--out", str(link), reward="rewards.py:raises")) == REFUSED
    assert "the reward raises raised KeyError" in capsys.readouterr().err
    assert link.is_symlink()
    assert list(real.iterdir()) == []


def test_a_folder_that_cannot_be_removed_hides_no_error(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(_: Path) -> None:
        raise PermissionError("not here")

    monkeypatch.setattr(Path, "rmdir", refused)
    assert main(begun(reward="rewards.py:raises")) == REFUSED
    assert "the reward raises raised KeyError" in capsys.readouterr().err


def test_folders_that_cannot_be_meant_are_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for cache in (file, file / "below"):
        with pytest.raises(UserError, match=r"--cache must be a folder; got .*file is a file"):
            parse(["--cache", str(cache)])
    Store.create(tmp_path / "one", parse([]).experiment)
    with pytest.raises(
        UserError,
        match=r"--resume goes on in .*one; got --out other, too\. .*--config .*one/experiment\.yaml",
    ):
        parse(["--resume", str(tmp_path / "one"), "--out", "other"])
