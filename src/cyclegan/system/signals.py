"""Signals that ask this process to stop: raise an exception, request a stop, or ignore them for a moment."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

_received: set[int] = set()


def note_stop(number: int) -> None:
    """Remember that a signal has asked this process to stop; called by its handler."""
    _received.add(number)


def stop_was_asked() -> bool:
    """Whether a signal has already asked this process to stop."""
    return bool(_received)


@contextmanager
def signals_raise() -> Iterator[None]:
    """Raise SystemExit with the shell's exit code on SIGTERM and SIGHUP.

    One stop may send several signals: a closed terminal SIGHUP, systemd SIGTERM and SIGHUP, `timeout` and `make`
    SIGTERM twice. Only the first one raises. Ctrl-C always raises KeyboardInterrupt.
    """
    leaving = False

    def leave(number: int, _frame: FrameType | None) -> None:
        nonlocal leaving
        note_stop(number)
        first, leaving = not leaving, True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if first:
            raise SystemExit(128 + number)

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        # Keep the program's own handlers, and ignored signals (nohup).
        before = {
            number: handler
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
            if (handler := signal.getsignal(number)) in (signal.SIG_DFL, signal.default_int_handler)
        }
    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore signals during a short operation that must complete, such as the closing of an MLflow run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(TypeError):  # None: a handler that was not installed from Python
                signal.signal(number, handler)


def sigterm_is_no_error() -> None:
    """End this process with exit code 0 on SIGTERM, which is the normal way to stop a server."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))


class Stopped(BaseException):
    """A signal interrupts work that may be abandoned at once."""


@dataclass
class StopRequest:
    """A request to stop the training after the current steps.

    Attributes:
        signal: number of the signal that was received; 0: none yet.
        at_once: whether a signal may interrupt the current work; else the stop waits for the end of the steps.
    """

    signal: int = 0
    at_once: bool = False

    def leave(self) -> None:
        """Raise KeyboardInterrupt for Ctrl-C, or SystemExit with the shell's exit code for another signal."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.signal)

    def leave_if_at_once(self) -> None:
        if self.signal and self.at_once:
            self.at_once = False
            raise Stopped

    @contextmanager
    def may_come_at_once(self) -> Iterator[None]:
        """Allow a signal to interrupt work that can be repeated."""
        self.at_once = True
        try:
            self.leave_if_at_once()
            yield
        finally:
            self.at_once = False


@contextmanager
def stopping() -> Iterator[StopRequest]:
    """Turn SIGTERM, SIGINT and SIGHUP into a request to stop after the current steps; a second Ctrl-C stops at once.

    A second SIGTERM or SIGHUP has no effect: `timeout`, `make`, systemd and a closed terminal send several.
    """
    stop = StopRequest()

    def handle(number: int, _frame: FrameType | None) -> None:
        note_stop(number)
        if not stop.signal:
            stop.signal = number
            stop.leave_if_at_once()
        elif number == signal.SIGINT:
            stop.leave()

    # SIGHUP means that the terminal is closed. nohup ignores it.
    numbers = [signal.SIGTERM, signal.SIGINT]
    numbers += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
