"""Lock files that the kernel releases with their process, however it dies; a process id could be in use again."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cyclegan.system.errors import UserError

# Of a file system that has no locks: NFS without its lock service, Lustre mounted without them, some others.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def held(path: Path, wait: float = 0) -> Iterator[bool]:
    """Hold the lock file `path`, created where it is missing; yields False if another process still has it.

    Args:
        wait: seconds to wait for the other process.

    Raises:
        UserError: the file system has no locks.
    """
    deadline = time.monotonic() + wait
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    yield False
                    return
                time.sleep(0.05)
                continue
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                raise UserError(
                    f"{path} lies on a file system without locks ({error.strerror}): mount it with locks (Lustre: -o "
                    "flock; NFS: with its lock service), or move the project to another file system"
                ) from error
            # Its holder may have removed the file while this waited: such a lock keeps nobody else out.
            if os.fstat(file.fileno()).st_nlink:
                yield True
                return


@contextmanager
def claimed(path: Path, seconds: float) -> Iterator[None]:
    """Hold a lock file that other processes hold for moments only.

    Raises:
        UserError: one of them keeps it for so many seconds.
    """
    with held(path, wait=seconds) as free:
        if not free:
            raise UserError(f"{path} is held by another process for over {seconds} seconds: end that process")
        yield


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock file."""
    if not path.exists():
        return False
    with held(path) as free:
        return not free


@contextmanager
def only_process(path: Path, does: str, wait: float = 0) -> Iterator[None]:
    """Hold the lock file `path`, created with its folder where it is missing; it names this process.

    Args:
        does: what only one process may do at a time, such as `trains this run`.
        wait: seconds to wait for another process, which may be about to stop.

    Raises:
        UserError: another process does it, and continues to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path, wait) as free:
        if not free:
            process = path.read_text(encoding="utf-8").strip() or "(unknown)"
            raise UserError(f"process {process} {does} (lock: {path}); wait for it or end it")
        path.write_text(str(os.getpid()), encoding="utf-8")
        yield
