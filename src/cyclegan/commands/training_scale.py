"""A note if images are much larger or smaller than those that a generator was trained on."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclegan.commands.model_argument import is_of_project
from cyclegan.data.images.layout import shown

# Factor between the shorter sides from which the scale is far from the training's.
FAR = 2.0

logger = logging.getLogger(__name__)


@dataclass
class ScaleNote:
    """Warns once, of the first image with another scale.

    Attributes:
        side: the shorter side of the training images in pixels; None: unknown, or they had different sizes.
    """

    side: int | None

    @classmethod
    def of(cls, model: str) -> ScaleNote:
        """The note for a model: of the registry, or a generator of the current project."""
        return cls(_shorter_side(_load_size(model)))

    def __call__(self, path: Path, size: tuple[int, ...]) -> None:
        """Warn of an image of this size, `(height, width)`, if it is the first with another scale."""
        if self.side is None or 1 / FAR <= (factor := min(size) / self.side) <= FAR:
            return
        times = f"{factor:.1f} times larger" if factor > 1 else f"{1 / factor:.1f} times smaller"
        logger.warning(
            "%s (%d×%d pixels): the shorter side is %s than in training (%d), where objects had another size; "
            "try --resize %d",
            *(shown(path), size[1], size[0], times, self.side, self.side),
        )
        self.side = None


def _load_size(model: str) -> Any:
    """`data.load_size` of a model's training, as text or as a parameter; None if it is unknown."""
    from cyclegan.params import load
    from cyclegan.project import Project
    from cyclegan.system.errors import UserError

    try:
        project = Project.find()
        if not model.startswith("models:/"):
            return load(project.params).data.load_size if is_of_project(model, project) else None
        from cyclegan.registry.listing import resolve
        from cyclegan.tracking.store import open_store

        store = open_store(project, load(project.params).tracking)
        version = resolve(store, model)
        run = store.run(version.run_id) if version.run_id else None
    # Outside a project, the scale is unknown.
    except UserError:
        return None
    return None if run is None else run.data.params.get("data.load_size")


def _shorter_side(load_size: Any) -> int | None:
    return min((int(side) for side in re.findall(r"\d+", str(load_size))), default=None)
