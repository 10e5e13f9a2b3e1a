"""Signals that ask a training to stop, and the moments at which it may."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from cyclegan.system.signals import note_stop


class Stopped(BaseException):
    """A signal came at a moment at which the training may be left at once."""


@dataclass
class StopRequest:
    """A signal that asks the training to stop, once it has come."""

    signal: int = 0
    at_once: bool = False
    """Whether a signal may interrupt what is being done; else it waits for the end of the steps being made."""

    def leave(self) -> None:
        """Raise what the signal stands for: KeyboardInterrupt, or SystemExit with the shell's code for SIGTERM."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.signal)

    def leave_if_at_once(self) -> None:
        if self.signal and self.at_once:
            self.at_once = False
            raise Stopped

    @contextmanager
    def may_come_at_once(self) -> Iterator[None]:
        """For what may be cut off and done again."""
        self.at_once = True
        try:
            self.leave_if_at_once()
            yield
        finally:
            self.at_once = False


@contextmanager
def stopping() -> Iterator[StopRequest]:
    """Turn SIGTERM, SIGINT and SIGHUP into a request to stop after the current steps; a second Ctrl-C stops at once.

    A second SIGTERM or SIGHUP belongs to the same stop: `timeout`, `make`, systemd and a closed terminal send several.
    """
    stop = StopRequest()

    def handle(number: int, _frame: FrameType | None) -> None:
        note_stop(number)
        if not stop.signal:
            stop.signal = number
            stop.leave_if_at_once()
        elif number == signal.SIGINT:
            stop.leave()

    # SIGHUP: the terminal is gone; under nohup that is to be ignored.
    numbers = [signal.SIGTERM, signal.SIGINT]
    numbers += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
