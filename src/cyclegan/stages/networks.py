"""From parameters to networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from cyclegan.models.discriminator import build_discriminator
from cyclegan.models.generator import build_generator
from cyclegan.params import Params
from cyclegan.training.cyclegan import CycleGAN, LossWeights
from cyclegan.training.schedule import DecaySchedule


def build_cyclegan(params: Params) -> CycleGAN:
    """Build the four networks and join them, not yet compiled. Weights follow from `train.seed`."""
    train = params.train
    with _precision(train.mixed_precision):
        generators = {name: _generator(params, name) for name in ("G_AtoB", "G_BtoA")}
        discriminators = {name: _discriminator(params, name) for name in ("D_A", "D_B")}
    return CycleGAN(
        **generators,
        **discriminators,
        image_size=train.crop_size,
        update_order=train.update_order,
        pool_size=train.pool_size,
        ema_decay=train.ema_decay,
        seed=train.seed,
        name="cyclegan",
    )


def compile_cyclegan(model: CycleGAN, params: Params, total_steps: int) -> None:
    """Compile with the optimizers, schedule and losses of section `train`."""
    train = params.train
    weights = {
        direction: LossWeights(**{term: both[direction] for term, both in train.loss_weights.model_dump().items()})
        for direction in ("AtoB", "BtoA")
    }
    model.compile(
        keras.optimizers.Adam(
            train.learning_rate,
            beta_1=train.beta_1,
            beta_2=train.beta_2,
            global_clipnorm=train.gradient_clip_norm,
        ),
        schedule=DecaySchedule(train.learning_rate, total_steps, train.lr_decay_start, train.lr_policy),
        loss_weights=weights["AtoB"],
        loss_weights_BtoA=weights["BtoA"],
        adversarial=train.adversarial_loss,
        label_smoothing=train.label_smoothing,
        gradient_penalty_weight=train.gradient_penalty,
        r1_weight=train.r1_penalty,
        jit_compile=train.jit_compile,
    )


def inference_copy(generator: keras.Model, params: Params, name: str) -> keras.Model:
    """The generator in float32, as it is kept and served, whatever precision it was trained in."""
    copy = _generator(params, name)
    copy.set_weights(generator.get_weights())
    return copy


def _generator(params: Params, name: str) -> keras.Model:
    model, data, size = params.model, params.data, params.train.crop_size
    channels = (data.channels_A, data.channels_B) if name == "G_AtoB" else (data.channels_B, data.channels_A)
    arguments: dict[str, Any] = {"depth": model.unet_depth(size)} if model.generator == "unet" else {}
    return build_generator(
        *channels,
        architecture=model.generator,
        base_filters=model.base_filters,
        blocks=model.blocks_for(size),
        skip=model.skip,
        padding=model.padding,
        upsample=model.upsample,
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
    """bfloat16 arithmetic with float32 weights; needs no loss scaling, unlike float16."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if mixed else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
