"""What the files of a comparison are made of: numbers, names and mappings within bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from algos import ALGORITHMS
from eval.glossary import METRICS

LARGEST = 1e300
Number = Annotated[float, Field(allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]
Amount = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e30)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Name = Annotated[str, StringConstraints(max_length=10_000)]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Leaf = bool | Annotated[int, Field(ge=-(2**63), lt=2**63)] | Number | Name | None
Told = Leaf | list[Leaf]
"""A setting, or what a machine says of itself."""


def _metric(name: str) -> str:
    if name not in METRICS:
        raise ValueError("is no metric of this program")
    return name


def _algorithm(name: str) -> str:
    if name not in ALGORITHMS:
        raise ValueError("is no algorithm of this program")
    return name


def _file(name: str) -> str:
    if "\0" in name or len(name) > 1000 or any(len(part.encode()) > 255 for part in name.split("/")):
        raise ValueError("is no file's name")
    return name


MetricName = Annotated[str, AfterValidator(_metric)]
Metrics = dict[MetricName, Number | None]
Algorithm = Annotated[str, AfterValidator(_algorithm)]
Files = dict[Annotated[str, AfterValidator(_file)], Hash]


class Closed(BaseModel):
    """Of exactly these entries."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Open(BaseModel):
    """Of these entries where they are there, and any others."""

    model_config = ConfigDict(strict=True, extra="allow")
