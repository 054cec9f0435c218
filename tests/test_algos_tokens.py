"""Texts to token ids: where they begin, end, meet and are cut, and what in them the model cannot read."""

from __future__ import annotations

import pytest
from chat_tokenizers import meant
from tiny import EOS, gpt2, pair, policy_with, word_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from algos import Policy, Sampling, UserError, sample
from algos.engine.batches.pairs import encode_pairs
from algos.engine.batches.prompts import encode_prompts
from algos.engine.batches.responses import split_tokens
from algos.engine.scoring import score_policy
from algos.engine.text.tokens import decode_completion, encode, encode_prompt

# Beginning and end ---------------------------------------------------------------------------------------


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


def test_conversations_get_one_bos_and_one_generation_prompt() -> None:
    tokenizer = word_tokenizer("user: model: a b", bos="<bos>", add_bos=True)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %} {{ m['role'] }}: {{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %} model:{% endif %}"
    )
    ids = encode_prompt(tokenizer, [{"role": "user", "content": "a b"}])
    assert tokenizer.decode(ids) == "<bos> user: a b model:"


# Prompt and response -----------------------------------------------------------------------------------


def spaced_tokenizer(scheme: str, bos: bool) -> PreTrainedTokenizerFast:
    """SentencePiece's kind: a visible space before every text. `happy` is no token of its own without one."""
    words = ["▁Answer", ":", "▁", "▁yes", "yes", "▁un", "▁unhappy", "▁happy", "h", "a", "p", "y", ".", "▁."]
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((word, -float(len(words))) for word in words)]
    core = Tokenizer(models.Unigram(pieces, unk_id=0))
    if scheme == "normaliser":  # Llama's first tokenizers
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        core.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        core.decoder = decoders.Metaspace(prepend_scheme=scheme)
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("scheme", ["first", "always", "normaliser"])
@pytest.mark.parametrize(
    ("prompt", "response", "pieces"),
    [
        ("Answer: ", "yes", ["yes"]),
        ("un", "happy", ["h", "a", "p", "p", "y"]),
        ("Answer: ", "yes happy.", ["yes", "▁happy", "."]),
    ],
)
def test_no_space_comes_between_a_prompt_and_a_response_that_merge(
    scheme: str, bos: bool, prompt: str, response: str, pieces: list[str]
) -> None:
    tokenizer = spaced_tokenizer(scheme, bos)
    prompt_ids, ids, merged = split_tokens(policy_with(tokenizer), prompt, response)
    assert merged
    assert tokenizer.convert_ids_to_tokens(ids) == pieces
    assert prompt_ids == encode(tokenizer, prompt)
    assert decode_completion(tokenizer, prompt_ids, ids) == response


def test_a_boundary_that_does_not_merge_is_the_tokenizers() -> None:
    tokenizer = spaced_tokenizer("first", bos=True)
    whole = tokenizer("Answer: yes").input_ids
    assert split_tokens(policy_with(tokenizer), "Answer:", " yes") == (whole[:3], whole[3:], False)


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """BPE over characters in which `a` and `b` make one token wherever they meet."""
    vocabulary = {"<eos>": 0, "a": 1, "b": 2, "c": 3, "ab": 4}
    core = Tokenizer(models.BPE(vocabulary, [("a", "b")]))
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")


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


# What is cut -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_template", [False, True])
def test_a_prompt_that_is_cut_keeps_its_bos(by_template: bool) -> None:
    tokenizer = word_tokenizer("a b", bos="<bos>", add_bos=not by_template)
    tokenizer.chat_template = "<bos> {{ messages[0]['content'] }}"
    said = " ".join(["b", *["a"] * 30])
    prompt = [{"role": "user", "content": said}] if by_template else said
    bos, a = tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids("a")
    for length, expected in ((8, [bos] + [a] * 23), (30, [bos, a]), (31, [a])):
        (kept,), counts = encode_prompts(policy_with(tokenizer), [prompt], length, "left")
        assert (kept.ids, counts) == (expected, {"prompt truncated": 1})


# What has no embedding -------------------------------------------------------------------------------


def wider_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = word_tokenizer("a b")
    tokenizer.add_tokens(["new"])
    return tokenizer


def test_a_token_without_an_embedding_is_one_line() -> None:
    tokenizer = wider_tokenizer()
    policy = Policy(gpt2(len(tokenizer) - 1), tokenizer, dtype="fp32")
    assert len(encode_prompts(policy, ["a b"], 8)[0]) == 1
    for call in (
        lambda: encode_prompts(policy, ["a b", "a new b"], 8),
        lambda: encode_pairs(policy, [pair("a new", " b", " a")], 8),
        lambda: encode_pairs(policy, [pair("a", " b", " new")], 8),
    ):
        with pytest.raises(
            UserError, match=r"token 'new' with id 4.* 4 rows.*resize_token_embeddings"
        ) as caught:
            call()
        assert "\n" not in str(caught.value)
    policy.model.resize_token_embeddings(len(tokenizer))
    assert len(encode_prompts(policy, ["a new b"], 8)[0]) == 1


def test_an_eos_without_an_embedding_is_one_line() -> None:
    tokenizer = word_tokenizer("a b", eos=None)
    policy = policy_with(tokenizer, eos=None)
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    with pytest.raises(UserError, match="token '<end>' with id 3"):
        encode_pairs(policy, [pair("a", " b", " a")], 8)


def test_padding_is_never_filled_with_what_the_model_cannot_read() -> None:
    """A pad token that was added to the tokenizer alone."""
    tokenizer = word_tokenizer("a b")
    policy = Policy(gpt2(len(tokenizer)), tokenizer, dtype="fp32")
    for eos, expected in (("<eos>", EOS), (None, 0)):
        tokenizer.eos_token = eos
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        assert tokenizer.pad_token_id >= policy.inner.config.vocab_size
        assert policy.pad_id == expected
    drawn = sample(policy, [[1], [1, 2, 1]], Sampling(max_new_tokens=3, group_size=2), 0)
    assert bool(score_policy(policy, drawn, 1.0)[0].isfinite().all())
    policy.model.resize_token_embeddings(len(tokenizer))
    assert policy.pad_id == tokenizer.pad_token_id
