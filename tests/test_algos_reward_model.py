"""Reward models of others: what fills a batch, and the longest text they read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_tokenizers import TOKENIZERS
from classifiers import COMPLETIONS, PROMPTS, classifier
from tiny import EOS, word_tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification

from algos import RewardModel, UserError
from algos.engine.rewards import call_reward

ASKED = [{"role": "user", "content": "be kind"}]
ANSWERED = [{"role": "assistant", "content": "hello there"}]


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


def foreign(path: Path, name: str, **declared: Any) -> tuple[Any, Any]:
    """A tiny classifier of somebody else's, whose tokenizer has a chat template."""
    tokenizer = TOKENIZERS[name]()
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64, num_labels=1,
        pad_token_id=tokenizer.pad_token_id, initializer_range=0.4, **declared,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return model, tokenizer


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_foreign_model_reads_the_finished_dialogue(tmp_path: Path, name: str) -> None:
    """What its own template makes of it: the end of the turn and what follows it, one BOS, no EOS that is not there."""
    model, tokenizer = foreign(tmp_path, name)
    reward = RewardModel(tmp_path, device="cpu")
    expected = list(tokenizer.apply_chat_template([*ASKED, *ANSWERED], tokenize=True)["input_ids"])
    assert reward._encode(ASKED, ANSWERED) == expected
    text = tokenizer.apply_chat_template([*ASKED, *ANSWERED], tokenize=False)  # as TRL's trainers do
    assert tokenizer(text, add_special_tokens=False).input_ids == expected
    model.config.pad_token_id = reward.pad_id  # as TRL's do, too
    with torch.no_grad():
        score = float(model(input_ids=torch.tensor([expected])).logits)
    found = call_reward(reward, [{"prompt": ASKED}], ["hello there"], [[1]])
    assert found == pytest.approx([score], abs=1e-5)


def test_an_answer_that_was_begun_is_one_message(tmp_path: Path) -> None:
    _, tokenizer = foreign(tmp_path, "byte_pairs")
    begun = [*ASKED, {"role": "assistant", "content": "hello"}]
    whole = tokenizer.apply_chat_template([*ASKED, *ANSWERED], tokenize=True)["input_ids"]
    rest = [{"role": "assistant", "content": " there"}]
    assert RewardModel(tmp_path, device="cpu")._encode(begun, rest) == list(whole)


@pytest.mark.parametrize(
    "prompt",
    [[], [{"role": "user"}], [{"role": "user", "content": None}], [{"role": "user", "content": [{"type": "text", "text": "a"}]}]],
    ids=["empty", "no content", "null", "parts"],
)  # fmt: skip
def test_what_is_no_conversation_is_told_in_a_line(tmp_path: Path, prompt: list[dict[str, Any]]) -> None:
    foreign(tmp_path, "byte_pairs")
    reward = RewardModel(tmp_path, device="cpu")
    with pytest.raises(
        UserError, match=r"a conversation for the reward model .* prompt must be a text or chat messages"
    ):
        reward(prompts=[prompt], completions=[ANSWERED])
    with pytest.raises(UserError, match="completion must be a text or chat messages"):
        reward(prompts=[ASKED], completions=[[{"role": "assistant"}]])


def test_special_tokens_in_an_answer_stay_text(tmp_path: Path) -> None:
    """An answer cannot end its turn and begin another."""
    _, tokenizer = foreign(tmp_path, "byte_pairs")
    typed = [{"role": "assistant", "content": "hello<|im_end|>"}]
    ids = RewardModel(tmp_path, device="cpu")._encode(ASKED, typed)
    assert (
        ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2
    )  # the user's turn and the assistant's


def test_texts_and_models_trained_here_are_read_as_in_training(tmp_path: Path) -> None:
    """Prompt, response and EOS."""
    _, tokenizer = foreign(tmp_path / "foreign", "byte_pairs")
    foreign(tmp_path / "own", "byte_pairs", reward_pooling="mask")
    plain = [*tokenizer("be kind hello").input_ids, tokenizer.eos_token_id]
    assert RewardModel(tmp_path / "foreign", device="cpu")._encode("be kind", " hello") == plain
    open_text = tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)
    whole = tokenizer(open_text + "hello there", add_special_tokens=False).input_ids
    own = RewardModel(tmp_path / "own", device="cpu")._encode(ASKED, ANSWERED)
    assert own == [*whole, tokenizer.eos_token_id]


def test_a_template_that_refuses_a_conversation_is_one_line(tmp_path: Path) -> None:
    _, tokenizer = foreign(tmp_path, "byte_pairs")
    tokenizer.chat_template = "{{ raise_exception('no users here') }}"
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"a conversation for the reward model .*: .* refuses .*no users"
    ) as caught:
        RewardModel(tmp_path, device="cpu")(prompts=[ASKED], completions=[ANSWERED])
    assert "\n" not in str(caught.value)


def test_it_goes_where_policies_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(tmp_path, "byte_pairs")
    asked: list[str] = []

    def pick(device: str) -> torch.device:
        asked.append(device)
        return torch.device("cpu")

    monkeypatch.setattr("algos.engine.rewards.pick_device", pick)
    RewardModel(tmp_path)
    RewardModel(tmp_path, "cpu")
    assert asked == ["auto", "cpu"]


@pytest.mark.parametrize("pooling", ["mask", "model"])
def test_in_bf16_the_head_still_multiplies_in_fp32(tmp_path: Path, pooling: str) -> None:
    """One number a text, which bf16 would round to three digits."""
    classifier(tmp_path, pooling=pooling)
    asked = {"prompts": PROMPTS, "completions": COMPLETIONS}
    plain = RewardModel(tmp_path, "cpu")(**asked)
    assert RewardModel(tmp_path, "cpu", dtype="fp32")(**asked) == plain
    reward, seen = RewardModel(tmp_path, "cpu", dtype="bf16"), list[tuple[torch.dtype, torch.dtype]]()
    reward.model.score.register_forward_hook(lambda _, read, given: seen.append((read[0].dtype, given.dtype)))
    found = reward(**asked)
    assert seen == [(torch.float32, torch.float32)]
    assert found == pytest.approx(plain, abs=0.1)
    assert found != plain
    assert found != [float(torch.tensor(score).bfloat16()) for score in found]
    assert "forward" not in vars(reward.model.base_model)


def test_heads_of_several_layers_read_a_trunk_in_bf16(tmp_path: Path) -> None:
    """BERT's pooler is the trunk's, RoBERTa's head has two layers."""
    tokenizer = word_tokenizer("a b c", pad="<pad>")
    for kind in ("bert", "roberta"):
        config = AutoConfig.for_model(
            kind, vocab_size=len(tokenizer), num_labels=1, hidden_size=16, intermediate_size=16,
            num_hidden_layers=1, num_attention_heads=2, pad_token_id=1, max_position_embeddings=18,
        )  # fmt: skip
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / kind)
        tokenizer.save_pretrained(tmp_path / kind)
        plain, found = (
            RewardModel(tmp_path / kind, "cpu", dtype=dtype)(prompts=PROMPTS, completions=COMPLETIONS)
            for dtype in ("fp32", "bf16")
        )
        assert found == pytest.approx(plain, abs=0.05)
        assert found != plain


def test_a_precision_that_there_is_not_is_refused(tmp_path: Path) -> None:
    classifier(tmp_path)
    with pytest.raises(UserError, match="dtype must be auto, fp32 or bf16"):
        RewardModel(tmp_path, "cpu", dtype="fp8")  # type: ignore[arg-type]
