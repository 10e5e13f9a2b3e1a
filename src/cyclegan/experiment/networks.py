"""The four networks and their model, built and compiled from parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from cyclegan.domains import Direction
from cyclegan.experiment.initial_networks import InitialNetwork
from cyclegan.models.discriminator import build_discriminator
from cyclegan.models.generator import build_generator
from cyclegan.params import Params, Size
from cyclegan.params.derived import residual_blocks, unet_depth
from cyclegan.system.errors import UserError
from cyclegan.training.adam import FusedAdam
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.device import bfloat16_pays
from cyclegan.training.losses import LossWeights, Objective
from cyclegan.training.schedule import DecaySchedule, Policy


def build_cyclegan(
    params: Params, size: Size | None = None, initial: Mapping[str, InitialNetwork] | None = None
) -> CycleGAN:
    """Build the four networks and the model of them, not compiled. `train.seed` determines new weights.

    Args:
        params: all parameters.
        size: `(height, width)` of the training images; needed if it depends on the data.
        initial: networks that give `G_AtoB`, `G_BtoA`, `D_A` or `D_B` their weights; the others get new ones.

    Raises:
        UserError: the size depends on the data and is not given, or an initial network does not fit.
    """
    train = with_precision(params).train
    size = size or params.training_size
    if size is None:
        raise UserError(
            "train.crop_size: whole with data.load_size: original gives the networks no size; set one of them in pixels"
        )
    with _precision(train.mixed_precision is True):
        generators = {name: _generator(params, name, size) for name in ("G_AtoB", "G_BtoA")}
        discriminators = {name: _discriminator(params, name) for name in ("D_A", "D_B")}
    # Copy the weights before the moving averages and the kept generators are made from them.
    for name, network in (initial or {}).items():
        network.copy_to({**generators, **discriminators}[name])
    return CycleGAN(
        **generators,
        **discriminators,
        image_size=size,
        update_order=train.update_order,
        pool_size=train.pool_size,
        discriminator_batch=train.discriminator_batch,
        ema_decay=train.ema_decay,
        keep_best=train.select != "last",
        seed=train.seed,
        name="cyclegan",
    )


def with_precision(params: Params) -> Params:
    """Replace `train.mixed_precision: auto` by what is faster on this device."""
    if params.train.mixed_precision != "auto":
        return params
    return params.model_copy(update={"train": params.train.model_copy(update={"mixed_precision": bfloat16_pays()})})


def compile_cyclegan(model: CycleGAN, params: Params, total_steps: int) -> None:
    """Compile with the optimizers, schedule and losses of section `train`."""
    train = params.train
    model.compile(
        FusedAdam(
            train.learning_rate,
            beta_1=train.beta_1,
            beta_2=train.beta_2,
            global_clipnorm=train.gradient_clip_norm,
        ),
        Objective(
            loss_weights=_loss_weights(params, "AtoB"),
            loss_weights_BtoA=_loss_weights(params, "BtoA"),
            adversarial_loss=train.adversarial_loss,
            label_smoothing=train.label_smoothing,
            gradient_penalty=train.gradient_penalty,
            r1_penalty=train.r1_penalty,
            diff_augment=tuple(train.diff_augment),
        ),
        schedule=_schedule(params, total_steps),
        gradient_checkpointing=train.gradient_checkpointing,
        jit_compile=False if train.deterministic else train.jit_compile,
    )


def _loss_weights(params: Params, direction: Direction) -> LossWeights:
    weights = params.train.loss_weights.model_dump()
    return LossWeights(**{term: of_directions[direction] for term, of_directions in weights.items()})


def _schedule(params: Params, total_steps: int) -> DecaySchedule:
    train = params.train
    # With `plateau`, a factor of the model lowers the learning rate, so the schedule is constant.
    policy: Policy = "constant" if train.lr_policy == "plateau" else train.lr_policy
    start = 1.0 if train.lr_decay_start is None else train.lr_decay_start
    return DecaySchedule(train.learning_rate, total_steps, start, policy)


def inference_copy(generator: keras.Model, params: Params, name: str, size: Size) -> keras.Model:
    """A copy of a generator in float32 for inference. It may have been trained in another precision.

    Args:
        generator: of a model that `build_cyclegan` built from these parameters.
        params, size: as given to `build_cyclegan`.
        name: `G_AtoB` or `G_BtoA`.
    """
    copy = _generator(params, name, size)
    copy.set_weights(generator.get_weights())
    return copy


def _generator(params: Params, name: str, size: Size) -> keras.Model:
    model, data = params.model, params.data
    channels = (data.channels_A, data.channels_B) if name == "G_AtoB" else (data.channels_B, data.channels_A)
    arguments: dict[str, Any] = {"depth": unet_depth(size)} if model.generator != "resnet" else {}
    return build_generator(
        *channels,
        architecture=model.generator,
        base_filters=model.base_filters,
        blocks=residual_blocks(model.blocks, size),
        # A U-Net has no residual blocks.
        skip=model.skip if model.generator == "resnet" else "add",
        padding=model.padding,
        upsample=model.upsample,
        halving=model.halving,
        norm=model.norm,
        output_norm=model.output_norm,
        residual_output=model.residual_output,
        dropout=model.dropout,
        init=model.init,
        init_gain=model.init_gain,
        seed=4 * params.train.seed + (name == "G_BtoA"),
        name=name,
        **arguments,
    )


def _discriminator(params: Params, name: str) -> keras.Model:
    model = params.model
    return build_discriminator(
        params.data.channels_A if name == "D_A" else params.data.channels_B,
        architecture=model.discriminator,
        layers=model.patch_layers,
        base_filters=model.discriminator_filters,
        norm=model.discriminator_norm,
        spectral_norm=model.spectral_norm,
        init=model.init,
        init_gain=model.init_gain,
        seed=4 * params.train.seed + 2 + (name == "D_B"),
        name=name,
    )


@contextmanager
def _precision(mixed: bool) -> Iterator[None]:
    """Use bfloat16 arithmetic with float32 weights. Unlike float16, it needs no loss scaling."""
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if mixed else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)
