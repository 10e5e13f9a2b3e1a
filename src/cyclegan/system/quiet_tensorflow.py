"""Import TensorFlow without its start messages."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


def import_tensorflow(fuse: bool = True) -> None:
    """Import TensorFlow, and print the standard error of its C++ code only if the import fails.

    TensorFlow's first messages ignore `TF_CPP_MIN_LOG_LEVEL`: every start would print many lines about optional
    processor and GPU features.

    Args:
        fuse: whether TensorFlow may fuse operations of a graph. Fusing is not faster, and it fails on model files
            older than `models.layers.LeakyReLU`.
    """
    with held_back_stderr():
        # The garbage collector takes a sixth of the time of these imports, which leave no garbage.
        enabled = gc.isenabled()
        gc.disable()
        try:
            import keras  # noqa: F401
            import tensorflow as tf
        finally:
            if enabled:
                gc.enable()

        tf.config.list_physical_devices()
        if not fuse:
            tf.config.optimizer.set_experimental_options({"remapping": False})


@contextmanager
def held_back_stderr() -> Iterator[None]:
    """Hold back standard error, also of C++ code, and print it only on an exception."""
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            os.dup2(shown, 2)
            os.close(shown)
            if failed:
                held_back.seek(0)
                sys.stderr.write(held_back.read().decode(errors="replace"))
