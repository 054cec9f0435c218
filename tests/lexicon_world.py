"""A comparison whose reward reads a lexicon beside it, on the command line: begun, and gone on with."""

from __future__ import annotations

import shutil
from pathlib import Path

from small_world import SmallWorld

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


def lexicon_world(small: SmallWorld, folder: Path) -> SmallWorld:
    """The small world's files and the reward's in a folder of their own."""
    shutil.copytree(small.folder, folder, ignore=shutil.ignore_patterns("cache"))
    (folder / "lexicon.py").write_text(LEXICON, encoding="utf-8")
    (folder / "words.txt").write_text("good", encoding="utf-8")
    return SmallWorld(folder)


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
