"""The built-in task as a whole: its language, model sizes, stage settings, and how its base model is built."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from eval.data.split import SplitName, split_of
from eval.stages.base import train_base
from eval.stages.cache import Artefact, ArtefactCache, json_hash
from eval.stages.fitting import Fit
from eval.tasks.reviews.grammar import corpus, prompts
from eval.tasks.reviews.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from transformers import GPT2Config


@dataclass(frozen=True)
class Reviews:
    """Sizes and settings of the task `reviews`, chosen so that all its stages take well under a minute on one core."""

    corpus: int = 6000
    """Reviews that the base model is trained on."""
    base: Fit = field(default_factory=lambda: Fit(epochs=2, learning_rate=3e-3))
    pairs: int = 2048
    """Prompts that get two responses of the base each, and a label."""
    reward: Fit = field(default_factory=lambda: Fit(epochs=3, learning_rate=1e-3))
    hidden: int = 96
    layers: int = 2
    heads: int = 4
    positions: int = 64
    max_new_tokens: int = 24
    test_prompts: int = 64
    validation_prompts: int = 64

    def prompts(self, split: SplitName) -> list[str]:
        """The openings of one split, in a fixed order: as many as the settings say for test and validation."""
        openings = [prompt for prompt in prompts() if split_of(prompt) == split]
        order = np.random.default_rng(0).permutation(len(openings))
        limit = {"train": None, "test": self.test_prompts, "validation": self.validation_prompts}[split]
        return [openings[i] for i in order[:limit]]

    def texts(self, split: SplitName, seed: int, n: int) -> list[dict[str, str]]:
        """`n` reviews by writers, rows {"prompt", "completion"}, on the openings of one split."""
        return corpus(seed, n, self.prompts(split))

    def model_config(self) -> GPT2Config:
        """A GPT-2 of a quarter of a million parameters, without dropout."""
        from transformers import GPT2Config

        tokenizer = build_tokenizer()
        return GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=self.positions,
            n_embd=self.hidden,
            n_layer=self.layers,
            n_head=self.heads,
            # The same function as GPT-2's gelu_new, as one kernel rather than eight.
            activation_function="gelu_pytorch_tanh",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    def base_model(self, cache: ArtefactCache, seed: int, threads: int) -> Artefact:
        """The base model: SFT on writers' reviews of training openings."""
        texts = [row["prompt"] + row["completion"] for row in self.texts("train", seed, self.corpus)]
        config, tokenizer = self.model_config(), build_tokenizer()
        fit = replace(self.base, seed=seed, threads=threads)
        key = {
            "config": config.to_dict(), "vocabulary": tokenizer.get_vocab(), "texts": json_hash(texts),
            "fit": asdict(fit),
        }  # fmt: skip
        return cache.build("base", key, lambda out: train_base(config, tokenizer, texts, out, fit))

    def pair_prompts(self, seed: int) -> list[str]:
        """The training openings, drawn with replacement, that the base answers twice for the preference pairs."""
        openings = self.prompts("train")
        return [openings[i] for i in np.random.default_rng(seed).integers(len(openings), size=self.pairs)]
