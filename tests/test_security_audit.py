"""`make audit` tells known vulnerabilities from none, and both from an index that cannot say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SAFE = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1"}, {"id": "CVE-2"}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", Path(__file__).parents[1] / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        ([SAFE], 0, "1 of 1 packages checked: none with a known vulnerability"),
        ([SAFE, UNKNOWN], 0, "1 of 2 packages checked, not c: none"),
        ([SAFE, BAD, UNKNOWN], 1, "b 2: PYSEC-1, CVE-2"),
        ([UNKNOWN], 0, "nothing was checked"),
        ([], 0, "nothing was checked"),
    ],
)
def test_what_is_told(
    found: list[dict[str, Any]], status: int, said: str, audit: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.told(found) == status
    assert said in capsys.readouterr().out


def test_without_the_tool_nothing_is_checked_and_that_is_said(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit.importlib.util, "find_spec", lambda name: None)
    assert audit.main() == 0
    assert "pip-audit cannot be installed" in capsys.readouterr().out
