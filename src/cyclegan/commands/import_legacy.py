"""Command `import-legacy`: turn a generator saved by Keras 2 and keras-contrib into a `.keras` file."""

from __future__ import annotations

import argparse
from pathlib import Path

from cyclegan.system.errors import UserError
from cyclegan.system.files import replacing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The old file and the new one."""
    parser.add_argument("file", type=Path, metavar="FILE.h5")
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="FILE.keras", help="must not exist")


def run(options: argparse.Namespace) -> None:
    """Write the `.keras` file.

    Raises:
        UserError: the old file cannot be read as a generator, or the new one exists.
    """
    if options.output.suffix != ".keras":
        raise UserError(f"--output {options.output}: must end in .keras")
    if options.output.exists():
        raise UserError(f"--output {options.output} exists; name a new file")
    from cyclegan.models.legacy.keras_contrib import load_legacy_generator

    generator = load_legacy_generator(options.file)
    with replacing(options.output) as temporary:
        generator.save(temporary)
    print(f"{options.output}: {generator.count_params():,} parameters")
