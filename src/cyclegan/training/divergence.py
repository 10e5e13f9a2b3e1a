"""What happens when a loss or a weight becomes NaN or infinite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


class DivergedError(Exception):
    """A training that has left the finite numbers: in which component, with which value, by which step."""

    def __init__(self, component: str, value: str, step: int) -> None:
        super().__init__(f"{component} became {value} by step {step}")
        self.component = component
        self.step = step


@dataclass(frozen=True)
class Retries:
    """Go back to the last good state and on with a lower learning rate, so many times in a training.

    Good states are those of the evaluations, so that where a training goes back to does not depend on the clock. If it
    diverges again before the next evaluation, that state was bad already, and it goes back to the one before.

    Attributes:
        retries: how often; 0: never.
        factor: what the learning rate is multiplied by each time, in (0, 1).
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
