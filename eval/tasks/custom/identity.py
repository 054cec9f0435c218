"""What a cache may know models and rewards by: their content, not their names."""

from __future__ import annotations

import hashlib
from pathlib import Path

from eval.workshop import content_hash


def model_identity(model: str) -> str:
    """What a cache may know a model by: the content of a local one, the commit of one from the hub."""
    if Path(model).exists():
        return content_hash(Path(model))
    from transformers.utils.hub import cached_file

    # The hub's cache keeps a folder a commit.
    return f"{model}@{Path(str(cached_file(model, 'config.json'))).parent.name}"


def function_identity(spec: str) -> str:
    """What a cache may know a reward by: a model's content, or a function's file and what lies beside it."""
    path = Path(spec.rpartition(":")[0] if ".py:" in spec else spec)
    if path.is_dir():
        return content_hash(path)
    if not path.is_file():
        return spec
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16)
    for file in sorted(path.parent.iterdir()):
        if file.is_file():
            # By size and time: lexicons and helpers that the function reads, without reading them all.
            digest.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    return f"{spec.rpartition(':')[2]}@{digest.hexdigest()}"
