"""The validation series that a training will have; needs no TensorFlow."""

from __future__ import annotations

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.domains import DIRECTIONS, DOMAINS
from cyclegan.evaluation.distributions import FEWEST_FOR_KID

# Metrics that become a series for each direction. Only the test split gets the full table.
VALIDATION_METRICS = ("cycle_l1", "identity_l1", "kid", "pair_psnr", "pair_ssim")


def validation_series(dataset: PackedDataset) -> list[str]:
    """The names of the metrics that a training on this data measures on its validation split."""
    images = [dataset.images(domain, "val") for domain in DOMAINS]
    possible = {
        "cycle": True,
        "identity": len({part.shape[-1] for part in images}) == 1,
        "kid": min(len(part) for part in images) >= FEWEST_FOR_KID,
        "pair": bool(dataset.pairs("val").scored.any()),
    }
    return [
        f"val_{direction}/{name}"
        for direction in DIRECTIONS
        for name in VALIDATION_METRICS
        if possible[name.partition("_")[0]]
    ]
