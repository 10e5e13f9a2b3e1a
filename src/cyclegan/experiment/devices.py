"""The devices of this machine that train together."""

from __future__ import annotations

import tensorflow as tf

from cyclegan.params import Params
from cyclegan.system.errors import UserError


def choose_strategy(params: Params) -> tf.distribute.Strategy:
    """The strategy of TensorFlow for `train.devices`; its default strategy for one device.

    Raises:
        UserError: this machine has fewer devices.
    """
    # A machine has one processor. Tests divide it into several logical devices.
    available = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    wanted, most = params.train.devices, len(available)
    if wanted != "auto" and wanted > most:
        found = f"{most} GPU{'s' * (most > 1)}" if available[0].device_type == "GPU" else "no GPU"
        raise UserError(f"train.devices = {wanted}: this machine has {found}; set it to auto or at most {most}")
    count = most_devices(params, most) if wanted == "auto" else wanted
    if wanted == "auto" and count < most:
        print(f"training on {count} of {most} GPUs: {why_fewer(params, most)}")
    if count == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([device.name for device in available[:count]])


def most_devices(params: Params, available: int) -> int:
    """The largest number of devices that can share the batches of these parameters."""
    train = params.train
    if params.model.dropout > 0:
        return 1
    sizes = train.batch_size, train.discriminator_batch or 0
    return max(count for count in range(1, available + 1) if not any(size % count for size in sizes))


def why_fewer(params: Params, available: int) -> str:
    """Why `available` devices cannot share the batches of these parameters, with the remedy."""
    if params.model.dropout > 0:
        return f"model.dropout = {params.model.dropout} needs one; set it to 0 to use more"
    train = params.train
    key = "batch_size" if train.batch_size % available else "discriminator_batch"
    return f"{available} do not divide train.{key} = {getattr(train, key)}; set it to a multiple to use more"
