"""Small worlds for the tests: a policy that is a table, and random transformers over a handful of words."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from algos import Policy
from algos.engine.rollouts import Rollouts, pad_left, pad_right

EOS = 0
"""The id of the token that ends a response in the tables and, unless said otherwise, in the models."""


def every_response(vocabulary: int, length: int, eos: int = EOS) -> list[list[int]]:
    """All responses of at most `length` tokens: those that end in EOS, and those cut at `length`."""
    others = [v for v in range(vocabulary) if v != eos]
    ended = [[*body, eos] for n in range(length) for body in itertools.product(others, repeat=n)]
    return ended + [list(body) for body in itertools.product(others, repeat=length)]


@dataclass
class Table:
    """A policy over every response to one prompt: free logits for every prefix, float64.

    `logps(logits)` are token log-probabilities [N, T] of all N responses, `logits` [states, V] the
    parameters; `scores` an arbitrary reward of every response.
    """

    vocabulary: int = 3
    length: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        random = torch.Generator().manual_seed(self.seed)
        self.responses = every_response(self.vocabulary, self.length)
        self.ids, self.mask = pad_right(self.responses, EOS)
        prefixes = sorted({tuple(r[:t]) for r in self.responses for t in range(len(r))})
        place = {prefix: i for i, prefix in enumerate(prefixes)}
        self.states = torch.tensor(
            [
                [place.get(tuple(r[:t]), 0) if t < len(r) else 0 for t in range(self.length)]
                for r in self.responses
            ]
        )
        shape = (len(prefixes), self.vocabulary)
        self.logits = torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()
        self.ref_logits = torch.randn(shape, generator=random, dtype=torch.float64)
        self.scores = torch.randn(len(self.responses), generator=random, dtype=torch.float64)
        self.state_values = torch.randn(len(prefixes), generator=random, dtype=torch.float64)

    def logps(self, logits: Tensor) -> Tensor:
        token = logits.log_softmax(-1)[self.states, self.ids]
        return torch.where(self.mask, token, 0.0)

    @property
    def probabilities(self) -> Tensor:
        return self.logps(self.logits).sum(-1).exp().detach()

    @property
    def values(self) -> Tensor:
        """An arbitrary V(s_t), a function of the prefix alone: [N, T]."""
        return torch.where(self.mask, self.state_values[self.states], 0.0)

    def objective(self, logits: Tensor, beta: float) -> Tensor:
        """J = E r − β·KL(π‖π_ref) of whole responses, summed over all of them."""
        logp, ref = self.logps(logits).sum(-1), self.logps(self.ref_logits).sum(-1)
        return (logp.exp() * (self.scores - beta * (logp - ref))).sum()

    def objective_gradient(self, beta: float) -> Tensor:
        return torch.autograd.grad(self.objective(self.logits, beta), self.logits)[0]

    def optimum(self, beta: float) -> tuple[Tensor, Tensor]:
        """log π*(y) of every response, π* ∝ π_ref·e^{r/β}, and log Z."""
        tilted = self.logps(self.ref_logits).sum(-1) + self.scores / beta
        return tilted.log_softmax(-1), tilted.logsumexp(-1)

    def rollouts(self, index: list[list[int]]) -> Rollouts:
        """Groups of responses by number, complete with everything `prepare` may read."""
        rows = torch.tensor(index)
        groups = rows.shape[0]
        return Rollouts(
            prompt_ids_PL=torch.full((groups, 1), 1),
            prompt_mask_PL=torch.ones(groups, 1, dtype=torch.bool),
            response_ids_PGT=self.ids[rows],
            mask_PGT=self.mask[rows],
            ended_PG=(self.ids[rows] == EOS).logical_and(self.mask[rows]).any(-1),
            scores_PG=self.scores[rows],
            logps_PGT=self.logps(self.logits).detach()[rows],
            ref_logps_PGT=self.logps(self.ref_logits)[rows],
            values_PGT=self.values[rows],
            greedy_scores_P=torch.full((groups,), 0.7, dtype=torch.float64),
        )


def word_tokenizer(
    words: str = "a b", *, bos: str | None = None, eos: str | None = "<eos>", pad: str | None = None,
    add_bos: bool = False, add_eos: bool = False,
) -> PreTrainedTokenizerFast:  # fmt: skip
    """Every word a token; EOS is id 0 (then BOS, pad and the words), unless there is none."""
    specials = list(dict.fromkeys(token for token in (eos, bos, pad) if token))
    vocabulary = {word: i for i, word in enumerate([*specials, *words.split()])}
    vocabulary.setdefault("<unk>", len(vocabulary))
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if add_bos or add_eos:
        parts = [bos if add_bos else "", "$A", eos if add_eos else ""]
        used = [(token, vocabulary[token]) for token in {bos, eos} if token]
        core.post_processor = processors.TemplateProcessing(
            single=" ".join(part for part in parts if part), special_tokens=used
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token=pad, unk_token="<unk>"
    )


def gpt2(
    vocabulary: int, *, seed: int = 0, dropout: float = 0.0, eos: int | None = EOS, width: int = 16
) -> GPT2LMHeadModel:
    """A random GPT-2 (absolute positions) whose next-token distributions are far from uniform."""
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=32, n_embd=width, n_layer=2, n_head=2, bos_token_id=eos,
        eos_token_id=eos, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


def llama(vocabulary: int, *, seed: int = 0, eos: int | None = EOS, width: int = 16) -> LlamaForCausalLM:
    """A random Llama (rotary positions, grouped queries)."""
    config = LlamaConfig(
        vocab_size=vocabulary, max_position_embeddings=32, hidden_size=width, intermediate_size=24,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, bos_token_id=eos, eos_token_id=eos,
        pad_token_id=None, tie_word_embeddings=False, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


MODELS = {"gpt2": gpt2, "llama": llama}


def tiny_policy(kind: str = "gpt2", words: str = "a b", *, seed: int = 0, double: bool = False) -> Policy:
    """A policy over `<eos>` and a few words (the last id is the unknown word)."""
    tokenizer = word_tokenizer(words)
    model = MODELS[kind](len(tokenizer), seed=seed)
    return Policy(model.double() if double else model, tokenizer, dtype="fp32")


def policy_with(tokenizer: PreTrainedTokenizerFast, **options: Any) -> Policy:
    """A random GPT-2 over a tokenizer's words."""
    return Policy(gpt2(len(tokenizer), **options), tokenizer, dtype="fp32")


def pair(prompt: str, chosen: str, rejected: str) -> dict[str, str]:
    """A row of recorded pairs."""
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def rollouts_of(
    prompts: list[list[int]], responses: list[list[list[int]]], pad: int = EOS, eos: tuple[int, ...] = (EOS,)
) -> Rollouts:
    """Token ids → Rollouts: prompts padded on the left, responses on the right."""
    ids_PL, mask_PL = pad_left(prompts, pad)
    ids_BT, mask_BT = pad_right([r for group in responses for r in group], pad)
    shape = (len(prompts), len(responses[0]))
    return Rollouts(
        prompt_ids_PL=ids_PL,
        prompt_mask_PL=mask_PL,
        response_ids_PGT=ids_BT.unflatten(0, shape),
        mask_PGT=mask_BT.unflatten(0, shape),
        ended_PG=torch.tensor([[r[-1] in eos for r in group] for group in responses]),
    )


ROLLOUTS = rollouts_of([[1], [2, 1]], [[[1, 2, 0], [2]], [[2, 0], [1, 1]]])
"""Over two words: two prompts of unlike lengths, two responses to each."""


def disturb(policy: Policy, scale: float = 0.3) -> None:
    """Moves every trainable weight, each time by the same."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.trainable().values():
            p.add_(scale * torch.randn(p.shape, generator=random))


def same_weights(one: Policy, other: Policy) -> bool:
    """Whether two policies' models are the same to the last bit."""
    left, right = one.model.state_dict(), other.model.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
