"""Lock files that the kernel releases when their process ends in any way.

A file with a process id is no lock: another process may get the same id.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cyclegan.system.errors import UserError

# Error numbers of file systems without locks, such as NFS without lock service or Lustre without -o flock.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def held(path: Path, wait: float = 0) -> Iterator[bool]:
    """Hold the lock file `path`, which is created if missing; yield False if another process still holds it.

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
                    f"{path}: lies on a file system without locks ({error.strerror}); mount it with locks (Lustre: -o "
                    "flock, NFS: lock service), or move the project to another file system"
                ) from error
            # The holder may have removed the file meanwhile. A lock on a removed file excludes no other process.
            if os.fstat(file.fileno()).st_nlink:
                yield True
                return


@contextmanager
def claimed(path: Path, seconds: float) -> Iterator[None]:
    """Hold a lock file that other processes hold only briefly.

    Raises:
        UserError: another process still holds it after `seconds`.
    """
    with held(path, wait=seconds) as free:
        if not free:
            raise UserError(f"{path}: is held by another process for over {seconds} seconds; end that process")
        yield


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock file."""
    if not path.exists():
        return False
    with held(path) as free:
        return not free


@contextmanager
def only_process(path: Path, does: str, wait: float = 0) -> Iterator[None]:
    """Hold the lock file `path`, which is created with its folder, and write the id of this process into it.

    Args:
        does: the activity of the holder for the message, such as `trains this run`.
        wait: seconds to wait for another process, which may be about to stop.

    Raises:
        UserError: another process still holds it after `wait` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path, wait) as free:
        if not free:
            process = path.read_text(encoding="utf-8").strip() or "(unknown)"
            raise UserError(f"process {process} {does} (lock: {path}); wait for it or end it")
        path.write_text(str(os.getpid()), encoding="utf-8")
        yield
