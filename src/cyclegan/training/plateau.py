"""The rule that lowers the learning rate when a validation metric stops improving."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cyclegan.metric_names import higher_is_better
from cyclegan.system.errors import UserError


@dataclass(frozen=True)
class Plateau:
    """Multiply the learning rate by `factor` after `patience` evaluations in a row without a new best value.

    The rule is that of `keras.callbacks.ReduceLROnPlateau` without `cooldown` and `min_delta`. It has no state: the
    factor follows from the earlier evaluations, so a resumed training continues with the same factor.

    Attributes:
        metric: a validation metric such as `val_AtoB/pair_psnr`.
        patience: evaluations without improvement before the rate falls.
        factor: multiplies the rate, in (0, 1).
    """

    metric: str
    patience: int
    factor: float

    def require(self, available: Iterable[str]) -> None:
        """Check that the metric is measured.

        Raises:
            UserError: it is not; the message lists the measured metrics.
        """
        names = sorted(available)
        if self.metric not in names:
            raise UserError(
                f"train.plateau.metric = {self.metric!r}: the validation split yields no such metric; "
                f"use one of {', '.join(names) or '(none)'}"
            )

    def learning_rate_factor(self, validation: Iterable[Mapping[str, float]]) -> float:
        """The factor of the learning rate after these evaluations, oldest first; each must have the metric."""
        sign = 1.0 if higher_is_better(self.metric) else -1.0
        best, waited, result = float("-inf"), 0, 1.0
        for metrics in validation:
            value = sign * metrics[self.metric]
            if value > best:
                best, waited = value, 0
                continue
            waited += 1
            if waited == self.patience:
                result, waited = result * self.factor, 0
        return result
