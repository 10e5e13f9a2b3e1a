"""Sample images: some validation images, translated and translated back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cyclegan.data.loading.dataset import PackedDataset, picked
from cyclegan.domains import DIRECTIONS, OPPOSITE, Direction
from cyclegan.evaluation.protocol import evenly
from cyclegan.models.translator import Translator, each
from cyclegan.report.grid import Column, sample_grid


@dataclass(frozen=True)
class Sample:
    """Some images of a direction's source, translated, and translated back."""

    real: Column
    translated: Column
    back: Column

    @property
    def grid(self) -> np.ndarray:
        """One row for each image: [H, W, 3], uint8."""
        return sample_grid(self.real, self.translated, self.back)


def samples(translators: Mapping[Direction, Translator], dataset: PackedDataset, count: int) -> dict[Direction, Sample]:
    """Samples of each direction. The same `count` always selects the same validation images."""
    sampled = {}
    for direction, (source, _) in DIRECTIONS.items():
        images = dataset.images(source, "val")
        real = picked(images, evenly(len(images), count))
        translated = each(translators[direction].translate, real)
        sampled[direction] = Sample(real, translated, each(translators[OPPOSITE[direction]].translate, translated))
    return sampled
