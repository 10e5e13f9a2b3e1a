"""The single operation computes what Keras' own Adam computes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from cyclegan.training.adam import FusedAdam


@pytest.mark.parametrize(
    ("options", "jit_compile"), [({"weight_decay": 0.1}, False), ({"global_clipnorm": 0.5}, False), ({}, True)]
)
def test_equal_to_keras(options: dict[str, float], jit_compile: bool) -> None:
    draws = np.random.default_rng(0)
    start = [draws.normal(size=shape).astype(np.float32) for shape in ((3, 4), (5,))]
    gradients = [[draws.normal(size=value.shape).astype(np.float32) for value in start] for _ in range(10)]
    fused, plain = (
        ten_steps(kind, options, jit_compile, start, gradients) for kind in (FusedAdam, keras.optimizers.Adam)
    )
    for one, other in zip(fused, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def ten_steps(
    kind: type, options: dict[str, float], jit_compile: bool, start: list, gradients: list
) -> list[np.ndarray]:
    """The weights and the optimizer's state afterwards."""
    optimizer = kind(0.01, beta_1=0.5, **options)
    variables = [keras.Variable(value) for value in start]
    optimizer.build(variables)
    apply = tf.function(lambda *values: optimizer.apply(values, variables), jit_compile=jit_compile)
    for values in gradients:
        apply(*map(tf.constant, values))
    return [value.numpy() for value in (*variables, *optimizer.variables)]


def test_amsgrad_is_refused() -> None:
    with pytest.raises(ValueError, match="amsgrad"):
        FusedAdam(amsgrad=True)
