"""Special tokens: control tokens where a chat template writes them, characters where a person typed them."""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex, overload
from weakref import WeakKeyDictionary

from tokenizers import AddedToken, Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Span(NamedTuple):
    """A place in a text where the characters of an added token stand, and whether the token is meant by them."""

    start: int
    end: int
    is_control: bool


class Rendered(str):
    """Text from a chat template that knows where the added tokens in it are meant.

    Elsewhere, as in a plain `str`, the characters of a special token are characters. Adding and slicing keep
    the places; whatever else a `str` can do returns a plain one.
    """

    spans: tuple[Span, ...]

    def __new__(cls, text: str, spans: tuple[Span, ...] = ()) -> Rendered:
        self = super().__new__(cls, text)
        self.spans = spans
        return self

    def __add__(self, other: str) -> Rendered:
        theirs = (Span(a + len(self), b + len(self), c) for a, b, c in getattr(other, "spans", ()))
        return Rendered(super().__add__(other), (*self.spans, *theirs))

    def __radd__(self, other: str) -> Rendered:
        return Rendered(other) + self

    @overload
    def __getitem__(self, key: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> Rendered: ...
    def __getitem__(self, key: SupportsIndex | slice) -> str:
        if not isinstance(key, slice):
            return super().__getitem__(key)
        start, stop, step = key.indices(len(self))
        inside = (Span(a - start, b - start, c) for a, b, c in self.spans if start <= a and b <= stop)
        return Rendered(super().__getitem__(key), tuple(inside) if step == 1 else ())


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text, without BOS or EOS. Special tokens that someone typed are never control tokens.

    What a chat template wrote is tokenised together with the text around it, as the model learned to read it.
    """
    reader = _reader(tokenizer)
    if not isinstance(text, Rendered) or not text.spans:
        ids = tokenizer(str(text), add_special_tokens=False, split_special_tokens=True).input_ids
    else:
        ids = reader.with_marks(tokenizer, text)
    found: list[int] = []
    for token in ids:
        if token in reader.meanings or token in reader.special:
            found += reader.meaning(tokenizer, token)
        else:
            found.append(token)
    return found


def ids_in_front(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before every text by itself: BOS, or nothing."""
    return list(_reader(tokenizer).in_front(tokenizer))


def holds_special_text(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a special token's characters stand in a text as characters: somebody typed them, or the text, a plain
    `str`, went through a chat template before."""
    special, _ = control_patterns(tokenizer, "")
    meant = {(span.start, span.end) for span in getattr(text, "spans", ()) if span.is_control}
    return any(found.span() not in meant for found in special.finditer(text))


def control_patterns(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What matches the special tokens, and what matches these and the other added tokens that the template
    writes (or that the tokenizer declares as `chat_control_tokens`): the marks of a thought, say."""
    return _reader(tokenizer).patterns(tokenizer, template)


def _any_of(contents: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(contents, key=lambda content: (-len(content), content))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


class _Reader:
    """How the added tokens of one tokenizer are read.

    Marks stand for those in a text that are spans: added tokens of a copy of the tokenizer, which split a text
    where the token itself would, so that everything around it is tokenised as ever.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.added = dict(tokenizer.added_tokens_decoder)
        self.size = len(tokenizer)
        unknown = tokenizer.unk_token
        self.special = {id_ for id_, own in self.added.items() if own.special and own.content != unknown}
        self.copy: PreTrainedTokenizerBase | None = None
        self.marks: dict[tuple[str, bool], str] = {}
        self.meanings: dict[int, list[int]] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], re.Pattern[str]]] = {}
        self._in_front: dict[tuple[bytes | None, int | None], list[int]] = {}

    def in_front(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Asked of the tokenizer once, and again where it puts something else since (`add_bos_token = True`)."""
        core = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(core, Tokenizer):  # written in Python, and anything may have changed
            return _in_front(tokenizer)
        key = core.post_processor.__getstate__(), tokenizer.bos_token_id
        if key not in self._in_front:
            self._in_front[key] = _in_front(tokenizer)
        return self._in_front[key]

    def patterns(
        self, tokenizer: PreTrainedTokenizerBase, template: str
    ) -> tuple[re.Pattern[str], re.Pattern[str]]:
        if template not in self._patterns:
            special = {own.content for own in self.added.values() if own.special}
            declared = getattr(tokenizer, "chat_control_tokens", None)
            written = {
                own.content
                for own in self.added.values()
                # White space is added to many vocabularies, and is text all the same.
                if (own.content in template if declared is None else own.content in declared)
                and not own.content.isspace()
            }
            self._patterns[template] = _any_of(special), _any_of(special | written)
        return self._patterns[template]

    def with_marks(self, tokenizer: PreTrainedTokenizerBase, text: Rendered) -> list[int]:
        """Ids in which marks stand for the text's spans."""
        if self.copy is None:
            self.copy = copy.deepcopy(tokenizer)
        marked, plain, end = "", str(text), 0
        for span in text.spans:
            marked += plain[end : span.start]
            marked += self._mark(tokenizer, plain[span.start : span.end], span.is_control)
            end = span.end
        ids = self.copy(marked + plain[end:], add_special_tokens=False, split_special_tokens=True).input_ids
        return list(ids)

    def _mark(self, tokenizer: PreTrainedTokenizerBase, content: str, is_control: bool) -> str:
        if (content, is_control) not in self.marks:
            assert self.copy is not None
            id_, own = next((i, token) for i, token in self.added.items() if token.content == content)
            # Random, so that no text can contain it.
            mark = f"\ue000{secrets.token_hex(8)}\ue001"
            as_wide = {"lstrip": own.lstrip, "rstrip": own.rstrip}
            self.copy.add_tokens([AddedToken(mark, normalized=False, special=False, **as_wide)])
            # Not the number of tokens: where ids have gaps, the highest is above it.
            place = self.copy.added_tokens_encoder[mark]
            self.meanings[place] = [id_] if is_control else spelled(tokenizer, content)
            self.marks[content, is_control] = mark
        return self.marks[content, is_control]

    def meaning(self, tokenizer: PreTrainedTokenizerBase, token: int) -> list[int]:
        """Ids of the tokenizer itself, of a mark or a special token. Where its model makes one of these of mere characters
        (one whose vocabulary lists them as words does), they are spelled out."""
        if token in self.meanings:
            return self.meanings[token]
        return spelled(tokenizer, self.added[token].content)


def _in_front(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    whole, bare = (list(tokenizer("a", add_special_tokens=added).input_ids) for added in (True, False))
    starts = (i for i in range(len(whole)) if bare and whole[i : i + len(bare)] == bare)
    return whole[: next(starts, int(whole[:1] == [tokenizer.bos_token_id]))]


def spelled(tokenizer: PreTrainedTokenizerBase, content: str) -> list[int]:
    """Ids of a token's characters, one by one."""
    ids: list[int] = []
    for character in content:
        found = tokenizer.convert_tokens_to_ids(character)
        if isinstance(found, int):  # the unknown word, too, where there is one
            ids.append(found)
        else:
            ids += tokenizer(character, add_special_tokens=False, split_special_tokens=True).input_ids
    return ids


_readers: WeakKeyDictionary[PreTrainedTokenizerBase, _Reader] = WeakKeyDictionary()


def _reader(tokenizer: PreTrainedTokenizerBase) -> _Reader:
    """Made once a tokenizer, and again where tokens have been added to it since."""
    found = _readers.get(tokenizer)
    if found is None or found.size != len(tokenizer):
        found = _readers[tokenizer] = _Reader(tokenizer)
    return found
