"""A dataset on the Hugging Face hub, or its cached copy where the hub cannot be reached."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from algos.engine.errors import UserError, one_line


def load_hub_dataset(name: str, split: str) -> Iterable[dict[str, Any]]:
    """Rows of `owner/name` or `owner/name/configuration`.

    The library itself tries for half a minute to reach a hub that is not there. One question decides
    beforehand: where it cannot even be asked, the library is told to use what it has cached, at once.
    Raises UserError where there is nothing cached either, and whatever the library raises for the rest.
    """
    import datasets

    from algos.engine.loading import why_unreachable

    owner, repository, *configuration = name.split("/")
    away = why_unreachable()
    offline = datasets.config.HF_HUB_OFFLINE
    # The library's own switch; it reads the environment only when it is first imported.
    datasets.config.HF_HUB_OFFLINE = offline or bool(away)
    try:
        dataset: Iterable[dict[str, Any]] = datasets.load_dataset(
            f"{owner}/{repository}", *configuration, split=split
        )
    except ConnectionError as error:
        raise UserError(
            f"there is no file or directory {name!a}, and the Hugging Face hub cannot be asked for it "
            f"({away or one_line(error)}). Check the path or the network; only datasets loaded before are there offline."
        ) from None
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
    return dataset
