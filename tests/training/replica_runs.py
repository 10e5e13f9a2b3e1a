"""Train the same steps on one and on several devices, in a process of its own, and compare: losses and state.

TensorFlow cannot have strategies of two sizes in one process, and the number of devices must be known at its start.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import tensorflow as tf

from cyclegan.data.loading.pipeline import ResidentBatches, batch_source
from cyclegan.models.discriminator import build_discriminator
from cyclegan.models.generator import build_generator
from cyclegan.training.adam import FusedAdam
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.dispatch import Dispatcher
from cyclegan.training.losses import Objective
from cyclegan.training.replicas import train_step_of
from cyclegan.training.schedule import DecaySchedule

BATCH = 4
NETWORKS = ("G_AtoB", "G_BtoA", "D_A", "D_B", "ema_AtoB", "ema_BtoA", "kept_AtoB", "kept_BtoA")


def arguments_of(case: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the model and of `compile`. The optimizer's variables need the devices to be set up."""
    norm = {"norm": "batch"}
    everything = {
        "objective": Objective(r1_penalty=1.0, diff_augment=("color", "translation", "cutout")),
        "schedule": DecaySchedule(2e-4, 20, 0.3, "linear"),
        "optimizer": FusedAdam(2e-4, beta_1=0.5, global_clipnorm=0.5),
    }
    wasserstein = Objective(adversarial_loss="wasserstein", gradient_penalty=10.0)
    small = {"generator": {"blocks": 0, "norm": "none"}, "discriminator": {"norm": "none"}}
    return {
        "plain": ({}, {}),
        # As `all`, without the parts that take seconds.
        "small": (
            {"pool_size": 2, "discriminator_batch": 8, "ema_decay": 0.9, **small},
            {**everything, "objective": Objective(diff_augment=("translation",))},
        ),
        "all": ({"discriminator_batch": 8, "ema_decay": 0.9, "keep_best": True}, everything),
        "wgan": ({}, {"objective": wasserstein}),
        "checkpointing": ({}, {"gradient_checkpointing": True}),
        "batch-norm": ({"generator": norm, "discriminator": norm}, {}),
        "spectral-norm": ({"discriminator": {"spectral_norm": True}}, {}),
    }[case]


def set_up(devices: int, dtype: str) -> None:
    """Divide the processor into logical devices, and compute in this type."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False, "remapping": False})
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(0)
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)


def strategy_of(devices: int) -> tf.distribute.Strategy:
    if devices == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(devices)])


def make(strategy: tf.distribute.Strategy, case: str, order: str) -> CycleGAN:
    options, compiled = arguments_of(case)
    generator = {"base_filters": 2, "blocks": 1, "init_gain": 0.2} | options.pop("generator", {})
    discriminator = {"base_filters": 2, "layers": 1, "init_gain": 0.2} | options.pop("discriminator", {})
    with strategy.scope():
        model = CycleGAN(
            build_generator(3, 3, seed=1, name="G_AtoB", **generator),
            build_generator(3, 3, seed=2, name="G_BtoA", **generator),
            build_discriminator(3, seed=3, name="D_A", **discriminator),
            build_discriminator(3, seed=4, name="D_B", **discriminator),
            image_size=(16, 16),
            update_order=order,
            **({"pool_size": 5} | options),
        )
        model.compile(jit_compile=False, **compiled)
    return model


def images() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return tuple(random.integers(0, 256, (count, 18, 18, 3), np.uint8) for count in (7, 11))


class Cast:
    """Batches in the type of the networks."""

    def __init__(self, batches: Any, strategy: tf.distribute.Strategy) -> None:
        self._batches, self._strategy = iter(batches), strategy

    def __next__(self) -> Any:
        dtype = keras.config.floatx()
        return self._strategy.run(lambda *pair: tuple(tf.cast(each, dtype) for each in pair), args=next(self._batches))


def batches_for(strategy: tf.distribute.Strategy, resident: bool) -> Any:
    """The batches from step 0 on."""
    drawn: dict[str, Any] = {"batch_size": BATCH, "crop_size": (16, 16), "flip": True, "seed": 5}
    several = strategy if strategy.num_replicas_in_sync > 1 else None
    if resident:
        return Cast(ResidentBatches(*images(), **drawn, strategy=several), strategy)
    return Cast(batch_source(*images(), **drawn, strategy=several)(0), strategy)


def run(devices: int, case: str, order: str, steps: int, resident: bool = False) -> dict[str, Any]:
    """Losses after each step, the state of each replica, and the paths of the variables."""
    strategy = strategy_of(devices)
    keras.utils.set_random_seed(0)
    model = make(strategy, case, order)
    batches, dispatcher = batches_for(strategy, resident), Dispatcher(model)
    losses = []
    for _ in range(steps):
        model.reset_metrics()
        if tf.config.functions_run_eagerly():
            train_step_of(model)(next(batches))
        else:
            dispatcher.advance(batches, 1)
        losses.append({name: float(value) for name, value in model.get_metrics_result().items()})
    state = {
        name: [copy.numpy() for copy in strategy.experimental_local_results(variable.value)]
        for name, variable in model.state().items()
    }
    return {"losses": losses, "state": state, "paths": {name: v.path for name, v in model.state().items()}}


def compare(one: dict[str, Any], several: dict[str, Any]) -> dict[str, float]:
    """The largest deviations of several devices from one."""

    def worst(chosen: Any) -> float:
        return max(
            (
                float(np.abs(several["state"][name][0].astype(float) - one["state"][name][0].astype(float)).max())
                for name in one["state"]
                if chosen(name)
            ),
            default=0.0,
        )

    relative = [
        abs(after[name] - before[name]) / max(1e-3, abs(before[name]))
        for before, after in zip(one["losses"], several["losses"], strict=True)
        for name in before
    ]
    return {
        "losses": max(relative),
        "kernels": worst(lambda name: name.split("/")[0] in NETWORKS and "kernel" in one["paths"][name]),
        "weights": worst(lambda name: name.split("/")[0] in NETWORKS),
        "pools": worst(lambda name: name.startswith("pool")),
        "counters": worst(lambda name: "/" not in name),
        "copies that differ": sum(
            any(not np.array_equal(copies[0], copy) for copy in copies[1:]) for copies in several["state"].values()
        ),
        "other names": len(set(one["state"]) ^ set(several["state"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--resident", action="store_true", help="images on the devices")
    parser.add_argument("--eager", action="store_true", help="no graph, which takes less time for a few steps")
    parser.add_argument("runs", nargs="+", help="CASE:ORDER")
    options = parser.parse_args()
    set_up(options.devices, options.dtype)
    tf.config.run_functions_eagerly(options.eager)
    result = {}
    for name in options.runs:
        case, order = name.split(":")
        one, several = (run(devices, case, order, options.steps, options.resident) for devices in (1, options.devices))
        result[name] = compare(one, several)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
