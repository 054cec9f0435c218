"""Rotary factors that go with the longest text of a batch: only texts whose factors are always the same are read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import FAMILIES, WORDS
from tiny import word_tokenizer
from transformers import AutoConfig

from algos import Policy, Sampling, UserError, train
from algos.engine.batches.prompts import encode_prompts
from algos.engine.batches.recorded import recorded
from algos.engine.fast.direct import direct
from algos.engine.inputs import depends_on_batch, max_positions
from algos.engine.scoring import score_policy
from algos.reinforce import REINFORCE

ORIGINAL = 8
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 1e4,
    "original_max_position_embeddings": ORIGINAL, "factor": 8.0,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}


def policy(family: str, rope: dict[str, Any], **changes: Any) -> Policy:
    model = FAMILIES[family].model(rope_parameters=dict(rope), **changes)
    return Policy(model, word_tokenizer(WORDS), dtype="fp32")


ROPES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "LongRoPE": ("Llama, tied", LONGROPE, {}),
    "Phi 3's": ("Phi 3", LONGROPE, {"original_max_position_embeddings": ORIGINAL}),
    "dynamic": ("Llama, tied", DYNAMIC, {"max_position_embeddings": ORIGINAL}),
}


@pytest.mark.parametrize("name", ROPES)
def test_within_the_limit_a_text_is_read_alike_whatever_is_beside_it(name: str) -> None:
    family, rope, changes = ROPES[name]
    mine = policy(family, rope, **changes)
    assert mine.max_positions == ORIGINAL
    texts = [[1, 2, 3], [4, 5, 6, 7, 8]], [[[4, 5], [6]], [[7, 8, 9], [9]]]
    alone = score_policy(mine, recorded(mine, texts[0][:1], texts[1][:1]), 1.0)[0]
    beside = score_policy(mine, recorded(mine, *texts), 1.0)[0]
    torch.testing.assert_close(beside[:1, :, :2], alone, atol=1e-5, rtol=0)
    # Its last token is not read: nobody asks what follows it.
    longer = recorded(mine, [texts[0][0], [*texts[0][1], 1, 2]], texts[1])
    moved = (score_policy(mine, longer, 1.0)[0][:1, :, :2] - alone).abs().max()
    assert float(moved) > 1e-3


@pytest.mark.parametrize("name", ROPES)
def test_what_lies_beyond_it_is_refused_or_cut(name: str) -> None:
    family, rope, changes = ROPES[name]
    mine, long = policy(family, rope, **changes), "a b c d e"
    given: dict[str, Any] = {"reward": lambda **_: [0.0], "budget": "1updates"}
    for prompts, tokens, message in (
        ([long], 4, "no prompts left to train on"),
        (["a"], ORIGINAL, "the model has 8 positions"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            train(REINFORCE(), mine, prompts=prompts, sampling=Sampling(max_new_tokens=tokens), **given)
        assert "\n" not in str(caught.value)
    kept, counts = encode_prompts(mine, [long], 4, "left")
    assert (len(kept[0].ids), counts) == (4, {"prompt truncated": 1})


@pytest.mark.parametrize("name", ROPES)
def test_its_layers_are_not_called_one_by_one(name: str) -> None:
    family, rope, changes = ROPES[name]
    assert direct(policy(family, rope, **changes).model) is None
    assert direct(policy("Llama, tied", {"rope_type": "default", "rope_theta": 1e4}).model) is not None


def test_parameters_for_each_kind_of_layer() -> None:
    """As Gemma 3 has them."""
    ropes = {"full_attention": LONGROPE, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    config = AutoConfig.for_model("gemma3_text", rope_parameters=ropes, max_position_embeddings=64)
    assert depends_on_batch(config)
    assert max_positions(config) == ORIGINAL
    config = AutoConfig.for_model("gemma3_text", max_position_embeddings=64)
    assert not depends_on_batch(config)
    assert max_positions(config) == 64
