"""The times a comparison was worked on, as environment.json keeps them: the last, and in it those before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EARLIER = "earlier"
_HARDWARE = ("processor", "cores", "gpus")


def begun(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What environment.json holds as another session begins; `before` is what it held."""
    return {**now, EARLIER: sessions(before)} if before else dict(now)


def sessions(environment: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every session, the first one first."""
    if not environment:
        return []
    last = {name: value for name, value in environment.items() if name != EARLIER}
    return [*environment.get(EARLIER, []), last]


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What a result or its cost may depend on and is no longer what it was: `torch 2.12.0 → 2.13.0`."""
    old, new = _told(before), _told(now)
    return [
        f"{name} {old.get(name, 'none')} → {new.get(name, 'none')}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]


def _told(session: Mapping[str, Any]) -> dict[str, str]:
    hardware = session.get("hardware") or {}
    told = {name: _listed(hardware[name]) for name in _HARDWARE if name in hardware}
    told |= {name: str(session[name]) for name in ("python", "threads") if name in session}
    return told | {name: str(version) for name, version in (session.get("packages") or {}).items()}


def _listed(value: Any) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
