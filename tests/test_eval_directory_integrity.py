"""Whether what is there is what was written: every file of a comparison, and what lies outside of it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from damage import damaged, files_that_matter
from faults import again, first, start, until
from forging import reseal
from outcomes import outcome, same
from small_world import SmallWorld, compared

from algos import UserError
from algos.engine.storage import DamagedFile, read_json, saved_states, write_json
from eval.store import Store
from run_compare import main

# Damage while it was stopped -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half_way(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed in its second run, with two checkpoints in it."""
    out = tmp_path_factory.mktemp("half") / "way"
    child = start(first(small, out, "--algos", "reinforce", "ppo"))
    until(lambda: len(saved_states(out / "runs" / "ppo-s0" / "checkpoint")) == 2, child)
    child.kill()
    child.wait()
    return out


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("state.safetensors", "changed"),  # the other damage to a checkpoint: test_algos_checkpoints.py
        ("state.json", "truncated"),
        *(("events.jsonl", how) for how in ("changed", "truncated", "removed")),
    ],
)
def test_an_unfinished_run_goes_on_from_what_is_whole(
    small: SmallWorld, tmp_path: Path, half_way: Path, never_stopped: Path, log: Path, name: str, how: str
) -> None:
    """Whatever file of it is damaged: from the checkpoint before, or from its beginning."""
    out = tmp_path / "out"
    shutil.copytree(half_way, out)
    run = out / "runs" / "ppo-s0"
    file = (run if name == "events.jsonl" else saved_states(run / "checkpoint")[-1]) / name
    content = file.read_bytes()
    if how == "changed":
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif how == "truncated":
        file.write_bytes(content[: len(content) // 8])
    else:
        file.unlink()
    assert start(again(small, out)).wait() == 0
    assert str(file) in log.read_text(encoding="utf-8")
    found, expected = outcome(out), outcome(never_stopped)
    names = [name for name in found if name.startswith(("reinforce", "ppo"))]
    assert [name for name in names if found[name] != expected[name]] == []


def test_a_checkpoint_of_another_shape_is_passed_over(
    small: SmallWorld, tmp_path: Path, half_way: Path, never_stopped: Path, log: Path
) -> None:
    """However right its checksums are: the one before it is used."""
    out = tmp_path / "out"
    shutil.copytree(half_way, out)
    file = saved_states(out / "runs" / "ppo-s0" / "checkpoint")[-1] / "state.json"
    write_json(file, read_json(file) | {"notes": {"rows": [1]}})
    reseal(out, file)
    assert start(again(small, out)).wait() == 0
    assert f"{file} is not of the shape" in log.read_text(encoding="utf-8")
    found, expected = outcome(out), outcome(never_stopped)
    assert [name for name in found if name.startswith("ppo") and found[name] != expected[name]] == []


def noticed(out: Path, file: Path) -> bool:
    """Whether one line names the file."""
    try:
        Store.reading(out)
    except UserError as error:
        return str(out) in str(error) and file.name in str(error) and "\n" not in str(error)
    return False


@pytest.mark.parametrize("how", ["changed", "truncated", "removed"])
def test_damage_to_any_file_is_noticed_by_its_name(never_stopped: Path, how: str) -> None:
    luck = random.Random(how)
    for file in files_that_matter(never_stopped):
        if how == "truncated" and not file.stat().st_size:
            continue
        with damaged(file, how, luck):
            assert noticed(never_stopped, file), file
    Store.reading(never_stopped)


@pytest.mark.faults
def test_a_thousand_damages(never_stopped: Path) -> None:
    luck, files, counts = (
        random.Random(0),
        files_that_matter(never_stopped),
        dict.fromkeys(("changed", "truncated", "removed"), 0),
    )
    for number in range(1000):
        how = ("changed", "changed", "changed", "truncated", "removed")[number % 5]
        file = luck.choice([file for file in files if file.stat().st_size or how != "truncated"])
        with damaged(file, how, luck):
            assert noticed(never_stopped, file), (file, how)
        counts[how] += 1
    Store.reading(never_stopped)
    print(f"1000 of 1000 noticed by name: {counts}, in {len(files)} files")


@pytest.mark.parametrize("unit", ["base", "matches.json", "environment.json", "facts.json", "sources.json"])
def test_what_can_be_made_again_is_missed_and_made_again(
    small: SmallWorld, tmp_path: Path, never_stopped: Path, log: Path, unit: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(never_stopped, out)
    shutil.rmtree(out / unit) if (out / unit).is_dir() else (out / unit).unlink()
    with pytest.raises(DamagedFile, match=f"{unit} was written but is gone"):
        Store.reading(out)
    assert start(again(small, out)).wait() == 0
    assert f"{out / unit} was written but is gone: it is made again" in log.read_text(encoding="utf-8")
    Store.reading(out)
    same(out, never_stopped)


def test_a_run_that_was_removed_is_made_again(
    small: SmallWorld, tmp_path: Path, never_stopped: Path, log: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(never_stopped, out)
    shutil.rmtree(out / "runs" / "ppo-s0")
    assert Store.reading(out).runs.set_index("arm").loc["ppo", "status"] == "missing"
    assert start(again(small, out)).wait() == 0
    assert "ppo-s0 was written but is gone: it is made again" in log.read_text(encoding="utf-8")
    same(out, never_stopped)


def test_a_cache_that_nothing_needs_any_more_is_not_missed_for_ever(
    small: SmallWorld, tmp_path: Path, never_stopped: Path, log: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(never_stopped, out)
    (cache,) = (out / "materials").glob("reference-logps-*.safetensors")
    cache.unlink()
    with pytest.raises(DamagedFile, match=f"{cache.name} was written but is gone"):
        Store.reading(out)
    assert start(again(small, out)).wait() == 0
    assert f"{cache} was written but is gone" in log.read_text(encoding="utf-8")
    Store.reading(out)
    same(out, never_stopped)


def test_a_run_that_failed_may_be_killed_as_it_is_made_again(
    small: SmallWorld, tmp_path: Path, never_stopped: Path, log: Path
) -> None:
    """It takes its status away as it begins, which is then not missed, whatever ended before it."""
    out = tmp_path / "out"
    shutil.copytree(never_stopped, out)
    first, second = (Store.open(out).run(arm, 0) for arm in ("reinforce", "ppo"))
    for run in (first, second):
        run.finish(**run.status | {"status": "failed", "error": "no luck"})
    child = start(again(small, out))
    until(lambda: first.status["status"] == "done" and second.status["status"] == "missing", child)
    child.kill()
    child.wait()
    assert second.status["status"] == "missing"
    assert start(again(small, out)).wait() == 0
    same(out, never_stopped)


def test_materials_that_are_gone_are_not_made_anew(
    small: SmallWorld, tmp_path: Path, never_stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They might be made from other files than the runs that are there."""
    out = tmp_path / "out"
    shutil.copytree(never_stopped, out)
    shutil.rmtree(out / "materials" / "0")
    assert main(again(small, out)) == 2
    assert f"{out / 'materials' / '0'} was written but is gone" in capsys.readouterr().err


# What lies outside ---------------------------------------------------------------------------------------


def test_another_model_or_reward_is_refused(
    small: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = SmallWorld(tmp_path / "world")
    shutil.copytree(small.folder, world.folder)
    out = tmp_path / "out"
    assert start(first(world, out, "--algos", "dpo")).wait() == 0
    for file, what in (
        (world.folder / "rewards.py", "reward"),
        (world.folder / "model" / "config.json", "model"),
    ):
        content = file.read_bytes()
        file.write_bytes(content + b"\n")
        assert main(again(world, out)) == 2
        assert f"the {what} " in (said := capsys.readouterr().err)
        assert "is not what this comparison began with" in said
        file.unlink()
        assert main(again(world, out)) == 2
        assert "error: " in capsys.readouterr().err
        file.write_bytes(content)
    assert start(again(world, out)).wait() == 0


def test_models_that_went_with_the_cache_are_built_again(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learned reward and judge, of a model that was named by a path relative to where the comparison began."""
    monkeypatch.chdir(small.folder)
    out, cache = tmp_path / "out", tmp_path / "cache"
    begun = [
        "--model", "model", "--pairs", "pairs.jsonl", "--out", str(out), "--cache", str(cache), "--workers", "1",
        "--algos", "reinforce", "--seeds", "1", "--budget", "1iterations", "--max-new-tokens", "4", "--eval.points", "1",
        "--frontier.samples", "0", "--device", "cpu", "--reward-model.epochs", "1", "--prompts-per-iteration", "4",
    ]  # fmt: skip
    assert compared(begun) == 0
    sources = read_json(out / "sources.json")
    shutil.rmtree(cache)
    elsewhere = tmp_path / "another-cache"
    resume = ["--resume", str(out), "--cache", str(elsewhere), "--workers", "1"]
    assert compared([*resume, "--seeds", "2"]) == 0
    made = Store.reading(out).materials(0)
    assert Path(made.reward.where).is_relative_to(elsewhere)
    assert Path(made.judge.where).is_relative_to(elsewhere)
    assert read_json(out / "sources.json") == sources, "the same to the last weight, or it would be refused"
    monkeypatch.chdir(tmp_path)
    assert compared([*resume, "--seeds", "3"]) == 0


def test_data_that_changed_before_an_arm_was_added_are_refused(
    small: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The new arm needs pairs, which are sampled for the prompts: they must be those of the other arms."""
    world = SmallWorld(tmp_path / "world")
    shutil.copytree(small.folder, world.folder)
    out = tmp_path / "out"
    assert start(first(world, out, "--algos", "reinforce")).wait() == 0
    prompts = Path(world.prompts)
    content = prompts.read_text(encoding="utf-8")
    prompts.write_text("".join(content.splitlines(keepends=True)[5:]), encoding="utf-8")
    assert main(again(world, out, "--algos", "+dpo")) == 2
    assert "the data are not what this comparison began with: train_prompts" in capsys.readouterr().err
    prompts.write_text(content, encoding="utf-8")
    assert start(again(world, out, "--algos", "+dpo")).wait() == 0


def test_an_experiment_that_was_edited_is_refused(
    small: SmallWorld, tmp_path: Path, never_stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(never_stopped, out)
    file = out / "experiment.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("learning_rate: 0.003", "learning_rate: 0.004"))
    assert main(["--resume", str(out)]) == 2
    assert f"{file} is not what was written" in capsys.readouterr().err


def test_how_it_is_carried_out_may_change(small: SmallWorld, tmp_path: Path) -> None:
    """A longer time for the reward, other checkpoints: nothing that a result depends on."""
    out = tmp_path / "out"
    assert start(first(small, out, "--algos", "dpo")).wait() == 0
    assert start(again(small, out, "--reward-timeout", "5", "--checkpoint-every", "7")).wait() == 0
    assert Store.open(out).experiment.checkpoint_every == 7
    assert start(again(small, out, "--allow-unscored")).wait() == 2
