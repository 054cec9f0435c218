"""The same work for every contestant: a random model on disk, prompts, pairs, and how they are trained.

Runs in the peers' environment too: nothing of this project is imported here.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

Dtype: TypeAlias = Literal["fp32", "bf16"]

SEED = 20260301
PROMPT_TOKENS = (24, 32)
RESPONSE_TOKENS = 64
SEQUENCES = 16
"""Responses a step; for DPO half as many pairs."""
GROUP = 4
PPO_EPOCHS = 4
SPECIALS = ("<eos>", "<pad>", "<unk>")
EOS, PAD = 0, 1
NEVER = -24.0
"""The logit of EOS and pad: drawn less than once in 10⁹ steps, and small enough for bf16 to keep its digits."""


@dataclass(frozen=True)
class Size:
    """The shape of a random model."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    positions: int = 128
    family: Literal["gpt2", "llama"] = "gpt2"
    steps: int = 16
    """The fewest steps that the recorded pairs last for: what is done once a run is divided by them."""
    ends: float = 0.0
    """How likely EOS is at every token; at 0 no response ends before it is cut."""

    def config(self) -> PretrainedConfig:
        """Dropout is off: some contestants turn it off, some do not."""
        from transformers import GPT2Config, LlamaConfig

        shared: dict[str, Any] = {
            "vocab_size": self.vocabulary, "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": PAD,
        }  # fmt: skip
        if self.family == "llama":
            return LlamaConfig(
                **shared, num_hidden_layers=self.layers, hidden_size=self.width, intermediate_size=4864,
                num_attention_heads=self.heads, num_key_value_heads=2, max_position_embeddings=self.positions,
                tie_word_embeddings=True,
            )  # fmt: skip
        return GPT2Config(
            **shared, n_layer=self.layers, n_embd=self.width, n_head=self.heads, n_positions=self.positions,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip


SIZES = {
    "tiny": Size(layers=2, width=128, heads=4, vocabulary=256, steps=64),
    "small": Size(layers=6, width=512, heads=8, vocabulary=16_384),
    "small-ending": Size(layers=6, width=512, heads=8, vocabulary=16_384, ends=1 / 32),
    "gpt2": Size(layers=12, width=768, heads=12, vocabulary=50_257, positions=1024),
    "half-billion": Size(layers=24, width=896, heads=14, vocabulary=151_936, family="llama"),
}


@dataclass(frozen=True)
class Case:
    """What a contestant is given, as files in `folder`."""

    folder: Path
    size: str
    steps: int
    threads: int
    dtype: Dtype
    prompts: list[str]
    pairs: list[dict[str, str]]

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @classmethod
    def build(cls, folder: Path, size: str, steps: int, threads: int, dtype: Dtype) -> Case:
        """Writes the weights and the data, `steps` many batches of it. The same size gives the same; weights that a GPU
        drew are other ones than a CPU's."""
        steps = max(steps, SIZES[size].steps)
        model, tokenizer = random_model(SIZES[size]), words(SIZES[size].vocabulary)
        draw = random.Random(SEED)
        case = cls(
            folder, size, steps, threads, dtype,
            prompts=[_prompt(draw, SIZES[size]) for _ in range(steps * SEQUENCES)],
            pairs=[_pair(draw, SIZES[size]) for _ in range(steps * SEQUENCES // 2)],
        )  # fmt: skip
        model.save_pretrained(case.model)
        tokenizer.save_pretrained(case.model)
        (folder / "case.json").write_text(json.dumps(asdict(case) | {"folder": ""}), encoding="utf-8")
        return case

    @classmethod
    def read(cls, folder: Path) -> Case:
        return cls(**json.loads((folder / "case.json").read_text(encoding="utf-8")) | {"folder": folder})


def _text(draw: random.Random, size: Size, tokens: int) -> str:
    return " ".join(f"w{draw.randrange(len(SPECIALS), size.vocabulary)}" for _ in range(tokens))


def _prompt(draw: random.Random, size: Size) -> str:
    return _text(draw, size, draw.randint(*PROMPT_TOKENS))


def _pair(draw: random.Random, size: Size) -> dict[str, str]:
    """Responses of at most `RESPONSE_TOKENS` with the EOS that both libraries append."""
    chosen, rejected = (f" {_text(draw, size, _words(draw, size.ends))}" for _ in range(2))
    return {"prompt": _prompt(draw, size), "chosen": chosen, "rejected": rejected}


def _words(draw: random.Random, ends: float) -> int:
    """How many there are before EOS, one at least."""
    most = RESPONSE_TOKENS - 1
    return next((n for n in range(1, most) if draw.random() < ends), most) if ends else most


def words(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose every word is a token: `w17` is token 17."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*SPECIALS, *(f"w{i}" for i in range(len(SPECIALS), vocabulary))]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>", padding_side="left"
    )


def random_model(size: Size) -> PreTrainedModel:
    """Random weights that end no response early, or as many of them as the size says: see `_fix`."""
    import torch
    from transformers import AutoModelForCausalLM

    # A CPU takes half a minute to draw half a billion numbers.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(SEED)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(size.config())
    if size.family == "gpt2":
        # The others' logits lie around 0.
        _fix(model, {EOS: math.log(size.ends * size.vocabulary) if size.ends else NEVER, PAD: NEVER})
    return model


def _fix(model: Any, logits: dict[int, float]) -> None:
    """Gives tokens one logit each, whatever the text: a layer norm's output has mean 0 before its bias, so that a bias
    of 1 and an output embedding of logit/width make that sum. (Llama's norm has no bias; among 150k tokens drawn all but
    uniformly EOS comes once in 150 steps.)"""
    import torch

    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(1.0)
        for token, logit in logits.items():
            model.lm_head.weight[token] = logit / model.config.hidden_size


def last_is_odd(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    """A reward that costs nothing: whether the response's last token is odd. Called as TRL calls its rewards."""
    return [float(ids[-1] % 2) for ids in completion_ids]
