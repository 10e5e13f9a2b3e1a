"""What to say when the device's memory does not suffice for a training."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from cyclegan.params import Params, Size
from cyclegan.system.errors import UserError, is_out_of_memory

HALF_AREA = 0.5**0.5


@contextmanager
def memory_advice(params: Params, size: Size, device: str) -> Iterator[None]:
    """Turn "out of memory" of TensorFlow or Python into one line with the sizes that would take about half.

    Args:
        params: of the training.
        size: `(height, width)` of the training images.
        device: its name.

    Raises:
        UserError: the memory did not suffice.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        tensor = re.search(r"allocating tensor with (shape\s*\[[\d,\s]*\] and type \w+)", str(error))
        what = f" (a tensor with {tensor[1]} found no room)" if tensor else ""
        options, train = smaller(params, size), params.train
        raise UserError(
            f"the memory of {device} does not suffice{what} for train.batch_size: {train.batch_size}, images of "
            f"{list(size)}, model.base_filters: {params.model.base_filters}, train.mixed_precision: "
            f"{str(train.mixed_precision).lower()}; each of these takes about half of what grows with the images: "
            f"{', '.join(options)}{pools(params, size)}; or end what else uses the device"
        ) from error


def smaller(params: Params, size: Size) -> list[str]:
    """Values of single parameters that about halve the memory of the activations, which grows with the images.

    An estimate: activations grow in proportion to the batch, the area and the filters, and bfloat16 halves them;
    weights and optimizers, which do not depend on the images, are not counted.
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


def pools(params: Params, size: Size) -> str:
    """What the image pools take, where that is worth a word."""
    train, data = params.train, params.data
    # Four bytes a number, a pool for each domain; and one of real images where a discriminator sees more of them.
    kinds = 2 if train.discriminator_batch else 1
    gigabytes = 4 * kinds * train.pool_size * size[0] * size[1] * (data.channels_A + data.channels_B) / 2**30
    return f"; the image pools take {gigabytes:.1f} GiB, less with a lower train.pool_size" if gigabytes >= 1 else ""
