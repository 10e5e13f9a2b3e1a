"""The interface of a model of four networks to Keras, to checkpoints and to users of trained generators.

CycleGAN's losses and updates are in `training.cyclegan`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import tensorflow as tf

from cyclegan.domains import Direction
from cyclegan.models.composite import build_composite
from cyclegan.training import replicas
from cyclegan.training.adam import FusedAdam
from cyclegan.training.discriminator_feed import DiscriminatorFeed
from cyclegan.training.losses import UpdateOrder
from cyclegan.training.running_means import MeanOfEach

NETWORKS = ("G_AtoB", "G_BtoA", "D_A", "D_B")
# The constructor's other arguments.
OPTIONS = ("image_size", "update_order", "pool_size", "discriminator_batch", "ema_decay", "keep_best", "seed", "name")


class BaseModel(keras.Model):
    """Two generators and two discriminators, with their copies, state, configuration and metrics.

    A subclass creates the attributes in its constructor, which takes `NETWORKS` and `OPTIONS`, and in `compile`.
    """

    G_AtoB: keras.Model
    G_BtoA: keras.Model
    D_A: keras.Model
    D_B: keras.Model
    image_size: tuple[int, int]
    update_order: UpdateOrder
    keep_best: bool
    feed_A: DiscriminatorFeed
    feed_B: DiscriminatorFeed
    ema_AtoB: keras.Model | None
    ema_BtoA: keras.Model | None
    kept_AtoB: keras.Model | None
    kept_BtoA: keras.Model | None
    step: keras.Variable
    learning_rate_factor: keras.Variable
    schedule: keras.optimizers.schedules.LearningRateSchedule | None
    optimizers: dict[str, keras.optimizers.Optimizer]
    _means: MeanOfEach
    _compile_arguments: dict[str, Any]

    @property
    def generators(self) -> dict[Direction, keras.Model]:
        """The current generators: the averaged ones if there is an average."""
        return {"AtoB": self.ema_AtoB or self.G_AtoB, "BtoA": self.ema_BtoA or self.G_BtoA}

    @property
    def kept_generators(self) -> dict[Direction, keras.Model]:
        """The result of a training: with `keep_best` the generators at the last `keep`, else `generators`."""
        if self.kept_AtoB is None or self.kept_BtoA is None:
            return self.generators
        return {"AtoB": self.kept_AtoB, "BtoA": self.kept_BtoA}

    @property
    def composites(self) -> dict[Direction, keras.Model]:
        """Each generator joined with the networks that judge it, with shared weights; see `models.composite`."""
        return {
            "AtoB": build_composite(self.G_AtoB, self.D_B, self.G_BtoA),
            "BtoA": build_composite(self.G_BtoA, self.D_A, self.G_AtoB),
        }

    def keep(self) -> None:
        """Replace the kept generators by the current ones.

        Raises:
            ValueError: the model was made without `keep_best`.
        """
        if not self.keep_best:
            raise ValueError("keep_best = False: the model holds no kept generators; make it with keep_best=True")
        for direction, kept in self.kept_generators.items():
            for variable, new in zip(kept.variables, self.generators[direction].variables, strict=True):
                variable.assign(new.value)

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        real_A, real_B = inputs
        return self.generators["AtoB"](real_A, training=training), self.generators["BtoA"](real_B, training=training)

    def predict_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """The translations of both images of each pair."""
        return self(unpack_pair(data), training=False)

    def make_train_function(self, force: bool = False) -> Any:
        """The step of `fit` and `train_on_batch`; refused on several devices."""
        replicas.refuse_keras_loop(self, "fit and train_on_batch")
        return super().make_train_function(force)

    def make_test_function(self, force: bool = False) -> Any:
        """The step of `evaluate` and `test_on_batch`; refused on several devices."""
        replicas.refuse_keras_loop(self, "evaluate and test_on_batch")
        return super().make_test_function(force)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self._means] if self.compiled else []

    def state(self) -> dict[str, keras.Variable]:
        """Every variable that training depends on, by a stable name; a checkpoint holds them all."""
        owners: dict[str, Any] = {name: getattr(self, name) for name in NETWORKS}
        owners |= {"pool_A": self.feed_A.pool, "pool_B": self.feed_B.pool}
        owners |= {"pool_real_A": self.feed_A.pool_real, "pool_real_B": self.feed_B.pool_real}
        owners |= {name: getattr(self, name) for name in ("ema_AtoB", "ema_BtoA", "kept_AtoB", "kept_BtoA")}
        owners |= {f"optimizer_{name}": optimizer for name, optimizer in self.optimizers.items()}
        owners["losses"] = self._means
        variables = {
            f"{name}/{n:03d}": variable
            for name, owner in owners.items()
            if owner is not None
            for n, variable in enumerate(owner.variables)
        }
        return {"step": self.step, "learning_rate_factor": self.learning_rate_factor, **variables}

    def get_config(self) -> dict[str, Any]:
        networks = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in NETWORKS}
        return {**networks, **{option: getattr(self, option) for option in OPTIONS}}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        networks = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in NETWORKS
        }
        return cls(**{**config, **networks})

    def get_compile_config(self) -> dict[str, Any]:
        return {name: keras.saving.serialize_keras_object(value) for name, value in self._compile_arguments.items()}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})


class GroupOptimizers:
    """The `model.optimizer` of Keras' callbacks, which set the learning rates of all groups through it."""

    built = True

    def __init__(self, model: BaseModel) -> None:
        self.optimizers = [_GroupRate(group, optimizer, model) for group, optimizer in model.optimizers.items()]
        self.iterations = model.step


class _GroupRate:
    """The learning rate of one group."""

    def __init__(self, group: str, optimizer: keras.optimizers.Optimizer, model: BaseModel) -> None:
        self.name, self._optimizer, self._model = group, optimizer, model

    @property
    def learning_rate(self) -> Any:
        return self._optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: Any) -> None:
        if self._model.schedule is not None:
            raise ValueError(
                "schedule: sets the learning rate at each step; compile without it to use a learning rate callback"
            )
        self._optimizer.learning_rate = rate


def copy_optimizer(pattern: keras.optimizers.Optimizer, variables: list[keras.Variable]) -> keras.optimizers.Optimizer:
    """A new optimizer of the same class and configuration, built for `variables`."""
    optimizer = type(pattern).from_config(pattern.get_config())
    optimizer.build(variables)
    return optimizer


def unpack_pair(data: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """The batch of each domain from Keras' form of `fit(real_A, real_B)`, `fit((real_A, real_B))` or a data set.

    Raises:
        ValueError: there is no pair, or there are sample weights, which CycleGAN does not use.
    """
    first, second, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if sample_weight is not None:
        raise ValueError("sample_weight, class_weight: CycleGAN weighs all images alike; leave them out")
    if second is None:
        if not isinstance(first, tuple | list) or len(first) != 2:
            raise ValueError(
                "x: CycleGAN takes a batch of each domain, (real_A, real_B); for one domain, use model.generators"
            )
        first, second = first
    # Eager steps get NumPy arrays as they are, and a gradient tape cannot watch those.
    return tf.convert_to_tensor(first), tf.convert_to_tensor(second)


def refuse_unequal(optimizer: keras.optimizers.Optimizer, networks: Sequence[keras.Model]) -> None:
    """Check that an optimizer and networks compute on several devices what they compute on one.

    Raises:
        ValueError: the optimizer would sum the gradients of all devices again, or a network has dropout, which would
            draw the same numbers on each device.
    """
    devices = replicas.count()
    if devices == 1:
        return
    if not isinstance(optimizer, FusedAdam):
        raise ValueError(f"optimizer: {type(optimizer).__name__} is not supported on {devices} devices; use FusedAdam")
    for network in networks:
        for layer in network._flatten_layers(include_self=False, recursive=True):
            if isinstance(layer, keras.layers.Dropout):
                raise ValueError(f"{layer.name}: dropout is not supported on {devices} devices; use one, or no dropout")


def refuse_batch_sizes(size_A: int | None, size_B: int | None, discriminator_batch: int | None) -> None:
    """Check that the batch size is fixed, and that `discriminator_batch` is above it.

    Raises:
        ValueError: one of them is violated.
    """
    if size_A is None or size_B is None:
        raise ValueError("x: the image pools need batches of one fixed size; use batch(…, drop_remainder=True)")
    size = size_A * replicas.count()
    if discriminator_batch is not None and discriminator_batch <= size:
        raise ValueError(
            f"discriminator_batch = {discriminator_batch}: must be above the batch size, {size}; "
            "raise it or set it to None"
        )
