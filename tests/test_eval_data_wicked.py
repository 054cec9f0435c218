"""Whatever a file holds, it is read with every row accounted for, or refused in one line that says where and why."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from random_files import as_csv, random_file
from wicked_files import TEXTS, WICKED, Wicked

from algos.engine.errors import UserError
from eval.data import Accounting, Row, load_pairs, load_prompts, split_rows
from eval.data.accounting import summary
from eval.escape import for_terminal
from eval.tasks.sampled import digest_rows

Loader = Callable[..., tuple[list[Row], Accounting]]
LIMIT = 10.0  # seconds; what any file may take at most


def outcome(load: Loader, path: Path, on_bad_row: str) -> tuple[str, list[Row]]:
    """The refusal, or "" and the rows. Anything else that is raised fails the test."""
    start = time.monotonic()
    try:
        rows, account = load(str(path), on_bad_row=on_bad_row)
    except UserError as error:
        message = str(error)
        # Names of files come from the user as he wrote them; what is shown of them is escaped.
        assert str(path) in message or ascii(str(path))[1:-1] in message
        assert "\n" not in message.replace(str(path), "")
        return message, []
    finally:
        assert time.monotonic() - start < LIMIT
    check(rows, account)
    return "", rows


def check(rows: list[Row], account: Accounting) -> None:
    """The account adds up, and the rows survive what a comparison does with them."""
    told = account.as_dict()
    dropped = [found for found in told["reasons"].values() if found["dropped"]]
    assert account.read == len(rows) + sum(found["rows"] for found in dropped)
    lines = [row.line for row in rows] + [line for found in dropped for line in found["lines"]]
    assert len(set(lines)) == len(lines) == account.read or account.read > 20
    json.dumps(told, allow_nan=False)
    for_terminal(summary(told))
    values = [row.values for row in rows]
    text = json.dumps(values, ensure_ascii=False, default=str)
    text.encode("utf-8")
    assert digest_rows(json.loads(text)) == digest_rows(values)
    parts = split_rows(rows, needed=())
    assert len(parts.train) + len(parts.validation) + len(parts.test) == len(rows)


@pytest.mark.parametrize("wicked", WICKED, ids=lambda wicked: ascii(wicked.name))
def test_a_wicked_file_is_read_or_refused(tmp_path: Path, wicked: Wicked) -> None:
    path = tmp_path / wicked.name
    wicked.make(path)
    message, rows = outcome(load_pairs, path, "stop")
    assert bool(rows) == (not wicked.refused)
    assert re.search(wicked.refused, message), message
    outcome(load_pairs, path, "skip")
    outcome(load_prompts, path, "skip")


def test_wicked_texts_pass_unharmed_in_every_format(tmp_path: Path) -> None:
    import datasets

    rows: list[dict[str, Any]] = [
        {"prompt": f"{i} {text}", "chosen": f"{text}!", "rejected": f"{text}?"}
        for i, text in enumerate(TEXTS)
    ]
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "f.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "f.csv").write_bytes(as_csv(rows))
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "f.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    for name in ("f.jsonl", "f.json", "f.csv", "f.parquet", "saved"):
        message, found = outcome(load_pairs, tmp_path / name, "stop")
        assert (message, [row.values for row in found]) == ("", rows)


def fuzz(folder: Path, seeds: range) -> dict[str, int]:
    """How many files were read, refused when told to stop, and refused even when told to skip."""
    counts = {"read": 0, "refused": 0, "refused although skipping": 0}
    for seed in seeds:
        name, content = random_file(random.Random(seed))
        path = folder / name
        path.write_bytes(content)
        for load in (load_pairs, load_prompts):
            stopped, rows = outcome(load, path, "stop")
            skipped, more = outcome(load, path, "skip")
            assert not rows or [row.line for row in rows] == [row.line for row in more], f"seed {seed}"
            counts["refused although skipping"] += bool(skipped)
            counts["refused" if stopped else "read"] += 1
        path.unlink()
    return counts


def test_random_files_are_read_or_refused(tmp_path: Path) -> None:
    counts = fuzz(tmp_path, range(150))
    assert min(counts.values()) > 15, counts  # the generator reaches all of it


@pytest.mark.slow
def test_five_thousand_random_files_are_read_or_refused(tmp_path: Path) -> None:
    fuzz(tmp_path, range(1000, 6000))
