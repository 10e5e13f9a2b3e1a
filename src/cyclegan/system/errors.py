"""What a user can mend, told apart from bugs."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

# Errors that speak of the machine and its files and not of the program.
MENDABLE = {
    errno.EACCES,
    errno.EBUSY,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.ENFILE,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
}

# Those among them that no path can be blamed for.
MACHINE = {
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOSPC,
    errno.EROFS,
    errno.ESTALE,
}

# SQLite's, by its own words.
DATABASE_FAULTS = {
    "database or disk is full": "No space left on device",
    "database is locked": "locked by another process; end that one, or wait for it",
    "attempt to write a readonly database": "Read-only file system, or no permission to write",
    "unable to open database file": "cannot be opened: no permission, or its folder is gone",
    "disk I/O error": "Input/output error, or no space left on device",
    "database disk image is malformed": "damaged; restore it or move it away",
}


class UserError(Exception):
    """Something the user can put right: a parameter, a file, a setting.

    The command line prints its message without a traceback and exits with its code. The message is one line
    that names the thing, its value and the remedy. Every other exception is a bug and shows its traceback.
    """

    exit_code = 2


def one_line(error: BaseException) -> str:
    """An error's own words, without their line breaks."""
    return " ".join(str(error).split())


def system_fault(error: BaseException, known: Callable[[], Sequence[Path]] | None = None) -> str | None:
    """What the system refused, in one line with the place, if that lies at the bottom of an exception; else None.

    Libraries wrap a full disk or a locked database in exceptions of their own.

    Args:
        known: gives the paths that the user knows. Another path means a bug, unless the machine is to blame; None:
            all are known.
    """
    for cause in causes(error):
        if isinstance(cause, sqlite3.Error) and (fault := database_fault(cause)):
            return f"MLflow's store: {fault}"
        if isinstance(cause, OSError) and cause.errno in MENDABLE:
            # The system's words and the path are what the user needs. Copying and renaming have two.
            places = [str(place) for place in (cause.filename, cause.filename2) if place is not None]
            if known is None or cause.errno in MACHINE or _any_near(places, known()):
                return ": ".join([str(cause.strerror), " -> ".join(places)] if places else [str(cause.strerror)])
    return None


def _any_near(places: Iterable[str], known: Iterable[Path]) -> bool:
    """Whether one of the places lies in a known path, or above one: what could not be created may be its parent."""
    pairs = [(Path.cwd() / place, Path(os.path.abspath(path))) for place in places for path in known]
    return any(place.is_relative_to(path) or path.is_relative_to(place) for place, path in pairs)


def database_fault(error: BaseException) -> str | None:
    """What the system refused SQLite, if that lies at the bottom of an exception, and the remedy; else None."""
    told = [str(cause) for cause in causes(error) if isinstance(cause, sqlite3.Error)]
    return next(
        (fault for words, fault in DATABASE_FAULTS.items() if any(text.startswith(words) for text in told)), None
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it came from, the innermost last."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether TensorFlow, CUDA or Python found no room, on the device or in the machine."""
    # Only here: the command line must start without waiting for TensorFlow.
    import tensorflow as tf

    if isinstance(error, tf.errors.InternalError):
        return re.search("out of memory|OUT_OF_MEMORY", str(error)) is not None
    return isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError))
