"""Several training steps in one call of the device, which reduces waiting for Python between steps."""

from __future__ import annotations

import time
from collections.abc import Iterator

import tensorflow as tf

from cyclegan.training import replicas
from cyclegan.training.cyclegan import CycleGAN

# Real images of both domains, the argument of `CycleGAN.train_step`.
Batch = tuple[tf.Tensor, tf.Tensor]

# Longest duration of a call. Signals wait for its end; Python's share is already small at this duration.
SECONDS_IN_A_CALL = 0.5


class Dispatcher:
    """Runs a model's training steps in calls of about equal duration.

    All calls use the same graph: the number of steps in a call changes no bit of the result.

    Args:
        model: a compiled model.

    Attributes:
        is_built: whether the graph of a step exists; the first call builds it.
    """

    def __init__(self, model: CycleGAN) -> None:
        train_step = replicas.train_step_of(model)

        @tf.function
        def run(batches: Iterator[Batch], count: tf.Tensor) -> tf.Tensor:
            def step(done: tf.Tensor) -> tf.Tensor:
                train_step(next(batches))
                return done + 1

            tf.while_loop(lambda done: done < count, step, [tf.constant(0)], parallel_iterations=1)
            return tf.identity(model.step.value)

        self._run = run
        self._seconds_per_step = float("inf")
        self.is_built = False

    def advance(self, batches: Iterator[Batch], most: int, within: float = SECONDS_IN_A_CALL) -> tuple[int, float]:
        """Run training steps, and wait for their end.

        The first call runs one step and also builds the graph.

        Args:
            batches: the same iterator as in the previous call; another one may cause the graph to be built again.
            most: largest number of steps, at least 1.
            within: target duration in seconds, if it is below `SECONDS_IN_A_CALL`.

        Returns:
            The number of steps that ran, and their duration in seconds.
        """
        allowed = min(within, SECONDS_IN_A_CALL)
        count = min(most, max(1, int(allowed / self._seconds_per_step)))
        start = time.monotonic()
        # Devices run asynchronously: reading a value waits for the steps.
        self._run(batches, tf.constant(count)).numpy()
        seconds = time.monotonic() - start
        self._seconds_per_step = seconds / count
        self.is_built = True
        return count, seconds
