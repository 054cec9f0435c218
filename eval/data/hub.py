"""A dataset on the Hugging Face hub, or its cached copy where the hub cannot be reached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from algos.engine.errors import UserError, one_line


def load_hub_dataset(name: str, split: str) -> Iterable[dict[str, Any]]:
    """Rows of `owner/name` or `owner/name/configuration`, each also with `@revision` behind it.

    The library itself tries for half a minute to reach a hub that is not there. One question decides
    beforehand: where it cannot even be asked, the library is told to use what it has cached, at once.
    Raises UserError where there is nothing cached either, and whatever the library raises for the rest.
    """
    import datasets

    from algos.engine.models.hub import why_unreachable

    place, named, revision = name.partition("@")
    owner, repository, *configuration = place.split("/")
    away = why_unreachable()
    if away and named:
        raise UserError(
            f"the hub cannot be asked for the revision of {name!a} ({away}), and the library's cache does not tell "
            f"revisions apart. Leave @{revision} out to take what is cached, or give a file."
        )
    try:
        with _cache_alone(bool(away)):
            dataset: Iterable[dict[str, Any]] = datasets.load_dataset(
                f"{owner}/{repository}", *configuration, split=split, revision=revision or None
            )
    except ConnectionError as error:
        raise UserError(
            f"there is no file or directory {name!a}, and the Hugging Face hub cannot be asked for it "
            f"({away or one_line(error)}). Check the path or the network; only datasets loaded before are there offline."
        ) from None
    return dataset


def is_cached(name: str) -> bool:
    """Whether the library has a copy of `owner/name` or `owner/name/configuration`; no hub is asked. Of a named revision
    it cannot tell."""
    import datasets

    if "@" in name:
        return False
    owner, repository, *configuration = name.split("/")
    try:
        with _cache_alone(True):
            datasets.load_dataset_builder(f"{owner}/{repository}", *configuration)
    except Exception:  # no copy, or none of the configuration: it raises several errors, of no common base
        return False
    return True


@contextmanager
def _cache_alone(wanted: bool) -> Iterator[None]:
    """The block in which the library, where that is wanted, reads what it has cached and asks nobody."""
    import datasets

    offline = datasets.config.HF_HUB_OFFLINE
    # The library's own switch; it reads the environment only when it is first imported.
    datasets.config.HF_HUB_OFFLINE = offline or wanted
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
