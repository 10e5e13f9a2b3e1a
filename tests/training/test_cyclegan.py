"""The training step: which weights move, by which gradient, and that the model is an ordinary Keras model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from cyclegan.training.base_model import NETWORKS
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.losses import GENERATOR_TERMS, LossWeights, Objective
from cyclegan.training.schedule import DecaySchedule

Make = Callable[..., CycleGAN]
ImageSet = Callable[..., np.ndarray]
pytestmark = pytest.mark.usefixtures("eagerly")


def snapshot(model: CycleGAN) -> dict[str, list[np.ndarray]]:
    return {name: [v.numpy().copy() for v in getattr(model, name).trainable_variables] for name in NETWORKS}


def moved(before: dict[str, list[np.ndarray]], after: dict[str, list[np.ndarray]]) -> set[str]:
    """Networks of which every trainable array changed, provided that all others kept every array."""
    result = set()
    for name in before:
        changes = [not np.array_equal(old, new) for old, new in zip(before[name], after[name], strict=True)]
        if any(changes):
            # A bias ahead of a normalization has no gradient, so not quite all arrays need to move.
            assert np.mean(changes) > 0.7, name
            result.add(name)
    return result


def one_step(model: CycleGAN, real_A: np.ndarray, real_B: np.ndarray) -> dict[str, float]:
    model.reset_metrics()
    logs = model.train_on_batch(tf.constant(real_A), tf.constant(real_B), return_dict=True)
    return {name: float(value) for name, value in logs.items()}


@pytest.mark.parametrize("order", ["joint", "sequential"])
def test_one_step_moves_all_four_networks(make_model: Make, random_images: ImageSet, order: str) -> None:
    model = make_model(update_order=order)
    model.compile()
    before = snapshot(model)
    one_step(model, random_images(1), random_images(1, seed=1))
    assert moved(before, snapshot(model)) == set(NETWORKS)


def test_a_step_in_bfloat16_is_near_that_in_float32(make_model: Make, random_images: ImageSet) -> None:
    losses = []
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        try:
            model = make_model()
        finally:
            keras.config.set_dtype_policy("float32")
        model.compile()
        losses.append(one_step(model, random_images(1), random_images(1, seed=1)))
    # bfloat16 has 8 bits, so that each operation rounds by up to 0.4 %.
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02, abs=0.01)
    assert {variable.dtype for variable in model.state().values()} == {"float32", "int64"}


@pytest.mark.parametrize("order", ["joint", "sequential"])
@pytest.mark.parametrize("frozen", ["G", "D"])
def test_each_optimizer_moves_only_its_own_networks(
    make_small_model: Make, random_images: ImageSet, order: str, frozen: str
) -> None:
    """With one side's learning rate at zero that side must stand still: no gradient leaks into other networks."""
    model = make_small_model(update_order=order)
    model.compile()
    for name, optimizer in model.optimizers.items():
        if name.startswith(frozen):
            optimizer.learning_rate = 0.0
    before = snapshot(model)
    for seed in range(3):
        one_step(model, random_images(1, seed=seed), random_images(1, seed=seed + 9))
    assert moved(before, snapshot(model)) == {name for name in NETWORKS if not name.startswith(frozen)}


def test_joint_step_descends_the_summed_objective(
    make_model: Make, random_images: ImageSet, within: Callable[[str, float, float], None]
) -> None:
    """Against the objective written out with one pass per term, and plain gradient descent."""
    weights = LossWeights(adversarial=1.5, identity=2.0, forward_cycle=7.0, backward_cycle=7.0)
    model = make_model()
    model.compile(keras.optimizers.SGD(0.1), Objective(weights))
    real_A, real_B = random_images(2), random_images(2, seed=1)
    generators = model.G_AtoB.trainable_variables + model.G_BtoA.trainable_variables
    with tf.GradientTape() as tape:
        fake_A, fake_B = model.G_BtoA(real_B), model.G_AtoB(real_A)
        objective = (
            1.5 * (tf.reduce_mean((model.D_A(fake_A) - 1) ** 2) + tf.reduce_mean((model.D_B(fake_B) - 1) ** 2))
            + 2.0 * tf.reduce_mean(tf.abs(model.G_BtoA(real_A) - real_A))
            + 2.0 * tf.reduce_mean(tf.abs(model.G_AtoB(real_B) - real_B))
            + 7.0 * tf.reduce_mean(tf.abs(model.G_BtoA(fake_B) - real_A))
            + 7.0 * tf.reduce_mean(tf.abs(model.G_AtoB(fake_A) - real_B))
        )
    gradients = tape.gradient(objective, [v.value for v in generators])
    expected = [v.numpy() - 0.1 * g.numpy() for v, g in zip(generators, gradients, strict=True)]

    discriminators = model.D_A.trainable_variables + model.D_B.trainable_variables
    with tf.GradientTape() as tape:
        objective = 0.5 * sum(
            tf.reduce_mean((D(real) - 1) ** 2) + tf.reduce_mean(D(fake) ** 2)
            for D, real, fake in ((model.D_A, real_A, fake_A), (model.D_B, real_B, fake_B))
        )
    gradients = tape.gradient(objective, [v.value for v in discriminators])
    expected += [v.numpy() - 0.1 * g.numpy() for v, g in zip(discriminators, gradients, strict=True)]

    one_step(model, real_A, real_B)  # the pools are empty: the discriminators see the fakes themselves
    for variable, value in zip(generators + discriminators, expected, strict=True):
        deviation = np.abs(variable.numpy() - value).max()
        within("joint step against the summed objective, one pass for each term: weights", deviation, 2e-6)


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_reported_losses_are_those_of_the_composite_models(
    make_model: Make, random_images: ImageSet, direction: str
) -> None:
    model = make_model()
    model.compile()
    real_A, real_B = random_images(1), random_images(1, seed=1)
    source, target = (real_A, real_B) if direction == "AtoB" else (real_B, real_A)
    outputs = {name: value.numpy() for name, value in model.composites[direction]([source, target]).items()}
    expected = {
        "adversarial": np.mean((outputs["adversarial"] - 1) ** 2),
        "identity": np.mean(np.abs(outputs["identity"] - target)),
        "forward_cycle": np.mean(np.abs(outputs["forward_cycle"] - source)),
        "backward_cycle": np.mean(np.abs(outputs["backward_cycle"] - target)),
    }
    logs = one_step(model, real_A, real_B)
    for term, value in expected.items():
        np.testing.assert_allclose(logs[f"G_{direction}/{term}"], value, rtol=1e-4, err_msg=term)
    total = expected["adversarial"] + 5 * expected["identity"]
    total += 10 * (expected["forward_cycle"] + expected["backward_cycle"])
    np.testing.assert_allclose(logs[f"G_{direction}/total"], total, rtol=1e-4)


def test_composites_share_the_weights_of_the_trained_networks(make_model: Make) -> None:
    model = make_model(ema_decay=0.9)
    networks = {"AtoB": (model.G_AtoB, model.D_B, model.G_BtoA), "BtoA": (model.G_BtoA, model.D_A, model.G_AtoB)}
    for direction, composite in model.composites.items():
        assert composite.name == f"composite_G_{direction}"
        shared = {id(v) for network in networks[direction] for v in network.variables}
        assert {id(v) for v in composite.variables} == shared


def test_separate_passes_where_a_batch_is_not_independent(make_model: Make, random_images: ImageSet) -> None:
    """With batch normalization, translation and identity may not share a batch."""
    model = make_model(generator={"norm": "batch"}, discriminator={"norm": "batch"})
    model.compile()
    real_A, real_B = random_images(2), random_images(2, seed=1)
    alone = np.mean(np.abs(model.G_AtoB(real_B, training=True) - real_B))
    np.testing.assert_allclose(one_step(model, real_A, real_B)["G_AtoB/identity"], alone, rtol=1e-4)


@pytest.mark.parametrize("order", ["joint", "sequential"])
@pytest.mark.parametrize(
    "options",
    [
        {"adversarial_loss": "vanilla", "label_smoothing": 0.1},
        {"adversarial_loss": "hinge", "r1_penalty": 1.0},
        {"adversarial_loss": "wasserstein", "gradient_penalty": 10.0},
    ],
    ids=lambda options: options["adversarial_loss"],
)
def test_other_losses_and_penalties_train(
    make_model: Make, random_images: ImageSet, order: str, options: dict[str, Any]
) -> None:
    model = make_model(update_order=order)
    model.compile(objective=Objective(**options))
    before = snapshot(model)
    logs = one_step(model, random_images(2), random_images(2, seed=1))
    assert all(np.isfinite(value) for value in logs.values())
    assert moved(before, snapshot(model)) == set(NETWORKS)
    if "label_smoothing" not in options:
        assert logs["D_A/penalty"] > 0
        total = 0.5 * (logs["D_A/real"] + logs["D_A/fake"]) + logs["D_A/penalty"]
        np.testing.assert_allclose(logs["D_A/total"], total, rtol=1e-4)


@pytest.mark.usefixtures("eagerly")
def test_an_eager_step_takes_numpy_arrays(make_small_model: Make, random_images: ImageSet) -> None:
    model = make_small_model()
    model.compile(objective=Objective(r1_penalty=1.0))
    logs = model.train_on_batch(random_images(2), random_images(2, seed=1), return_dict=True)
    assert logs["D_A/penalty"] > 0


# Images that each network sees in one step: the discriminators one for the generator's term, and one real and one fake.
ALL_TERMS = {
    "joint": {"G_AtoB": 3, "G_BtoA": 3, "D_A": 3, "D_B": 3},
    "sequential": {"G_AtoB": 4, "G_BtoA": 5, "D_A": 3, "D_B": 3},
}


@pytest.mark.parametrize(
    ("order", "without", "fewer"),
    [
        ("joint", [], {}),
        ("joint", ["adversarial"], {"D_A": 1, "D_B": 1}),
        ("joint", ["identity"], {"G_AtoB": 1, "G_BtoA": 1}),
        ("joint", ["forward_cycle", "backward_cycle"], {"G_AtoB": 1, "G_BtoA": 1}),
        ("sequential", [], {}),
        ("sequential", ["adversarial"], {"D_A": 1, "D_B": 1}),
        ("sequential", ["identity"], {"G_AtoB": 1, "G_BtoA": 1}),
        ("sequential", ["forward_cycle"], {"G_AtoB": 1, "G_BtoA": 1}),
        ("sequential", ["backward_cycle"], {"G_AtoB": 1, "G_BtoA": 2}),
    ],
)
def test_a_term_of_weight_zero_is_not_computed(
    make_small_model: Make, random_images: ImageSet, order: str, without: list[str], fewer: dict[str, int]
) -> None:
    def counting(name: str, call: Any, inputs: tf.Tensor, *args: Any, **options: Any) -> Any:
        seen[name] += inputs.shape[0]
        return call(inputs, *args, **options)

    model = make_small_model(update_order=order)
    model.compile(objective=Objective(LossWeights(**dict.fromkeys(without, 0.0))))
    seen = dict.fromkeys(NETWORKS, 0)
    for name in NETWORKS:
        network = getattr(model, name)
        network.call = partial(counting, name, network.call)
    logs = model.train_step((tf.constant(random_images(1)), tf.constant(random_images(1, seed=1))))
    assert seen == {name: count - fewer.get(name, 0) for name, count in ALL_TERMS[order].items()}
    # Reported all the same, so that every training has the same columns.
    terms = [f"{generator}/{term}" for generator in ("G_AtoB", "G_BtoA") for term in GENERATOR_TERMS]
    off = {name for name in GENERATOR_TERMS if getattr(LossWeights(), name) == 0} | set(without)
    assert [term for term in terms if logs[term] == 0] == [term for term in terms if term.split("/")[1] in off]


def test_unequal_channels_train_without_identity_loss(make_model: Make, random_images: ImageSet) -> None:
    model = make_model(channels_A=1, channels_B=3)
    with pytest.raises(ValueError, match="equal channels"):
        model.compile()
    model.compile(objective=Objective(LossWeights(identity=0)))
    logs = one_step(model, random_images(1, channels=1), random_images(1, channels=3))
    assert logs["G_AtoB/identity"] == 0


def test_contradictory_cycle_weights_are_refused(make_small_model: Make) -> None:
    with pytest.raises(ValueError, match="each cycle once"):
        make_small_model().compile(objective=Objective(LossWeights(forward_cycle=5)))
    make_small_model(update_order="sequential").compile(objective=Objective(LossWeights(forward_cycle=5)))


def test_schedule_counts_training_steps_in_every_optimizer(make_small_model: Make, random_images: ImageSet) -> None:
    """In sequential order a discriminator takes two steps in one; the schedule must not run twice as fast."""
    model = make_small_model(update_order="sequential")
    model.compile(schedule=DecaySchedule(1e-3, total_steps=10, decay_start=0.0, policy="linear"))
    for _ in range(4):
        one_step(model, random_images(1), random_images(1, seed=1))
    for optimizer in model.optimizers.values():
        np.testing.assert_allclose(float(optimizer.learning_rate), 1e-3 * 0.7, rtol=1e-5)


@pytest.mark.parametrize("order", ["joint", "sequential"])
def test_clipping_bounds_the_step_of_each_group(make_small_model: Make, random_images: ImageSet, order: str) -> None:
    """Plain gradient descent moves a group of networks by no more than rate times norm, and here by just that."""
    norm, rate = 0.01, 0.5
    model = make_small_model(update_order=order)
    model.compile(keras.optimizers.SGD(rate, global_clipnorm=norm))
    before = snapshot(model)
    one_step(model, random_images(1), random_images(1, seed=1))
    after = snapshot(model)
    moved = {
        name: sum(np.square(new - old).sum() for old, new in zip(before[name], after[name], strict=True))
        for name in NETWORKS
    }
    groups = [("G_AtoB", "G_BtoA"), ("D_A", "D_B")] if order == "joint" else [(name,) for name in NETWORKS]
    for group in groups:
        distance = np.sqrt(sum(moved[name] for name in group))
        # In sequential order a discriminator takes two steps in one, which need not point the same way.
        steps = 2 if order == "sequential" and group[0].startswith("D") else 1
        assert distance <= steps * rate * norm * 1.001, group
        if steps == 1:
            np.testing.assert_allclose(distance, rate * norm, rtol=1e-3)


def test_average_follows_the_trained_generators(make_small_model: Make, random_images: ImageSet) -> None:
    model = make_small_model(ema_decay=0.999)
    model.compile()
    average = [value.copy() for value in model.ema_AtoB.get_weights()]
    for step in range(3):
        one_step(model, random_images(1, seed=step), random_images(1, seed=step + 9))
        decay = min(0.999, (1 + step) / (10 + step))
        trained = model.G_AtoB.get_weights()
        average = [decay * old + (1 - decay) * new for old, new in zip(average, trained, strict=True)]
    for got, expected in zip(model.ema_AtoB.get_weights(), average, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)
    assert model.generators["AtoB"] is model.ema_AtoB


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("order", ["joint", "sequential"])
def test_whole_model_round_trips_and_trains_on_identically(
    make_model: Make, make_small_model: Make, random_images: ImageSet, order: str, tmp_path: Path
) -> None:
    # The layers are the same in both orders: one of the models may be small.
    make = make_model if order == "joint" else partial(make_small_model, dropout=0.0)
    model = make(update_order=order, pool_size=2, discriminator_batch=3, ema_decay=0.9, seed=5)
    model.compile(schedule=DecaySchedule(1e-3, total_steps=10, decay_start=0.0, policy="linear"))
    for seed in range(3):
        one_step(model, random_images(1, seed=seed), random_images(1, seed=seed + 9))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    real = random_images(1), random_images(1, seed=1)
    for got, expected in zip(loaded(real), model(real), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert loaded.state().keys() == model.state().keys()
    for _ in range(2):
        assert one_step(loaded, *real) == one_step(model, *real)
    for name, variable in model.state().items():
        np.testing.assert_array_equal(loaded.state()[name].numpy(), variable.numpy(), err_msg=name)


@pytest.mark.parametrize("order", ["joint", "sequential"])
def test_a_graph_computes_what_eager_steps_compute(
    make_model: Make, make_small_model: Make, random_images: ImageSet, order: str
) -> None:
    # The layers are the same in both orders: one of the models may be small.
    make = make_model if order == "joint" else partial(make_small_model, dropout=0.0)
    real = random_images(1), random_images(1, seed=1)
    logs, states = [], []
    for eager in (True, False):
        tf.config.run_functions_eagerly(eager)
        model = make(update_order=order, pool_size=2, discriminator_batch=3, ema_decay=0.9)
        # Adam would turn the rounding errors of gradients that are zero into steps of full length.
        model.compile(keras.optimizers.SGD(0.01), Objective(r1_penalty=1.0, diff_augment=("translation", "color")))
        logs.append(one_step(model, *real))
        states.append({name: variable.numpy() for name, variable in model.state().items()})
    assert logs[0] == pytest.approx(logs[1], rel=1e-4, abs=1e-6)
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, rtol=1e-3, atol=1e-4, err_msg=name)


STEP_OF_EACH_KIND = """
import numpy as np
from cyclegan import CycleGAN, Objective, build_discriminator, build_generator

# A U-Net's skips and a discriminator's first layer have nothing between a convolution and its leaky ReLU.
networks = [build_generator(architecture="unet", depth=3, base_filters=2) for _ in "AB"]
networks += [build_discriminator(base_filters=2, layers=1) for _ in "AB"]
model = CycleGAN(*networks, image_size=(16, 16))
model.compile(objective=Objective(r1_penalty=1.0))
images = np.zeros((1, 16, 16, 3), np.float32)
model.train_on_batch(images, images)
model.generators["AtoB"].predict(images, verbose=0)
"""


def test_tensorflow_optimizes_the_step_without_an_error() -> None:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}
    command = [sys.executable, "-c", STEP_OF_EACH_KIND]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert [line for line in done.stderr.splitlines() if "optimizer" in line] == []


def test_state_holds_every_variable(make_model: Make, random_images: ImageSet) -> None:
    model = make_model(
        ema_decay=0.9, discriminator_batch=2, generator={"dropout": 0.5}, discriminator={"spectral_norm": True}
    )
    model.compile()
    held = {id(variable) for variable in model.state().values()}
    optimizers = [v for optimizer in model.optimizers.values() for v in optimizer.variables]
    metric = {id(v) for v in model.metrics[0].variables}
    missing = [v.path for v in [*model.variables, *optimizers] if id(v) not in held | metric]
    assert missing == []


def test_a_gpu_can_hold_every_variable(make_model: Make) -> None:
    # TensorFlow keeps int32 variables in the host's memory, where XLA's code on a GPU may not reach them.
    model = make_model(ema_decay=0.9)
    model.compile()
    assert {variable.dtype for variable in model.state().values()} == {"float32", "int64"}


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`")
@pytest.mark.usefixtures("deterministic")
def test_fit_validates_evaluate_measures_and_predict_translates(
    make_model: Make, random_images: ImageSet, tmp_path: Path
) -> None:
    model = make_model(ema_decay=0.9, discriminator={"spectral_norm": True})
    model.compile("adam", Objective(r1_penalty=1.0))
    assert {type(optimizer) for optimizer in model.optimizers.values()} == {keras.optimizers.Adam}
    val_A, val_B = random_images(3, seed=2), random_images(3, seed=3)
    val = tf.data.Dataset.from_tensor_slices((val_A, val_B)).batch(3)
    train = random_images(4), random_images(4, seed=1)
    history = model.fit(*train, batch_size=2, epochs=2, validation_data=val, verbose=0).history
    losses = {name for name in history if not name.startswith("val_")}
    assert {"G_AtoB/total", "G_BtoA/identity", "D_A/penalty", "D_B/output_fake"} <= losses
    assert history.keys() == losses | {f"val_{name}" for name in losses}

    state = {name: variable.numpy() for name, variable in model.state().items()}
    metrics = model.evaluate(val, return_dict=True, verbose=0)
    assert metrics == {name: history[f"val_{name}"][-1] for name in losses}
    fake_B, fake_A = model.predict((val_A, val_B), verbose=0)
    for name, variable in model.state().items():
        if not name.startswith("losses/"):
            np.testing.assert_array_equal(variable.numpy(), state[name], err_msg=name)

    for got, expected in zip((fake_B, fake_A), model.predict(val, verbose=0), strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(fake_B, model.ema_AtoB(val_A), atol=1e-6)
    cycle = np.abs(model.ema_BtoA(fake_B) - val_A).mean()
    assert metrics["G_AtoB/forward_cycle"] == metrics["G_BtoA/backward_cycle"] == pytest.approx(cycle, rel=1e-5)
    scores = model.D_B(val_B), model.D_B(fake_B)
    assert metrics["D_B/real"] == pytest.approx(np.mean((scores[0] - 1) ** 2), rel=1e-5)
    assert metrics["G_AtoB/adversarial"] == pytest.approx(np.mean((scores[1] - 1) ** 2), rel=1e-5)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.evaluate(val, return_dict=True, verbose=0) == metrics


@pytest.mark.parametrize(
    ("order", "callback", "rates"),
    [
        ("joint", keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.01 / (epoch + 1)), [0.01, 0.005]),
        # An improvement by so much never comes.
        (
            "sequential",
            keras.callbacks.ReduceLROnPlateau("val_G_AtoB/total", 0.5, 1, mode="min", min_delta=1e9),
            [0.002, 0.002],
        ),
    ],
    ids=["scheduler", "plateau"],
)
def test_callbacks_of_keras_set_every_learning_rate(
    make_small_model: Make, random_images: ImageSet, order: str, callback: keras.callbacks.Callback, rates: list[float]
) -> None:
    tf.config.run_functions_eagerly(False)
    model = make_small_model(update_order=order)
    model.compile(keras.optimizers.Adam(0.002, beta_1=0.5))
    real = random_images(1), random_images(1, seed=1)
    options = {"batch_size": 1, "epochs": 2, "validation_data": real, "callbacks": [callback], "verbose": 0}
    history = model.fit(*real, **options).history
    for group, optimizer in model.optimizers.items():
        assert history[f"learning_rate_{group}"] == pytest.approx(rates)
        # The plateau lowers it after the last epoch.
        assert float(optimizer.learning_rate) == pytest.approx(rates[-1] if order == "joint" else 0.001)

    model.compile(schedule=DecaySchedule(1e-3, total_steps=10, decay_start=0.0, policy="linear"))
    with pytest.raises(ValueError, match="schedule: sets the learning rate at each step; compile without it"):
        model.fit(*real, **options)


def test_what_a_step_cannot_use_is_refused_by_name(make_small_model: Make, random_images: ImageSet) -> None:
    tf.config.run_functions_eagerly(False)
    model = make_small_model()
    model.compile()
    real = random_images(3), random_images(3, seed=1)
    with pytest.raises(ValueError, match=r"x: the image pools need batches of one fixed size.*drop_remainder=True"):
        model.fit(*real, batch_size=2, verbose=0)
    with pytest.raises(ValueError, match="sample_weight, class_weight: CycleGAN weighs all images alike"):
        model.evaluate(*real, sample_weight=np.ones(3), verbose=0)
    with pytest.raises(ValueError, match=r"x: CycleGAN takes a batch of each domain, \(real_A, real_B\)"):
        model.predict(real[0], verbose=0)


def test_fit_learns_on_tf_data(make_small_model: Make, random_images: ImageSet) -> None:
    tf.config.run_functions_eagerly(False)
    model = make_small_model(dropout=0.0)
    model.compile(keras.optimizers.Adam(1e-2, beta_1=0.5), steps_per_execution=2)
    data = tf.data.Dataset.from_tensor_slices((random_images(8), random_images(8, seed=1))).batch(
        2, drop_remainder=True
    )
    history = model.fit(data, epochs=8, verbose=0).history
    assert history["G_AtoB/forward_cycle"][-1] < 0.95 * history["G_AtoB/forward_cycle"][0]
    assert history["D_A/total"][-1] < history["D_A/total"][0]
    assert int(model.step) == 32
