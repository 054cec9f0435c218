"""The cache: built once, whole or not at all, rebuilt where files were touched, one builder at a time."""

from __future__ import annotations

import json
import logging
import multiprocessing
import time
from pathlib import Path

import pytest

from eval.stages import cache as module
from eval.stages.cache import ArtefactCache, content_hash, json_hash


def write(text: str):
    def make(out: Path) -> None:
        (out / "deep").mkdir()
        (out / "deep" / "a.txt").write_text(text, encoding="utf-8")

    return make


def fail(out: Path) -> None:
    raise AssertionError("built again")


def test_built_once_for_the_same_key(tmp_path):
    first = ArtefactCache(tmp_path).build("base", {"seed": 1, "lr": 0.1}, write("one"))
    again = ArtefactCache(tmp_path).build("base", {"lr": 0.1, "seed": 1}, fail)
    assert not first.cached
    assert again.cached
    assert again.path == first.path
    assert again.seconds == first.seconds > 0
    assert first.path.name.startswith("base-")
    assert (first.path / "deep" / "a.txt").read_text(encoding="utf-8") == "one"


def test_another_key_or_stage_is_another_artefact(tmp_path):
    cache = ArtefactCache(tmp_path)
    paths = {
        cache.build(s, k, write("x")).path for s, k in [("a", {"n": 1}), ("a", {"n": 2}), ("b", {"n": 1})]
    }
    assert len(paths) == 3


def test_versions_of_the_libraries_are_part_of_the_key(tmp_path, monkeypatch):
    cache = ArtefactCache(tmp_path)
    first = cache.build("base", {}, write("x"))
    monkeypatch.setattr("eval.stages.cache.installed", lambda name: "0.0")
    assert cache.build("base", {}, write("x")).path != first.path


def test_our_own_code_is_part_of_the_key(tmp_path, monkeypatch):
    """All that makes artefacts, wherever it is installed: in a checkout it changes while the version stays."""
    monkeypatch.setattr(module, "_code", module._code.__wrapped__)  # which is looked at once a process
    monkeypatch.setattr(module, "__file__", str(tmp_path / "eval" / "stages" / "cache.py"))
    monkeypatch.setattr("algos.__file__", str(tmp_path / "algos" / "__init__.py"))

    def path(changed: str) -> Path:
        file = tmp_path / changed
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as text:
            text.write("#")
        return ArtefactCache(tmp_path / "cache").build("base", {}, write("x")).path

    (tmp_path / "algos").mkdir()
    for part in ("tasks", "stages"):
        (tmp_path / "eval" / part).mkdir(parents=True)
    makers = ["eval/stages/base.py", "algos/dpo.py", "algos/engine/sampling.py", "eval/tasks/reviews/gold.py"]
    paths = [path(name) for name in (*makers, *makers)]
    assert len(set(paths)) == 2 * len(makers)
    for other in ("eval/report/page.py", "algos/__pycache__/dpo.cpython-311.pyc"):
        assert path(other) == paths[-1]


def test_our_own_code_is_read_once_a_process(monkeypatch):
    code = module._code()
    monkeypatch.setattr(module, "content_hash", lambda *_: pytest.fail("read again"))
    assert module._code() == code


def test_manifest_lists_every_file(tmp_path):
    artefact = ArtefactCache(tmp_path).build("base", {"n": 1}, write("one"))
    manifest = json.loads((artefact.path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["key"] == {"n": 1}
    # SHA-256 of "one".
    assert manifest["files"] == {
        "deep/a.txt": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    }


@pytest.mark.parametrize("damage", ["change", "remove", "add", "manifest"])
def test_a_touched_artefact_is_built_again_with_a_warning(tmp_path, caplog, damage):
    cache = ArtefactCache(tmp_path)
    path = cache.build("base", {}, write("one")).path
    if damage == "change":
        (path / "deep" / "a.txt").write_text("two", encoding="utf-8")
    elif damage == "remove":
        (path / "deep" / "a.txt").unlink()
    elif damage == "add":
        (path / "more.txt").write_text("", encoding="utf-8")
    else:
        (path / "manifest.json").write_text("{", encoding="utf-8")
    with caplog.at_level(logging.WARNING, logger="eval.stages.cache"):
        again = cache.build("base", {}, write("one"))
    assert not again.cached
    assert (again.path / "deep" / "a.txt").read_text(encoding="utf-8") == "one"
    assert not (again.path / "more.txt").exists()
    assert "does not match its manifest" in caplog.text
    assert cache.build("base", {}, fail).cached


def test_a_failed_build_leaves_nothing_behind(tmp_path):
    cache = ArtefactCache(tmp_path)

    def broken(out: Path) -> None:
        (out / "half.txt").write_text("half", encoding="utf-8")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cache.build("base", {}, broken)
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []
    assert not cache.build("base", {}, write("x")).cached


def test_what_a_killed_process_left_is_cleared(tmp_path):
    cache = ArtefactCache(tmp_path)
    path = cache.build("base", {}, write("x")).path
    leftover = tmp_path / f".{path.name}.making-abc"
    path.rename(leftover)
    cache.build("base", {}, write("x"))
    assert path.exists()
    assert not leftover.exists()


def test_pickled_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"safetensors only; got model\.bin"):
        ArtefactCache(tmp_path).build("base", {}, lambda out: (out / "model.bin").touch())


def test_a_key_that_is_not_json_is_refused(tmp_path):
    with pytest.raises(TypeError):
        ArtefactCache(tmp_path).build("base", {"path": tmp_path}, fail)
    with pytest.raises(ValueError, match="not JSON"):
        ArtefactCache(tmp_path).build("base", {"lr": float("nan")}, fail)


def _build_slowly(root: Path, log: Path) -> None:
    def make(out: Path) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write("built\n")
        time.sleep(0.3)
        (out / "a.txt").write_text("x", encoding="utf-8")

    ArtefactCache(root).build("base", {}, make)


def test_two_processes_build_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    workers = [context.Process(target=_build_slowly, args=(tmp_path / "cache", log)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=30)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert log.read_text(encoding="utf-8") == "built\n"


def test_content_hash_sees_content_and_names_but_no_measured_times(tmp_path):
    def directory(name: str, files: dict[str, str]) -> Path:
        path = tmp_path / name
        path.mkdir()
        for file, text in files.items():
            (path / file).write_text(text, encoding="utf-8")
        return path

    one = directory("one", {"config.json": "{}", "facts.json": '{"seconds": 1}'})
    same = directory("same", {"config.json": "{}", "facts.json": '{"seconds": 2}', ".cache": "x"})
    changed = directory("changed", {"config.json": "[]"})
    renamed = directory("renamed", {"other.json": "{}"})
    assert content_hash(one) == content_hash(same)
    assert len({content_hash(p) for p in (one, changed, renamed)}) == 3
    assert content_hash(one / "config.json") == content_hash(renamed / "other.json")
    with pytest.raises(FileNotFoundError):
        content_hash(tmp_path / "none")


def test_json_hash_does_not_depend_on_the_order_of_keys():
    assert json_hash({"a": 1, "b": [2]}) == json_hash({"b": [2], "a": 1}) != json_hash({"a": 1, "b": [3]})
