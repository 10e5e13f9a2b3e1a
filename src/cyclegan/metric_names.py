"""Properties of a metric that follow from its name: the better direction, and which metric is the headline."""

from __future__ import annotations

from collections.abc import Iterable

# Keys are the last word of a metric's name. `change_l1` is an exception: neither direction is better.
HIGHER_IS_BETTER = {
    **{"l1": False, "psnr": True, "ssim": True},
    **{"kid": False, "frechet": False, "precision": True, "recall": True},
    **{"perceptual": False, "top1": True, "top5": True, "accuracy": True},
}
HEADLINES = ("pair_psnr", "kid", "cycle_l1")


def higher_is_better(name: str) -> bool | None:
    """Whether a larger value of a metric such as `pair_psnr` or `val_AtoB/kid` is better; None: it cannot be ranked."""
    metric = name.rpartition("/")[2]
    return None if metric.startswith("change_") else HIGHER_IS_BETTER.get(metric.rpartition("_")[2])


def headline(measured: Iterable[str]) -> str:
    """The default metric for comparing the generators of a direction.

    It is `pair_psnr` if the data has true pairs, else `kid`. If a domain has too few images for `kid`, it is the cycle
    error, which every data set has.
    """
    names = set(measured)
    return next(name for name in HEADLINES if name in names)
