"""Metrics of a training on the validation split."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.domains import DIRECTIONS, Direction
from cyclegan.evaluation.protocol import RealImages, evaluate
from cyclegan.evaluation.validation_series import VALIDATION_METRICS
from cyclegan.models.translator import Translator
from cyclegan.params import Params


def translators_of(
    generators: Mapping[Direction, keras.Model], params: Params, dataset: PackedDataset
) -> dict[Direction, Translator]:
    """Translators for the images of this data, in the bit depth in which they are stored."""
    return {
        direction: Translator(generator, dataset.bit_depth, params.evaluate.batch_size)
        for direction, generator in generators.items()
    }


def validation_metrics(
    translators: Mapping[Direction, Translator], dataset: PackedDataset, real: RealImages
) -> dict[str, float]:
    """The validation metrics that the data allows, such as `val_AtoB/pair_psnr`."""
    metrics = evaluate(translators, dataset, "val", real).metrics
    return {
        f"val_{direction}/{name}": metrics[direction][name]
        for direction in DIRECTIONS
        for name in VALIDATION_METRICS
        if name in metrics[direction]
    }
