"""Building a folder so that a reader never sees half of one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cyclegan.system import files


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`; on success rename it to `target`.

    A process killed at any moment leaves the old folder, the new one or none under that name, never a mixture.
    On an exception `target` is untouched. What an earlier killed process left is removed at the start.
    """
    new, old = _beside(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    new.mkdir()
    try:
        yield new
        if target.exists():
            target.rename(old)
        new.rename(target)
        files.sync_folder(target.parent)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        remove_leftovers(target)


def remove_leftovers(target: Path) -> None:
    """Remove what a process that was killed while it replaced `target` has left beside it."""
    for leftover in _beside(target):
        # Where a link stood, to a larger disk for instance, only the link goes: what it leads to is the user's.
        if leftover.is_symlink():
            leftover.unlink()
        shutil.rmtree(leftover, ignore_errors=True)


def _beside(target: Path) -> tuple[Path, Path]:
    """Where the new folder is built, and where the old one waits for it."""
    return target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
