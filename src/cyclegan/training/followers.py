"""One training on several hosts: the chief runs the loop, and the other hosts follow its commands.

How many steps a call has depends on a clock, and a stop on a signal. All hosts must decide the same, or they would wait
for each other without end. So the chief decides alone. Before each call, one small sum over all devices carries its
command to the followers, and their wish to stop to the chief.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from enum import IntEnum

import tensorflow as tf

from cyclegan.system.errors import HostLostError, UserError, one_line
from cyclegan.system.signals import stopping
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.dispatch import Batch, Dispatcher

# Limit of one exchange between hosts, which includes an evaluation of the chief. A killed or stopped host is noticed
# within seconds in other ways.
EXCHANGE_SECONDS = 3600
# Limit for all hosts to connect or to end, which they do at about the same time.
CONNECT_SECONDS = 300
LOST = (
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
)


logger = logging.getLogger(__name__)


class Command(IntEnum):
    """What the followers do next."""

    ADVANCE = 1
    LOAD = 2
    END = 3


def multi_host_strategy() -> tf.distribute.Strategy:
    """The strategy for the hosts of `TF_CONFIG`. It must be made before any other operation of TensorFlow.

    Raises:
        HostLostError: a host cannot be reached.
    """
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=EXCHANGE_SECONDS)
    with exit_after(CONNECT_SECONDS), lost_hosts_reported():
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


class Leader:
    """The commands of the chief. On one host, they have no effect.

    Args:
        model: a compiled model.
    """

    def __init__(self, model: CycleGAN) -> None:
        strategy = model.distribute_strategy
        self.has_followers = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self._model = model
        self._link = _Link(model) if self.has_followers else None

    def dispatcher(self) -> Dispatcher:
        """A dispatcher whose calls the followers join."""
        return Dispatcher(self._model, self._advance if self.has_followers else None)

    def load(self) -> None:
        """Give the followers the state of the chief's model, and let them draw the batches from its step on."""
        if self._link is not None:
            self._send(Command.LOAD)
            self._link.share_state()

    def end(self, code: int) -> None:
        """Let the followers end with this exit code."""
        if self._link is not None:
            with exit_after(CONNECT_SECONDS):
                self._send(Command.END, code)

    def _advance(self, count: int) -> None:
        self._send(Command.ADVANCE, count)

    def _send(self, command: Command, value: int = 0) -> None:
        if self._link is None:
            return
        *_, wish = self._link.exchange(command, value)
        if wish and command is not Command.END:
            # Stop as if the signal had come to the chief.
            os.kill(os.getpid(), signal.SIGTERM)

    @contextmanager
    def leading(self) -> Iterator[None]:
        """End the followers when the chief ends, with the same exit code.

        Raises:
            HostLostError: a host was lost, so the others end by themselves.
        """
        try:
            with lost_hosts_reported() if self.has_followers else nullcontext():
                yield
        except HostLostError:
            raise
        except BaseException as error:
            self.end(_exit_code(error))
            raise
        self.end(0)


def follow(model: CycleGAN, batches: Callable[[int], Iterable[Batch]]) -> int:
    """Obey the chief until it ends, and return its exit code. Nothing is written.

    Args:
        model: a compiled model, made as on the chief.
        batches: returns this host's share of the batches from a given step on.

    Raises:
        HostLostError: a host was lost.
    """
    link, dispatcher = _Link(model), Dispatcher(model)
    steps: Iterator[Batch] = iter(())
    with lost_hosts_reported(), stopping() as stop:
        while True:
            command, value, factor, _ = link.exchange(stops=bool(stop.signal))
            if command == Command.LOAD:
                link.share_state()
                steps = iter(batches(int(model.step.numpy())))
            elif command == Command.ADVANCE:
                model.learning_rate_factor.assign(factor)
                dispatcher.run(steps, value)
            else:
                return value


class _Link:
    """Sums over the devices of all hosts, by which the chief reaches the others."""

    def __init__(self, model: CycleGAN) -> None:
        self._model, strategy = model, model.distribute_strategy

        @tf.function(autograph=False)
        def exchange(words: tf.Tensor) -> tf.Tensor:
            return strategy.run(_sum, args=(words,))

        @tf.function(autograph=False)
        def share_state() -> None:
            strategy.run(self._share_state)

        self._strategy, self._exchange, self.share_state = strategy, exchange, share_state

    def exchange(self, command: int = 0, value: int = 0, stops: bool = False) -> tuple[int, int, float, bool]:
        """Send a command as chief, or receive one.

        Returns:
            The command, its value, the factor of the chief's learning rate, and whether a follower was asked to stop.
        """
        factor = float(self._model.learning_rate_factor.numpy()) if command else 0.0
        words = tf.constant([command, value, factor, float(stops)], tf.float64)
        (words, *_) = self._strategy.experimental_local_results(self._exchange(words))
        command, value, factor, wish = words.numpy()
        # Each device of the follower counts.
        return int(command), int(value), float(factor), wish > 0

    def _share_state(self) -> None:
        """Replace each variable by the value on the chief's first device."""
        variables = [variable.value for variable in self._model.state().values()]
        for dtype in sorted({variable.dtype for variable in variables}, key=str):
            alike = [variable for variable in variables if variable.dtype == dtype]
            for variable, value in zip(alike, _sum_of_first(alike), strict=True):
                variable.assign(value)


def _sum(words: tf.Tensor) -> tf.Tensor:
    """The words of the chief's first device and the sum of all wishes."""
    context = tf.distribute.get_replica_context()
    is_first = tf.equal(context.replica_id_in_sync_group, 0)
    own = tf.where(tf.stack([is_first, is_first, is_first, True]), words, tf.zeros_like(words))
    return context.all_reduce(tf.distribute.ReduceOp.SUM, own)


def _sum_of_first(variables: list[tf.Variable]) -> list[tf.Tensor]:
    """The values on the first device: sums with zeros, which are exact."""
    context = tf.distribute.get_replica_context()
    is_first = tf.equal(context.replica_id_in_sync_group, 0)
    values = [tf.where(is_first, variable, tf.zeros_like(variable)) for variable in variables]
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)


@contextmanager
def lost_hosts_reported() -> Iterator[None]:
    """Turn TensorFlow's errors of a lost host into one line and the exit code for a temporary failure.

    Raises:
        HostLostError: a host was lost.
    """
    try:
        yield
    except LOST as error:
        raise HostLostError(
            f"a host was lost ({type(error).__name__}: {one_line(error)[:80]}…); start all hosts again to resume from "
            "the last checkpoint"
        ) from error


@contextmanager
def exit_after(seconds: float) -> Iterator[None]:
    """End this process with one line if TensorFlow waits longer than this for another host."""

    def leave() -> None:
        logger.error("a host did not answer within %d s; start all hosts again", seconds)
        os._exit(HostLostError.exit_code)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _exit_code(error: BaseException) -> int:
    """The exit code with which the chief's process ends."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    return error.exit_code if isinstance(error, UserError) else 1
