"""Several devices that train as one: their shares of a step, and what they exchange.

Each device holds a replica of the model and takes an equal share of every batch. Inside a step, everything is local and
equal on all devices, except the sums that this module makes. On one device, its functions return their arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import keras
import tensorflow as tf

Tree = TypeVar("Tree")


def count() -> int:
    """Number of devices that train together, on all hosts; valid in a strategy's scope and in a step."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def own(values: tf.Tensor, axis: int = 0) -> tf.Tensor:
    """This device's share of values for the whole batch, such as random draws.

    Raises:
        ValueError: the number of values is no multiple of the number of devices.
    """
    devices = count()
    if devices == 1:
        return values
    share, rest = divmod(values.shape[axis], devices)
    if rest:
        raise ValueError(f"{values.shape[axis]} images cannot be divided among {devices} devices; choose a multiple")
    begin, size = [tf.constant(0)] * values.shape.rank, [*values.shape]
    begin[axis], size[axis] = tf.cast(_context().replica_id_in_sync_group, tf.int32) * share, share
    return tf.slice(values, tf.stack(begin), size)


def gathered(values: tf.Tensor) -> tf.Tensor:
    """The values of all devices, `[devices · N, …]`, from each one's `[N, …]`, in the order of the whole batch."""
    devices = count()
    if devices == 1:
        return values
    # A sum with zeros is exact. XLA can compile sums across GPUs, but no operation that gathers.
    is_own = tf.range(devices) == tf.cast(_context().replica_id_in_sync_group, tf.int32)
    is_own = tf.reshape(is_own, [devices] + [1] * values.shape.rank)
    placed = tf.where(is_own, values[None], tf.zeros([], values.dtype))
    return tf.reshape(_sum(placed), [devices * values.shape[0], *values.shape[1:]])


def averaged(values: Tree) -> Tree:
    """The means over all devices of a list or dictionary of tensors, such as gradients or losses."""
    devices = count()
    if devices == 1:
        return values
    return tf.nest.map_structure(lambda total: total / tf.cast(devices, total.dtype), _sum(values))


def train_step_of(model: keras.Model) -> Callable[[Any], Any]:
    """The training step of a compiled model as a function of a batch, to be called in a graph.

    On several devices, the batch is one of a distributed data set, and each device runs the step on its share.
    """
    strategy: tf.distribute.Strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync == 1:
        # `fit` does the same. AutoGraph would take seconds, and the step has no code for it to convert.
        return tf.function(model.train_step, jit_compile=model.jit_compile, autograph=False)
    step = model.train_step
    if model.jit_compile:
        step = tf.function(step, jit_compile=True, autograph=False)
    return lambda batch: strategy.run(step, args=(batch,))


def write_locally(*variables: keras.Variable) -> None:
    """Let each device write its own copy of new variables, to which all devices assign equal values.

    Keras lets the first device write for all, which costs a synchronization and which XLA cannot compile.
    """
    for variable in variables if count() > 1 else ():
        variable._value = tf.Variable(variable.value, trainable=False, dtype=variable.dtype, name=variable.name)


def refuse_keras_loop(model: keras.Model, method: str) -> None:
    """Check that Keras does not run the steps of a model on several devices, whose losses it would sum.

    Raises:
        ValueError: it would.
    """
    devices = model.distribute_strategy.num_replicas_in_sync
    if devices > 1:
        raise ValueError(
            f"{method}: not supported on {devices} devices; use training.loop.train, or a model made outside a strategy"
        )


def _sum(values: Tree) -> Tree:
    return _context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def _context() -> tf.distribute.ReplicaContext:
    return tf.distribute.get_replica_context()
