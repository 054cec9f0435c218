"""A comparison's directory: rows come back as they were appended, however often they are cut back; nothing is overwritten."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algos import UserError
from algos.engine.storage import DamagedFile, atomic_directory, write_json
from eval.directory.integrity import sealed
from eval.directory.runs import Run
from eval.experiment import Experiment
from eval.opening import creating
from eval.store import Store, next_folder

SPENT = {
    "iteration": 1,
    "fraction": 0.5,
    "updates": 1,
    "completions": 2,
    "tokens": 3,
    "flops": 4.0,
    "seconds": 0.5,
}
SAMPLE = {
    "point": 1,
    "sample": 0,
    "prompt": "a",
    "judge": 1.0,
    "proxy": None,
    "length": 2,
    "ended": True,
    "kl": 0.1,
}
ANSWER: dict[str, Any] = {"prompt_id": 0, "completion": "b"}

numbers = st.none() | st.floats(-1e9, 1e9) | st.integers(-(2**53), 2**53)
logged = st.dictionaries(
    st.text(min_size=1, max_size=8).map(lambda name: f"{name}/train"), numbers, max_size=3
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def saved(run: Run, iteration: int) -> None:
    """A checkpoint of the rows as they are, without tensors."""
    notes = {"point": 0, "memory": 0.0, "diverged": "", "seconds": 0.0, "rows": run.mark()}
    with atomic_directory(run.checkpoints / f"{iteration:08}") as temporary:
        record: dict[str, Any] = {"identity": {}, "meter": {}, "history": [], "idle": 0, "portions": {}}
        write_json(temporary / "state.json", record | {"notes": notes})


@settings(max_examples=60, deadline=None)
@given(kept=st.lists(logged, max_size=4), words=st.lists(texts, max_size=4), lost=st.lists(logged, max_size=3),
       half=st.binary(max_size=20).filter(lambda data: b"\n" not in data))  # fmt: skip
def test_a_run_that_goes_on_has_the_rows_of_its_checkpoint(
    kept: list[dict[str, Any]], words: list[str], lost: list[dict[str, Any]], half: bytes
) -> None:
    """Not one more, not one less, whatever was written after it, and as often as it is stopped there."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run("ppo", 0, Path(folder) / "runs" / "ppo-s0")
        run.begin()
        events = [SPENT | row for row in kept]
        samples = [SAMPLE | ANSWER | {"completion": text} for text in words]
        run.append("events", *events)
        run.append("samples", *samples)
        saved(run, len(kept))
        for _ in range(2):
            run.append("events", *(SPENT | row for row in lost))
            run.append("rows")
            with (run.folder / "events.jsonl").open("ab") as file:
                file.write(half)
            run.begin()
            assert run.read("events") == events
            assert run.read("samples") == samples
            assert not (run.folder / "rows.jsonl").exists()


def test_a_run_without_a_whole_checkpoint_starts_again(tmp_path: Path) -> None:
    run = Run("ppo", 0, tmp_path / "runs" / "ppo-s0")
    run.begin()
    run.append("events", SPENT)
    saved(run, 1)
    (run.folder / "events.jsonl").write_bytes(b"")
    run.begin()
    assert list(run.folder.iterdir()) == []


def test_a_run_that_goes_on_keeps_no_traceback_of_how_it_failed(tmp_path: Path) -> None:
    run = Run("ppo", 0, tmp_path / "runs" / "ppo-s0")
    run.begin()
    run.append("events", SPENT)
    saved(run, 1)
    (run.folder / "traceback.txt").write_text("Traceback", encoding="utf-8")
    run.begin()
    assert sorted(path.name for path in run.folder.iterdir()) == ["checkpoint", "events.jsonl"]


def test_every_row_of_the_results_says_whether_its_run_reached_its_end(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "one", Experiment())
    store.write_base({"length": 2.0}, [])
    spent = {name: value for name, value in SPENT.items() if name not in ("iteration", "fraction")}
    for seed, status in enumerate(("done", "failed", "missing")):
        run = store.run("ppo", seed)
        run.begin()
        for point in range(2):
            run.append("rows", spent | {"point": point, "metrics": {"length": 3.0, "kl/sequence": 0.1}})
        if status != "missing":
            run.finish(status=status, error="", fraction=1.0, updates=1, seconds=1.0, policy="")
    found = store.results
    assert list(found.columns) == [
        "arm", "algorithm", "seed", "status", "point", "updates", "completions", "tokens", "flops", "seconds", "metric",
        "value",
    ]  # fmt: skip
    assert found[["arm", "seed", "status"]].value_counts().to_dict() == {
        ("base", 0, "done"): 1,
        ("ppo", 0, "done"): 4,
        ("ppo", 1, "failed"): 4,
        ("ppo", 2, "missing"): 4,
    }


def test_the_first_folder_that_is_free(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        folder = next_folder(tmp_path, "reviews", "2026-01-02")
        assert folder == tmp_path / f"reviews-2026-01-02-{number}"
        folder.mkdir()


def test_nothing_that_is_there_is_taken_for_a_new_comparison(tmp_path: Path) -> None:
    Store.create(tmp_path / "one", Experiment())
    with pytest.raises(UserError, match="holds another comparison"):
        Store.create(tmp_path / "one", Experiment())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(UserError, match="is not empty"):
        Store.create(tmp_path / "mine", Experiment())
    with pytest.raises(UserError, match="holds no comparison"):
        Store.open(tmp_path / "mine")


@pytest.mark.parametrize(
    ("number", "file", "message"),
    [
        (errno.ENOSPC, None, "cannot be read or written: .*No space left"),
        (errno.EACCES, "one/base", "cannot be read or written: .*denied: '.*one/base'"),
        (errno.EACCES, "cache", "cannot go on: .*denied: '.*cache'"),
    ],
)
def test_what_the_system_refuses_is_said_with_how_to_go_on(
    tmp_path: Path, number: int, file: str | None, message: str
) -> None:
    out = tmp_path / "one"
    expected = pytest.raises(UserError, match=f"^{out} {message}.*--resume {out}")
    with expected, creating(out, Experiment()):
        raise OSError(number, os.strerror(number), file and str(tmp_path / file))


@pytest.mark.parametrize(("read", "expected"), [(True, UserError), (False, BrokenPipeError)])
def test_a_broken_pipe_is_a_reader_that_left_where_nobody_reads_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: bool, expected: type[Exception]
) -> None:
    reading, writing = os.pipe()
    if not read:
        os.close(reading)
    with open(writing, "w") as output:
        monkeypatch.setattr("sys.stdout", output)
        with pytest.raises(expected), creating(tmp_path / "one", Experiment()):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    if read:
        os.close(reading)


def test_an_experiment_that_cannot_be_is_named_with_its_file(tmp_path: Path) -> None:

    store = Store.create(tmp_path / "one", Experiment())
    file = store.path / "experiment.yaml"
    file.write_text(sealed("seeds: [1]\n"), encoding="utf-8")
    with pytest.raises(UserError, match=rf"{file}: seeds: .*integer.*got \[1\]"):
        Store.open(store.path)


@pytest.mark.parametrize(
    ("base", "run"),
    [([0, 1], [0]), ([0, 1], [1, 0]), ([0, 1], []), ([], []), ([0, 2], [0, 2])],
    ids=["fewer", "in another order", "none", "of nothing", "of a prompt that is not there"],
)
def test_answers_to_other_prompts_are_not_matched(tmp_path: Path, base: list[int], run: list[int]) -> None:
    """Win rates compare answers one by one."""
    store = Store.create(tmp_path / "one", Experiment())
    base_samples = [SAMPLE | ANSWER | {"prompt_id": prompt} for prompt in base]
    store.write_base({}, base_samples)
    made = store.run("ppo", 0)
    made.begin()
    made.append("samples", *(SAMPLE | ANSWER | {"prompt_id": prompt} for prompt in run))
    with pytest.raises(DamagedFile, match=r"samples\.jsonl does not answer the prompts"):
        store.responses(made, prompts=2)


def test_answers_to_the_same_prompts_are(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "one", Experiment())
    samples = [SAMPLE | ANSWER | {"prompt_id": prompt} for prompt in (0, 1)]
    store.write_base({}, samples)
    made = store.run("ppo", 0)
    made.begin()
    made.append("samples", *samples)
    assert store.responses(made, prompts=2) == samples
