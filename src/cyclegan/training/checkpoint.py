"""Checkpoints of one run: written atomically and verified by a checksum."""

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
    """The named variable holds NaN or infinity, so training cannot resume from this state."""


@dataclass(frozen=True)
class CheckpointFolder:
    """A folder with the latest states of one run.

    A checkpoint is an `.npz` file without pickles. It holds every variable as a plain array, and the run's progress as
    the bytes of a JSON text. A second file holds its SHA-256 checksum and is written last. A checkpoint with a missing
    or wrong checksum was interrupted or altered; `restore` skips it and uses the previous one.

    Attributes:
        path: the folder, named by a hash of everything that shapes the run, so that runs never share states.
        keep: number of checkpoints to keep.
    """

    path: Path
    keep: int = 2

    def save(
        self,
        step: int,
        variables: Mapping[str, keras.Variable],
        progress: Mapping[str, Any],
    ) -> None:
        """Write the state after `step` training steps, then remove newer checkpoints and the oldest beyond `keep`.

        Args:
            step: training steps done.
            variables: the state by name.
            progress: the record of the training, as JSON types.

        Raises:
            NotFiniteError: a variable is not finite; no file is written.
        """
        arrays = {name: _finite_array(name, variable) for name, variable in variables.items()}
        target = self.path / f"step-{step:09d}.npz"
        with replacing(target) as temporary, temporary.open("wb") as file:
            # NumPy stores a character of text in four bytes, and the record of a run is long: store bytes.
            text = np.frombuffer(json.dumps(progress).encode(), np.uint8)
            np.savez(file, allow_pickle=False, progress=text, **arrays)
        with replacing(_checksum_file(target)) as temporary:
            temporary.write_text(_checksum(target))
        # A newer checkpoint was skipped as incomplete and must not count for `keep`.
        self.forget_from(step + 1)
        for old in self._newest_first()[self.keep :]:
            _checksum_file(old).unlink(missing_ok=True)
            old.unlink(missing_ok=True)
        # Remove the temporary files of killed processes; only one process writes here at a time.
        for temporary_file in self.path.glob(".step-*"):
            temporary_file.unlink()

    def restore(self, variables: Mapping[str, keras.Variable]) -> dict[str, Any] | None:
        """Load the newest intact and finite checkpoint into the variables.

        Returns:
            The progress saved with it. None if there is no such checkpoint; the variables then keep their values.
        """
        for path in self._newest_first():
            if not _is_intact(path):
                log.warning("%s: checkpoint is incomplete or altered; using the previous one", path.name)
                continue
            with np.load(path, allow_pickle=False) as saved:
                arrays = {name: saved[name] for name in variables}
                progress = _progress(saved)
            if name := _not_finite(arrays):
                log.warning("%s: checkpoint has NaN or infinity in %s; using the previous one", path.name, name)
                continue
            for name, variable in variables.items():
                variable.assign(arrays[name])
            return progress
        return None

    def progress(self) -> dict[str, Any] | None:
        """The progress saved with the newest intact checkpoint; None if there is none."""
        for path in self._newest_first():
            if _is_intact(path):
                with np.load(path, allow_pickle=False) as saved:
                    return _progress(saved)
        return None

    def steps(self) -> list[int]:
        """The steps of the intact checkpoints, newest first."""
        return [_step_of(path) for path in self._newest_first() if _is_intact(path)]

    def forget_from(self, step: int) -> None:
        """Remove the checkpoints of this step and of later steps."""
        for path in self._newest_first():
            if _step_of(path) >= step:
                _checksum_file(path).unlink(missing_ok=True)
                path.unlink()

    def _newest_first(self) -> list[Path]:
        return sorted(self.path.glob("step-*.npz"), reverse=True)


def refuse_not_finite(variables: Mapping[str, keras.Variable]) -> None:
    """Check that all variables are finite.

    Raises:
        NotFiniteError: one is not.
    """
    # Image pools may be large: hold one array at a time.
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
    """The name of the first array with NaN or infinity, or None."""
    return next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)


def _progress(saved: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return json.loads(saved["progress"].tobytes())


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _checksum_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_intact(path: Path) -> bool:
    recorded = _checksum_file(path)
    return recorded.is_file() and recorded.read_text() == _checksum(path)
