"""Images of the confusion of classes, for data with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cyclegan.domains import DIRECTIONS, DomainNames
from cyclegan.system.files import replacing

# With more classes, the counts would not be legible.
MOST_WITH_COUNTS = 20


def write_confusions(
    folder: Path, metrics: Mapping[str, Any], classes: Sequence[str], names: DomainNames | None = None
) -> None:
    """Write `AtoB.png` and `BtoA.png` into a folder: which class translated images of each class show.

    The folder stays empty without labels, because DVC expects it.

    Args:
        folder: created if missing; its earlier images are deleted.
        metrics: of an evaluation, with `confusion` in each direction if there are labels.
        classes: names of the classes, in the order of the rows and columns.
        names: of the domains; None: A and B.
    """
    names = names or DomainNames()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for direction, (source, target) in DIRECTIONS.items():
        if "confusion" in metrics[direction]:
            counts = np.array(metrics[direction]["confusion"])
            figure = _figure(counts, classes)
            figure.axes[0].set_title(
                f"{names.arrow(direction)}: class of each input and of its translation", fontsize=10
            )
            figure.axes[0].set_ylabel(f"class of the real {names.of(source)} image")
            figure.axes[0].set_xlabel(f"class predicted by a classifier of real {names.of(target)} images")
            with replacing(folder / f"{direction}.png") as temporary:
                figure.savefig(temporary, format="png", dpi=110)


def _figure(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """A colored table of the shares of each row, with the counts."""
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    axis = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(classes)), classes, rotation=90 if max(map(len, classes)) > 2 else 0)
    axis.set_yticks(range(len(classes)), classes)
    if len(classes) <= MOST_WITH_COUNTS:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(count), ha="center", va="center", fontsize=8, color=color)
    return figure
