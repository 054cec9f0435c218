"""Which processor this is: how fast a library multiplies depends on the processor's maker."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Processor:
    """What Linux says of a processor; elsewhere its name alone."""

    vendor: str = ""
    """`GenuineIntel`, `AuthenticAMD`, …"""
    family: int = 0
    name: str = ""


@cache
def processor() -> Processor:
    """This machine's first processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    family = said.get("cpu family", "")
    return Processor(
        vendor=said.get("vendor_id", ""),
        family=int(family) if family.isdecimal() else 0,
        name=said.get("model name") or platform.processor(),
    )
