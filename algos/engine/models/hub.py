"""Names on the Hugging Face hub, with the revision that is wanted, and its cache where it cannot be reached."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils import HFValidationError, get_session, httpx, validate_repo_id

from algos.engine.errors import UserError, one_line

_TIMEOUTS = (5.0, 10.0, 10.0, 10.0)  # seconds to connect, read, write and wait for a free connection


def pinned(name: str) -> dict[str, str]:
    """A directory, `owner/name` or `owner/name@revision` (a branch, a tag or a commit; else the branch main), as
    transformers' `from_pretrained` takes it."""
    repository, revision = repository_and_revision(name)
    return {"pretrained_model_name_or_path": repository, "revision": revision}


def repository_and_revision(name: str) -> tuple[str, str]:
    """What comes before and after an @; what lies on this machine may have one in its name."""
    if os.path.exists(name):  # not Path's, which raises for what no path can be
        return name, "main"
    repository, named, revision = name.partition("@")
    return repository, revision if named else "main"


@contextmanager
def cached_where_unreachable(name: str) -> Iterator[None]:
    """The block in which libraries read the model `name`, if it is no directory, from the hub; or from what
    they have cached, where the hub cannot even be asked: they would try for half a minute a file.

    Raises UserError where there is no such directory, and where the hub is away and nothing is cached.
    """
    if os.path.exists(name):
        yield
        return
    if not _could_be_named(name):
        raise UserError(
            f"there is no model directory {name!a}. Check the path; a model on the hub is named owner/name or owner/name@revision."
        )
    away, before = why_unreachable(), constants.HF_HUB_OFFLINE
    if away and not is_cached(name):
        raise UserError(
            f"there is no directory {name!a}, no copy of such a model in the hub's cache, and the hub cannot be "
            f"asked for it ({away}). Check the name, the path or the network."
        )
    constants.HF_HUB_OFFLINE = before or bool(away)  # the libraries' own switch
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def why_unreachable() -> str:
    """Why no connection to the hub (`HF_ENDPOINT`, through the user's proxies) can be made; empty if one can.

    Any answer counts, and so does a slow one: only a failure to connect, known within seconds, does not.
    """
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=_TIMEOUTS)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        return one_line(error)
    except httpx.RequestError:
        pass
    return ""


def is_cached(name: str) -> bool:
    """Whether the hub's cache on this machine has the model `name`, in the revision that it names; no hub is asked."""
    if not _could_be_named(name):
        return False
    repository, revision = repository_and_revision(name)
    return isinstance(try_to_load_from_cache(repository, "config.json", revision=revision), str)


def commit(name: str) -> str | None:
    """The commit of a model that was loaded from the hub by this name; None of a directory."""
    if os.path.exists(name):
        return None
    from transformers.utils.hub import cached_file

    repository, revision = repository_and_revision(name)
    with cached_where_unreachable(name):
        file = cached_file(repository, "config.json", revision=revision)
    return Path(str(file)).parent.name  # the hub's cache keeps a folder a commit


def _could_be_named(name: str) -> bool:
    """Whether a hub could have a model of this name; a revision is no way out of the folder of its repository."""
    repository, revision = repository_and_revision(name)
    try:
        validate_repo_id(repository)
    except HFValidationError:
        return False
    return re.fullmatch(r"\w[\w./-]*", revision, re.ASCII) is not None and ".." not in revision
