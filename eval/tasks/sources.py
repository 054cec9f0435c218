"""Whether what a comparison was begun with, outside its directory, is still what it was.

Model, reward and judge lie where the user or the cache has them, where they may be changed or removed meanwhile.
"""

from __future__ import annotations

from pathlib import Path

from algos import UserError
from algos.engine.errors import one_line
from algos.engine.storage import file_hash, write_json
from eval.directory.reading import read_shaped
from eval.directory.shapes import Sources
from eval.tasks.custom.identity import model_identity
from eval.tasks.materials import Materials, Scorer
from eval.workshop import content_hash

_LOADED = (".json", ".safetensors", ".txt", ".model", ".tiktoken", ".jinja", ".py")
"""What models and tokenizers are made of; a README beside them may change."""


def check_sources(path: Path, data_seed: int, materials: Materials) -> None:
    """Raises UserError where model, reward or judge are no longer what the comparison in `path` began with."""
    file = path / "sources.json"
    known = read_shaped(file, Sources) if file.is_file() else {}
    now = {
        "model": _identity("model", materials.model),
        "reward": _identity("reward", materials.reward),
        "judge": _identity("judge", materials.judge),
    }
    before = known.get(str(data_seed))
    if before is None:
        write_json(file, known | {str(data_seed): now})
        return
    for name, (where, content) in before.items():
        if content != now[name][1]:
            raise UserError(
                f"the {name} {where} is not what this comparison began with: its content differs. "
                "Put it back as it was, or start another comparison with --out."
            )


def gone(materials: Materials) -> bool:
    """Whether a directory with the model, the reward or the judge is no longer there, as when the cache was cleared in
    which they were built."""
    places = [
        materials.model,
        *(one.where for one in (materials.reward, materials.judge) if one.kind == "model"),
    ]
    return any(Path(place).is_absolute() and not Path(place).exists() for place in places)


def refuse_other_data(before: Materials | None, now: Materials) -> None:
    """Raises UserError where materials that are made again, for an arm that needs more or because they were `gone`, are not
    of the data that the runs so far were made with; of the models `check_sources` tells."""
    names = ("train_prompts", "test_prompts", "heldout_texts")
    differing = [name for name in names if before and getattr(before, name) != getattr(now, name)]
    if differing:
        raise UserError(
            f"the data are not what this comparison began with: {', '.join(differing)} differ. Put them back as they "
            "were, or start another comparison with --out."
        )


def _identity(name: str, source: str | Scorer) -> list[str]:
    """Where a source is, and a hash of what is there. Raises UserError where nothing is."""
    kind, where = (source.kind, source.where) if isinstance(source, Scorer) else ("model", source)
    if kind == "gold":
        return [where, "part of this program"]
    try:
        if kind == "function":
            return [where, file_hash(Path(where.rpartition(":")[0]))]
        return [where, content_hash(Path(where), _LOADED) if Path(where).is_dir() else model_identity(where)]
    except (OSError, ValueError) as error:
        raise UserError(
            f"the {name} {where} cannot be found: {one_line(error)} Put it back, or start another comparison."
        ) from error
