"""Command `import`: convert a network that another program saved to a `.keras` file."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan.project import Project
from cyclegan.system.errors import UserError
from cyclegan.system.files import replacing

if TYPE_CHECKING:
    from cyclegan.models.legacy.pytorch import ImportedNetwork
    from cyclegan.params import Params
    from cyclegan.tracking.store import Store

KERAS_2, PYTORCH = "Keras 2 with keras-contrib", "PyTorch"
PROGRAMS = {".h5": KERAS_2, ".hdf5": KERAS_2, ".pth": PYTORCH, ".pt": PYTORCH, ".safetensors": PYTORCH}

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the file to convert, the new file, and a name in the registry."""
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="a .pth or .safetensors of PyTorch, or an .h5 of Keras 2"
    )
    parser.add_argument(
        "--output", "-o", type=Path, required=True, metavar="FILE.keras", help="new file; must not exist"
    )
    parser.add_argument("--register", metavar="NAME", help="register the generator as a version of this model")


def run(options: argparse.Namespace) -> None:
    """Write the `.keras` file, and register it if `--register` is given.

    Raises:
        UserError: the file is not a known network, the new file exists, or the registry cannot be used.
    """
    if options.output.suffix != ".keras":
        raise UserError(f"--output {options.output}: must end in .keras")
    if options.output.exists():
        raise UserError(f"--output {options.output}: exists; name a new file")
    # The old name of this command reads only Keras 2, from files with any ending.
    is_old_name = options.command == "import-legacy"
    program = KERAS_2 if is_old_name else _program(options.file)
    imported = _read(options.file, program)
    # Open the registry first, so that an unavailable one is reported before anything is written.
    registry = None if options.register is None else _open_registry(options, imported)
    with replacing(options.output) as temporary:
        imported.network.save(temporary)
    for line in _summary(options.output, imported):
        print(line)
    if registry is not None:
        print(_register(registry, options, imported, program))
    if is_old_name:
        logger.warning("import-legacy is deprecated: use 'cyclegan import'")


def _program(file: Path) -> str:
    """The program that wrote a file, by its ending."""
    if (ending := file.suffix.lower()) not in PROGRAMS:
        known = ", ".join(f"{ending} ({program})" for ending, program in PROGRAMS.items())
        raise UserError(f"{file}: the ending must be one of {known}; rename it if it is such a file")
    return PROGRAMS[ending]


def _read(file: Path, program: str) -> ImportedNetwork:
    from cyclegan.models.legacy.keras_contrib import load_legacy_generator
    from cyclegan.models.legacy.pytorch import ImportedNetwork, load_pytorch_network

    if program == PYTORCH:
        return load_pytorch_network(file)
    return ImportedNetwork("generator", load_legacy_generator(file), {})


def _summary(output: Path, imported: ImportedNetwork) -> Iterator[str]:
    options = ", ".join(f"{name} {value}" for name, value in imported.options.items())
    yield f"{output}: {imported.kind}, {imported.network.count_params():,} parameters" + (options and f" ({options})")
    if imported.kind == "discriminator":
        yield "its domain: the reference's D_A judges images of B, and its D_B images of A; here D_A judges A"
    else:
        yield f"next: cyclegan translate {output} IMAGE --output FOLDER"


@dataclass(frozen=True)
class _Registry:
    """The project's registry, and its parameters."""

    project: Project
    params: Params
    store: Store


def _open_registry(options: argparse.Namespace, imported: ImportedNetwork) -> _Registry:
    from cyclegan.params import load
    from cyclegan.tracking.store import open_store

    if imported.kind != "generator":
        raise UserError(f"--register {options.register}: {options.file} is a {imported.kind}; register a generator")
    if not options.register or {*"/:"} & {*options.register}:
        raise UserError(
            f"--register {options.register!r}: MLflow names must not be empty or contain / or :; choose another name"
        )
    project = Project.find()
    params = load(project.params)
    if params.tracking.offline:
        raise UserError(f"--register {options.register}: the registry is part of MLflow; set tracking.offline: false")
    return _Registry(project, params, open_store(project, params.tracking))


def _register(registry: _Registry, options: argparse.Namespace, imported: ImportedNetwork, program: str) -> str:
    from cyclegan.registry.imported import Origin, register_imported
    from cyclegan.system.digests import file_digest
    from cyclegan.tracking.provenance import tags
    from cyclegan.tracking.store_errors import require_store

    params, network = registry.params, imported.network
    with require_store(registry.store):
        version, is_known = register_imported(
            registry.store,
            params.tracking.experiment or params.data.dataset,
            options.register,
            options.output,
            (network.input_shape[-1], network.output_shape[-1]),
            Origin(options.file.name, file_digest(options.file), program),
            tags(registry.project),
        )
    again = " (was already registered)" if is_known else ""
    return f"models:/{options.register}/{version}{again}: without test metrics, the gate does not compare it"
