"""Where a user's data come in: read, normalise, clean, split by prompt.

`load_prompts` and `load_pairs` read a file or a dataset and account for every row of it; `split_rows` keeps
training and test prompts apart in every file alike.
"""

from __future__ import annotations

from eval.data.accounting import Accounting
from eval.data.clean import load_pairs, load_prompts, settle
from eval.data.read import read_rows
from eval.data.rows import Row
from eval.data.split import split_of, split_rows

__all__ = [
    "Accounting",
    "Row",
    "load_pairs",
    "load_prompts",
    "read_rows",
    "settle",
    "split_of",
    "split_rows",
]
