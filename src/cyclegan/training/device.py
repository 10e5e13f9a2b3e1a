"""The device of a training: seeds, determinism and GPU memory."""

from __future__ import annotations

import os
from collections.abc import Collection

import keras
import tensorflow as tf

# Instructions with which oneDNN computes in bfloat16. On a CPU without them it is slower than float32.
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
# The first compute capability of NVIDIA's GPUs whose tensor cores compute in bfloat16.
BFLOAT16_CAPABILITY = (8, 0)


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


def bfloat16_pays() -> bool:
    """Whether bfloat16 is faster than float32 on this device.

    It depends on the hardware and never on a measurement, so that a resumed training computes as before.
    """
    gpus = tf.config.list_physical_devices("GPU")
    capabilities = [tf.config.experimental.get_device_details(gpu).get("compute_capability") for gpu in gpus]
    return has_fast_bfloat16(capabilities, cpu_instructions(), os.environ.get("TF_ENABLE_ONEDNN_OPTS"))


def has_fast_bfloat16(
    capabilities: Collection[tuple[int, int] | None], instructions: Collection[str], onednn: str | None
) -> bool:
    """Whether a device with these properties computes faster in bfloat16.

    Args:
        capabilities: compute capability of each GPU; None where it is unknown. Without GPUs, the CPU computes.
        instructions: names of the CPU's instruction sets.
        onednn: the environment variable `TF_ENABLE_ONEDNN_OPTS`; None where it is not set.
    """
    if capabilities:
        return all(capability is not None and capability >= BFLOAT16_CAPABILITY for capability in capabilities)
    return onednn != "0" and any(name in instructions for name in BFLOAT16_INSTRUCTIONS)


def cpu_instructions() -> frozenset[str]:
    """Names of the CPU's instruction sets, as Linux lists them; empty on other systems."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    return frozenset(flags.partition(":")[2].split())
