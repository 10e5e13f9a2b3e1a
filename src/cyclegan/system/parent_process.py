"""A trainer does not outlive the `dvc` that started it: the next `dvc repro` would start a second one beside it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from cyclegan.system.signals import stop_was_asked


@contextmanager
def ends_with_dvc(interval: float = 1.0) -> Iterator[None]:
    """Send this process SIGTERM, on which a training saves its state, once the `dvc` that started it is gone.

    Does nothing outside a DVC stage, nor after a signal that has asked this process to stop: whoever stops a whole
    process group ends `dvc`, too.

    Args:
        interval: seconds between two looks.
    """
    dvc = _starter()
    if dvc is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(interval):
            if stop_was_asked():
                return
            if _is_gone(dvc):
                # The terminal may be gone as well.
                with suppress(OSError):
                    print(f"the dvc that started this training (process {dvc.pid}) is gone: stopping", file=sys.stderr)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    watcher = threading.Thread(target=watch, name="watch dvc", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _starter() -> psutil.Process | None:
    """The nearest ancestor that is not itself inside the stage: there may be shells in between."""
    if "DVC_STAGE" not in os.environ:
        return None
    try:
        return next(
            (process for process in psutil.Process().parents() if "DVC_STAGE" not in process.environ()),
            None,
        )
    except psutil.Error:
        return None


def _is_gone(process: psutil.Process) -> bool:
    try:
        # A process that has ended stays listed until its parent takes notice.
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True
