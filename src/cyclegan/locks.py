"""Lock files that the kernel releases with their process, however it dies; a process id could be in use again."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(path: Path, wait: float = 0) -> Iterator[bool]:
    """Hold the lock file `path`, created where it is missing; yields False if another process still has it.

    Args:
        wait: seconds to wait for the other process.
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
            # Its holder may have removed the file while this waited: such a lock keeps nobody else out.
            if os.fstat(file.fileno()).st_nlink:
                yield True
                return
