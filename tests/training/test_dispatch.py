"""Grouping training steps in one call or another changes nothing but how often Python is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from cyclegan.data.loading.pipeline import ResidentBatches, training_batches
from cyclegan.training import dispatch
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.device import prepare_device
from cyclegan.training.dispatch import Batch, Dispatcher
from cyclegan.training.schedule import DecaySchedule

Make = Callable[..., CycleGAN]
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 7, 18, 18, 3)).astype(np.uint8)
DRAWN: dict[str, Any] = {"batch_size": 1, "crop_size": (16, 16), "flip": True, "seed": 3}


@pytest.fixture
def make_model(make_small_model: Make) -> Make:
    """Small networks: these tests are about what surrounds the step."""
    return make_small_model


def trained(make_model: Make, batches: Iterable[Batch], within: float) -> tuple[CycleGAN, list[int]]:
    """A model after twelve steps, and how many of them each call made."""
    prepare_device(seed=0, deterministic=True)
    model = make_model(pool_size=2, ema_decay=0.9)
    model.compile(schedule=DecaySchedule(2e-3, 12, 0.5, "linear"), jit_compile=CycleGAN.jit_compile)
    dispatcher, calls, iterator = Dispatcher(model), [], iter(batches)
    while sum(calls) < 12:
        steps, seconds = dispatcher.advance(iterator, most=min(5, 12 - sum(calls)), within=within)
        assert seconds > 0
        calls.append(steps)
        assert int(model.step.numpy()) == sum(calls)
    return model, calls


@pytest.mark.parametrize("xla", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["graph", "xla"])
def test_any_grouping_gives_the_same_bits(make_model: Make, monkeypatch: pytest.MonkeyPatch, xla: bool) -> None:
    """Wherever the images lie."""
    monkeypatch.setattr(dispatch, "SECONDS_IN_A_CALL", 3600.0)
    # Keras has a property in its place, which refuses XLA once determinism was asked for in this process.
    monkeypatch.setattr(CycleGAN, "jit_compile", xla)
    single, calls = trained(make_model, training_batches(*IMAGES, **DRAWN), within=0.0)
    assert calls == [1] * 12
    grouped, calls = trained(make_model, ResidentBatches(*IMAGES, **DRAWN), within=3600.0)
    assert calls == [1, 5, 5, 1]
    for name, variable in single.state().items():
        np.testing.assert_array_equal(grouped.state()[name].numpy(), variable.numpy(), err_msg=name)


def test_a_call_takes_about_as_long_as_it_may(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of steps that take a known time by a clock of our own."""
    model = make_model()
    model.compile()
    clock = iter([0.0, 40.0, 40.0, 40.125, 41.0, 41.5, 42.0, 42.5])
    dispatcher = Dispatcher(model)
    made: list[int] = []
    monkeypatch.setattr(dispatcher, "_run", lambda batches, count: made.append(int(count)) or count)
    monkeypatch.setattr(dispatch.time, "monotonic", lambda: next(clock))
    batches = iter([])
    # The first step builds the graph, which says nothing about the second.
    assert dispatcher.advance(batches, most=25) == (1, 40.0)
    assert dispatcher.advance(batches, most=25) == (1, 0.125)
    assert dispatcher.advance(batches, most=25) == (4, 0.5)
    assert dispatcher.advance(batches, most=3, within=60.0) == (3, 0.5)
    assert made == [1, 1, 4, 3]
