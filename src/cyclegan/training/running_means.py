"""Means of the losses since they were last reset, as a Keras metric."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from cyclegan.training.losses import Losses


@keras.saving.register_keras_serializable(package="cyclegan")
class MeanOfEach(keras.metrics.Metric):
    """Running means of several named scalars in one vector, so that an update is one operation."""

    def __init__(self, names: Iterable[str], name: str = "losses", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.names = tuple(names)
        # On several devices, the losses are the means over all of them, so each device holds the same values.
        one = {"initializer": "zeros", "aggregation": "only_first_replica"}
        self.total = self.add_variable((len(self.names),), name="total", **one)
        self.count = self.add_variable((), name="count", **one)

    def update_state(self, values: Losses) -> None:
        self.total.assign_add(tf.stack([tf.cast(values[name], self.dtype) for name in self.names]))
        self.count.assign_add(1.0)

    def result(self) -> Losses:
        means = tf.math.divide_no_nan(self.total.value, self.count.value)
        return dict(zip(self.names, tf.unstack(means), strict=True))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "names": self.names}
