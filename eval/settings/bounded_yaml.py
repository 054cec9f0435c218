"""YAML from strangers: plain values only, and little work however it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import yaml

MAX_CHARACTERS = 2**18
MAX_VALUES = 10_000  # each as often as aliases repeat it; the settings of a hundred arms are a third of it
MAX_DEPTH = 20
_LONGEST_NUMBER = 100  # characters; longer ones take long to multiply out
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class RefusedYAML(yaml.YAMLError):
    """YAML beyond the bounds, or with what settings have no use for."""


def parse_yaml(text: str) -> Any:
    """Mappings, lists, texts, numbers, dates and null. Raises yaml.YAMLError, within a second.

    Refused are tags (`!!python/name:…` and all others), a key that is there twice, aliases of what they stand
    in, and what exceeds the bounds above.
    """
    _check_length(text)
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except (ValueError, OverflowError) as error:  # a date that does not exist, digits that are none
        raise RefusedYAML(f"a value in it cannot be read: {error}") from None
    finally:
        loader.dispose()


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Text that `parse_yaml` reads back. Raises RefusedYAML where it would be beyond the bounds."""
    if (count := _values(values)) > MAX_VALUES:
        raise RefusedYAML(f"it has {count} values, more than {MAX_VALUES}")
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    _check_length(text)
    return text


def _check_length(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise RefusedYAML(f"it is longer than {MAX_CHARACTERS} characters")


def _values(value: Any) -> int:
    """As the loader counts them: collections, keys and what is neither."""
    if isinstance(value, Mapping):
        return 1 + len(value) + sum(map(_values, value.values()))
    return 1 + sum(map(_values, value)) if isinstance(value, list) else 1


class _Loader(yaml.SafeLoader):
    """A safe loader that looks at every event before anything is made of it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.count = 0
        self.open: list[tuple[str | None, int]] = []
        """Collections not ended yet: the anchor, and the count as it began."""
        self.sizes: dict[str, int] = {}
        """Values under each anchor whose collection has ended."""

    def get_event(self) -> Any:
        event: Any = super().get_event()
        if getattr(event, "tag", None) is not None:
            _refuse(event, f"the tag {event.tag!a}, which settings do not need")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.sizes:
                _refuse(event, f"the alias {event.anchor!a} of nothing, or of what it stands in")
            self.count += self.sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            self.open.append((event.anchor, self.count))
            self.count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self.open.pop()
            self._note(anchor, self.count - before)
        elif isinstance(event, yaml.ScalarEvent):
            self.count += 1
            self._note(event.anchor, 1)
        if len(self.open) > MAX_DEPTH:
            _refuse(event, f"more than {MAX_DEPTH} levels")
        if self.count > MAX_VALUES:
            _refuse(event, f"more than {MAX_VALUES} values")
        return event

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
            _refuse(node, f"a number of {len(node.value)} digits")
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        names = set()
        for key, _ in node.value:
            if (name := (key.tag, str(key.value))) in names:
                _refuse(key, f"{name[1]!a} twice in one mapping")
            names.add(name)
        return node

    def _note(self, anchor: str | None, size: int) -> None:
        if anchor is not None:
            self.sizes[anchor] = size


def _refuse(where: Any, what: str) -> NoReturn:
    raise RefusedYAML(f"line {where.start_mark.line + 1} has {what}")
