"""The model card: what the hub reads of it, what people read, and that no text of others' acts in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from algos.engine.storage import write_json
from eval.directory.tidy import COUNTS
from eval.experiment import Experiment
from eval.recording.card import write_card
from eval.store import Store

METRICS = {
    "reward/judge": 0.75,
    "reward/proxy": 2.0,
    "kl/sequence": 3.5,
    "cost/train_seconds": 9.9,
    "bleu": None,
}
ACCOUNT = {
    "file": "f|.csv",
    "read": 9,
    "kept": 8,
    "uses": {"training": 8},
    "blank_lines": 0,
    "reasons": {"null": {"rows": 1, "lines": [3], "dropped": True}},
}


def card(path: Path, facts: dict[str, Any] | None = None, **asked: Any) -> str:
    settings = {
        "task": "custom",
        "model": "EleutherAI/pythia-70m",
        "pairs": "trl-lib/ultrafeedback_binarized:test",
        **asked,
    }
    store = Store.create(path / "comparison", Experiment.from_dict(settings))
    store.write_base({"reward/judge": 0.25, "reward/proxy": 1.0, "kl/sequence": 0.0}, [])
    arms = {"dpo": {"algorithm": "dpo", "source": "pairs", "settings": {"beta": 0.1}}}
    write_json(
        store.path / "facts.json",
        {"judge": "the judge", "reward": "r", "data": [ACCOUNT], "arms": arms, **(facts or {})},
    )
    write_json(
        store.path / "environment.json",
        {"command": "rlhf-compare --seeds 1", "python": "3", "packages": {"torch": "2"}},
    )
    run = store.run("dpo", 0)
    run.folder.mkdir(parents=True)
    spent = dict.fromkeys(COUNTS, 1)
    run.append("rows", {"point": 0, **spent, "metrics": {}}, {"point": 5, **spent, "metrics": METRICS})
    path.mkdir(exist_ok=True)
    write_card(store, run, path)
    return (path / "README.md").read_text(encoding="utf-8")


def test_the_hub_reads_base_data_and_results(tmp_path: Path) -> None:
    card(tmp_path)
    data = ModelCard.load(tmp_path / "README.md").data.to_dict()
    assert data["base_model"] == "EleutherAI/pythia-70m"
    assert data["datasets"] == ["trl-lib/ultrafeedback_binarized"]
    assert (data["library_name"], data["tags"]) == ("transformers", ["rlhf-compare", "dpo"])
    (results,) = data["model-index"][0]["results"]
    found = {metric["type"]: metric["value"] for metric in results["metrics"]}
    assert found == {"reward/judge": 0.75, "reward/proxy": 2.0, "kl/sequence": 3.5}


def test_people_read_results_beside_the_base_data_settings_and_command(tmp_path: Path) -> None:
    text = card(tmp_path)
    assert "| judge reward | reward | 0.25 | 0.75 |" in text
    assert "9 rows read, 8 kept (training 8); dropped: 1 null" in text
    assert '"beta": 0.1' in text
    assert "rlhf-compare --seeds 1" in text
    assert "python 3, torch 2" in text
    assert "9.9" not in text  # what was measured of the machine would make two equal policies differ
    assert "bleu" not in text.lower()


def test_an_adapter_is_loaded_with_its_own_library(tmp_path: Path) -> None:
    text = card(tmp_path, lora=True)
    assert ModelCard.load(tmp_path / "README.md").data.library_name == "peft"
    assert "AutoPeftModelForCausalLM.from_pretrained" in text


def test_paths_of_this_machine_are_no_names_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").touch()
    text = card(
        tmp_path,
        model=str(tmp_path),
        pairs="data/pairs.jsonl",
        prompts=str(tmp_path / "pairs.jsonl"),
        reward="r",
    )
    front = yaml.safe_load(text.split("---\n")[1])
    assert not {"base_model", "datasets"} & front.keys()


@pytest.mark.parametrize(
    "evil",
    [
        "</h1><script>alert(1)</script>",
        "---\nlicense: mit\n---",
        "`x`\n```\n# title",
        "[a](javascript:b)",
        "\x1b[2J\u202e",
        "| a |",
    ],
)
def test_text_of_others_does_not_act(tmp_path: Path, evil: str) -> None:
    arm = {"algorithm": "dpo", "source": "pairs"}
    arms = {"dpo": {**arm, "settings": {"note": evil}}}
    text = card(
        tmp_path,
        {"judge": evil, "reward": evil, "data": [{**ACCOUNT, "file": evil}], "arms": arms},
        model=evil,
    )
    plain = card(
        tmp_path / "plain",
        {
            "judge": "x",
            "reward": "x",
            "data": [{**ACCOUNT, "file": "x"}],
            "arms": {"dpo": {**arm, "settings": {"note": "x"}}},
        },
        model="x",
    )
    assert (
        ModelCard.load(tmp_path / "README.md").data.to_dict()
        == ModelCard.load(tmp_path / "plain" / "README.md").data.to_dict()
    )
    assert _outline(text) == _outline(plain)
    assert not set(text) & set("\x1b\u202e")


def _outline(text: str) -> list[str]:
    """What Markdown makes headings, tables, fences and HTML of."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text.split("---\n", 2)[2])
    inner = [child for token in tokens for child in token.children or []]
    return [token.type for token in tokens] + [
        child.type for child in inner if child.type in ("html_inline", "link_open", "code_inline", "image")
    ]
