"""Advice for a training that is out of memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from cyclegan.params import Params, Size
from cyclegan.system.errors import UserError, is_out_of_memory

# Factor for each side that halves the area.
HALF_AREA = 0.5**0.5


@contextmanager
def memory_advice(params: Params, size: Size, device: str) -> Iterator[None]:
    """Turn an out-of-memory error of TensorFlow or Python into one line with values that need about half.

    Args:
        params: of the training.
        size: `(height, width)` of the training images.
        device: its name.

    Raises:
        UserError: the device is out of memory.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        tensor = re.search(r"allocating tensor with (shape\s*\[[\d,\s]*\] and type \w+)", str(error))
        failed = f" for a tensor with {tensor[1]}" if tensor else ""
        options, train = smaller_values(params, size), params.train
        raise UserError(
            f"{device}: out of memory{failed} with train.batch_size: {train.batch_size}, images of {list(size)}, "
            f"model.base_filters: {params.model.base_filters}, train.mixed_precision: "
            f"{str(train.mixed_precision).lower()}; set one of these, which about halves the memory for activations: "
            f"{', '.join(options)}{describe_pools(params, size)}; or end other processes on the device"
        ) from error


def smaller_values(params: Params, size: Size) -> list[str]:
    """Values of single parameters that halve the memory of the activations, approximately.

    Activations grow in proportion to the batch, the area and the filters, and bfloat16 halves them. The estimate
    ignores weights and optimizers, which do not depend on the images.
    """
    train, model = params.train, params.model
    options = []
    if train.batch_size > 1:
        options.append(f"train.batch_size: {train.batch_size // 2}")
    if not train.mixed_precision:
        options.append("train.mixed_precision: true")
    multiple = model.size_multiple(size) if model.generator == "resnet" else 16
    crop = tuple(int(side * HALF_AREA) // multiple * multiple for side in size)
    if min(crop) > 0 and model.objection_to((crop[0], crop[1])) is None:
        options.append(f"train.crop_size: {list(crop)}")
    if model.base_filters > 1:
        options.append(f"model.base_filters: {model.base_filters // 2}")
    return options


def describe_pools(params: Params, size: Size) -> str:
    """The memory of the image pools, with a remedy; empty below 1 GiB."""
    train, data = params.train, params.data
    # Each domain has a pool of float32 images; `discriminator_batch` adds a pool of real images.
    kinds = 2 if train.discriminator_batch else 1
    gibibytes = 4 * kinds * train.pool_size * size[0] * size[1] * (data.channels_A + data.channels_B) / 2**30
    return f"; the image pools need {gibibytes:.1f} GiB, less with a lower train.pool_size" if gibibytes >= 1 else ""
