"""What the parity tests measure, row by row, and the page they write it to: `docs/parity.md`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "trl": "TRL",
    "transformers": "transformers",
    "stable_baselines3": "Stable-Baselines3",
    "sacrebleu": "sacrebleu",
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
"""How far two computations of numbers of order 1 may lie apart by rounding alone."""

HEADER = """# Parity

Each formula against an implementation that is not ours. `make parity` measures every number on this page and writes it;
the peers are development dependencies and are never imported by the product. Every call is to the peer's own code:
its trainer, or the function inside, on fixed tensors or on tiny models.

The columns are the largest absolute difference in float64 and in fp32, of numbers of order 1; – where a peer computes in
one precision only (TRL 1.16's head computes log-probabilities in fp32 whatever the weights are). Up to {double:.0e} and
{single:.0e} it is called rounding, where no line says otherwise. Rows marked **differs** are intended differences, measured:
the rows beside them show that nothing else differs.

A loss is compared in value and gradient. What TRL does otherwise, and how it is taken out of the comparison:

| difference | in the comparison |
|---|---|
| RLOO leaves dropout on by default | TRL's `disable_dropout`; both ways measured below |
| RLOO and DPO load the reference again from disk | the reference on disk is another model, and so is ours; measured below |
| RLOO gives the model no position ids | models with rotary positions, or prompts of equal lengths; measured below |
| RLOO clips a ratio of whole responses; one step a batch | the ratio is 1; gradients are compared, the values differ |
| DPO's `ipo` averages, its `sigmoid` ignores `label_smoothing` | `ipo_average`; CPO and AOT have the others |
| PPO whitens by the sample variance | a subclass of ours that does the same; both measured below |
| PPO's score stands one position behind the last token, where it also learns a value | responses of full width, and a longer mask; measured below |
| PPO averages the means of micro-batches | one micro-batch a step, and ours as a mean of means; measured below |
| PPO steps after every micro-batch of an epoch's last batch, whatever `gradient_accumulation_steps` | one micro-batch a step; the accumulation itself in the row of four micro-batches |
| PPO's old log-probabilities are those of generation | given completions have those of TRL's own forward |
| PPO has a value model of its own whose head has no bias | `value_model="separate"`, our bias held at 0 |
| PPO clips no gradient, and divides by T + 1e-7 | `max_grad_norm=1e9`; T less 1e-7 for TRL |
| PPO's other KL estimator, k3, in the reward | k1 in both; k3 there has another gradient |
| The response's end: the first EOS, DPO appends one to each text | the same in both |

Measured with {versions}.
"""


@dataclass(frozen=True)
class Row:
    """One formula, ours and theirs. `theirs` is the peer's function, or its name where the peer runs elsewhere."""

    part: str
    formula: str
    ours: Callable[..., Any]
    theirs: Callable[..., Any] | str
    why: str = ""
    """Where the two differ by more than rounding, the reason."""


@dataclass
class Table:
    """The rows in the order in which they were first measured, with the largest difference in each precision."""

    rows: dict[Row, dict[torch.dtype, float]] = field(default_factory=dict)
    intended: set[Row] = field(default_factory=set)

    def agrees(self, row: Row, mine: Tensor | float, theirs: Tensor | float, tolerance: float = 0.0) -> None:
        """Records the difference and asserts that it is rounding, or at most `tolerance` for the reason in `why`."""
        gap, dtype = self._measure(row, mine, theirs)
        assert not tolerance or row.why, f"{row.formula}: a tolerance of its own needs a reason"
        assert gap <= (tolerance or TOLERANCE[dtype]), f"{row.formula}: {gap:.2e} apart in {dtype}"

    def differs(self, row: Row, mine: Tensor | float, theirs: Tensor | float, by_at_least: float) -> None:
        """Records an intended difference and asserts that it is there: an explanation of nothing is stale."""
        assert row.why, f"{row.formula}: an intended difference needs a reason"
        gap, _ = self._measure(row, mine, theirs)
        self.intended.add(row)
        assert gap >= by_at_least, f"{row.formula}: only {gap:.2e} apart; the explanation is stale"

    def _measure(self, row: Row, mine: Tensor | float, theirs: Tensor | float) -> tuple[float, torch.dtype]:
        one, other = (
            x.detach() if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64)
            for x in (mine, theirs)
        )
        assert one.shape == other.shape, f"{row.formula}: {tuple(one.shape)} against {tuple(other.shape)}"
        assert one.numel(), f"{row.formula}: nothing was compared"
        dtype = torch.promote_types(one.dtype, other.dtype)
        if torch.float32 in (one.dtype, other.dtype):
            dtype = torch.float32
        gap = float((one.double() - other.double()).abs().max())
        found = self.rows.setdefault(row, {})
        found[dtype] = max(gap, found.get(dtype, 0.0))
        return gap, dtype

    def markdown(self) -> str:
        """The page."""
        lines = [_header()]
        for part in dict.fromkeys(row.part for row in self.rows):
            lines += [
                f"\n## {part}\n",
                "| formula | ours | whose | float64 | fp32 | why where not 0 |",
                "|---|---|---|---|---|---|",
            ]
            lines += [self._line(row) for row in self.rows if row.part == part]
        return "\n".join(lines) + "\n"

    def _line(self, row: Row) -> str:
        found = self.rows[row]
        cells = ["–" if dtype not in found else _short(found[dtype]) for dtype in TOLERANCE]
        why = f"**differs**: {row.why}" if row in self.intended else row.why
        if not why and any(found.values()):
            why = "rounding"
        return f"| {row.formula} | {_ours(row.ours)} | {_theirs(row.theirs)} | {' | '.join(cells)} | {why} |"


def _header() -> str:
    names = ["torch", *PACKAGES]
    versions = ", ".join(f"{PACKAGES.get(name, name)} {version(name)}" for name in names)
    return HEADER.format(
        double=TOLERANCE[torch.float64], single=TOLERANCE[torch.float32], versions=versions
    ).rstrip()


def _short(gap: float) -> str:
    return "0" if gap == 0 else re.sub(r"e([+-])0", r"e\1", f"{gap:.0e}")


def _ours(function: Callable[..., Any]) -> str:
    file = Path(inspect.getsourcefile(inspect.unwrap(function)) or "").relative_to(ROOT)
    return f"[`{function.__qualname__}`](../{file})"


def _theirs(function: Callable[..., Any] | str) -> str:
    if isinstance(function, str):
        return function
    package = function.__module__.split(".")[0]
    return f"{PACKAGES[package]} {version(package)}, `{function.__qualname__}`"
