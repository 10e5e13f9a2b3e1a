"""The names of series in MLflow, which orders the charts of a run by name."""

from __future__ import annotations

import re

# The number in front of a series, by the first word of its name: validation first, then generators, discriminators and
# the course of the training. Test metrics have none and follow. MLflow puts `system/` last.
NUMBERS = {"val": 1, "G": 2, "D": 3, "training": 4}
# The test metrics that runs, models and their descriptions have, in this order. All metrics are in the run's files.
MAIN_METRICS = ("pair_psnr", "pair_ssim", "kid", "transfer_accuracy", "content_accuracy", "cycle_l1")


def mlflow_name(series: str) -> str:
    """The name of a series in MLflow: `1_val_AtoB/kid` for `val_AtoB/kid`."""
    section, slash, _ = series.rpartition("/")
    number = NUMBERS.get(section.partition("_")[0])
    return f"{number}_{series}" if slash and number else series


def plain_name(name: str) -> str:
    """The inverse of `mlflow_name`: `val_AtoB/kid`, also for the name without a number of earlier versions."""
    return re.sub(r"^\d_", "", name)
