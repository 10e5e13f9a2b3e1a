"""Selection of the best evaluation, whose generators a training keeps, and early stopping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cyclegan.domains import DIRECTIONS
from cyclegan.metric_names import higher_is_better
from cyclegan.system.errors import UserError

# Metrics for selection. Cycle and identity metrics are missing: they are perfect for an unchanged input.
METRICS = ("pair_psnr", "pair_ssim", "kid")


@dataclass(frozen=True)
class Selection:
    """The rule that selects the best evaluation by one validation metric; of equal values the first is best.

    It has no state: its result follows from the earlier evaluations, so a resumed training decides in the same way.

    Attributes:
        metric: a validation series such as `val_AtoB/kid`; without a direction, such as `kid`, the mean of both.
        patience: number of evaluations without a new best after which the training ends; None: never.
    """

    metric: str
    patience: int | None = None

    @property
    def series(self) -> tuple[str, ...]:
        """The validation series that are averaged."""
        if "/" in self.metric:
            return (self.metric,)
        return tuple(f"val_{direction}/{self.metric}" for direction in DIRECTIONS)

    @classmethod
    def of(cls, select: str, patience: int | None, available: Iterable[str]) -> Selection | None:
        """The rule for a value of `train.select`; None for `last`.

        Args:
            select: `last`, a metric, or `auto`, which is `pair_psnr` if the data has true pairs, else `kid`.
            patience: see the class.
            available: the validation series of this data.

        Raises:
            UserError: the metric is not measured; the message lists the measured ones.
        """
        if select == "last":
            return None
        series = set(available)
        automatic = "pair_psnr" if "val_AtoB/pair_psnr" in series else "kid"
        selection = cls(automatic if select == "auto" else select, patience)
        selection.require(series, select)
        return selection

    def require(self, available: Iterable[str], requested: str | None = None) -> None:
        """Check that the metric is measured.

        Args:
            available: the validation series of this data.
            requested: the user's value of `train.select`; default: the metric.

        Raises:
            UserError: it is not; the message lists the measured ones.
        """
        series = set(available)
        if not set(self.series) <= series:
            names = sorted(name for name in series if name.rpartition("/")[2] in METRICS)
            others = f", or one of {', '.join(names)}" if names else ""
            raise UserError(
                f"train.select = {requested or self.metric!r}: the validation split yields no such metric; "
                f"use last{others}"
            )

    def value(self, metrics: Mapping[str, float]) -> float:
        """The metric of one evaluation."""
        return sum(metrics[name] for name in self.series) / len(self.series)

    def best(self, validation: Sequence[Mapping[str, float]]) -> int:
        """The index of the best evaluation, oldest first; at least one is needed, and each must have the metric."""
        sign = 1 if higher_is_better(self.metric) else -1
        values = [sign * self.value(metrics) for metrics in validation]
        return values.index(max(values))

    def is_exhausted(self, validation: Sequence[Mapping[str, float]]) -> bool:
        """Whether the last `patience` evaluations have no new best value."""
        if self.patience is None or not validation:
            return False
        return len(validation) - 1 - self.best(validation) >= self.patience
