"""Moving averages of weights (Polyak and Juditsky 1992), which vary less than the weights of the last step."""

from __future__ import annotations

import keras
import tensorflow as tf


def copy_of(network: keras.Model, suffix: str) -> keras.Model:
    """A copy of a network with its own variables."""
    copy = type(network).from_config({**network.get_config(), "name": f"{network.name}_{suffix}"})
    copy.set_weights(network.get_weights())
    return copy


def update_average(average: keras.Model, trained: keras.Model, decay: float, step: tf.Tensor) -> None:
    """Move an average towards a trained network of the same form, faster in the first steps.

    Args:
        average: the network to update.
        trained: the trained network. Its non-trainable variables, such as statistics of normalizations, are copied.
        decay: share of the old average in the new one, 0…1.
        step: number of earlier steps.
    """
    done = tf.cast(step, tf.float32)
    share = tf.minimum(decay, (1.0 + done) / (10.0 + done))
    for kept, new in zip(average.trainable_variables, trained.trainable_variables, strict=True):
        kept.assign_add(tf.cast(1.0 - share, kept.dtype) * (new.value - kept.value))
    for kept, new in zip(average.non_trainable_variables, trained.non_trainable_variables, strict=True):
        kept.assign(new.value)
