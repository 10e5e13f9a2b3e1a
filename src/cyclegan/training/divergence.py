"""Divergence of a training: a loss or a weight becomes NaN or infinite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


class DivergedError(Exception):
    """A component of a training (a loss or a variable) became NaN or infinite by a step."""

    def __init__(self, component: str, value: str, step: int) -> None:
        super().__init__(f"{component} became {value} by step {step}")
        self.component = component
        self.step = step


@dataclass(frozen=True)
class Retries:
    """Limits for resuming a diverged training from the last good state with a lower learning rate.

    The good states are those at evaluations, so they do not depend on the time of a checkpoint. If the training
    diverges again before its next evaluation, the state was already bad, and the previous good state is used.

    Attributes:
        retries: largest number of retries in a training; 0: none.
        factor: multiplies the learning rate at each retry, in (0, 1).
    """

    retries: int = 0
    factor: float = 0.5


NEVER = Retries()


def refuse_divergence(losses: Mapping[str, float], step: int) -> None:
    """Check that all losses are finite.

    Raises:
        DivergedError: one is not.
    """
    for name, value in losses.items():
        if not math.isfinite(value):
            raise DivergedError(name, str(value), step)
