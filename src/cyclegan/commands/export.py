"""Command `export`: write a generator as a file for other runtimes."""

from __future__ import annotations

import argparse
from pathlib import Path

from cyclegan.commands.model_argument import add_model, find_generator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the model, the file and its form."""
    add_model(parser)
    parser.add_argument(
        "output",
        type=Path,
        metavar="OUTPUT",
        help="FILE.onnx, FILE.tflite, or a folder for a SavedModel; must not exist",
    )
    parser.add_argument(
        "--float",
        action="store_true",
        dest="as_float",
        help="export the bare network, float32 in -1..1, without padding and rounding (.tflite: always)",
    )
    parser.add_argument("--half", action="store_true", help="float16 weights, only for .tflite: half the size")


def run(options: argparse.Namespace) -> None:
    """Write the file, after its output has been compared with the generator's.

    Raises:
        UserError: the model or the path cannot be used, a package is missing, or the outputs differ.
    """
    from cyclegan.export.exporter import export, find_format
    from cyclegan.models.translator import load_generator
    from cyclegan.system.digests import file_digest

    # Check the path before a model is downloaded.
    file_format = find_format(options.output, half=options.half)
    file_format.require()
    model, lineage = _registered(options.model) if options.model.startswith("models:/") else (options.model, {})
    file, bit_depth = find_generator(model, options.bit_depth)
    generator = load_generator(file)
    lineage["model.sha256"] = file_digest(file)
    difference = export(
        generator, options.output, file_format, bit_depth=bit_depth, as_float=options.as_float, lineage=lineage
    )
    print(f"{options.output}: {file_format.name}; largest difference from the generator: {difference}")


def _registered(uri: str) -> tuple[str, dict[str, str]]:
    """Resolve an address to a version, and collect the version's lineage.

    Raises:
        UserError: the registry has no such version.
    """
    from cyclegan.params import load
    from cyclegan.project import Project
    from cyclegan.registry.listing import resolve
    from cyclegan.tracking.store import open_store

    project = Project.find()
    store = open_store(project, load(project.params).tracking)
    version = resolve(store, uri)
    run = store.run(version.run_id) if version.run_id else None
    lineage = {
        "registered_model": version.name,
        "registered_version": str(version.version),
        "run_id": version.run_id,
        **store.client.get_registered_model(version.name).tags,
    }
    lineage |= {key: value for key, value in version.tags.items() if key in ("git.commit", "git.dirty", "data.md5")}
    if run is not None:
        # Add the size of its training images.
        sizes = ("data.load_size", "train.crop_size")
        lineage |= {key: run.data.params[key] for key in sizes if key in run.data.params}
    # Return the version and not the alias, which may move before the download.
    return f"models:/{version.name}/{version.version}", {key: value for key, value in lineage.items() if value}
