"""One process at a time trains a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cyclegan.system.errors import UserError
from cyclegan.system.locks import held

SECONDS_FOR_THE_FIRST = 15
"""How long a second trainer of a run waits for the first, which may be about to stop."""


@contextmanager
def only_trainer(folder: Path, wait: float = SECONDS_FOR_THE_FIRST) -> Iterator[None]:
    """Hold a run's lock, which the system releases even when the process is killed.

    Args:
        folder: of the run's checkpoints.
        wait: seconds to wait for another process to stop.

    Raises:
        UserError: another process trains this run, and goes on to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    with held(path, wait) as free:
        if not free:
            process = path.read_text(encoding="utf-8").strip() or "(unknown)"
            raise UserError(f"process {process} trains this run (lock: {path}); wait for it or end it")
        path.write_text(str(os.getpid()), encoding="utf-8")
        yield
