"""Seeded initializers, a separate one for each layer."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

_MAKERS: dict[str, Callable[[float, int], keras.initializers.Initializer]] = {
    "normal": lambda gain, seed: keras.initializers.RandomNormal(0.0, gain, seed=seed),
    "xavier": lambda gain, seed: keras.initializers.VarianceScaling(
        gain**2, mode="fan_avg", distribution="untruncated_normal", seed=seed
    ),
    "kaiming": lambda gain, seed: keras.initializers.VarianceScaling(
        2.0 * gain**2, mode="fan_in", distribution="untruncated_normal", seed=seed
    ),
    "orthogonal": lambda gain, seed: keras.initializers.Orthogonal(gain, seed=seed),
}


class SeededInitializers:
    """Returns a new kernel initializer with its own seed on every call.

    An initializer with a fixed seed returns the same numbers on every call, so layers that share an instance start with
    equal kernels. Here the seed of a layer follows from the network's seed and the number of the layer.

    Args:
        kind: `normal` (standard deviation `gain`, as in the CycleGAN paper), `xavier`, `kaiming` or `orthogonal`.
        gain: multiplies the standard deviation of every kind; `kaiming` with gain 1 is He et al. 2015.
        seed: seed of the network.

    Raises:
        ValueError: `kind` is unknown.

    Example:

    >>> initializers = SeededInitializers("normal", 0.02, seed=0)
    >>> first, second = initializers(), initializers()
    """

    def __init__(self, kind: str, gain: float, seed: int) -> None:
        if kind not in _MAKERS:
            raise ValueError(f"init = {kind!r}: must be one of {', '.join(_MAKERS)}")
        self._make = _MAKERS[kind]
        self._gain = gain
        self._seed = seed
        self._count = 0

    def __call__(self, scale: float = 1.0) -> keras.initializers.Initializer:
        """Return the next layer's initializer, its gain multiplied by `scale`."""
        return self._make(self._gain * scale, self.next_seed())

    def next_seed(self) -> int:
        """Return the next seed, also for other uses of random numbers in a layer."""
        self._count += 1
        return int(np.random.SeedSequence([self._seed, self._count]).generate_state(1)[0] >> 1)
