"""What Linux says of its processors, and what is left where it says nothing."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from algos.engine.fast import processor as module
from algos.engine.fast.processor import Processor

INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel name\t: Xeon: of some kind\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\n"


def read(text: str, monkeypatch: pytest.MonkeyPatch) -> Processor:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    monkeypatch.setattr(platform, "processor", lambda: "a machine")
    return module.processor.__wrapped__()


def test_the_first_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{INTEL}\n{INTEL.replace('Intel', 'Other').replace('6', '7')}"
    assert read(text, monkeypatch) == Processor("GenuineIntel", 6, "Xeon: of some kind")


@pytest.mark.parametrize("text", [ARM, ""])
def test_one_without_those_lines(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(text, monkeypatch) == Processor(name="a machine")


def test_a_system_that_has_no_such_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_text(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(platform, "processor", lambda: "a machine")
    assert module.processor.__wrapped__() == Processor(name="a machine")
