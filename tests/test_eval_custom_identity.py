"""What a cache knows models by: change what matters and it is another."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from eval.tasks.custom.identity import model_identity


def downloaded(cache: Path, commit: str) -> None:
    """owner/name in the hub's cache at this commit, as the hub's own library would have left it."""
    snapshot = cache / "models--owner--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}", encoding="utf-8")
    reference = cache / "models--owner--name" / "refs" / "main"
    reference.parent.mkdir(exist_ok=True)
    reference.write_text(commit, encoding="utf-8")


def test_a_hub_model_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found = []
    for commit in ("1" * 40, "2" * 40):
        downloaded(tmp_path, commit)
        found.append(model_identity("owner/name"))
    assert found == ["owner/name@" + "1" * 40, "owner/name@" + "2" * 40]


def test_a_local_model_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    before = model_identity(str(tmp_path))
    (tmp_path / "config.json").write_text("{ }", encoding="utf-8")
    assert model_identity(str(tmp_path)) != before
