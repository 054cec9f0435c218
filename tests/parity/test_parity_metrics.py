"""BLEU and chrF against the command that sacrebleu itself installs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from parity_table import Row, Table

from eval.metrics import overlap

pytestmark = pytest.mark.parity

REFERENCES = [
    "The film was slow, but its ending moved me to tears.",
    "I would see it again tomorrow!",
    "Nothing in this story makes any sense, and nobody seems to care.",
    "A café scene, a letter, a train: that is all it needs.",
]
COMPLETIONS = [
    "The film was slow, but the ending moved me.",
    "I would not see it again.",
    "Nothing makes sense in this story, and nobody seems to care about it.",
    "A cafe scene, one letter and a train are all it needs.",
]


@pytest.mark.parametrize(("name", "metric"), [("BLEU", "bleu"), ("chrF", "chrf")])
def test_overlap_is_what_sacrebleu_prints(table: Table, tmp_path: Path, name: str, metric: str) -> None:
    references, completions = tmp_path / "references.txt", tmp_path / "completions.txt"
    references.write_text("\n".join(REFERENCES) + "\n", encoding="utf-8")
    completions.write_text("\n".join(COMPLETIONS) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", references, "-i", completions, "-m", metric, "-w", "14"]
    printed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    mine = overlap([{"completion": text} for text in REFERENCES], COMPLETIONS)[metric]
    assert 10 < mine < 90
    table.agrees(
        Row(
            "Text overlap",
            f"corpus {name}, in points",
            overlap,
            f"sacrebleu {version('sacrebleu')}, its command",
        ),
        mine,
        float(printed["score"]),
    )
