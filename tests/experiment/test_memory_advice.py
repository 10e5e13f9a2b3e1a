"""The message of a training that is out of memory. The errors are TensorFlow's own, without a GPU."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from cyclegan.experiment.memory_advice import describe_pools, memory_advice, smaller_values
from cyclegan.params import Params, Size, read, validate
from cyclegan.system.errors import UserError

COMMITTED = read(Path(__file__).parents[2] / "params.yaml")


def params(train: dict[str, Any], **sections: dict[str, Any]) -> Params:
    tree = copy.deepcopy(COMMITTED)
    for section, values in {"train": train, **sections}.items():
        tree[section] |= values
    return validate(tree)


def test_tensorflows_own_error_becomes_one_line_with_sizes() -> None:
    options = params(
        {"batch_size": 4, "crop_size": 256},
        model={"generator": "resnet", "base_filters": 64},
        data={"load_size": 286},
    )
    with pytest.raises(UserError) as caught, memory_advice(options, (256, 256), "NVIDIA H100"):
        # An exabyte is too much for any machine. The error has the class and the message of a full GPU.
        tf.zeros((2**30, 2**28))
    assert isinstance(caught.value.__cause__, tf.errors.ResourceExhaustedError)
    message = str(caught.value)
    wanted, _, remedies = message.partition(";")
    for fact in (
        *("memory", "NVIDIA H100", "shape[1073741824,268435456]", "float"),
        *("train.batch_size: 4", "[256, 256]", "model.base_filters: 64", "train.mixed_precision: false"),
    ):
        assert fact in wanted
    assert (
        "train.batch_size: 2, train.mixed_precision: true, train.crop_size: [180, 180], model.base_filters: 32"
        in remedies
    )
    assert "\n" not in message


def test_large_image_pools_are_in_the_advice() -> None:
    large = {"crop_size": 256, "pool_size": 5000}
    one, two = (params(large | {"discriminator_batch": n}, data={"load_size": 286}) for n in (None, 8))
    # 5,000 images of 256 * 256 * 3 numbers of 4 bytes per domain, and the same number of real images.
    for options, size in ((one, "7.3 GiB"), (two, "14.6 GiB")):
        assert size in describe_pools(options, (256, 256))
        assert "train.pool_size" in describe_pools(options, (256, 256))
    assert describe_pools(params({"pool_size": 50}), (64, 64)) == ""


@pytest.mark.parametrize(
    ("train", "model", "size", "expected"),
    [
        (
            {"batch_size": 1, "crop_size": 64, "mixed_precision": True},
            {"generator": "unet", "base_filters": 32, "patch_layers": 1},
            (64, 64),
            ["train.crop_size: [32, 32]", "model.base_filters: 16"],
        ),
        (
            {"batch_size": 9, "discriminator_batch": None, "crop_size": [48, 64]},
            {"generator": "resnet", "base_filters": 1, "patch_layers": 2},
            (48, 64),
            ["train.batch_size: 4", "train.mixed_precision: true", "train.crop_size: [32, 44]"],
        ),
        (
            {"batch_size": 1, "crop_size": 32},
            {"generator": "resnet", "base_filters": 8, "patch_layers": 3},
            (32, 32),
            ["train.mixed_precision: true", "model.base_filters: 4"],
        ),
    ],
)
def test_proposals_are_valid_parameters(
    train: dict[str, Any], model: dict[str, Any], size: Size, expected: list[str]
) -> None:
    assert smaller_values(params(train, model=model), size) == expected
    for proposal in expected:
        section, _, rest = proposal.partition(".")
        key, _, value = rest.partition(": ")
        changed = {"true": True}.get(value) or eval(value)
        both = {"train": train, "model": model}
        both[section] = both[section] | {key: changed}
        assert params(both["train"], model=both["model"]) is not None


def test_memory_of_the_host_and_of_cuda_count_too() -> None:
    for error in (
        MemoryError("Unable to allocate 1 TiB"),
        tf.errors.InternalError(None, None, "CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    ):
        with (
            pytest.raises(UserError, match=r"^X: out of memory with "),
            memory_advice(params({}), (64, 64), "X"),
        ):
            raise error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(tf.errors.InternalError), memory_advice(params({}), (64, 64), "X"):
        raise tf.errors.InternalError(None, None, "something else")
    with pytest.raises(np.exceptions.AxisError), memory_advice(params({}), (64, 64), "X"):
        np.zeros(2).sum(axis=1)
