"""One stop may send several signals: the process reacts once, and completes the reaction."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from cyclegan.system.signals import Stopped, signals_raise, stop_was_asked, stopping

# systemd; a closed terminal, whose shell signals its jobs as well; `timeout` and `make`.
SEVERAL = [
    (signal.SIGTERM, signal.SIGHUP),
    (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM),
    (signal.SIGTERM, signal.SIGTERM),
    (signal.SIGINT, signal.SIGTERM),
]


def left_by(run: Callable[[], None]) -> int:
    """The exit code of a function that ends with an exception."""
    try:
        run()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as error:
        return int(error.code or 0)
    raise AssertionError("did not end")


@pytest.mark.parametrize("several", SEVERAL)
def test_no_further_signal_interrupts_a_training_that_saves_its_state(several: tuple[int, ...]) -> None:
    saved = []

    def train() -> None:
        with stopping() as stop:
            for number in several:
                signal.raise_signal(number)
            saved.append(stop.signal)
            stop.leave()

    assert left_by(train) == 128 + several[0]
    assert saved == [several[0]]
    assert stop_was_asked()


def test_a_second_ctrl_c_stops_a_training_at_once() -> None:
    def train() -> None:
        with stopping():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("was not stopped")

    assert left_by(train) == 128 + signal.SIGINT


def test_the_first_signal_interrupts_only_work_that_can_be_repeated() -> None:
    with stopping() as stop:
        with pytest.raises(Stopped), stop.may_come_at_once():
            signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
    assert stop.signal == signal.SIGHUP


@pytest.mark.parametrize("several", SEVERAL)
def test_no_further_signal_interrupts_the_cleanup_of_a_process(several: tuple[int, ...]) -> None:
    ended = []

    def work() -> None:
        with signals_raise():
            try:
                signal.raise_signal(several[0])
            finally:
                for number in several[1:]:
                    signal.raise_signal(number)
                ended.append(True)

    assert left_by(work) == 128 + several[0]
    assert ended
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
