"""Errors that a user can fix, as opposed to bugs."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

# Error numbers that point to the machine or its files, not to a bug.
FIXABLE = {
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

# Those of them that do not depend on the path.
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

# SQLite's messages, and what they mean for the user.
DATABASE_FAULTS = {
    "database or disk is full": "No space left on device",
    "database is locked": "locked by another process; end that process, or wait for it",
    "attempt to write a readonly database": "Read-only file system, or no permission to write",
    "unable to open database file": "cannot be opened: no permission, or its folder is missing",
    "disk I/O error": "Input/output error, or no space left on device",
    "database disk image is malformed": "corrupt; restore it or move it away",
}


class UserError(Exception):
    """An error that the user can fix: a parameter, a file, an environment variable.

    The command line prints the message without a traceback and exits with `exit_code`. The message is one line: the
    key or file, what is wrong with its value, and the remedy. Every other exception is a bug and shows its traceback.
    """

    exit_code = 2


class HostLostError(UserError):
    """A host of a training on several hosts was lost. Started again, all of them resume from the last checkpoint."""

    # EX_TEMPFAIL of sysexits.h: a launcher may start the job again.
    exit_code = 75


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split())


def system_fault(error: BaseException, known: Callable[[], Sequence[Path]] | None = None) -> str | None:
    """The fault of the machine or a file that caused an exception, in one line with the path; None for a bug.

    Libraries wrap a full disk or a locked database in their own exceptions.

    Args:
        known: returns the paths that the user knows. An error at another path is a bug, unless the machine caused it.
            None: all paths are known.
    """
    for cause in causes(error):
        if isinstance(cause, sqlite3.Error) and (fault := database_fault(cause)):
            return f"MLflow's store: {fault}"
        if isinstance(cause, OSError) and cause.errno in FIXABLE:
            # The user needs the system's message and the path. Copying and renaming have two paths.
            places = [str(place) for place in (cause.filename, cause.filename2) if place is not None]
            if known is None or cause.errno in MACHINE or _any_near(places, known()):
                return ": ".join([str(cause.strerror), " -> ".join(places)] if places else [str(cause.strerror)])
    return None


def _any_near(places: Iterable[str], known: Iterable[Path]) -> bool:
    """Whether a place lies in a known path, or is a parent of one, which could not be created."""
    pairs = [(Path.cwd() / place, Path(os.path.abspath(path))) for place in places for path in known]
    return any(place.is_relative_to(path) or path.is_relative_to(place) for place, path in pairs)


def database_fault(error: BaseException) -> str | None:
    """The fault of an SQLite database that caused an exception, with the remedy; else None."""
    messages = tuple(str(cause) for cause in causes(error) if isinstance(cause, sqlite3.Error))
    return next(
        (fault for start, fault in DATABASE_FAULTS.items() if any(text.startswith(start) for text in messages)), None
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and its causes, the innermost last."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether TensorFlow, CUDA or Python ran out of memory, on the device or the host."""
    # Imported here, because the command line must start without TensorFlow.
    import tensorflow as tf

    if isinstance(error, tf.errors.InternalError):
        return re.search("out of memory|OUT_OF_MEMORY", str(error)) is not None
    return isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError))
