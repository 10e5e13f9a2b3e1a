"""Other runs' checkpoints: which one a run may go on from, and in what it differs from the newest one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclegan.params import flatten
from cyclegan.system.files import write_json
from cyclegan.training.checkpoint import CheckpointFolder

SHAPES = "shapes.json"
"""The file beside a run's checkpoints that holds all that shapes the run."""

LINES = 12
"""Differences shown at most."""


@dataclass(frozen=True)
class Relative:
    """Another run of this project that has left a checkpoint."""

    checkpoints: CheckpointFolder
    shapes: dict[str, Any]
    step: int
    run_id: str | None

    @property
    def epochs(self) -> int:
        return int(self.shapes["train"]["epochs"])


def remember(folder: Path, shapes: Mapping[str, Any]) -> None:
    """Write down what shapes the run whose checkpoints lie in `folder`."""
    write_json(folder / SHAPES, _plain(shapes))


def relatives(
    root: Path, own: Path, wanted: Callable[[dict[str, Any]], bool] = lambda shapes: True
) -> Iterator[Relative]:
    """The other runs with checkpoints under `root`, of the wanted shapes, the one that was trained last first."""
    files = [file for file in root.glob(f"*/{SHAPES}") if file.parent != own]
    for file in sorted(files, key=lambda file: file.parent.stat().st_mtime, reverse=True):
        shapes = json.loads(file.read_text(encoding="utf-8"))
        folder = CheckpointFolder(file.parent)
        # Checks the sum of a checkpoint, which may be large.
        if wanted(shapes) and (progress := folder.progress()):
            yield Relative(folder, shapes, progress["step"], progress["run_id"])


def shorter_finished(root: Path, own: Path, shapes: Mapping[str, Any], steps_per_epoch: int) -> Relative | None:
    """The longest run that is finished and differs from `shapes` in nothing but a smaller number of epochs."""

    def but_epochs(tree: Mapping[str, Any]) -> dict[str, Any]:
        return {**tree, "train": {**tree["train"], "epochs": None}}

    longer = _plain(shapes)

    def shorter(tree: dict[str, Any]) -> bool:
        return but_epochs(tree) == but_epochs(longer) and tree["train"]["epochs"] < longer["train"]["epochs"]

    found = [run for run in relatives(root, own, shorter) if run.step == run.epochs * steps_per_epoch]
    return max(found, key=lambda relative: relative.epochs, default=None)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not equal, one line each: `train.learning_rate: 0.0005 -> 0.0002`, `code.training: changed`."""
    old, new = dict(flatten(before)), dict(flatten(_plain(now)))
    lines = []
    for key in {**old, **new}:
        if key not in old or key not in new or old[key] != new[key]:
            changed = "changed" if key.split(".")[0] in ("code", "data") else None
            lines.append(f"{key}: {changed or f'{old.get(key)} -> {new.get(key)}'}")
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], f"and {len(lines) - LINES + 1} more"]


def _plain(shapes: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from a file: tuples are lists."""
    return json.loads(json.dumps(shapes))
