"""Lower the learning rate when a validation metric stops improving."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cyclegan.metric_names import higher_is_better
from cyclegan.system.errors import UserError


@dataclass(frozen=True)
class Plateau:
    """Multiply the learning rate by `factor` whenever `patience` evaluations in a row brought no new best value.

    The rule of `keras.callbacks.ReduceLROnPlateau` without a cooldown or a smallest improvement. It keeps no state: the
    factor follows from the metrics measured so far, so that a resumed training goes on with the same one.

    Attributes:
        metric: a validation metric such as `val_AtoB/pair_psnr`.
        patience: evaluations without improvement before the rate falls.
        factor: what the rate is multiplied by, in (0, 1).
    """

    metric: str
    patience: int
    factor: float

    def require(self, available: Iterable[str]) -> None:
        """Check that the metric is measured.

        Raises:
            UserError: it is not; the message lists what is.
        """
        names = sorted(available)
        if self.metric not in names:
            raise UserError(
                f"train.plateau.metric = {self.metric!r}: the validation split yields no such metric; "
                f"use one of {', '.join(names) or '(none)'}"
            )

    def learning_rate_factor(self, validation: Iterable[Mapping[str, float]]) -> float:
        """The factor on the learning rate after these evaluations, oldest first; each must have the metric."""
        sign = 1.0 if higher_is_better(self.metric) else -1.0
        best, waited, reached = float("-inf"), 0, 1.0
        for metrics in validation:
            value = sign * metrics[self.metric]
            if value > best:
                best, waited = value, 0
                continue
            waited += 1
            if waited == self.patience:
                reached, waited = reached * self.factor, 0
        return reached
