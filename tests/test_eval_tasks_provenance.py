"""What a comparison was begun with stays what it was, or is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lexicon_world import LEXICON, PREPARED, REFUSED, again, begun
from small_world import SmallWorld

from algos.engine.storage import read_json
from eval import comparison
from eval.console import Console
from eval.process.jobs import Job
from eval.store import Store
from eval.tasks.provenance import FunctionFiles
from run_compare import main


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
    (world.folder / "lexicon.py").write_text(LEXICON + "\n", encoding="utf-8")
    assert main(again(world)) == REFUSED
    said = capsys.readouterr().err
    assert "lexicon.py:score is not what this comparison began with: its content differs" in said


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


# What the reward writes ------------------------------------------------------------------------------------

WRITING = """
from pathlib import Path
HERE = Path(__file__).parent

def score(prompts, completions, **columns):
    good = (HERE / "words.txt").read_text().split()
    for name in (NAMES):
        file = HERE / name
        file.parent.mkdir(exist_ok=True)
        with file.open("a") as kept:
            kept.write("called ")
    return [float(sum(text.split().count(word) for word in good)) for text in completions]
"""
LOG, CACHE, FOLDER = '"calls.log",', '"answers.json",', 'f"answers/{hash(str(completions))}",'


def writing(folder: Path, names: str) -> None:
    (folder / "lexicon.py").write_text(WRITING.replace("NAMES", names), encoding="utf-8")
    (folder / "calls.log").write_text("called ", encoding="utf-8")


def more_calls(folder: Path) -> None:
    """What a session that was killed left: calls after it last looked."""
    for name in ("calls.log", "answers.json", "answers/late"):
        if (folder / name).parent.is_dir():
            with (folder / name).open("a", encoding="utf-8") as kept:
                kept.write("called ")


@pytest.mark.parametrize("names", [LOG, CACHE, FOLDER])
def test_what_a_reward_writes_itself_may_change_and_its_lexicon_may_not(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], names: str
) -> None:
    writing(world.folder, names)
    assert main(begun("--judge", "lexicon.py:score")) == PREPARED
    with monkeypatch.context() as patch:
        patch.setattr(Store, "evaluated", True)
        more_calls(world.folder)
        assert main(again(world)) == PREPARED
        more_calls(world.folder)
        assert main(again(world, "--seeds", "2", "--algos", "+dpo")) == PREPARED
        (world.folder / "words.txt").write_text("bad", encoding="utf-8")
        more_calls(world.folder)
        capsys.readouterr()
        assert main(again(world)) == REFUSED
    said = capsys.readouterr().err
    assert "is not what this comparison began with: words.txt beside it differs; nor is the judge" in said
    for kept in ("calls.log", "answers"):
        assert kept not in said


@pytest.mark.parametrize("names", [LOG, CACHE, FOLDER])
def test_a_run_before_its_first_evaluation_survives_what_the_reward_wrote(
    world: SmallWorld, capsys: pytest.CaptureFixture[str], names: str
) -> None:
    writing(world.folder, names)
    assert main(begun()) == PREPARED
    run = Store.open(world.folder / "out").run("reinforce", 0)
    (run.folder / "checkpoint").mkdir(parents=True)
    more_calls(world.folder)
    capsys.readouterr()
    assert main(again(world)) == PREPARED
    assert "begins again" not in capsys.readouterr().err
    assert (run.folder / "checkpoint").is_dir()


def test_what_a_reward_writes_is_noted_once_the_base_is_evaluated(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything trains, so that a kill does not lose it."""
    beside: list[dict[str, str]] = []

    def seen(store: Store, *_: object) -> None:
        beside.append(read_json(store.path / "sources.json")["0"]["reward"]["beside"])
        raise KeyboardInterrupt

    monkeypatch.setattr("eval.comparison.tune", seen)
    writing(world.folder, LOG)
    assert main(begun()) == PREPARED
    assert list(beside[0]) == ["words.txt"]
    assert "calls.log beside lexicon.py changed while in use: --resume does not" in capsys.readouterr().err


def test_every_data_seed_may_call_a_reward_that_writes(world: SmallWorld) -> None:
    """The second is compared with the first, whose pairs the reward has labelled."""
    writing(world.folder, LOG)
    assert main(begun("--algos", "dpo", "--replicate-data", "--seeds", "2")) == PREPARED
    assert main(again(world, "--seeds", "3")) == PREPARED


def test_a_cache_that_appears_before_a_data_seed_is_added_is_not_compared(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the session that adds the seed sees it change."""
    (world.folder / "lexicon.py").write_text(LEXICON + 'CACHE = "answers.json"\n', encoding="utf-8")
    assert main(begun("--replicate-data")) == PREPARED
    monkeypatch.setattr(Store, "evaluated", True)
    (world.folder / "answers.json").write_text("{}", encoding="utf-8")
    assert main(again(world, "--seeds", "2")) == PREPARED
    (world.folder / "answers.json").write_text("{1: 1}", encoding="utf-8")
    assert main(again(world)) == PREPARED


def test_a_cache_that_first_changes_in_training_is_noted_on_the_way(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the answers about the base were all in it."""
    (world.folder / "lexicon.py").write_text(LEXICON + 'CACHE = "answers.json"\n', encoding="utf-8")
    cache = world.folder / "answers.json"
    cache.write_text("{}", encoding="utf-8")
    assert main(begun()) == PREPARED
    store = Store.open(world.folder / "out")
    functions = FunctionFiles(store.path, store.experiment)
    monkeypatch.setattr(comparison, "_LOOKED", 0.0)
    told = comparison._noting(store, (), functions, Console(), lambda *_: None)
    job = Job("reinforce-s0", lambda _: "done", lambda _: "failed")
    told(job, 0.1, "")
    assert list(read_json(store.path / "sources.json")["0"]["reward"]["beside"]) == [
        "answers.json",
        "words.txt",
    ]
    cache.write_text("{1: 1}", encoding="utf-8")
    told(job, 0.2, "")
    assert list(read_json(store.path / "sources.json")["0"]["reward"]["beside"]) == ["words.txt"]


def test_code_that_changes_while_it_is_used_is_refused(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also a module that has appeared: it may come before one that was installed."""
    (world.folder / "spelling.py").write_text("", encoding="utf-8")
    (world.folder / "lexicon.py").write_text("import spelling\nimport colorsys\n" + LEXICON, encoding="utf-8")

    def edited(*_: object) -> None:
        (world.folder / "spelling.py").write_text("1\n", encoding="utf-8")
        (world.folder / "colorsys.py").write_text("", encoding="utf-8")
        raise KeyboardInterrupt

    monkeypatch.setattr("eval.comparison.tune", edited)
    assert main(begun()) == PREPARED
    monkeypatch.setattr(Store, "evaluated", True)
    capsys.readouterr()
    assert main(again(world)) == REFUSED
    assert "began with: colorsys.py beside it, spelling.py beside it differ" in capsys.readouterr().err
