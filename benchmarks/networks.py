"""The CycleGANs and images of the benchmarks."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

# Our CycleGAN with the tutorial's networks: in its update order, in joint order, and with residual addition.
FORMS: dict[str, dict[str, Any]] = {
    "sequential": {"skip": "concat", "update_order": "sequential"},
    "joint": {"skip": "concat", "update_order": "joint"},
    "joint-add": {"skip": "add", "update_order": "joint"},
}


def images(size: int, batch: int, count: int = 4) -> np.ndarray:
    """Smooth random images of both domains, `[2, count, batch, size, size, 3]` float32 in [-1, 1]."""
    draws = np.random.default_rng(0)
    place = np.linspace(0, 2 * np.pi, size, dtype=np.float32)
    wave, phase = (
        draws.uniform(low, high, (6, 2, count, batch, 3)).astype(np.float32)[..., None, None, :]
        for low, high in ((0.5, 4), (0, 6))
    )
    rows, columns = place[:, None, None], place[None, :, None]
    return np.tanh(
        sum(np.sin(w * (rows if n % 2 else columns) + p) for n, (w, p) in enumerate(zip(wave, phase, strict=True)))
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all benchmarks of the step share."""
    parser.add_argument("--size", type=int, default=128, help="side of the images; default 128")
    parser.add_argument("--blocks", type=int, default=6, help="residual blocks; default 6")
    parser.add_argument("--filters", type=int, default=64, help="filters of the first layers; default 64")
    parser.add_argument("--batch", type=int, default=1, help="images of each domain in a step; default 1")
    parser.add_argument("--bf16", action="store_true", help="our networks in bfloat16")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="as train.gradient_checkpointing")
    parser.add_argument("--deterministic", action="store_true", help="as train.deterministic")


def our_model(options: argparse.Namespace, form: str, paper: bool = False) -> Any:
    """Our compiled model.

    Args:
        options: see `add_options`.
        form: a key of `FORMS`.
        paper: use the paper's networks (reflection padding, 70×70 PatchGAN) instead of the tutorial's.
    """
    import keras

    from cyclegan import CycleGAN, build_discriminator, build_generator

    keras.config.set_dtype_policy("mixed_bfloat16" if options.bf16 else "float32")
    norm = "instance" if paper else "instance_contrib"
    generator: dict[str, Any] = {"blocks": options.blocks, "base_filters": options.filters, "norm": norm}
    generator |= {"skip": FORMS[form]["skip"], "padding": "reflect" if paper else "same", "output_norm": not paper}
    discriminator = {"architecture": "patch" if paper else "tutorial", "base_filters": options.filters, "norm": norm}
    model = CycleGAN(
        **{name: build_generator(name=name, seed=n, **generator) for n, name in enumerate(("G_AtoB", "G_BtoA"))},
        **{name: build_discriminator(name=name, seed=n, **discriminator) for n, name in enumerate(("D_A", "D_B"), 2)},
        image_size=(options.size, options.size),
        update_order=FORMS[form]["update_order"],
    )
    model.compile(
        jit_compile=False if options.deterministic else "auto", gradient_checkpointing=options.gradient_checkpointing
    )
    return model


def our_step(options: argparse.Namespace, form: str, paper: bool = False) -> Any:
    """A function that runs one of our training steps; the arguments are those of `our_model`."""
    import tensorflow as tf

    from cyclegan.training.device import prepare_device

    prepare_device(0, options.deterministic)
    model = our_model(options, form, paper)
    real_A, real_B = (tf.constant(domain) for domain in images(options.size, options.batch))
    number = iter(range(1 << 60))

    @tf.function(jit_compile=model.jit_compile)
    def step(real_A: tf.Tensor, real_B: tf.Tensor) -> dict[str, tf.Tensor]:
        model.reset_metrics()
        return model.train_step((real_A, real_B))

    def run() -> dict[str, tf.Tensor]:
        n = next(number) % len(real_A)
        return step(real_A[n], real_B[n])

    return run
