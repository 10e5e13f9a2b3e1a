"""Sample images: some validation images, translated and translated back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cyclegan.data.loading.dataset import PackedDataset, picked
from cyclegan.domains import DIRECTIONS, OPPOSITE, Direction, DomainNames
from cyclegan.evaluation.protocol import evenly
from cyclegan.models.translator import Translator, each
from cyclegan.report.grid import Column, sample_grid


@dataclass(frozen=True)
class Sample:
    """Some images of a direction's source, translated, and translated back."""

    real: Column
    translated: Column
    back: Column

    def grid(self, direction: Direction, names: DomainNames) -> np.ndarray:
        """One row for each image, below headings with the names of the domains: [H, W, 3], uint8."""
        source, arrow = names.of(DIRECTIONS[direction][0]), names.arrow(direction)
        return sample_grid(
            [(f"real {source}", self.real), (arrow, self.translated), (f"{arrow} → {source}", self.back)]
        )


def samples(translators: Mapping[Direction, Translator], dataset: PackedDataset, count: int) -> dict[Direction, Sample]:
    """Samples of each direction. The same `count` always selects the same validation images."""
    sampled = {}
    for direction, (source, _) in DIRECTIONS.items():
        images = dataset.images(source, "val")
        real = picked(images, evenly(len(images), count))
        translated = each(translators[direction].translate, real)
        sampled[direction] = Sample(real, translated, each(translators[OPPOSITE[direction]].translate, translated))
    return sampled
