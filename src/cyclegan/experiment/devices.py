"""The devices that train together: of this machine, or of several hosts."""

from __future__ import annotations

import os

import tensorflow as tf

from cyclegan.params import Params
from cyclegan.system.errors import UserError
from cyclegan.system.hosts import Hosts
from cyclegan.training.followers import multi_host_strategy


def choose_strategy(params: Params, hosts: Hosts | None = None) -> tf.distribute.Strategy:
    """The strategy of TensorFlow for `train.devices`; its default strategy for one device.

    Args:
        hosts: of the training; None: only this machine.

    Raises:
        UserError: this machine has fewer devices, or the hosts cannot share the batches.
        HostLostError: a host cannot be reached.
    """
    if hosts is not None:
        return _strategy_of_hosts(params, hosts)
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


def _strategy_of_hosts(params: Params, hosts: Hosts) -> tf.distribute.Strategy:
    # TensorFlow must not initialize its devices before the strategy.
    gpus = tf.config.list_physical_devices("GPU")
    wanted, most = params.train.devices, max(1, len(gpus))
    if wanted != "auto" and wanted > most:
        raise UserError(f"train.devices = {wanted}: this host has {len(gpus)} GPUs; set it to auto or at most {most}")
    count = most_devices(params, most, hosts.count) if wanted == "auto" else wanted
    if count == 0 or not can_share(params, count * hosts.count):
        raise UserError(
            f"train.batch_size = {params.train.batch_size}: {hosts.count} hosts need a multiple of {hosts.count}, also "
            "as train.discriminator_batch, and model.dropout: 0"
        )
    tf.config.set_visible_devices(gpus[:count], "GPU")
    os.environ["TF_CONFIG"] = hosts.tf_config
    return multi_host_strategy()


def most_devices(params: Params, available: int, hosts: int = 1) -> int:
    """The largest number of devices of each host that can share the batches of these parameters; 0: none can."""
    return max((count for count in range(1, available + 1) if can_share(params, count * hosts)), default=0)


def can_share(params: Params, devices: int) -> bool:
    """Whether this number of devices can train together with these parameters."""
    sizes = params.train.batch_size, params.train.discriminator_batch or 0
    return devices == 1 or (params.model.dropout == 0 and not any(size % devices for size in sizes))


def why_fewer(params: Params, available: int) -> str:
    """Why `available` devices cannot share the batches of these parameters, with the remedy."""
    if params.model.dropout > 0:
        return f"model.dropout = {params.model.dropout} needs one; set it to 0 to use more"
    train = params.train
    key = "batch_size" if train.batch_size % available else "discriminator_batch"
    return f"{available} do not divide train.{key} = {getattr(train, key)}; set it to a multiple to use more"
