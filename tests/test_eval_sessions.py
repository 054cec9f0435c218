"""What is kept of the times that a comparison was worked on."""

from __future__ import annotations

from typing import Any

from eval.sessions import begun, changes, sessions

FIRST: dict[str, Any] = {
    "command": "rlhf-compare",
    "python": "3.11.1",
    "packages": {"torch": "2.12.0", "trl": "1.16.0"},
    "hardware": {"platform": "Linux 1", "processor": "A", "cores": 2, "gpus": []},
    "threads": 1,
    "runs": 9,
}


def test_no_session_is_lost() -> None:
    second, third = {**FIRST, "command": "2"}, {**FIRST, "command": "3"}
    kept = begun({}, FIRST)
    assert kept == FIRST
    for number, now in enumerate((second, third), 2):
        kept = begun(kept | {"finished": "then"}, now)
        assert kept["command"] == now["command"]
        assert len(sessions(kept)) == number
    assert [session["command"] for session in sessions(kept)] == ["rlhf-compare", "2", "3"]
    assert [session.get("finished") for session in sessions(kept)] == ["then", "then", None]
    assert sessions({}) == []


def test_what_has_changed() -> None:
    now = {
        **FIRST,
        "command": "another",
        "packages": {"torch": "2.13.0", "peft": "0.21.2"},
        "hardware": {"platform": "Linux 2", "processor": "A", "cores": 16, "gpus": ["H100", "H100"]},
    }
    assert changes(FIRST, now) == [
        "cores 2 → 16",
        "gpus none → H100, H100",
        "torch 2.12.0 → 2.13.0",
        "trl 1.16.0 → none",
        "peft none → 0.21.2",
    ]
    assert changes(FIRST, {**FIRST, "command": "another"}) == []
