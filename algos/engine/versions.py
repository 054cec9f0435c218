"""Which versions are installed: another may round, sample or tokenise otherwise."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed(package: str) -> str:
    """The version of a package; empty where it is not installed, as this project run from a checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
