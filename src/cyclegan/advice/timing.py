"""What a training step of some parameters costs on this device, measured."""

from __future__ import annotations

import gc
import math
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from cyclegan.data.loading.pipeline import batch_source
from cyclegan.experiment.memory_advice import memory_advice
from cyclegan.experiment.networks import build_cyclegan, compile_cyclegan, with_precision
from cyclegan.models.translator import Translator
from cyclegan.params import Params
from cyclegan.system.errors import UserError
from cyclegan.training.dispatch import Batch, Dispatcher
from cyclegan.training.divergence import DivergedError, refuse_divergence

# The first steps after the graph is built fill caches and the allocator.
WARM_UP_STEPS, WARM_UP_SECONDS = 2, 2.0


@dataclass(frozen=True)
class StepCost:
    """Time and memory of a training step.

    Attributes:
        seconds: of a step.
        build_seconds: until the first step is done, once in a training.
        translate_seconds: of one generator on one image, as an evaluation does.
        memory_bytes: peak of the GPU's memory; on a CPU of the process.
        state_bytes: of a checkpoint.
    """

    seconds: float
    build_seconds: float
    translate_seconds: float
    memory_bytes: int
    state_bytes: int = 0

    @property
    def memory(self) -> str:
        """The memory for a person."""
        return f"{self.memory_bytes / 2**30:.1f} GiB"


def measure_steps(
    params: Params, images_A: np.ndarray, images_B: np.ndarray, device: str, steps: int, least_seconds: float = 0
) -> StepCost:
    """Train new networks for some steps, and translate a batch.

    Args:
        params: `train.crop_size` is a size.
        images_A, images_B: [N, H, W, C] as stage split stores them.
        device: its name, for messages.
        steps: that are timed.
        least_seconds: further steps are timed until then: a busy machine is not always equally busy.

    Raises:
        UserError: out of memory, or a loss is not finite.
    """
    params = with_precision(params)
    size = params.training_size or (images_A.shape[1], images_A.shape[2])
    keras.backend.clear_session()
    gc.collect()
    _reset_peak()
    with memory_advice(params, size, device):
        start = time.monotonic()
        model = build_cyclegan(params, size)
        compile_cyclegan(model, params, total_steps=1000)
        options = params.train
        source = batch_source(
            images_A,
            images_B,
            batch_size=options.batch_size,
            crop_size=size,
            flip=options.flip,
            seed=options.seed,
        )
        batches, dispatcher = iter(source(0)), Dispatcher(model)
        dispatcher.advance(batches, 1)
        build_seconds = time.monotonic() - start
        _advance(dispatcher, batches, WARM_UP_STEPS, WARM_UP_SECONDS)
        seconds = _advance(dispatcher, batches, steps, least_seconds)
        try:
            refuse_divergence({name: float(value) for name, value in model.get_metrics_result().items()}, steps)
        except DivergedError as error:
            raise UserError(f"training diverged within {steps} steps: {error}; lower train.learning_rate") from None
        translator = Translator(model.G_AtoB, 8 * images_A.itemsize, params.evaluate.batch_size)
        sample = images_A[: params.evaluate.batch_size]
        translator.translate(sample)
        start = time.monotonic()
        translator.translate(sample)
        translate_seconds = (time.monotonic() - start) / len(sample)
        state_bytes = sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in model.state().values())
    return StepCost(seconds, build_seconds, translate_seconds, _peak(), state_bytes)


def _advance(dispatcher: Dispatcher, batches: Iterator[Batch], steps: int, least_seconds: float = 0) -> float:
    """Make at least these steps, for at least this time; the seconds of one."""
    done, seconds = 0, 0.0
    while done < steps or seconds < least_seconds:
        count, taken = dispatcher.advance(batches, steps - done if done < steps else steps)
        done, seconds = done + count, seconds + taken
    return seconds / done


def _gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))


def _reset_peak() -> None:
    if _gpu():
        tf.config.experimental.reset_memory_stats("GPU:0")


def _peak() -> int:
    """Bytes at the peak: of the first GPU, or of this process since it began."""
    if _gpu():
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
