"""The built-in task: film reviews, with a base model, preference pairs, a proxy reward and a gold judge of its own."""

from eval.tasks.reviews.gold import gold
from eval.tasks.reviews.tokenizer import build_tokenizer
from eval.tasks.reviews.world import Reviews

__all__ = ["Reviews", "build_tokenizer", "gold"]
