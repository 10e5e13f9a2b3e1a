"""Setting the machine up for a training: seeds, determinism, GPU memory."""

from __future__ import annotations

import os

import keras
import tensorflow as tf


def prepare_device(seed: int, deterministic: bool) -> str:
    """Seed every generator of random numbers, take GPU memory as it is needed, and name the device.

    Args:
        seed: of Python, NumPy and TensorFlow.
        deterministic: equal runs on the same machine give equal numbers to the last bit.

    Returns:
        The GPUs' names, or `CPU (n cores)`.
    """
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    # Rewriting sums depends on the names in the graph, which moves last bits, and made no step measurably faster.
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if not gpus:
        return f"CPU ({os.cpu_count()} cores)"
    return ", ".join(str(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)) for gpu in gpus)
