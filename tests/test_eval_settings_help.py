"""Every setting says what it is: on the command line its docstring is all that there is to read."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest

from algos import ALGORITHMS, Algorithm, LoRA, Sampling
from eval.experiment import Experiment
from eval.settings.arguments import Options
from eval.settings.parts import Evaluation, Frontier, RewardTraining


def told(kind: type) -> dict[str, str]:
    """The docstrings below a dataclass's own fields, by field."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = (
                after.value.value
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                else ""
            )
            found[field.target.id] = str(text)
    return found


@pytest.mark.parametrize(
    "kind",
    [
        Algorithm,
        *ALGORITHMS.values(),
        Sampling,
        LoRA,
        Evaluation,
        Frontier,
        RewardTraining,
        Experiment,
        Options,
    ],
    ids=lambda kind: kind.__name__,
)
def test_every_setting_says_what_it_is(kind: Any) -> None:
    hints, docs = get_type_hints(kind), told(kind)
    names = [
        field.name for field in fields(kind) if field.name in docs and not is_dataclass(hints[field.name])
    ]
    assert names
    assert [name for name in names if len(docs[name].split()) < 2] == []
