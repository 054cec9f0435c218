"""Writes examples/data: the same 240 preferences in every format that `rlhf-compare` reads.

    python examples/make_data.py

A shop's customers ask, two clerks answer, and the polite answer is preferred.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"

THINGS = (
    "kettle", "lamp", "ladder", "blanket", "mirror", "basket",
    "clock", "bucket", "hammer", "candle", "teapot", "broom",
    "chair", "stool", "vase", "carpet", "curtain", "pillow",
    "kennel", "saddle", "barrel", "bottle", "cup", "plate",
    "bowl", "spoon", "knife", "fork", "pan", "kite",
    "drum", "flute", "violin", "globe", "puzzle", "puppet",
    "rake", "shovel", "saw", "chisel", "rope", "lantern",
    "umbrella", "hat", "scarf", "belt", "purse", "comb",
)  # fmt: skip

# question, polite answer, curt answer
TALKS = (
    (
        "Do you have a {}?",
        "Yes, we do. The {} is on the left shelf, thank you for asking.",
        "No idea. Look for a {} yourself.",
    ),
    (
        "How much is the {}?",
        "The {} is nine coins, and I will gladly wrap it for you.",
        "The {} has a label. Read it.",
    ),
    (
        "My {} is broken, can you help?",
        "I am sorry to hear that. Please bring the {} and we will mend it.",
        "You broke the {}, so you mend it.",
    ),
    (
        "Can I return this {}?",
        "Of course. Please keep the box of the {}, thank you.",
        "The {} is yours now. Bad luck.",
    ),
    (
        "Which {} is the best one?",
        "I would gladly show you two. Please try the small {} first.",
        "Any {} will do. Next!",
    ),
)


def pairs() -> list[dict[str, str]]:
    """The preferences in TRL's standard format with explicit prompts. Answers begin with a space."""
    return [
        {
            "prompt": ask.format(thing),
            "chosen": f" {good.format(thing)}",
            "rejected": f" {bad.format(thing)}",
        }
        for ask, good, bad in TALKS
        for thing in THINGS
    ]


def conversations() -> list[dict[str, Any]]:
    """As lists of messages."""
    return [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": [{"role": "assistant", "content": row["chosen"].strip()}],
            "rejected": [{"role": "assistant", "content": row["rejected"].strip()}],
        }
        for row in pairs()
    ]


def dialogues() -> list[dict[str, str]]:
    """As whole dialogues without a prompt of their own, in the style of hh-rlhf."""
    return [
        {name: f"\n\nHuman: {row['prompt']}\n\nAssistant:{row[name]}" for name in ("chosen", "rejected")}
        for row in pairs()
    ]


def main() -> None:
    """Writes every file, over what is there."""
    import datasets

    DATA.mkdir(exist_ok=True)
    _write_lines("prompts.jsonl", ({"prompt": row["prompt"], "shop": "corner"} for row in pairs()))
    _write_lines("pairs.jsonl", pairs())
    _write_lines("dialogues.jsonl", dialogues())
    text = json.dumps(conversations(), indent=1) + "\n"
    (DATA / "conversations.json").write_text(text, encoding="utf-8")
    with (DATA / "answers.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "better", "worse"])
        writer.writerows([row["prompt"], row["chosen"], row["rejected"]] for row in pairs())
    dataset = datasets.Dataset.from_list(pairs())
    dataset.to_parquet(DATA / "pairs.parquet")
    dataset.save_to_disk(DATA / "saved")


def _write_lines(name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    (DATA / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
