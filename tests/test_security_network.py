"""A whole comparison, watched from outside: no socket, no secret written, nothing imported from where it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from small_world import SmallWorld

from algos.engine.errors import one_line, without_secrets

ROOT = Path(__file__).parents[1]
SECRET = "canary-value-that-nobody-else-has"
SECRETS = {
    name: f"{SECRET}-{i}"
    for i, name in enumerate(
        (
            "HF_TOKEN",
            "OPENAI_API_KEY",
            "AWS_SECRET_ACCESS_KEY",
            "WANDB_API_KEY",
            "DB_PASSWORD",
            "MY_OWN_SETTING",
        )
    )
}
# Loaded by every Python process of the comparison before anything else; it writes down what they do.
WATCH = """
import os, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        seen(f"{event} {arguments[1:] if event != 'socket.getaddrinfo' else arguments}")
    elif event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"):
        seen(f"{event} {arguments[1]}")

def seen(what):
    with open(os.environ["WATCH_LOG"], "a") as log:
        log.write(what + chr(10))

seen("process started")
sys.addaudithook(watch)
"""
PLANTED = (
    "json", "torch", "numpy", "yaml", "multiprocessing", "pickle", "algos", "eval", "tyro", "sitecustomize",
    "usercustomize", "colorsys", "helper",
)  # fmt: skip
REWARD = """
import json, colorsys  # libraries' names, which files beside this one have, too
from words import GOOD

calls = 0

def score(prompts, completions, **columns):
    global calls
    calls += 1
    if calls == 6:
        import os
        raise RuntimeError("Incorrect API key provided: " + os.environ["OPENAI_API_KEY"])
    return [float(text.split().count(GOOD)) for text in completions]
"""


@dataclass(frozen=True)
class Watched:
    status: int
    said: str
    log: list[str]
    out: Path
    ran: Path


@pytest.fixture(scope="module")
def watched(small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """Two workers, in a working directory full of modules that nobody should import."""
    here, watch, home = (tmp_path_factory.mktemp(name) for name in ("here", "watch", "home"))
    (watch / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    own = home / "own"
    own.mkdir()
    for folder in (here, own):
        for name in PLANTED:
            line = f"open({str(home / 'ran')!r}, 'a').write({f'{folder.name}/{name} '!r})\n"
            (folder / f"{name}.py").write_text(line, encoding="utf-8")
    (own / "reward.py").write_text(REWARD, encoding="utf-8")
    (own / "words.py").write_text("GOOD = 'good'\n", encoding="utf-8")
    (here / "matplotlibrc").write_text("backend: module://helper\n", encoding="utf-8")
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(watch), "WATCH_LOG": str(watch / "log"),
        "OMP_NUM_THREADS": "1", **SECRETS,
    }  # fmt: skip
    out = home / "out"
    arguments = small.arguments(out, "--algos", "reinforce", "dpo", "--seeds", "1", "--reward", f"{own / 'reward.py'}:score",
                                "--reward-retries", "0", "--frontier.samples", "0", "--cache", str(home / "cache"), workers=2)  # fmt: skip
    done = subprocess.run(
        [sys.executable, ROOT / "run_compare.py", *arguments],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
    )
    log = (watch / "log").read_text().splitlines()
    return Watched(done.returncode, done.stdout + done.stderr, log, out, home / "ran")


def test_the_comparison_came_to_its_end_and_was_watched(watched: Watched) -> None:
    """With one failed run, whose reward put a secret into its error."""
    assert watched.status == 1, watched.said
    assert (watched.out / "report.html").exists()
    assert watched.log.count("process started") >= 3  # this one and two workers
    assert any("git" in line for line in watched.log)


def test_no_socket_is_opened_and_no_name_looked_up(watched: Watched) -> None:
    assert [line for line in watched.log if line.startswith("socket")] == []


def test_the_only_other_programs_tell_of_the_machine(watched: Watched) -> None:
    """The commit (git), the processor (platform's uname) and fonts (matplotlib's fc-list)."""
    started = [
        line.split()[1].strip("[],'") for line in watched.log if line.startswith(("os.", "subprocess"))
    ]
    assert set(started) <= {"git", "uname", "fc-list"}


def test_no_module_of_the_working_directory_or_beside_a_reward_stands_for_a_library(watched: Watched) -> None:
    assert not watched.ran.exists(), watched.ran.read_text()


def test_no_value_of_the_environment_is_written_down(watched: Watched) -> None:
    files = [
        path
        for folder in (watched.out, watched.out.parent / "cache")
        for path in folder.rglob("*")
        if path.is_file()
    ]
    assert len(files) > 30
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in watched.said
    assert "Incorrect API key provided: $OPENAI_API_KEY" in (watched.out / "report.md").read_text().replace(
        "\\", ""
    ).replace("\u2060", "")


def test_the_watch_sees_a_socket(tmp_path: Path) -> None:
    """Or the tests above would prove nothing."""
    (tmp_path / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    code = (
        "import socket\ntry:\n    socket.create_connection(('127.0.0.1', 9), 0.1)\nexcept OSError:\n    pass"
    )
    environment = {"PYTHONPATH": str(tmp_path), "WATCH_LOG": str(tmp_path / "log")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert "socket.connect" in (tmp_path / "log").read_text()


# Secrets


def test_secrets_are_named_by_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    text = without_secrets(" ".join(SECRETS.values()))
    named = ("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "DB_PASSWORD")
    assert text == " ".join([*(f"${name}" for name in named), SECRETS["MY_OWN_SETTING"]])


def test_a_secret_is_gone_before_a_message_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", SECRET)
    said = one_line(ValueError("x" * 290 + " " + SECRET))
    assert SECRET[:5] not in said


def test_short_values_and_other_names_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-and-long-enough")
    monkeypatch.setenv("API_KEY", "no")
    assert without_secrets("no, false-and-long-enough") == "no, false-and-long-enough"
