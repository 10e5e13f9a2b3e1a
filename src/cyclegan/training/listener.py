"""Who hears of a training: a tracker of experiments, at once or once a step can no longer be rewound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from cyclegan.training.progress import Progress


class Listener(Protocol):
    """A tracker of experiments."""

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record one value for each named series at a training step."""

    def log_image(self, step: int, key: str, image: np.ndarray) -> None:
        """Record an image, `[H, W, 3]` uint8, at a training step."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record tags of the training as a whole."""


class DeferredListener:
    """Passes images and tags on, and holds metrics back until they are released.

    The metrics wait in `progress.unlogged`, hence in every checkpoint: a resumed training loses none.

    Args:
        listener: who hears of the metrics in the end.
        progress: of the training.
    """

    def __init__(self, listener: Listener, progress: Progress) -> None:
        self._listener, self._progress = listener, progress

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._progress.unlogged.append((step, dict(metrics)))

    def log_image(self, step: int, key: str, image: np.ndarray) -> None:
        self._listener.log_image(step, key, image)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._listener.set_tags(tags)

    def release(self, until: float = math.inf) -> None:
        """Pass on the metrics of all steps up to `until`."""
        waiting = self._progress.unlogged
        while waiting and waiting[0][0] <= until:
            self._listener.log_metrics(*waiting.pop(0))
