"""Texts and pairs to token ids: one BOS, EOS unless truncated, merges noticed, what was dropped counted."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_tokenizers import byte_pairs
from families import FAMILIES, WORDS
from tiny import EOS, pair, policy_with, tiny_policy, word_tokenizer
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from algos import DPO, Policy, Sampling, UserError, train
from algos.engine.batches.pairs import encode_pair, encode_pairs
from algos.engine.batches.prompts import encode_prompts
from algos.engine.batches.recorded import PairSource, collate, reference_key, reference_logps
from algos.engine.batches.responses import split_tokens
from algos.engine.budget import Meter
from algos.engine.scoring import score_reference
from algos.engine.text.control import Rendered, Span
from algos.engine.text.tokens import decode_completion, encode, encode_prompt
from algos.engine.versions import installed


def meant(text: str) -> Rendered:
    """As a chat template writes it: every `<bos>` and `<eos>` in it is the token."""
    return Rendered(text, tuple(Span(*found.span(), True) for found in re.finditer("<bos>|<eos>", text)))


def test_exactly_one_bos_and_no_eos_behind_a_prompt() -> None:
    tokenizer = word_tokenizer("a b", bos="<bos>", add_bos=True, add_eos=True)
    bos, a, b = tokenizer.bos_token_id, *tokenizer("a b", add_special_tokens=False).input_ids
    assert tokenizer("a b").input_ids == [bos, a, b, EOS]
    assert encode(tokenizer, "a b") == [bos, a, b]
    assert encode(tokenizer, meant("<bos> a b")) == [bos, a, b]  # as a rendered chat template begins
    assert encode(word_tokenizer("a b", bos="<bos>"), "a b") == [
        2,
        3,
    ]  # none is added that the tokenizer would not


def test_an_eos_that_was_meant_stays_and_one_that_was_typed_is_none() -> None:
    tokenizer = word_tokenizer("a b")
    assert encode(tokenizer, meant("a <eos>"))[-1] == EOS
    assert EOS not in encode(tokenizer, "a <eos>")


def test_bos_equal_to_eos_keeps_its_bos() -> None:
    tokenizer = word_tokenizer("a b", bos="<eos>", add_bos=True)
    assert encode(tokenizer, "a") == [EOS, 1]
    policy = policy_with(tokenizer)
    (kept,), counts = encode_pairs(policy, [pair("a", " b", " b b")], 8)
    assert (kept.prompt, kept.chosen, kept.rejected, counts) == ([EOS, 1], [2, EOS], [2, 2, EOS], {})
    rollouts = collate(policy, [kept])
    assert rollouts.mask_PGT.tolist() == [[[True, True, False], [True, True, True]]]


def test_conversations_get_one_bos_and_one_generation_prompt() -> None:
    tokenizer = word_tokenizer("user: model: a b", bos="<bos>", add_bos=True)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %} {{ m['role'] }}: {{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %} model:{% endif %}"
    )
    ids = encode_prompt(tokenizer, [{"role": "user", "content": "a b"}])
    assert tokenizer.decode(ids) == "<bos> user: a b model:"


def test_pairs_end_in_eos_unless_cut() -> None:
    policy = tiny_policy()
    (short, cut, exact), counts = encode_pairs(
        policy, [pair("a", " b", " a b"), pair("a", " a b a b", " b"), pair("b", " a a", " b")], 3
    )
    assert (short.chosen, short.rejected) == ([2, EOS], [1, 2, EOS])
    assert (cut.chosen, cut.rejected) == ([1, 2, 1], [2, EOS])
    assert exact.chosen == [1, 1, EOS]
    assert counts == {"response truncated": 1}
    rollouts = collate(policy, [short, cut])
    assert rollouts.ended_PG.tolist() == [[True, True], [False, True]]
    assert rollouts.lengths_PG.tolist() == [[2, 3], [3, 2]]
    assert rollouts.scores_PG.tolist() == [[1, 0], [1, 0]]


def test_what_was_cut_when_it_was_sampled_gets_no_eos() -> None:
    """Though its text, tokenised again, may have fewer tokens than it was cut at."""
    policy = tiny_policy()
    row = pair("a", " b", " a b")
    pairs, counts = encode_pairs(
        policy, [row | {"chosen_truncated": True}, row | {"rejected_truncated": True}, row], 8
    )
    assert [(kept.chosen, kept.rejected) for kept in pairs] == [
        ([2], [1, 2, EOS]),
        ([2, EOS], [1, 2]),
        ([2, EOS], [1, 2, EOS]),
    ]
    assert counts == {}
    assert collate(policy, pairs).ended_PG.tolist() == [[False, True], [True, False], [True, True]]
    # A column that somebody else called so is no mark.
    others, _ = encode_pairs(
        policy, [row | {"chosen_truncated": value} for value in ("no", math.nan, None, 0)], 8
    )
    assert all(kept.chosen == [2, EOS] for kept in others)


def test_the_end_that_a_chat_template_writes_is_no_end_of_what_was_cut() -> None:
    policy = policy_with(word_tokenizer("a b user: model:"))
    policy.tokenizer.chat_template = (
        "{% for m in messages %} {{ m['role'] }}: {{ m['content'] }} {% if m['role'] == 'model' %}<eos>\n{% endif %}"
        "{% endfor %}{% if add_generation_prompt %} model:{% endif %}"
    )
    asked, good, bad = (
        [{"role": role, "content": text}] for role, text in (("user", "a"), ("model", "b b"), ("model", "a"))
    )
    row = {"prompt": asked, "chosen": good, "rejected": bad}
    (kept, whole), _ = encode_pairs(policy, [row | {"chosen_truncated": True}, row], 16)
    assert [*kept.chosen, EOS] == whole.chosen
    assert kept.rejected == whole.rejected
    assert whole.rejected[-1] == EOS


def test_an_eos_of_its_own_is_not_doubled_nor_counted_as_cut() -> None:
    (kept,), counts = encode_pairs(tiny_policy(), [pair("a", meant(" b <eos>"), meant(" a <eos>"))], 2)
    assert (kept.chosen, kept.rejected, counts) == ([2, EOS], [1, EOS], {})


def test_any_declared_eos_closes_a_response() -> None:
    """A chat model's answers end in another EOS than the tokenizer's: nothing may follow the first of any."""
    tokenizer = word_tokenizer("a b c")
    policy = policy_with(tokenizer)
    policy.model.generation_config.eos_token_id = [EOS, 3]
    (kept,), _ = encode_pairs(policy, [pair("a", " b c", meant(" b <eos> a"))], 8)
    assert (kept.chosen, kept.rejected) == ([2, 3], [2, EOS])


def test_turns_behind_the_first_are_cut_and_counted() -> None:
    """A line end that the template writes behind an EOS is none."""
    policy = policy_with(word_tokenizer("a b user: model:"))
    policy.tokenizer.chat_template = (
        "{% for m in messages %} {{ m['role'] }}: {{ m['content'] }} {% if m['role'] == 'model' %}<eos>\n{% endif %}"
        "{% endfor %}{% if add_generation_prompt %} model:{% endif %}"
    )
    asks, answers = ({"role": "user", "content": "a"}, {"role": "model", "content": "b b"})
    one = {"prompt": [asks], "chosen": [answers], "rejected": [answers | {"content": "a"}]}
    (kept,), counts = encode_pairs(policy, [one], 16)
    assert counts == {}
    (cut,), counts = encode_pairs(policy, [one | {"chosen": [answers, asks, answers]}], 16)
    assert counts == {"response cut at its first EOS": 1}
    assert cut == kept
    assert cut.chosen[-1] == EOS


def test_the_line_end_behind_an_eos_is_no_turn() -> None:
    """Where the model's EOS, which the template writes, is not the tokenizer's."""
    tokenizer = byte_pairs()
    tokenizer.eos_token = "<|endoftext|>"
    policy = policy_with(tokenizer)
    policy.model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    row = {"prompt": [{"role": "user", "content": "a"}], **{
        name: [{"role": "assistant", "content": text}] for name, text in (("chosen", "b"), ("rejected", "c"))
    }}  # fmt: skip
    (kept,), counts = encode_pairs(policy, [row], 16, "left")
    assert "response cut at its first EOS" not in counts
    assert tokenizer.decode(kept.chosen).endswith("b<|im_end|>")


def test_a_response_of_no_tokens_is_an_empty_one() -> None:
    """Whether or not the model has an EOS to put behind it."""
    for tokenizer, eos in ((word_tokenizer("a b", eos=None), None), (word_tokenizer("a b"), EOS)):
        kept, counts = encode_pairs(
            policy_with(tokenizer, eos=eos), [pair("a", " ", " b"), pair("a", " b", "  ")], 8
        )
        assert (kept, counts) == ([], {"empty response": 2})


def test_without_a_limit_only_the_models_positions_cut() -> None:
    policy = tiny_policy()  # 32 positions
    rows = [pair("a", " b" * 20, " a"), pair("a", " b" * 40, " a")]
    (whole, cut), counts = encode_pairs(policy, rows, None)
    assert whole.chosen == [2] * 20 + [EOS]
    assert cut.chosen == [2] * 31
    assert counts == {"response truncated": 1, "longer than the model": 1}
    # A long prompt leaves room for the responses, but keeps half of the positions.
    long = " ".join(["a"] * 39 + ["b"])
    (short, half), counts = encode_pairs(
        policy, [pair(long, " b" * 9, " a"), pair(long, " b" * 40, " a")], None, "left"
    )
    assert (short.prompt, short.chosen) == ([1] * 21 + [2], [2] * 9 + [EOS])
    assert (half.prompt, half.chosen) == ([1] * 15 + [2], [2] * 16)
    assert counts == {"prompt truncated": 2, "response truncated": 1, "longer than the model": 1}


def test_training_cuts_responses_where_it_is_told_to_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "algos.engine.batches.sources")  # the command line keeps it quiet

    def roomy() -> Policy:
        model = FAMILIES["Llama, tied"].model(max_position_embeddings=128)
        return Policy(model, word_tokenizer(WORDS), dtype="fp32")

    rows = [pair("a", " b" * 70, " a"), *(pair("a", " b" * n, " a") for n in range(1, 11))]
    assert train(DPO(), roomy(), pairs=rows).counts == {}
    few = [*rows[1:], *rows[1:], pair("a", " b" * 12, " a")]
    counts = train(DPO(), tiny_policy(), pairs=few, sampling=Sampling(max_new_tokens=11)).counts
    assert (counts, caplog.messages) == ({"response truncated": 1}, [])
    counts = train(DPO(), roomy(), pairs=rows, sampling=Sampling()).counts
    assert counts == {"response truncated": 1}
    assert caplog.messages == [
        "1 of 11 pairs have a response cut at max_new_tokens=64 or the model's last position, which then has no end."
    ]


def test_many_rows_are_encoded_as_one_by_one_is_and_faulty_ones_named_in_order() -> None:
    policy = policy_with(word_tokenizer("a b user: assistant: User: Assistant:"))
    policy.tokenizer.chat_template = (
        "{% if messages[0]['content'] == 'no' %}{{ raise_exception('no') }}{% endif %}"
        "{% for m in messages %} {{ m['role'] }}: {{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %} assistant:{% endif %}"
    )

    def chat(asked: str, chosen: str) -> dict[str, Any]:
        said = {"prompt": ("user", asked), "chosen": ("assistant", chosen), "rejected": ("assistant", "a")}
        return {name: [{"role": role, "content": text}] for name, (role, text) in said.items()}

    rows: list[dict[str, Any]] = [
        chat("a b", "b " * (i % 5)) if i % 3 else pair("a", " b" * (i % 7), " a") for i in range(40)
    ]
    together, counts = encode_pairs(policy, rows, 4)
    each = [encode_pair(policy, row, 4) for row in rows]
    assert together == [found for found, _ in each if found is not None]
    assert counts == Counter(reason for _, reasons in each for reason in reasons)
    faulty: list[Any] = [*rows[:5], chat("no", "b"), *rows[5:8], {"prompt": "a"}, *rows[8:]]
    with pytest.raises(UserError, match=r"^rows\[5\]: the model's chat template refuses"):
        encode_pairs(policy, faulty, 4, where="rows")
    with pytest.raises(UserError, match=r"^rows\[8\] has no chosen"):
        encode_pairs(policy, [*faulty[:5], *faulty[6:]], 4, where="rows")


def test_the_text_of_special_tokens_is_counted_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """As where strings went through a chat template before: what it wrote is characters then."""
    caplog.set_level(logging.WARNING, "algos.engine.batches.sources")  # the command line keeps it quiet
    said = "text of a special token, which stays text"
    policy = tiny_policy()
    rows = [
        pair("a", " b", " a"),
        pair("a <eos>", " b", " a"),
        pair("a", " b<eos>", " b"),
        pair("a <eos>", " b", " b"),
    ]
    assert encode_pairs(policy, rows, 8)[1] == {said: 2, "identical responses": 1}
    assert encode_pairs(policy, [pair("a", meant(" b <eos>"), " a")], 8)[1] == {}
    assert encode_prompts(policy, [*rows, "b <eos> a"], 8)[1] == {said: 3}
    train(DPO(), policy, pairs=rows)
    (message,) = caplog.messages
    assert message.startswith("2 of 3 pairs hold the text of special tokens, which is read as characters.")
    assert "lists of messages" in message


def test_pairs_for_a_model_without_eos_do_not_break() -> None:
    policy = policy_with(word_tokenizer("a b", eos=None), eos=None)
    (kept,), _ = encode_pairs(policy, [pair("a", " b", " a b")], 8)
    ids = policy.tokenizer("a b").input_ids
    assert (kept.chosen, kept.rejected) == (ids[1:], ids)


def test_what_teaches_nothing_is_dropped_and_counted() -> None:
    rows = [
        pair("a", " b", " b"),
        pair("a", "", " b"),
        pair("a", " b", ""),
        pair("a", " a b a", " a b b"),
        pair(" ".join(["a"] * 32), " b", " a"),
        pair("a", " b", " a"),
    ]
    kept, counts = encode_pairs(tiny_policy(), rows, 2)
    assert len(kept) == 1
    assert counts == {
        "identical responses": 1, "empty response": 2, "identical once truncated": 1, "prompt too long": 1
    }  # fmt: skip


def test_a_long_prompt_leaves_what_room_there_is() -> None:
    """32 positions: 30 of prompt leave 2 of response."""
    (kept,), counts = encode_pairs(tiny_policy(), [pair(" ".join(["a"] * 30), " b b b", " a")], 8)
    assert (kept.chosen, kept.rejected, counts) == (
        [2, 2],
        [1, EOS],
        {"response truncated": 1, "longer than the model": 1},
    )


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """BPE over characters in which `a` and `b` make one token wherever they meet."""
    vocabulary = {"<eos>": 0, "a": 1, "b": 2, "c": 3, "ab": 4}
    core = Tokenizer(models.BPE(vocabulary, [("a", "b")]))
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")


def test_a_long_prompt_is_cut_as_where_responses_are_sampled() -> None:
    policy = tiny_policy()
    row = pair(" ".join(["a"] * 29 + ["b"]), " b", " a b")
    (cut,), counts = encode_pairs(policy, [row], 8, "left")
    (sampled,), _ = encode_prompts(policy, [row], 8, "left")
    assert cut.prompt == sampled.ids == [1] * 23 + [2]
    assert (cut.chosen, cut.rejected) == ([2, EOS], [1, 2, EOS])
    assert counts == {"prompt truncated": 1}
    assert "prompt truncated" not in encode_pairs(policy, [row], 8)[1]


def test_a_token_across_the_boundary_is_noticed() -> None:
    policy = policy_with(merging_tokenizer())
    assert split_tokens(policy, "ca", "bc") == ([3, 1], [2, 3], True)
    assert split_tokens(policy, "ca", "cb") == ([3, 1], [3, 2], False)
    kept, counts = encode_pairs(policy, [pair("ca", "bc", "cb"), pair("ca", "c", "cc")], 8)
    assert (len(kept), counts) == (2, {"boundary merge": 1})
    assert (kept[0].prompt, kept[0].chosen, kept[0].rejected) == ([3, 1], [2, 3, EOS], [3, 2, EOS])


def test_completions_are_read_off_the_end_of_the_whole_text() -> None:
    tokenizer = word_tokenizer("a b")
    assert decode_completion(tokenizer, [1, 2], [2, 1, EOS]) == " b a"
    assert decode_completion(tokenizer, [1, 2], [EOS]) == ""


def test_prompts_that_do_not_fit_are_dropped_or_cut_and_counted() -> None:
    policy = tiny_policy()
    long = " ".join(["a"] * 29 + ["b"])
    kept, counts = encode_prompts(policy, ["a b", long, ""], 8)
    assert ([p.ids for p in kept], counts) == ([[1, 2]], {"prompt too long": 1, "prompt has no tokens": 1})
    kept, counts = encode_prompts(policy, ["a b", long], 8, "left")
    assert counts == {"prompt truncated": 1}
    assert kept[1].ids == [1] * 23 + [2]  # its end, in the 24 positions that are left
    assert kept[0].row == {"prompt": "a b"}
    with pytest.raises(UserError, match="32 positions and max_new_tokens is 32"):
        encode_prompts(policy, ["a"], 32)


PAIRS = [pair("a", " b", " a b"), pair("b a", " a a a", " b"), pair("a b", " a", " b b a b")]


def test_cached_reference_logps_are_the_same_numbers(tmp_path: Path) -> None:
    policy = tiny_policy()
    pairs, _ = encode_pairs(policy, PAIRS, 8)
    computed = reference_logps(policy, pairs, 1.0)
    written = reference_logps(policy, pairs, 1.0, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    stamp = file.stat().st_mtime_ns
    read = reference_logps(policy, pairs, 1.0, tmp_path)
    assert file.stat().st_mtime_ns == stamp
    for a, b, c in zip(computed, written, read, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    for one, logps in zip(pairs, computed, strict=True):
        exact = score_reference(policy, collate(policy, [one]), 1.0)[0]
        mask = collate(policy, [one]).mask_PGT[0]
        torch.testing.assert_close(logps[mask], exact[mask], atol=1e-5, rtol=1e-5)


def test_the_cache_is_keyed_by_everything_it_depends_on(tmp_path: Path) -> None:
    policy = tiny_policy()
    pairs, _ = encode_pairs(policy, PAIRS, 8)
    reference_logps(policy, pairs, 1.0, tmp_path)
    reference_logps(policy, pairs, 0.7, tmp_path)
    reference_logps(policy, pairs[:2], 1.0, tmp_path)
    reference_logps(policy, encode_pairs(policy, PAIRS, 2)[0], 1.0, tmp_path)
    reference_logps(tiny_policy(seed=1), pairs, 1.0, tmp_path)
    policy.dtype = torch.bfloat16
    reference_logps(policy, pairs, 1.0, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 6


@pytest.mark.parametrize("what", ["torch", "transformers", "rlhf-compare"])
def test_the_cache_is_keyed_by_versions(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    pairs, _ = encode_pairs(policy, PAIRS, 8)
    before = reference_key(policy, pairs, 1.0)
    assert reference_key(policy, pairs, 1.0) == before
    monkeypatch.setattr(
        "algos.engine.batches.recorded.installed", lambda name: "99.0" if name == what else installed(name)
    )
    assert reference_key(policy, pairs, 1.0) != before


def test_a_source_visits_every_pair_once_an_epoch_in_another_order() -> None:
    policy = tiny_policy()
    pairs, _ = encode_pairs(policy, [pair("a", " b" * n, " a") for n in range(1, 8)], 16)
    source = PairSource(
        policy, pairs, batch_size=3, epochs=2, seed=0, ref_logps=reference_logps(policy, pairs, 1.0)
    )
    meter = Meter()
    batches = [source.next(i, meter) for i in range(6)]
    lengths = [[int(n) for n in batch.lengths_PG[:, 0]] for batch in batches]
    assert [len(batch) for batch in lengths] == [3, 3, 1, 3, 3, 1]
    first, second = ([n for batch in half for n in batch] for half in (lengths[:3], lengths[3:]))
    assert sorted(first) == sorted(second) == list(range(2, 9))
    assert first != second
    assert (source.progress(0), source.progress(3), source.progress(6)) == (0, 0.5, 1)
    assert meter.completions == 28


def test_no_pairs_left_is_one_line() -> None:
    with pytest.raises(UserError, match="no preference pairs left") as caught:
        train(DPO(), tiny_policy(), pairs=[pair("a", " b", " b")])
    assert "\n" not in str(caught.value)
