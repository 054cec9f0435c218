"""Reward models of others: what fills a batch, and the longest text they read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_algos_rewards import COMPLETIONS, PROMPTS, classifier
from tiny import EOS, word_tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification

from algos import RewardModel


@pytest.mark.parametrize(
    ("pad", "own"), [("<eos>", 2), ("<pad>", 0), ("<pad>", -1), ("<pad>", 99), ("<pad>", None)]
)
def test_a_foreign_models_score_does_not_depend_on_its_batch(
    tmp_path: Path, pad: str, own: int | None
) -> None:
    """transformers' pooling reads the last id that is not the config's pad, which need not be the tokenizer's."""
    model, _ = classifier(tmp_path)
    tokenizer = word_tokenizer("a b c", pad=pad)
    tokenizer.save_pretrained(tmp_path)
    model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = own
    if own == 99:  # which no configuration is made with
        model.config.pad_token_id = None
    model.save_pretrained(tmp_path)
    if own in (-1, 99):
        rewritten = json.loads((tmp_path / "config.json").read_text()) | {"pad_token_id": own}
        (tmp_path / "config.json").write_text(json.dumps(rewritten))
    reward = RewardModel(tmp_path)
    alone = [reward(prompts=[p], completions=[c])[0] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert reward(prompts=PROMPTS, completions=COMPLETIONS) == pytest.approx(alone, abs=1e-5)
    if own == 2:  # as what reads a text alone has it
        with torch.no_grad():
            expected = [
                float(model(torch.tensor([[*tokenizer(p + c).input_ids, EOS]])).logits)
                for p, c in zip(PROMPTS, COMPLETIONS, strict=True)
            ]
        assert alone == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("pooling", ["mask", "model"])
def test_padding_that_the_model_cannot_read_is_not_used(tmp_path: Path, pooling: str) -> None:
    """A pad token that was added to the tokenizer alone."""
    _, tokenizer = classifier(tmp_path, pooling=pooling)
    before = RewardModel(tmp_path)(prompts=PROMPTS, completions=COMPLETIONS)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path)
    assert RewardModel(tmp_path)(prompts=PROMPTS, completions=COMPLETIONS) == before


@pytest.mark.parametrize(
    ("kind", "settings", "longest"),
    [
        ("roberta", {"pad_token_id": 1, "max_position_embeddings": 18}, 16),
        ("bert", {"pad_token_id": 1, "max_position_embeddings": 18}, 18),
        ("xlnet", {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16, "pad_token_id": 1}, None),
    ],
)
def test_a_text_is_cut_to_the_positions_that_are_for_text(
    tmp_path: Path, kind: str, settings: dict[str, Any], longest: int | None
) -> None:
    """RoBERTa keeps those up to the padding's own; XLNet has no limit, and says -1."""
    tokenizer = word_tokenizer("a b c", pad="<pad>")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), num_labels=1, **(settings if kind == "xlnet" else sizes | settings)
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reward = RewardModel(tmp_path)
    assert reward.limit == longest
    ids = reward._encode("a", " b" * 30)
    assert len(ids) == (32 if longest is None else longest)
    assert ids[-1] == EOS
    (score,) = reward(prompts=["a"], completions=[" b" * 30])
    assert math.isfinite(score)
