"""Listeners of a training, which log to an experiment tracker, at once or when a step can no longer be rewound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from cyclegan.training.progress import Progress


class Listener(Protocol):
    """An experiment tracker."""

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one value for each named series at a training step."""

    def log_image(self, step: int, key: str, image: np.ndarray) -> None:
        """Log an image, `[H, W, 3]` uint8, at a training step."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the whole training."""


class DeferredListener:
    """A listener that forwards images and tags at once, and metrics when they are released.

    The metrics wait in `progress.unlogged` and therefore in every checkpoint: a resumed training loses none.

    Args:
        listener: the listener that receives everything.
        progress: the record of the training.
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
        """Forward the metrics of all steps up to `until`."""
        waiting = self._progress.unlogged
        while waiting and waiting[0][0] <= until:
            self._listener.log_metrics(*waiting.pop(0))
