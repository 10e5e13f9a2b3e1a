"""Watch the `dvc` process that started this one, and end child processes."""

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
    """Send SIGTERM to this process when the `dvc` process that started it has ended; a training then saves its state.

    Has no effect outside a DVC stage, or after a signal has already asked this process to stop: a signal to the
    process group also ends `dvc`.

    Args:
        interval: seconds between two checks.
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
                # Logging raises no exception on a closed terminal.
                logger.warning("dvc (process %s), which started this training, has ended: stopping", dvc.pid)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    with in_background("watch dvc", watch):
        yield


def _starter() -> psutil.Process | None:
    """The nearest ancestor outside of the stage; shells may stand in between."""
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
        # An ended process is listed as a zombie until its parent reads its exit code.
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def wait_or_kill(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Wait for processes, and kill those that still run after `seconds`."""
    deadline = time.monotonic() + seconds
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()
