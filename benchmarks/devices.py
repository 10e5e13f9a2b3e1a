"""Cost of a training step over the number of devices; started by `python -m benchmarks.scaling --devices N`."""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import pandas as pd

from benchmarks import measure
from benchmarks.networks import images, our_model


def compare(options: argparse.Namespace) -> pd.DataFrame:
    """Measure 1, 2, 4 … devices up to `options.devices`, each with and without sums over the devices.

    Every device gets `options.batch` images of each domain, so the batch grows with their number. Without the sums the
    devices compute the same, each for itself: the difference is the share of the communication. Turns alternate.
    """
    counts = [count for count in (1, 2, 4, 8, 16) if count <= options.devices]
    forms = {f"{count}{kind}": (count, kind) for count in counts for kind in (("", " alone") if count > 1 else ("",))}
    commands = {
        name: [
            *(sys.executable, "-m", "benchmarks.scaling", *sys.argv[1:], "--child"),
            *("--devices", str(count), "--batch", str(options.batch * count), *(["--alone"] if kind else [])),
        ]
        for name, (count, kind) in forms.items()
    }
    found = measure.alternate(commands, options.turns, steps=2)
    # CPU seconds do not include the work of a GPU. On a CPU, the devices share its cores.
    kind = "cpu" if measure.gpus() == "none" else "wall"
    seconds = {name: statistics.median(getattr(one, kind)) for name, one in found.items()}
    rows = []
    for count in counts:
        together = seconds[str(count)]
        share = 1 - seconds[f"{count} alone"] / together if count > 1 else 0.0
        images_a_second = 2 * options.batch * count / together
        rows.append({"devices": count, f"images_per_{kind}_s": images_a_second, "share_of_communication": share})
    return pd.DataFrame(rows)


def step_on_devices(options: argparse.Namespace) -> Any:
    """A function that runs one training step on `options.devices` devices."""
    import tensorflow as tf

    from cyclegan.training import replicas
    from cyclegan.training.device import prepare_device

    if not tf.config.list_physical_devices("GPU"):
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * options.devices)
    prepare_device(0, options.deterministic)
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) < options.devices:
        raise SystemExit(f"--devices {options.devices}: this machine has {len(devices)}")
    strategy = tf.distribute.get_strategy()
    if options.devices > 1:
        strategy = tf.distribute.MirroredStrategy([device.name for device in devices[: options.devices]])
    with strategy.scope():
        model = our_model(options, "joint-add", paper=True)
    if options.alone:
        replicas._sum = lambda values: values
    share = options.batch // options.devices
    domains = images(options.size, options.batch)

    def of_device(context: Any) -> tuple[Any, Any]:
        first = context.replica_id_in_sync_group * share
        real_A, real_B = (tf.constant(domain[0, first : first + share]) for domain in domains)
        return real_A, real_B

    batch = strategy.experimental_distribute_values_from_function(of_device)
    train_step = replicas.train_step_of(model)

    @tf.function
    def step() -> dict[str, Any]:
        return train_step(batch)

    def run() -> dict[str, Any]:
        model.reset_metrics()
        losses = step()
        return {name: strategy.experimental_local_results(value)[0] for name, value in losses.items()}

    return run
