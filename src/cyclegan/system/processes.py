"""The end of processes that were asked to end."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress


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
