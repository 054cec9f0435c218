"""A comparison's directory may come from a stranger: it holds plain files, and nothing that is run."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from algos import UserError


def refuse_links(directory: Path) -> None:
    """Raises UserError naming a link or a special file in it: what it stands for would be read, or overwritten.

    The directory itself may be reached through links, which are the user's own. The folder of Weights & Biases,
    which links into itself, is none of ours: nothing here reads it.
    """
    folders = [os.fspath(directory)]
    while folders:
        with suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:  # a run may be tidying up
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders += [] if Path(entry.path) == directory / "wandb" else [entry.path]
                elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                    kind = "a link" if entry.is_symlink() else "a device, pipe or socket"
                    raise UserError(
                        f"{entry.path} is {kind}, but a comparison holds only files and folders. Replace it by "
                        "what it stands for, or remove it."
                    )


def refuse_code_inside(directory: Path, where: str) -> None:
    """Raises UserError where `file.py:function` lies in a comparison's directory, as no reward of the user's does."""
    file, colon, _ = where.rpartition(":")
    if colon and file.endswith(".py") and Path(file).resolve().is_relative_to(directory.resolve()):
        raise UserError(
            f"{file} lies in the comparison's own directory, which holds results, not code. Keep the function elsewhere, "
            "and start another comparison with it."
        )
