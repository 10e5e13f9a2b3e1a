"""Losses against NumPy."""

from __future__ import annotations

from dataclasses import fields

import keras
import numpy as np
import pytest
import tensorflow as tf

from cyclegan.models.discriminator import build_discriminator
from cyclegan.params import train as parameters
from cyclegan.training.losses import (
    GENERATOR_TERMS,
    LossWeights,
    Passes,
    absolute_error,
    adversarial_loss,
    generator_terms,
    gradient_penalty,
    r1_penalty,
)

SCORES = np.random.default_rng(0).normal(0, 2, (3, 4, 4, 1)).astype(np.float32)


def cross_entropy(score: np.ndarray, target: float) -> np.ndarray:
    probability = 1 / (1 + np.exp(-score.astype(np.float64)))
    return np.mean(-target * np.log(probability) - (1 - target) * np.log(1 - probability))


@pytest.mark.parametrize(
    ("name", "smoothing", "generator", "real", "fake"),
    [
        ("least_squares", 0.0, np.mean((SCORES - 1) ** 2), np.mean((SCORES - 1) ** 2), np.mean(SCORES**2)),
        ("least_squares", 0.1, np.mean((SCORES - 1) ** 2), np.mean((SCORES - 0.9) ** 2), np.mean(SCORES**2)),
        ("vanilla", 0.0, cross_entropy(SCORES, 1), cross_entropy(SCORES, 1), cross_entropy(SCORES, 0)),
        ("vanilla", 0.2, cross_entropy(SCORES, 1), cross_entropy(SCORES, 0.8), cross_entropy(SCORES, 0)),
        ("hinge", 0.0, -SCORES.mean(), np.maximum(0, 1 - SCORES).mean(), np.maximum(0, 1 + SCORES).mean()),
        ("wasserstein", 0.0, -SCORES.mean(), -SCORES.mean(), SCORES.mean()),
    ],
)
def test_adversarial_losses(name: str, smoothing: float, generator: float, real: float, fake: float) -> None:
    loss = adversarial_loss(name, smoothing)  # type: ignore[arg-type]
    got = [float(part(tf.constant(SCORES))) for part in (loss.generator, loss.real, loss.fake)]
    np.testing.assert_allclose(got, [generator, real, fake], rtol=1e-5)


def test_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="wgan"):
        adversarial_loss("wgan")  # type: ignore[arg-type]


def test_absolute_error() -> None:
    first, second = np.full((1, 2, 2, 3), 0.5, np.float32), np.full((1, 2, 2, 3), -0.25, np.float32)
    assert float(absolute_error(tf.constant(first), tf.constant(second))) == 0.75


def test_each_term_has_its_weight_and_its_parameter() -> None:
    terms = list(GENERATOR_TERMS)
    assert [field.name for field in fields(LossWeights)] == terms
    assert list(parameters.LossWeights.model_fields) == terms
    assert (
        tuple(name for name, term in GENERATOR_TERMS.items() if term.needs_equal_channels)
        == parameters.LossWeights.COMPARING
    )
    outputs = {field.name for field in fields(Passes)}
    assert all(set(term.needs) <= outputs for term in GENERATOR_TERMS.values())


def test_a_term_added_later_is_off_in_the_parameters_of_earlier_trainings() -> None:
    first_four = dict.fromkeys(("adversarial", "identity", "forward_cycle", "backward_cycle"), 1.0)
    weights = parameters.LossWeights.model_validate(first_four)
    added = {name: of_directions for name, of_directions in weights.model_dump().items() if name not in first_four}
    assert added == {key: {"AtoB": 0.0, "BtoA": 0.0} for key in added}


def test_a_term_without_a_weight_needs_no_output() -> None:
    images = tf.zeros((1, 2, 2, 3))
    weights = LossWeights(**{**dict.fromkeys(GENERATOR_TERMS, 0.0), "identity": 1.0})
    assert [output for output in ("idt", "score", "rec_source", "rec_target") if weights.need(output)] == ["idt"]
    terms = generator_terms(Passes(images, images, images, idt=images + 0.5), weights)
    assert {name: float(value) for name, value in terms.items()} == {
        **dict.fromkeys(GENERATOR_TERMS, 0.0),
        "identity": 0.5,
    }


def linear_critic(gradient: np.ndarray) -> keras.Model:
    """Scores an image by its product with `gradient`, which therefore is the gradient everywhere."""
    image = keras.Input((None, None, gradient.shape[-1]))
    convolution = keras.layers.Conv2D(1, gradient.shape[:2], use_bias=False)
    critic = keras.Model(image, convolution(image))
    convolution.set_weights([gradient[..., None]])
    return critic


def test_penalties_of_a_critic_with_known_gradient() -> None:
    gradient = np.random.default_rng(1).normal(size=(4, 4, 3)).astype(np.float32)
    critic = linear_critic(gradient)
    real, fake = tf.zeros((2, 4, 4, 3)), tf.ones((2, 4, 4, 3))
    norm = np.linalg.norm(gradient)
    penalty = gradient_penalty(critic, real, fake, tf.fill((2, 1, 1, 1), 0.3))
    np.testing.assert_allclose(float(penalty), (norm - 1) ** 2, rtol=1e-5)
    np.testing.assert_allclose(float(r1_penalty(critic, real)), norm**2 / 2, rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_penalties_reach_the_discriminators_weights(jit_compile: bool) -> None:
    """The reference implementation computes its penalty and never adds it."""
    critic = build_discriminator(base_filters=4, layers=1, init_gain=0.2)
    images = tf.constant(np.random.default_rng(2).uniform(-1, 1, (2, 3, 16, 16, 3)).astype(np.float32))

    @tf.function(jit_compile=jit_compile)
    def gradients() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = gradient_penalty(critic, images[0], images[1], tf.fill((3, 1, 1, 1), 0.5))
            loss += r1_penalty(critic, images[0])
        return tape.gradient(loss, [critic.trainable_variables[0].value])

    (gradient,) = gradients()
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0
