"""How many of a machine's devices a training uses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf

from cyclegan.experiment.devices import choose_strategy, most_devices
from cyclegan.params import Params
from cyclegan.system.errors import UserError
from tiny import tiny

PLATEAU = {"metric": "val_AtoB/cycle_l1", "patience": 3, "factor": 0.5}


def make(train: dict[str, Any], model: dict[str, Any] | None = None) -> Params:
    return tiny(train={"plateau": PLATEAU, "discriminator_batch": None, **train}, model=model or {})


@pytest.mark.parametrize(
    ("available", "train", "model", "expected"),
    [
        (8, {"batch_size": 1}, {}, 1),
        (8, {"batch_size": 8}, {}, 8),
        (3, {"batch_size": 4}, {}, 2),
        (8, {"batch_size": 4, "discriminator_batch": 6}, {}, 2),
        (8, {"batch_size": 8}, {"dropout": 0.5}, 1),
    ],
)
def test_auto_takes_the_most_that_divide_the_batch(
    available: int, train: dict[str, Any], model: dict[str, Any], expected: int
) -> None:
    assert most_devices(make(train, model), available) == expected


def test_a_processor_is_one_device() -> None:
    assert choose_strategy(make({"batch_size": 4})) is tf.distribute.get_strategy()


def test_fewer_gpus_are_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    params = make({"batch_size": 8, "devices": 4})
    with pytest.raises(UserError, match=r"train\.devices = 4: .*no GPU.*auto"):
        choose_strategy(params)
    gpus = [SimpleNamespace(name=f"GPU:{n}", device_type="GPU") for n in range(3)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus if kind == "GPU" else [])
    with pytest.raises(UserError, match=r"train\.devices = 4: .*3 GPUs.*auto"):
        choose_strategy(params)
    choose_strategy(make({"batch_size": 1}))
    assert "1 of 3 GPUs: 3 do not divide train.batch_size = 1" in capsys.readouterr().out
