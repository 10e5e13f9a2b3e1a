"""Which exceptions say that memory does not suffice."""

from __future__ import annotations

import re

import tensorflow as tf


def is_out_of_memory(error: BaseException) -> bool:
    """Whether TensorFlow, CUDA or Python found no room, on the device or in the machine."""
    if isinstance(error, tf.errors.InternalError):
        return re.search("out of memory|OUT_OF_MEMORY", str(error)) is not None
    return isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError))
