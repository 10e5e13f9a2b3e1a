"""Checkpoints: atomic, self-verifying, tied to the run that they belong to."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cyclegan.files import replacing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointFolder:
    """The last few states of one run.

    A checkpoint is one `.npz` file with every variable as a plain array and a JSON text with the run's progress (no
    pickle), and beside it a file with its SHA-256 sum. The sum is written last: a file without its sum, or with
    another one, was interrupted or altered and is passed over for the one before.

    Attributes:
        path: the folder; named for a hash of all that shapes the run, so that no run finds another's state.
        keep: how many checkpoints stay.
    """

    path: Path
    keep: int = 2

    def save(self, step: int, variables: Mapping[str, keras.Variable], progress: dict[str, Any]) -> None:
        """Write the state after `step` training steps, then remove the oldest beyond `keep`."""
        arrays = {name: _array(variable) for name, variable in variables.items()}
        target = self.path / f"step-{step:09d}.npz"
        with replacing(target) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, progress=np.array(json.dumps(progress)), **arrays)
        with replacing(_sum_file(target)) as temporary:
            temporary.write_text(_sum(target))
        for old in self._newest_first()[self.keep :]:
            _sum_file(old).unlink(missing_ok=True)
            old.unlink(missing_ok=True)
        # Of processes killed while they wrote; only one process writes here at a time.
        for leftover in self.path.glob(".step-*"):
            leftover.unlink()

    def restore(self, variables: Mapping[str, keras.Variable]) -> dict[str, Any] | None:
        """Load the newest intact checkpoint into the variables.

        Returns:
            The progress saved with it, or None where there is no intact checkpoint.
        """
        for path in self._newest_first():
            if not _is_intact(path):
                log.warning("checkpoint %s is incomplete or altered; trying the one before it", path.name)
                continue
            with np.load(path, allow_pickle=False) as saved:
                for name, variable in variables.items():
                    variable.assign(saved[name])
                return json.loads(str(saved["progress"]))
        return None

    def _newest_first(self) -> list[Path]:
        return sorted(self.path.glob("step-*.npz"), reverse=True)


def _array(variable: keras.Variable) -> np.ndarray:
    value = variable.value.numpy()
    # NumPy has no bfloat16; float32 holds every bfloat16 exactly.
    return value.astype(np.float32) if value.dtype.name == "bfloat16" else value


def _sum_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_intact(path: Path) -> bool:
    recorded = _sum_file(path)
    return recorded.is_file() and recorded.read_text() == _sum(path)
