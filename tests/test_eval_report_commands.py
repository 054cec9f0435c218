"""The commands that a report gives are to be pasted into a shell."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from report_world import World, world

from eval.report import commands


@pytest.fixture
def made() -> World:
    return world(Path("my reports/a b"))


def test_they_can_be_pasted(made: World) -> None:
    assert commands.resume(made) == "rlhf-compare --resume 'my reports/a b'"
    assert commands.resume(made, 7) == "rlhf-compare --resume 'my reports/a b' --seeds 7"
    assert commands.repeat(made) == "rlhf-compare --config 'my reports/a b/experiment.yaml'"
    assert commands.alone(made, "ppo") == f"{commands.repeat(made)} --algos ppo --seeds 1"


def test_they_trust_code_where_the_comparison_did(made: World) -> None:
    """Without the flag on the command line it would be refused."""
    trusting = dataclasses.replace(made, settings={**made.settings, "trust_remote_code": True})
    for command in (commands.resume(trusting, 7), commands.repeat(trusting), commands.alone(trusting, "ppo")):
        assert " --trust-remote-code" in command
