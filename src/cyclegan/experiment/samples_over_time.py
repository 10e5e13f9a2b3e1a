"""Samples over time: translations of the same validation images at several evaluations, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cyclegan.domains import DIRECTIONS, Direction, DomainNames
from cyclegan.evaluation.protocol import evenly
from cyclegan.models.pixels import displayable
from cyclegan.report.grid import Column, comparison_grid, stacked
from cyclegan.system.files import replacing

# Maximum number of images per domain, and of evaluations.
IMAGES = 4
EVALUATIONS = 6


class SamplesOverTime:
    """Translated images, one file for each evaluation. A resumed training overwrites those that it repeats.

    Args:
        folder: of the files; created with the first one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, step: int, translated: Mapping[Direction, Column]) -> None:
        """Write the images of an evaluation, uint8 or uint16."""
        arrays = {
            f"{direction}_{n}": displayable(np.asarray(image)[None])[0]
            for direction, images in translated.items()
            for n, image in enumerate(images[:IMAGES])
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._file(step)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def draw(
        self,
        evaluations: Sequence[Mapping[str, float]],
        kept: int,
        real: Mapping[Direction, Column],
        names: DomainNames,
    ) -> np.ndarray:
        """Draw real images and their translations at evaluations during the training.

        Args:
            evaluations: `step` and `epoch` of each, oldest first.
            kept: the step of the kept generators, whose samples must be saved; always among the columns.
            real: the source images, in the order of their translations.
            names: of the domains, for the headings.

        Returns:
            [H, W, 3], uint8.
        """
        saved = [row for row in evaluations if self._file(int(row["step"])).is_file()]
        chosen = {int(saved[n]["step"]) for n in evenly(len(saved), EVALUATIONS)} | {kept}
        blocks = []
        for direction, (source, _) in DIRECTIONS.items():
            columns: list[tuple[str, Column]] = [(f"real {names.of(source)}", list(real[direction][:IMAGES]))]
            for row in saved:
                if int(row["step"]) in chosen:
                    mark = " (kept)" if int(row["step"]) == kept else ""
                    columns.append((f"epoch {row['epoch']:.3g}{mark}", self._read(int(row["step"]), direction)))
            blocks.append(columns)
        return stacked([comparison_grid([block]) for block in blocks])

    def _file(self, step: int) -> Path:
        return self._folder / f"step-{step:09d}.npz"

    def _read(self, step: int, direction: Direction) -> list[np.ndarray]:
        with np.load(self._file(step), allow_pickle=False) as saved:
            count = sum(name.startswith(direction) for name in saved.files)
            return [saved[f"{direction}_{n}"] for n in range(count)]
