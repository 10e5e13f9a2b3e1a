"""The argument MODEL of commands: a generator from a `.keras` file or from the registry."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan.system.errors import UserError

if TYPE_CHECKING:
    from cyclegan.models.translator import Translator
    from cyclegan.project import Project


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add MODEL, and the bit depth, which a file does not record."""
    parser.add_argument(
        "model", help="a .keras file, or a registered model such as models:/fluent-emoji-AtoB@challenger"
    )
    # No default here, because any value is an error for a registered model, which records its own depth.
    parser.add_argument(
        "--bit-depth",
        type=int,
        choices=(8, 16),
        help="bit depth of the images; pass 16 for a .keras file trained with data.bit_depth: 16 (default: 8)",
    )


def open_translator(model: str, bit_depth: int | None = None) -> Translator:
    """Load the generator of a `.keras` file or of the registry (`models:/…`).

    Args:
        bit_depth: of the images, only for a file, which does not record it; None: 8.

    Raises:
        UserError: the file or model is missing or cannot be loaded, or a depth is given for a registered model.
    """
    from cyclegan.models.translator import Translator, load_generator

    file, bit_depth = find_generator(model, bit_depth)
    return Translator(load_generator(file), bit_depth=bit_depth)


def find_generator(model: str, bit_depth: int | None = None) -> tuple[Path, int]:
    """The `.keras` file of MODEL, downloaded from the registry for `models:/…`, and the bit depth of its images.

    Args:
        bit_depth: of the images, only for a file, which does not record it; None: 8.

    Raises:
        UserError: there is no such registered model, or a depth is given for one.
    """
    if not model.startswith("models:/"):
        return Path(model), bit_depth or 8
    if bit_depth is not None:
        raise UserError(f"--bit-depth {bit_depth}: {model} records its own bit depth; remove --bit-depth")
    from cyclegan.params import load
    from cyclegan.project import Project
    from cyclegan.tracking.registered_generator import download
    from cyclegan.tracking.store import open_store

    project = Project.find()
    store = open_store(project, load(project.params).tracking)
    return download(model, store.display_uri)


def is_of_project(model: str, project: Project) -> bool:
    """Whether MODEL is a file that the project's training has written, so that its parameters describe it."""
    return Path(model).resolve().is_relative_to(project.models)
