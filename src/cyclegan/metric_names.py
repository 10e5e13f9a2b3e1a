"""What the name of a metric says about it."""

from __future__ import annotations

from collections.abc import Iterable

# By the last word of the name. `change_l1` is missing on purpose: neither direction is better.
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
    """The one metric by which generators of a direction are compared where nothing else is asked for.

    Against true partners where the data has any; else as a set against the target domain; else, where that has too few
    images, the cycle error, which every data set has.
    """
    names = set(measured)
    return next(name for name in HEADLINES if name in names)
