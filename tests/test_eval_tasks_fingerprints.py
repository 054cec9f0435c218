"""What a cache knows models and rewards by: change what matters and it is another."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from algos import UserError
from eval.tasks import fingerprints
from eval.tasks.fingerprints import model_key, names_function, reward_key


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
        found.append(model_key("owner/name"))
    assert found == ["owner/name@" + "1" * 40, "owner/name@" + "2" * 40]


def test_a_local_model_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    before = model_key(str(tmp_path))
    (tmp_path / "config.json").write_text("{ }", encoding="utf-8")
    assert model_key(str(tmp_path)) != before


def test_a_reward_model_on_the_hub_is_known_by_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for commit in ("1" * 40, "2" * 40):
        downloaded(tmp_path, commit)
        assert reward_key("owner/name") == f"owner/name@{commit}"


REWARD = """
from helpers.words import good
import spelling

def score(completions, **columns):
    return [0.0 for _ in completions]
"""


def test_a_function_is_known_by_what_it_may_read(tmp_path: Path) -> None:
    """Files beside it, and folders beside it that it names, or a module does that it imports; not its reports."""
    files = {
        "reward.py": REWARD,
        "spelling.py": "open('lexicons/en/words.txt')",
        "plot.py": "open('reports/mine/results.csv')",
        "helpers/__init__.py": "",
        "helpers/words.py": "good = 1",
        "helpers/__pycache__/words.pyc": "",
        "lexicons/en/words.txt": "good",
        "reports/mine/results.csv": "1",
        "beside.txt": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")

    def known() -> str:
        return reward_key(f"{tmp_path / 'reward.py'}:score")

    seen = {}
    for name, text in files.items():
        before = known()
        assert before == known()
        (tmp_path / name).write_text(text + "#", encoding="utf-8")
        seen[name] = known() != before
    assert [name for name, changed in seen.items() if not changed] == [
        "helpers/__pycache__/words.pyc",
        "reports/mine/results.csv",
    ]


def test_no_more_than_so_many_files_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "MOST_BELOW", 2)
    (tmp_path / "reward.py").write_text("open('data/0')", encoding="utf-8")
    (tmp_path / "data").mkdir()
    names = []
    for name in "0123":
        (tmp_path / "data" / name).write_text("", encoding="utf-8")
        names.append(reward_key(f"{tmp_path / 'reward.py'}:score"))
    assert names[0] != names[1] == names[2] == names[3]


def test_a_spec_names_a_function_or_a_model(tmp_path: Path) -> None:
    assert names_function("my_reward.py:score", "reward")
    assert names_function("my_reward.py", "reward")  # which lacks its function, as is said where it is loaded
    assert not names_function("owner/name", "reward")
    (tmp_path / "a:b").mkdir()
    assert not names_function(str(tmp_path / "a:b"), "reward")
    with pytest.raises(UserError, match=r"no model 'my_reward:score' for the judge\. .*; add the \.py\."):
        names_function("my_reward:score", "judge")
