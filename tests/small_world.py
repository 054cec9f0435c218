"""A tiny model, prompts, pairs and rewards as a user would have them: files in a folder."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny import gpt2, word_tokenizer

WORDS = "red green blue good bad dog cat sees likes the a and"

REWARDS = '''
from pathlib import Path

def score(prompts, completions, **columns):
    """More "good" is better."""
    return [float(text.split().count("good")) for text in completions]

def strict(prompts, completions, **columns):
    return [text.split().count("good") - text.split().count("bad") for text in completions]

def compares(prompts, a, b):
    return [1.0 if x.count("good") > y.count("good") else 0.5 if x.count("good") == y.count("good") else 0.0
            for x, y in zip(a, b)]

def short(prompts, completions, **columns):
    return [1.0]

def raises(prompts, completions, **columns):
    raise KeyError("no such word")

def nan(prompts, completions, **columns):
    return [float("nan")] * len(completions)

def later(prompts, completions, **columns):
    """Fine at first; from the fifth call in a process on, not a number."""
    later.calls = getattr(later, "calls", 0) + 1
    return [float("nan") if later.calls > 4 else float(text.count("good")) for text in completions]

def dies(prompts, completions, **columns):
    import multiprocessing, os
    dies.calls = getattr(dies, "calls", 0) + 1
    if multiprocessing.parent_process() is not None and dies.calls > 3:
        os._exit(7)
    return [float(text.count("good")) for text in completions]
'''


@dataclass(frozen=True)
class SmallWorld:
    """Paths of everything a small comparison needs."""

    folder: Path

    @property
    def model(self) -> str:
        return str(self.folder / "model")

    @property
    def prompts(self) -> str:
        return str(self.folder / "prompts.jsonl")

    @property
    def pairs(self) -> str:
        return str(self.folder / "pairs.jsonl")

    @property
    def cache(self) -> str:
        return str(self.folder / "cache")

    def reward(self, name: str = "score") -> str:
        return f"{self.folder / 'rewards.py'}:{name}"

    def arguments(self, out: Path, *more: str, reward: str = "score", workers: int = 1) -> list[str]:
        """A command line of two seeds that takes seconds."""
        return [
            "--model", self.model, "--prompts", self.prompts, "--reward", self.reward(reward), "--judge", self.reward("strict"),
            "--out", str(out), "--cache", self.cache, "--workers", str(workers), "--seeds", "2", "--budget", "6iterations",
            "--max-new-tokens", "6", "--prompts-per-iteration", "4", "--sampled-pairs", "64", "--eval.points", "2",
            "--frontier.prompts", "4", "--frontier.samples", "40",
            "--learning-rate", "3e-3", "--dpo.batch-size", "8", *more,
        ]  # fmt: skip


def small_world(folder: Path) -> SmallWorld:
    """Writes the files; the model is random."""
    tokenizer = word_tokenizer(WORDS, pad="<pad>")
    gpt2(len(tokenizer), width=16).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    colours, animals, verbs = ("red", "green", "blue"), ("dog", "cat"), ("sees", "likes")
    texts = [
        " ".join(parts)
        for parts in itertools.product(("the", "a"), colours, animals, verbs, ("the", "a"), colours)
    ]
    _write(folder / "prompts.jsonl", [{"prompt": text, "source": "made"} for text in texts])
    pairs = [{"prompt": text, "chosen": " good dog", "rejected": " bad cat"} for text in texts]
    _write(folder / "pairs.jsonl", pairs)
    (folder / "rewards.py").write_text(REWARDS, encoding="utf-8")
    return SmallWorld(folder)


def compared(arguments: list[str]) -> int:
    """`main(arguments)`, for tests of what comes before the report, which is not drawn: it would take most of the time."""
    from run_compare import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eval.comparison.draw", lambda store: store.path / "report.html")
        patch.setattr("run_compare.show_ends", lambda store, console: None)
        return main(arguments)


def sketch(patch: pytest.MonkeyPatch) -> None:
    """Figures are empty files, for tests of what comes before them: drawing would take most of the time."""
    from eval.report.figures import theme

    def empty(_: object, folder: Path, stem: str) -> None:
        (folder / f"{stem}.svg").write_text("<svg/>", encoding="utf-8")
        (folder / f"{stem}.png").write_bytes(b"")

    patch.setattr(theme, "save", empty)


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
