"""Several training steps in one call, so that Python seldom stands between a device and its next step."""

from __future__ import annotations

import time
from collections.abc import Iterator

import tensorflow as tf

from cyclegan.training.cyclegan import CycleGAN

Batch = tuple[tf.Tensor, tf.Tensor]
"""Real images of both domains, as `CycleGAN.train_step` takes them."""

SECONDS_IN_A_CALL = 0.5
"""How long a call may take. A signal waits for its end, hence no longer; Python's part of it is small by then."""


class Dispatcher:
    """Makes a model's training steps, in calls of about equal duration.

    However many steps a call makes, they run through the same graph: grouping them in another way changes no bit.

    Args:
        model: compiled.

    Attributes:
        is_built: whether the graph of a step is built, which the first call does.
    """

    def __init__(self, model: CycleGAN) -> None:
        # As `fit` does, without AutoGraph: the step has nothing for it to convert, and it takes seconds.
        train_step = tf.function(model.train_step, jit_compile=model.jit_compile, autograph=False)

        @tf.function
        def run(batches: Iterator[Batch], count: tf.Tensor) -> tf.Tensor:
            def step(done: tf.Tensor) -> tf.Tensor:
                train_step(next(batches))
                return done + 1

            tf.while_loop(lambda done: done < count, step, [tf.constant(0)], parallel_iterations=1)
            return model.step.value

        self._run = run
        self._seconds_per_step = float("inf")
        self.is_built = False

    def advance(self, batches: Iterator[Batch], most: int, within: float = SECONDS_IN_A_CALL) -> tuple[int, float]:
        """Make training steps, and wait for their end.

        The first call makes one step and takes as long as it takes to build the graph.

        Args:
            batches: the same iterator as in the call before; another one may have the graph built anew.
            most: steps that may be made, at least 1.
            within: seconds that the call should take, if that is less than usual.

        Returns:
            the number of steps that were made, and the seconds that they took.
        """
        allowed = min(within, SECONDS_IN_A_CALL)
        count = min(most, max(1, int(allowed / self._seconds_per_step)))
        start = time.monotonic()
        # Devices work on while Python goes on: only a value tells that they have come so far.
        self._run(batches, tf.constant(count)).numpy()
        seconds = time.monotonic() - start
        self._seconds_per_step = seconds / count
        self.is_built = True
        return count, seconds
