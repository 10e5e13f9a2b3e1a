"""Which evaluation's generators a training results in, and when it has gone on long enough without a better one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cyclegan.domains import DIRECTIONS
from cyclegan.metric_names import higher_is_better
from cyclegan.system.errors import UserError

METRICS = ("pair_psnr", "pair_ssim", "kid")
"""By which generators may be chosen: cycle and identity metrics are perfect for those that do nothing."""


@dataclass(frozen=True)
class Selection:
    """The best evaluation by one metric on the validation split. Of equally good ones the first counts.

    It keeps no state: all follows from the metrics measured so far, so that a resumed training decides alike.

    Attributes:
        metric: a validation series such as `val_AtoB/kid`, or without its direction, `kid`: the mean of both.
        patience: evaluations without a new best after which the training ends; None: never.
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
        """What `train.select` asks for: None for `last`; `auto` is `pair_psnr` where there are true pairs, else `kid`.

        Args:
            select: `auto`, `last` or a metric.
            patience: see the class.
            available: the validation series of this data.

        Raises:
            UserError: the metric is not measured; the message lists what is.
        """
        if select == "last":
            return None
        series = set(available)
        automatic = "pair_psnr" if "val_AtoB/pair_psnr" in series else "kid"
        selection = cls(automatic if select == "auto" else select, patience)
        selection.require(series, select)
        return selection

    def require(self, available: Iterable[str], asked: str | None = None) -> None:
        """Check that the metric is measured.

        Args:
            available: the validation series of this data.
            asked: what the user wrote to get this metric; default: the metric.

        Raises:
            UserError: it is not; the message lists what is.
        """
        series = set(available)
        if not set(self.series) <= series:
            names = sorted(name for name in series if name.rpartition("/")[2] in METRICS)
            others = f", or one of {', '.join(names)}" if names else ""
            raise UserError(
                f"train.select = {asked or self.metric!r}: the validation split yields no such metric; use last{others}"
            )

    def value(self, metrics: Mapping[str, float]) -> float:
        """The metric of one evaluation."""
        return sum(metrics[name] for name in self.series) / len(self.series)

    def best(self, validation: Sequence[Mapping[str, float]]) -> int:
        """Index of the best of these evaluations, oldest first; there must be one, and each must have the metric."""
        sign = 1 if higher_is_better(self.metric) else -1
        values = [sign * self.value(metrics) for metrics in validation]
        return values.index(max(values))

    def is_exhausted(self, validation: Sequence[Mapping[str, float]]) -> bool:
        """Whether the last `patience` evaluations brought no new best."""
        if self.patience is None or not validation:
            return False
        return len(validation) - 1 - self.best(validation) >= self.patience
