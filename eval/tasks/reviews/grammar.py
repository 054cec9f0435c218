"""The language of film reviews: its words, its openings, how a writer draws a review, how a review is parsed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

NOUNS = (
    "story", "plot", "acting", "script", "ending", "music", "film", "cast", "dialogue", "pacing", "scenery", "humour",
)  # fmt: skip
VERBS = ("was", "seemed", "felt", "looked")
# How good each adjective is, in logits of the gold judge.
ADJECTIVES = {
    "superb": 1.4, "wonderful": 1.4, "brilliant": 1.3, "great": 1.1, "gripping": 1.1, "moving": 0.9, "charming": 0.9,
    "clever": 0.7, "good": 0.7, "pleasant": 0.5, "decent": 0.4, "fine": 0.3, "plain": 0.0, "long": -0.2, "odd": -0.3,
    "flat": -0.5, "weak": -0.6, "bland": -0.7, "dull": -0.8, "clumsy": -0.8, "boring": -1.0, "bad": -1.0,
    "tedious": -1.1, "terrible": -1.3, "dreadful": -1.4, "awful": -1.4,
}  # fmt: skip
# What each does to the adjective behind it.
INTENSIFIERS = {"slightly": 0.5, "rather": 0.7, "quite": 0.9, "really": 1.2, "very": 1.3, "truly": 1.4}
TURNING = ("but", "though", "yet")
CARRYING = ("and", "while", "because")
CONTEXTS = (
    "", "overall", "honestly", "frankly", "all in all", "to be fair", "in my view", "this time", "for once",
    "as expected", "to my surprise", "i must say that", "we all agreed that", "my friends say that",
    "i went alone and", "last night i watched it and",
)  # fmt: skip

# How writers write: how firmly adjectives follow the opinion (its standard deviation, in logits a unit of
# sentiment), how often a conjunction turns it, how often an adjective is intensified or followed by a second one,
# and how many clauses follow the first. No review has a single clause and few have four, so a reward model trained on
# what a model of them writes learns little of what the gold judge thinks of those: room for over-optimization.
OPINION = 2.4
TURN = 0.12
INTENSIFY = 0.4
SECOND = 0.15
FURTHER_CLAUSES = (0.0, 0.6, 0.35, 0.05)

_CODES = {
    "the": "t",
    **dict.fromkeys(NOUNS, "n"),
    **dict.fromkeys(VERBS, "v"),
    **dict.fromkeys(ADJECTIVES, "a"),
    **dict.fromkeys(INTENSIFIERS, "i"),
    **dict.fromkeys(TURNING + CARRYING, "c"),
    "and": "&",  # Between clauses, and between adjectives.
}
_CLAUSE = "tnvi?a(?:&i?a)*"
# A single clause is no review.
_REVIEW = re.compile(f"{_CLAUSE}(?:[c&]{_CLAUSE})+")
_CONTEXTS_LONGEST_FIRST = sorted((context.split() for context in CONTEXTS), key=len, reverse=True)


def vocabulary() -> list[str]:
    """Every word of the language, in a fixed order."""
    in_contexts = dict.fromkeys(word for context in CONTEXTS for word in context.split())
    return list(dict.fromkeys([*_CODES, *in_contexts]))


def prompts() -> list[str]:
    """All openings, each up to the verb of the first clause: "to be fair the acting was"."""
    return [f"{context} the {noun} {verb}".strip() for context, noun, verb in product(CONTEXTS, NOUNS, VERBS)]


@dataclass(frozen=True)
class Parse:
    """What the gold judge looks at; all but `grammatical` is counted in ungrammatical text too."""

    grammatical: bool
    clauses: int
    """Verbs."""
    repeated: int
    """Nouns and adjectives that stood before, each time."""
    valence: float
    """Sum over adjectives of their worth, each times that of the intensifier before it."""


def parse(text: str) -> Parse:
    """Reads one whole review, opening and all."""
    words = text.split()
    context = next(context for context in _CONTEXTS_LONGEST_FIRST if words[: len(context)] == context)
    words = words[len(context) :]
    codes = "".join(_CODES.get(word, "?") for word in words)
    content = [word for word, code in zip(words, codes, strict=True) if code in "na"]
    before = ["", *words]
    return Parse(
        grammatical=_REVIEW.fullmatch(codes) is not None,
        clauses=codes.count("v"),
        repeated=len(content) - len(set(content)),
        valence=sum(
            ADJECTIVES.get(w, 0.0) * INTENSIFIERS.get(b, 1.0) for b, w in zip(before, words, strict=False)
        ),
    )


def write(prompt: str, rng: np.random.Generator) -> str:
    """A writer's completion of an opening, with the space before it: " very dull but the cast was fine"."""
    opinion = rng.normal(0.0, OPINION)
    used = prompt.split()
    pieces = [_complement(opinion, used, rng)]
    for _ in range(rng.choice(len(FURTHER_CLAUSES), p=FURTHER_CLAUSES)):
        turns = rng.random() < TURN
        opinion = -opinion if turns else opinion
        conjunction = rng.choice(TURNING if turns else CARRYING)
        noun = str(rng.choice([noun for noun in NOUNS if noun not in used]))
        used.append(noun)
        pieces.append(f"{conjunction} the {noun} {rng.choice(VERBS)} {_complement(opinion, used, rng)}")
    return " " + " ".join(pieces)


def _complement(opinion: float, used: list[str], rng: np.random.Generator) -> str:
    first = _adjective(opinion, used, rng)
    return f"{first} and {_adjective(opinion, used, rng)}" if rng.random() < SECOND else first


def _adjective(opinion: float, used: list[str], rng: np.random.Generator) -> str:
    """An adjective that is not in `used` yet, drawn by how well it says the opinion, perhaps intensified."""
    words = [word for word in ADJECTIVES if word not in used]
    weights = np.exp([opinion * ADJECTIVES[word] for word in words])
    adjective = str(rng.choice(words, p=weights / weights.sum()))
    used.append(adjective)
    return f"{rng.choice(list(INTENSIFIERS))} {adjective}" if rng.random() < INTENSIFY else adjective


def corpus(seed: int, n: int, openings: Sequence[str] | None = None) -> list[dict[str, str]]:
    """`n` reviews by writers, rows {"prompt", "completion"}; each opening is drawn uniformly from `openings` (all)."""
    rng = np.random.default_rng(seed)
    openings = prompts() if openings is None else openings
    drawn = [openings[i] for i in rng.integers(len(openings), size=n)]
    return [{"prompt": prompt, "completion": write(prompt, rng)} for prompt in drawn]
