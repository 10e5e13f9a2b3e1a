"""Adversarial, cycle and identity losses, and the penalties on a discriminator's gradient.

All losses are means over every element, in float32, as in the CycleGAN paper (Zhu et al. 2017, §3 and §4) and its
reference implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import keras
import tensorflow as tf

AdversarialName = Literal["least_squares", "vanilla", "hinge", "wasserstein"]
ScoreLoss = Callable[[tf.Tensor], tf.Tensor]
Losses = dict[str, tf.Tensor]
"""Scalars by name."""

GENERATOR_TERMS = ("adversarial", "identity", "forward_cycle", "backward_cycle")
"""Of a generator's loss, as `LossWeights` names them."""


@dataclass(frozen=True)
class AdversarialLoss:
    """Three scalar losses of a discriminator's scores `[N, h, w, 1]`, which are unbounded logits.

    `generator` and `real` want the scores high, `fake` wants them low. The discriminator's loss is
    `(real(D(x)) + fake(D(G(y)))) / 2`: the paper halves it to slow the discriminator down.
    """

    generator: ScoreLoss
    real: ScoreLoss
    fake: ScoreLoss


@dataclass(frozen=True)
class LossWeights:
    """Weights of the four terms of one generator's loss. The defaults are the paper's: λ = 10, identity 0.5 · λ."""

    adversarial: float = 1.0
    identity: float = 5.0
    forward_cycle: float = 10.0
    backward_cycle: float = 10.0


def weighted(terms: Losses, weights: LossWeights) -> tf.Tensor:
    """The weighted sum of a generator's terms, without those of weight zero."""
    parts = [
        tf.cast(getattr(weights, name), terms[name].dtype) * terms[name]
        for name in GENERATOR_TERMS
        if getattr(weights, name)
    ]
    return tf.add_n(parts) if parts else tf.zeros_like(terms["adversarial"])


def adversarial_loss(name: AdversarialName, label_smoothing: float = 0.0) -> AdversarialLoss:
    """Look an adversarial loss up by name.

    - `least_squares`: Mao et al. 2017; the choice of the CycleGAN paper, §4.
    - `vanilla`: Goodfellow et al. 2014, non-saturating, on logits.
    - `hinge`: Lim and Ye 2017, Miyato et al. 2018.
    - `wasserstein`: Arjovsky et al. 2017; needs a gradient penalty.

    `label_smoothing` lowers the target for real pictures from 1 to `1 - label_smoothing` (Salimans et al. 2016,
    one-sided); it is meaningful for the first two only.
    """
    real_target = 1.0 - label_smoothing
    if name == "least_squares":
        return AdversarialLoss(
            generator=lambda score: mean(tf.square(score - 1.0)),
            real=lambda score: mean(tf.square(score - real_target)),
            fake=lambda score: mean(tf.square(score)),
        )
    if name == "vanilla":
        return AdversarialLoss(
            generator=lambda score: _cross_entropy(score, 1.0),
            real=lambda score: _cross_entropy(score, real_target),
            fake=lambda score: _cross_entropy(score, 0.0),
        )
    if name == "hinge":
        return AdversarialLoss(
            generator=lambda score: -mean(score),
            real=lambda score: mean(tf.nn.relu(1.0 - score)),
            fake=lambda score: mean(tf.nn.relu(1.0 + score)),
        )
    if name == "wasserstein":
        return AdversarialLoss(
            generator=lambda score: -mean(score),
            real=lambda score: -mean(score),
            fake=mean,
        )
    raise ValueError(f"unknown adversarial loss {name!r}")


def mean(values: tf.Tensor) -> tf.Tensor:
    """Mean over all elements."""
    return tf.reduce_mean(values)


def absolute_error(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Mean absolute difference of two batches of pictures `[N, H, W, C]` in [-1, 1]: cycle and identity losses."""
    return mean(tf.abs(first - second))


def gradient_penalty(
    discriminator: keras.Model, real: tf.Tensor, fake: tf.Tensor, mix: tf.Tensor, training: bool = True
) -> tf.Tensor:
    """WGAN-GP: mean of `(‖∇D(x̂)‖₂ - 1)²` over pictures x̂ between real and fake (Gulrajani et al. 2017, eq. 3).

    Args:
        discriminator: maps `[N, H, W, C]` to scores.
        real, fake: pictures `[N, H, W, C]` in [-1, 1].
        mix: `[N, 1, 1, 1]` in [0, 1], the share of the real picture.
        training: whether the discriminator's own state, if it has any, moves as in training.
    """
    between = mix * real + (1.0 - mix) * fake
    norm = tf.sqrt(_squared_gradient_norm(discriminator, between, training) + 1e-12)
    return mean(tf.square(norm - 1.0))


def r1_penalty(discriminator: keras.Model, real: tf.Tensor, training: bool = True) -> tf.Tensor:
    """R1: half the mean of `‖∇D(x)‖²` on real pictures `[N, H, W, C]` (Mescheder et al. 2018, eq. 9)."""
    return 0.5 * mean(_squared_gradient_norm(discriminator, real, training))


def _squared_gradient_norm(discriminator: keras.Model, images: tf.Tensor, training: bool) -> tf.Tensor:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        score = tf.reduce_sum(tf.reduce_mean(discriminator(images, training=training), axis=[1, 2, 3]))
    return tf.reduce_sum(tf.square(tape.gradient(score, images)), axis=[1, 2, 3])


def _cross_entropy(score: tf.Tensor, target: float) -> tf.Tensor:
    return mean(
        tf.nn.sigmoid_cross_entropy_with_logits(
            labels=tf.fill(tf.shape(score), tf.cast(target, score.dtype)), logits=score
        )
    )
