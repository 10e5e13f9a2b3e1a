"""The device of a training: seeds, determinism and GPU memory."""

from __future__ import annotations

import os

import keras
import tensorflow as tf


def prepare_device(seed: int, deterministic: bool) -> str:
    """Seed all random number generators, let GPU memory grow on demand, and return the device's name.

    Args:
        seed: seed of Python, NumPy and TensorFlow.
        deterministic: whether equal runs on one machine must give equal bits.

    Returns:
        The GPUs' names, or `CPU (n cores)`.
    """
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    tf.config.optimizer.set_experimental_options(
        {
            # This rewriting of sums depends on names in the graph and changes last bits, without making a step faster.
            "arithmetic_optimization": False,
            # These find nothing to rewrite in a training step, and cost an eighth of the time before the first one.
            "implementation_selector": False,
            "loop_optimization": False,
            **({} if gpus else {"layout_optimizer": False}),
        }
    )
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if not gpus:
        return f"CPU ({os.cpu_count()} cores)"
    return ", ".join(str(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)) for gpu in gpus)
