"""By how much one metric is better than another, with the standard error without which there is no verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from cyclegan.metric_names import higher_is_better


@dataclass(frozen=True)
class Gain:
    """A difference of two metrics.

    Attributes:
        mean: above 0 is better, whatever the metric.
        standard_error: NaN where a single image was measured.
        images: number of paired differences; None where the metric is of no single image.
    """

    mean: float
    standard_error: float
    images: int | None = None

    @property
    def is_better(self) -> bool:
        return self.mean > self.standard_error

    @property
    def is_worse(self) -> bool:
        return -self.mean > self.standard_error

    def __str__(self) -> str:
        if math.isnan(self.standard_error):
            return f"{self.mean:+.3g}, no standard error from 1 image"
        number = "" if self.images is None else f" over {self.images} images"
        return f"{self.mean:+.3g} ± {self.standard_error:.2g}{number}"


def paired_gain(metric: str, values: pd.Series, others: pd.Series) -> Gain | None:
    """The mean difference of images that both were measured on.

    Args:
        metric: name of the metric.
        values, others: of the same images, by index.

    Returns:
        None if there are no images, or if they differ.
    """
    if values.empty or not values.index.is_unique or set(values.index) != set(others.index):
        return None
    differences = _sign(metric) * (values - others.reindex(values.index))
    count = len(differences)
    return Gain(float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(count), count)


def combined_gain(metric: str, metrics: Mapping[str, float], others: Mapping[str, float]) -> Gain | None:
    """The difference of two metrics whose own standard errors (`…_se`) are added in quadrature; None without these."""
    error, others_error = metrics.get(f"{metric}_se"), others.get(f"{metric}_se")
    if error is None or others_error is None:
        return None
    return Gain(_sign(metric) * (metrics[metric] - others[metric]), math.hypot(error, others_error))


def _sign(metric: str) -> int:
    return 1 if higher_is_better(metric) else -1
