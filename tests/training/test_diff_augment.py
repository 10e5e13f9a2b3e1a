"""Differentiable augmentation against its definition in NumPy, and what it does to a training step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.diff_augment import TRANSFORMS, diff_augment, draws_for
from cyclegan.training.draws import PURPOSES, Draws
from cyclegan.training.losses import LossWeights, Objective

Make = Callable[..., CycleGAN]
ImageSet = Callable[..., np.ndarray]
ALL = ("color", "translation", "cutout")
SHAPES = [(5, 16, 24, 3), (5, 9, 7, 1), (5, 8, 8, 4), (4, 3, 2, 6)]


def color(x: np.ndarray, brightness: float, saturation: float, contrast: float) -> np.ndarray:
    x = x + (brightness - 0.5)
    if x.shape[-1] == 3:
        mean = x.mean(axis=2, keepdims=True)
        x = (x - mean) * saturation * 2 + mean
    return (x - x.mean()) * (contrast + 0.5) + x.mean()


def translation(x: np.ndarray, down: float, right: float) -> np.ndarray:
    """By padding and cutting out, as the authors define it."""
    height, width, _ = x.shape
    most = int(height / 8 + 0.5), int(width / 8 + 0.5)
    padded = np.pad(x, [(most[0],) * 2, (most[1],) * 2, (0, 0)])
    top, left = (int(u * (2 * m + 1)) for u, m in zip((down, right), most, strict=True))
    return padded[2 * most[0] - top :, 2 * most[1] - left :][:height, :width]


def cutout(x: np.ndarray, middle_y: float, middle_x: float) -> np.ndarray:
    x = x.copy()
    cut = [int(side / 2 + 0.5) for side in x.shape[:2]]
    top, left = (
        int(u * (side + 1 - c % 2)) - c // 2 for u, side, c in zip((middle_y, middle_x), x.shape[:2], cut, strict=True)
    )
    x[max(top, 0) : top + cut[0], max(left, 0) : left + cut[1]] = 0
    return x


REFERENCE: dict[str, Callable[..., np.ndarray]] = {"color": color, "translation": translation, "cutout": cutout}


def example(shape: tuple[int, ...], draws: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.uniform(-1, 1, shape).astype(np.float32), random.uniform(0, 1, (shape[0], draws)).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_each_transform_equals_its_definition(name: str, shape: tuple[int, ...]) -> None:
    compiled = tf.function(TRANSFORMS[name], jit_compile=True)
    for seed in range(10):
        images, draws = example(shape, draws_for([name]), seed)
        draws[0] = 0.0
        draws[1] = np.nextafter(np.float32(1), np.float32(0))
        expected = np.stack([REFERENCE[name](x, *u) for x, u in zip(images, draws, strict=True)])
        for run in (TRANSFORMS[name], compiled):
            got = run(tf.constant(images), tf.constant(draws))
            np.testing.assert_allclose(got, expected, atol=2e-6)


def test_transforms_follow_each_other_on_their_own_draws() -> None:
    images, draws = example((3, 16, 16, 3), draws_for(ALL))
    expected = np.stack(
        [cutout(translation(color(x, *u[:3]), *u[3:5]), *u[5:]) for x, u in zip(images, draws, strict=True)]
    )
    np.testing.assert_allclose(diff_augment(tf.constant(images), tf.constant(draws), ALL), expected, atol=2e-6)


def test_only_three_channels_have_a_saturation() -> None:
    draws = np.array([[0.5, 0.0, 0.5]], np.float32)
    rgb = np.random.default_rng(0).uniform(-1, 1, (1, 4, 4, 3)).astype(np.float32)
    assert np.ptp(TRANSFORMS["color"](tf.constant(rgb), tf.constant(draws)).numpy(), axis=-1).max() < 1e-6
    four = np.random.default_rng(0).uniform(-1, 1, (1, 4, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(TRANSFORMS["color"](tf.constant(four), tf.constant(draws)), four, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_the_definition(name: str) -> None:
    """Every transform is linear up to a constant, so finite differences in float64 are exact but for rounding."""
    images, draws = (array.astype(np.float64) for array in example((2, 5, 6, 3), draws_for([name])))
    weights = np.random.default_rng(1).normal(size=images.shape)
    x = tf.constant(images)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            objective = tf.reduce_sum(weights * TRANSFORMS[name](x, tf.constant(draws)) ** 2) / 2
        gradient = tape.gradient(objective, x)
        slope = tf.reduce_sum(gradient * weights)

    def value(at: np.ndarray) -> float:
        moved = np.stack([REFERENCE[name](image, *u) for image, u in zip(at, draws, strict=True)])
        return float((weights * moved**2).sum() / 2)

    numeric = np.empty_like(images)
    for place in np.ndindex(*images.shape):
        step = np.zeros_like(images)
        step[place] = 1e-5
        numeric[place] = (value(images + step) - value(images - step)) / 2e-5
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)
    # The second derivative along `weights`, as a penalty on a gradient needs it.
    h = 1e-5

    def first_slope(at: np.ndarray) -> float:
        x = tf.constant(at)
        with tf.GradientTape() as tape:
            tape.watch(x)
            objective = tf.reduce_sum(weights * TRANSFORMS[name](x, tf.constant(draws)) ** 2) / 2
        return float(tf.reduce_sum(tape.gradient(objective, x) * weights))

    along = np.random.default_rng(2).normal(size=images.shape)
    expected = (first_slope(images + h * along) - first_slope(images - h * along)) / (2 * h)
    assert float(tf.reduce_sum(outer.gradient(slope, x) * along)) == pytest.approx(expected, rel=1e-6)


def one_step(model: CycleGAN, real_A: np.ndarray, real_B: np.ndarray) -> dict[str, float]:
    model.reset_metrics()
    logs = model.train_on_batch(tf.constant(real_A), tf.constant(real_B), return_dict=True)
    return {name: float(value) for name, value in logs.items()}


@pytest.mark.usefixtures("deterministic", "eagerly")
@pytest.mark.parametrize("order", ["joint", "sequential"])
def test_only_what_the_discriminators_see_changes(make_small_model: Make, random_images: ImageSet, order: str) -> None:
    """Without weights moving, cycle and identity terms stay and every discriminator's score moves."""
    real = random_images(2), random_images(2, seed=1)
    logs = {}
    for transforms in ((), ALL):
        model = make_small_model(update_order=order, dropout=0.0)
        model.compile(keras.optimizers.SGD(0.0), Objective(diff_augment=transforms))
        logs[transforms] = one_step(model, *real)
    for name in logs[()]:
        seen_by_discriminator = name.startswith("D_") or name.endswith(("/adversarial", "/total"))
        assert (logs[()][name] != logs[ALL][name]) == seen_by_discriminator, name


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("order", ["joint", "sequential"])
def test_generators_learn_from_the_adversarial_term_alone(
    make_model: Make, random_images: ImageSet, order: str
) -> None:
    """No other term holds a gradient here, so that all that moves the generators has come through the transforms."""
    model = make_model(update_order=order)
    weights = LossWeights(adversarial=1, identity=0, forward_cycle=0, backward_cycle=0)
    model.compile(keras.optimizers.SGD(1.0), Objective(weights, diff_augment=ALL))
    before = {name: getattr(model, name).get_weights() for name in ("G_AtoB", "G_BtoA")}
    one_step(model, random_images(2), random_images(2, seed=1))
    for name, old in before.items():
        changed = [not np.array_equal(a, b) for a, b in zip(old, getattr(model, name).get_weights(), strict=True)]
        assert np.mean(changed) > 0.7, name


@pytest.mark.usefixtures("eagerly")
def test_the_joint_step_descends_the_augmented_objective(make_model: Make, random_images: ImageSet) -> None:
    """Against the objective written out with the model's own draws, for a generator and a discriminator."""
    model = make_model(seed=3)
    weights = LossWeights(adversarial=1, identity=0, forward_cycle=0, backward_cycle=0)
    model.compile(keras.optimizers.SGD(0.1), Objective(weights, diff_augment=ALL))
    real_A, real_B = random_images(2), random_images(2, seed=1)

    draws = Draws(3, model.step)

    def seen(images: Any, purpose: str) -> tf.Tensor:
        return diff_augment(tf.convert_to_tensor(images), draws.uniform((2, draws_for(ALL)), purpose), ALL)

    generator, discriminator = model.G_AtoB.trainable_variables, model.D_B.trainable_variables
    with tf.GradientTape(persistent=True) as tape:
        fake_B = model.G_AtoB(real_A)
        of_generator = tf.reduce_mean((model.D_B(seen(fake_B, "fake_B for G")) - 1) ** 2)
        score_real, score_fake = model.D_B(seen(real_B, "real_B")), model.D_B(seen(fake_B, "fake_B"))
        of_discriminator = 0.5 * (tf.reduce_mean((score_real - 1) ** 2) + tf.reduce_mean(score_fake**2))
    expected = []
    for objective, variables in ((of_generator, generator), (of_discriminator, discriminator)):
        gradients = tape.gradient(objective, [v.value for v in variables])
        expected += [v.numpy() - 0.1 * g.numpy() for v, g in zip(variables, gradients, strict=True)]
    one_step(model, real_A, real_B)
    for variable, value in zip(generator + discriminator, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, atol=2e-6, err_msg=variable.path)


def test_draws_differ_by_purpose_image_and_step(make_small_model: Make) -> None:
    model = make_small_model(seed=7)
    of_step = model.feed_A.draws
    draws = {purpose: of_step.uniform((2, 7), purpose).numpy() for purpose in PURPOSES}
    model.step.assign(1)
    draws |= {f"{purpose}, step 1": of_step.uniform((2, 7), purpose).numpy() for purpose in PURPOSES}
    rows = np.concatenate(list(draws.values()))
    assert len(np.unique(rows, axis=0)) == len(rows)
    # Nor do they share a seed with the batches, whose seeds are 2 * seed and 2 * seed + 1.
    for seed in (2 * 7, 2 * 7 + 1):
        of_batches = tf.random.stateless_uniform((2, 7), tf.constant([seed, 1], tf.int64), alg="philox").numpy()
        assert not any(np.array_equal(of_batches, drawn) for drawn in draws.values())


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("order", ["joint", "sequential"])
def test_off_adds_nothing_to_the_step(
    make_small_model: Make, random_images: ImageSet, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without transforms, a step draws for the two pools alone. A graph holds what such a step runs."""
    drawn: list[str] = []

    def counted(*args: Any, **options: Any) -> tf.Tensor:
        drawn.append("uniform")
        return uniform(*args, **options)

    uniform = tf.random.stateless_uniform
    monkeypatch.setattr(tf.random, "stateless_uniform", counted)
    kinds = {}
    for transforms in ((), ALL):
        model = make_small_model(update_order=order, dropout=0.0)
        model.compile(objective=Objective(diff_augment=transforms))
        drawn.clear()
        one_step(model, random_images(1), random_images(1))
        kinds[transforms] = len(drawn)
    assert kinds[()] == 2
    assert kinds[ALL] == 2 + 6


@pytest.mark.parametrize("order", ["joint", pytest.param("sequential", marks=pytest.mark.slow)])
def test_xla_gives_the_same_losses(
    make_small_model: Make, random_images: ImageSet, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fixed(self: Draws, shape: Any, purpose: str, dtype: Any = tf.float32) -> tf.Tensor:
        """XLA draws other numbers than TensorFlow does from one seed."""
        random = np.random.default_rng(PURPOSES.index(purpose))
        return tf.constant(random.uniform(0, 1, (2, 2 if purpose.startswith("pool") else draws_for(ALL))), dtype)

    monkeypatch.setattr(Draws, "uniform", fixed)
    real = random_images(2), random_images(2, seed=1)
    logs = []
    for compiled in (False, True):
        model = make_small_model(update_order=order, dropout=0.0)
        model.compile(objective=Objective(diff_augment=ALL))
        step = tf.function(lambda a, b, model=model: model.train_step((a, b)), jit_compile=compiled)
        logs.append({name: float(value) for name, value in step(*map(tf.constant, real)).items()})
    assert logs[0].keys() == logs[1].keys()
    for name, value in logs[0].items():
        np.testing.assert_allclose(logs[1][name], value, rtol=1e-4, err_msg=name)


@pytest.mark.usefixtures("deterministic", "eagerly")
def test_round_trip(make_model: Make, random_images: ImageSet, tmp_path: Path) -> None:
    model = make_model(channels_A=1, channels_B=1, pool_size=2)
    model.compile(objective=Objective(diff_augment=("translation", "color")))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    real = random_images(1, channels=1), random_images(1, channels=1, seed=1)
    for _ in range(3):
        assert one_step(loaded, *real) == one_step(model, *real)
    assert loaded.objective == Objective(diff_augment=("translation", "color"))
