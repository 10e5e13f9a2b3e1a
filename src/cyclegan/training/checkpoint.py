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

from cyclegan.system.files import replacing

log = logging.getLogger(__name__)


class NotFiniteError(Exception):
    """A state holds NaN or infinity, in the variable that it names: it is no state to go on from."""


@dataclass(frozen=True)
class CheckpointFolder:
    """The last few states of one run.

    A checkpoint is one `.npz` file with every variable as a plain array and the run's progress as the bytes of a JSON
    text (no pickle), and beside it a file with its SHA-256 sum. The sum is written last: a file without its sum, or
    with another one, was interrupted or altered and is passed over for the one before.

    Attributes:
        path: the folder; named for a hash of all that shapes the run, so that no run finds another's state.
        keep: how many checkpoints stay.
    """

    path: Path
    keep: int = 2

    def save(
        self,
        step: int,
        variables: Mapping[str, keras.Variable],
        progress: Mapping[str, Any],
    ) -> None:
        """Write the state after `step` training steps, then remove the oldest beyond `keep`, and any that is newer.

        Args:
            progress: what is saved beside the variables.

        Raises:
            NotFiniteError: the variables are no state to go on from; nothing is written then.
        """
        arrays = {name: _finite_array(name, variable) for name, variable in variables.items()}
        target = self.path / f"step-{step:09d}.npz"
        with replacing(target) as temporary, temporary.open("wb") as file:
            # As bytes: NumPy keeps a text in four for each letter, and the record of a long run has many.
            text = np.frombuffer(json.dumps(progress).encode(), np.uint8)
            np.savez(file, allow_pickle=False, progress=text, **arrays)
        with replacing(_sum_file(target)) as temporary:
            temporary.write_text(_sum(target))
        # A newer one has been passed over as incomplete, and must not count as one of those that stay.
        self.forget_from(step + 1)
        for old in self._newest_first()[self.keep :]:
            _sum_file(old).unlink(missing_ok=True)
            old.unlink(missing_ok=True)
        # Of processes killed while they wrote; only one process writes here at a time.
        for leftover in self.path.glob(".step-*"):
            leftover.unlink()

    def restore(self, variables: Mapping[str, keras.Variable]) -> dict[str, Any] | None:
        """Load the newest intact and finite checkpoint into the variables.

        Returns:
            The progress saved with it, or None where there is no such checkpoint; the variables are then untouched.
        """
        for path in self._newest_first():
            if not _is_intact(path):
                log.warning("checkpoint %s is incomplete or altered; trying the one before it", path.name)
                continue
            with np.load(path, allow_pickle=False) as saved:
                arrays = {name: saved[name] for name in variables}
                progress = _progress(saved)
            if name := _not_finite(arrays):
                log.warning("checkpoint %s holds NaN or infinity in %s; trying the one before it", path.name, name)
                continue
            for name, variable in variables.items():
                variable.assign(arrays[name])
            return progress
        return None

    def progress(self) -> dict[str, Any] | None:
        """The progress saved with the newest intact checkpoint, without its arrays; None where there is none."""
        for path in self._newest_first():
            if _is_intact(path):
                with np.load(path, allow_pickle=False) as saved:
                    return _progress(saved)
        return None

    def steps(self) -> list[int]:
        """The steps of which there are intact checkpoints, newest first."""
        return [_step_of(path) for path in self._newest_first() if _is_intact(path)]

    def forget_from(self, step: int) -> None:
        """Remove the checkpoints of this step and later ones."""
        for path in self._newest_first():
            if _step_of(path) >= step:
                _sum_file(path).unlink(missing_ok=True)
                path.unlink()

    def _newest_first(self) -> list[Path]:
        return sorted(self.path.glob("step-*.npz"), reverse=True)


def refuse_not_finite(variables: Mapping[str, keras.Variable]) -> None:
    """Check that a state is one to go on from.

    Raises:
        NotFiniteError: it is not.
    """
    # One at a time: image pools may be large, and nothing is kept.
    for name, variable in variables.items():
        _finite_array(name, variable)


def _finite_array(name: str, variable: keras.Variable) -> np.ndarray:
    value = variable.value.numpy()
    # NumPy has no bfloat16; float32 holds every bfloat16 exactly.
    array = value.astype(np.float32) if value.dtype.name == "bfloat16" else value
    if not np.isfinite(array).all():
        raise NotFiniteError(name)
    return array


def _not_finite(arrays: Mapping[str, np.ndarray]) -> str | None:
    """The first array with NaN or infinity in it."""
    return next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)


def _progress(saved: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return json.loads(saved["progress"].tobytes())


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _sum_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_intact(path: Path) -> bool:
    recorded = _sum_file(path)
    return recorded.is_file() and recorded.read_text() == _sum(path)
