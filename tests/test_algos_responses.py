"""What a recorded response is: where it ends, what a chat template writes behind it, and what is cut off."""

from __future__ import annotations

import math

from chat_tokenizers import TURNS, byte_pairs, meant
from tiny import EOS, pair, policy_with, tiny_policy, word_tokenizer

from algos.engine.batches.pairs import encode_pairs
from algos.engine.batches.recorded import collate


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


def test_a_response_of_no_tokens_is_an_empty_one() -> None:
    """Whether or not the model has an EOS to put behind it."""
    for tokenizer, eos in ((word_tokenizer("a b", eos=None), None), (word_tokenizer("a b"), EOS)):
        kept, counts = encode_pairs(
            policy_with(tokenizer, eos=eos), [pair("a", " ", " b"), pair("a", " b", "  ")], 8
        )
        assert (kept, counts) == ([], {"empty response": 2})


def test_pairs_for_a_model_without_eos_do_not_break() -> None:
    policy = policy_with(word_tokenizer("a b", eos=None), eos=None)
    (kept,), _ = encode_pairs(policy, [pair("a", " b", " a b")], 8)
    ids = policy.tokenizer("a b").input_ids
    assert (kept.chosen, kept.rejected) == (ids[1:], ids)


# Chat templates ----------------------------------------------------------------------------------------


def test_the_end_that_a_chat_template_writes_is_no_end_of_what_was_cut() -> None:
    policy = policy_with(word_tokenizer("a b user: model:"))
    policy.tokenizer.chat_template = TURNS
    asked, good, bad = (
        [{"role": role, "content": text}] for role, text in (("user", "a"), ("model", "b b"), ("model", "a"))
    )
    row = {"prompt": asked, "chosen": good, "rejected": bad}
    (kept, whole), _ = encode_pairs(policy, [row | {"chosen_truncated": True}, row], 16)
    assert [*kept.chosen, EOS] == whole.chosen
    assert kept.rejected == whole.rejected
    assert whole.rejected[-1] == EOS


def test_turns_behind_the_first_are_cut_and_counted() -> None:
    """A line end that the template writes behind an EOS is none."""
    policy = policy_with(word_tokenizer("a b user: model:"))
    policy.tokenizer.chat_template = TURNS
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
