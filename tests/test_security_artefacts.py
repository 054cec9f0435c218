"""Comparisons of strangers: `report` runs nothing and writes nowhere else; what --resume runs, somebody named."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_world import SmallWorld, sketch

import run_compare
from algos import UserError
from algos.engine.storage import read_json, write_json
from eval.directory.integrity import sealed
from eval.experiment import Experiment
from eval.report.numbers.frames import evaluations
from eval.settings.arguments import parse
from eval.settings.layers import load_yaml
from eval.store import Store
from eval.tasks.materials import Materials

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def finished(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "one"
    short = [
        "--algos",
        "reinforce",
        "--seeds",
        "1",
        "--budget",
        "1iterations",
        "--eval.points",
        "1",
        "--frontier.samples",
        "0",
    ]
    with pytest.MonkeyPatch.context() as patch:
        sketch(patch)
        assert run_compare.main(small.arguments(out, *short)) == 0
    return out


@pytest.fixture
def strange(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be tampered with."""
    folder = tmp_path / "strange"
    shutil.copytree(finished, folder)
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """The user's own, beside it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("precious.svg", "precious.png", "reward-kl.svg", "precious.txt", "comparison", "data.jsonl"):
        (folder / name).write_text(f"my {name}\n", encoding="utf-8")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))}


def resuming(folder: Path, *more: str) -> list[str]:
    return ["--resume", str(folder), "--cache", str(folder.parent / "cache"), "--workers", "1", *more]


def reporting(folder: Path) -> list[str]:
    return ["report", str(folder)]


commands = pytest.mark.parametrize("command", [reporting, resuming])


# Links


@commands
@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("figures", "."),
        ("figures/reward-kl.svg", "precious.svg"),
        (".report.drawing", "precious.txt"),
        ("figures/.x.svg", "precious.txt"),
        ("report.md", "precious.txt"),
        ("facts.json", "precious.txt"),
        ("runs/reinforce-s0/samples.jsonl", "data.jsonl"),
        ("runs/reinforce-s0/policy", "."),
        ("materials/0/pairs.jsonl", "data.jsonl"),
        ("base", "."),
        (".locks", "."),
        (".locks/comparison", "comparison"),
        ("tuning", "."),
        ("runs/new", "nowhere"),
    ],
)
def test_links_are_followed_nowhere(
    command: Callable[[Path], list[str]], place: str, target: str, strange: Path, outside: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    link = strange / place
    if link.is_dir():
        shutil.rmtree(link)
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(outside / target)
    before = content(outside)
    assert run_compare.main(command(strange)) == 2
    assert f"{link} is a link" in capsys.readouterr().err
    assert content(outside) == before


@commands
@pytest.mark.parametrize("place", ["base/metrics.json", "events.jsonl", "experiment.yaml"])
def test_pipes_are_not_waited_for(
    command: Callable[[Path], list[str]], place: str, strange: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (strange / place).unlink(missing_ok=True)
    os.mkfifo(strange / place)
    assert run_compare.main(command(strange)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.usefixtures("sketched")
def test_the_folder_itself_may_be_a_link(strange: Path, tmp_path: Path) -> None:
    (tmp_path / "shortcut").symlink_to(strange)
    assert run_compare.main(reporting(tmp_path / "shortcut")) == 0


def test_weights_and_biases_may_link_into_its_own_folder(strange: Path) -> None:
    (strange / "wandb" / "run-1").mkdir(parents=True)
    (strange / "wandb" / "latest-run").symlink_to("run-1")
    Store.open(strange)
    (strange / "runs" / "wandb").mkdir()
    (strange / "runs" / "wandb" / "latest-run").symlink_to("run-1")
    with pytest.raises(UserError, match="is a link"):
        Store.open(strange)


# Paths


def test_an_index_names_nothing_elsewhere(
    strange: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for unit in (
        "../outside",
        str(outside),
        "runs/../../outside",
        "runs/../../outside-s0",
        "materials/../../outside",
        "3",
    ):
        write_json(strange / "index.json", {"written": [unit]})
        for command in (reporting, resuming):
            assert run_compare.main(command(strange)) == 2
            said = capsys.readouterr().err
            assert f"names {unit!a}, which no comparison writes" in said
            assert "Remove" not in said  # what is named would be the user's


def test_a_manifest_and_a_status_name_nothing_elsewhere(
    strange: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("runs/reinforce-s0/status.json", "materials/0/manifest.json", "base/manifest.json"):
        kept = read_json(strange / file)
        for name in ("../../../outside/precious.txt", str(outside / "precious.txt")):
            write_json(strange / file, kept | {"files": {**kept["files"], name: "0" * 64}})
            assert run_compare.main(reporting(strange)) == 2
            assert "a path out of it" in capsys.readouterr().err
        write_json(strange / file, kept)


def test_where_a_policy_is_said_to_be_is_not_what_the_report_says(strange: Path) -> None:
    status = read_json(strange / "runs/reinforce-s0/status.json")
    write_json(strange / "runs/reinforce-s0/status.json", status | {"policy": "../../../etc"})
    assert list(evaluations(Store.open(strange)).runs["policy"]) == ["runs/reinforce-s0/policy"]


@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "a/b", "..", ".hidden", "a\nb", "", "-rf", "x" * 200, "base", "ppo"]
)
def test_an_arm_is_named_like_a_file_or_not_at_all(name: str) -> None:
    with pytest.raises(UserError, match="a variant's name must be"):
        Experiment.from_dict({"variants": {name: {"algorithm": "ppo"}}, "algos": ["ppo"]})


# Code


def forge(folder: Path, reward: str) -> None:
    """Everything in the directory says that this is the reward, and every checksum is right."""
    materials = Materials.load(folder / "materials" / "0")
    assert materials is not None
    replace(materials, reward=replace(materials.reward, kind="function", where=reward)).save(
        folder / "materials" / "0"
    )
    experiment = load_yaml(folder / "experiment.yaml") | {"reward": reward}
    (folder / "experiment.yaml").write_text(sealed(yaml.safe_dump(experiment)), encoding="utf-8")
    (folder / "sources.json").unlink(missing_ok=True)
    write_json(folder / "index.json", {"written": []})


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def plant(folder: Path, canary: Path) -> None:
    """Whatever could be run, if somebody opened or imported it."""
    code = f"open({str(canary)!r}, 'a').write(__name__ + ' ')\ndef score(completions, **_): return [0.0 for _ in completions]\n"
    names = ("evil", "json", "torch", "yaml", "pandas", "matplotlib", "jinja2", "algos", "eval", "run_compare", "sitecustomize",
             "usercustomize", "conftest", "multiprocessing")  # fmt: skip
    for name in names:
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    (folder / "matplotlibrc").write_text("backend: module://evil\n", encoding="utf-8")
    (folder / "evil.pth").write_text(f"import os; open({str(canary)!r}, 'w')\n", encoding="utf-8")

    class Runs:
        def __reduce__(self) -> Any:
            return open, (str(canary), "w")

    for place in ("", "base", "runs/reinforce-s0", "runs/reinforce-s0/policy", "materials/0"):
        (folder / place / "rows.pkl").write_bytes(pickle.dumps(Runs()))
        torch.save({"x": Runs()}, folder / place / "pytorch_model.bin")


def test_report_runs_nothing_of_a_directory_not_even_in_it(strange: Path, canary: Path) -> None:
    forge(strange, f"{strange / 'evil.py'}:score")
    plant(strange, canary)
    command = [sys.executable, ROOT / "run_compare.py", "report", "."]
    done = subprocess.run(command, cwd=strange, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "report.html"
    assert not canary.exists(), canary.read_text()


def test_resume_runs_no_code_that_lies_in_the_directory(
    strange: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(strange, canary)
    for where in (f"{strange / 'evil.py'}:score", f"{os.path.relpath(strange)}/runs/../evil.py:score"):
        forge(strange, where)
        assert run_compare.main(resuming(strange, "--seeds", "2")) == 2
        assert "in the comparison's own directory" in capsys.readouterr().err
    assert not canary.exists()


@pytest.mark.parametrize("option", ["--config", "--resume"])
def test_a_file_alone_lets_no_model_bring_code(option: str, strange: Path) -> None:
    file = strange / "experiment.yaml"
    experiment = load_yaml(file) | {"trust_remote_code": True}
    file.write_text(sealed(yaml.safe_dump(experiment)), encoding="utf-8")
    named = [option, str(strange if option == "--resume" else file)]
    with pytest.raises(UserError, match="Pass --trust-remote-code"):
        parse(named)
    assert parse([*named, "--trust-remote-code"]).experiment.trust_remote_code


def test_it_is_off_unless_asked_for() -> None:
    assert not parse([]).experiment.trust_remote_code
    assert parse(["--trust-remote-code"]).experiment.trust_remote_code
