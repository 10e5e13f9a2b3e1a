"""Other processes: the `dvc` that started this one, and those that this one started."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil

from cyclegan.system.signals import stop_was_asked
from cyclegan.system.threads import in_background

logger = logging.getLogger(__name__)


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

    def watch(over: threading.Event) -> None:
        while not over.wait(interval):
            if stop_was_asked():
                return
            if _is_gone(dvc):
                # A handler of a log raises nothing where the terminal is gone as well.
                logger.warning("the dvc that started this training (process %s) is gone: stopping", dvc.pid)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    with in_background("watch dvc", watch):
        yield


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


def wait_or_kill(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Wait for all of them, and kill those that still run after so long."""
    deadline = time.monotonic() + seconds
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()
