"""Write files and folders atomically: a reader never sees a partial one."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it over `path`.

    A process killed at any moment leaves the old file or the new one. The next writer of `path` reuses a temporary
    file that was left. On an exception the temporary file is removed and `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, handle = _temporary(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp creates files that only the user can read. Outputs get the usual permissions.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # The error of a failed write does not name the file.
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        os.close(handle)
    sync_folder(path.parent)


def _temporary(path: Path) -> tuple[Path, int]:
    """Create and lock an empty file beside `path` with the same suffix; return it with its descriptor."""
    stem = path.stem if len(os.fsencode(path.name)) < 240 else hashlib.sha256(os.fsencode(path.stem)).hexdigest()
    temporary = path.with_name(f".{stem}.part{path.suffix}")
    while True:
        try:
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            break
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another writer may have renamed the file before it was locked here. Then it is the finished file.
            if temporary.exists() and os.path.samestat(temporary.stat(), os.fstat(handle)):
                os.ftruncate(handle, 0)
                return temporary, handle
        except OSError:
            # Another process writes the same file, or the file system has no locks.
            os.close(handle)
            break
        os.close(handle)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    return Path(name), handle


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline, atomically. NaN and infinity raise ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`; on success rename it to `target`.

    A process killed at any moment leaves the old folder, the new one or none, never a mixture. On an exception
    `target` is unchanged. Leftovers of an earlier killed process are removed at the start.
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
        sync_folder(target.parent)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        remove_leftovers(target)


def remove_leftovers(target: Path) -> None:
    """Remove the temporary folders of a process that was killed while it replaced `target`."""
    for leftover in _beside(target):
        # Remove only the link to a user's folder, on a larger disk for instance, never its content.
        if leftover.is_symlink():
            leftover.unlink()
        shutil.rmtree(leftover, ignore_errors=True)


def _beside(target: Path) -> tuple[Path, Path]:
    """The temporary names of the new folder and of the old one."""
    return target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
