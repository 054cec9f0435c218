"""Weights come as safetensors alone: a pickle can run code while it is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch

from algos.engine.errors import UserError

_REMEDY = "Give weights as safetensors: where you trust the file, load the model there and save it with save_pretrained."


@contextmanager
def safetensors_only(path: str | Path) -> Iterator[None]:
    """The block in which libraries load the model at `path`: neither a pickle nor a file elsewhere is read.

    `use_safetensors=True` keeps them from `pytorch_model.bin`, not from an adapter's pickle nor from what an
    index of shards or the configuration names. Raises UserError naming the file.
    """
    for file in [Path(path, "config.json"), *sorted(Path(path).glob("*.safetensors.index.json"))]:
        for name in _weights_named_in(file):
            if Path(name).name != name or not name.endswith((".safetensors", ".safetensors.index.json")):
                raise UserError(f"{file} names {name!a}, which is no safetensors file beside it. {_REMEDY}")
    load = torch.load
    torch.load = _refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.load = load


def _weights_named_in(file: Path) -> set[str]:
    try:
        content = json.loads(file.read_bytes())
        named = [*content.get("weight_map", {}).values(), content.get("transformers_weights")]
        return {str(name) for name in named if name is not None}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return set()  # not there, or not what it should be: whoever reads it next says so


def _refuse(file: Any, *_: Any, **__: Any) -> NoReturn:
    raise UserError(f"{file} holds weights as a pickle, which could run code. {_REMEDY}")
