"""Command `export`: a generator as a file for other runtimes."""

from __future__ import annotations

import argparse
from pathlib import Path

from cyclegan.commands.model_argument import add_model, find_generator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the file, and what goes into it."""
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
        help="the bare network, float32 in -1..1, without padding and rounding (.tflite: always)",
    )
    parser.add_argument("--half", action="store_true", help="float16 weights, for .tflite: half the size")


def run(options: argparse.Namespace) -> None:
    """Write the file, after it was run and compared with the generator.

    Raises:
        UserError: the model or the path cannot be used, a package is missing, or the file differs from the generator.
    """
    from cyclegan.export.exporter import export, find_format
    from cyclegan.models.translator import load_generator
    from cyclegan.system.digests import file_digest

    # What is wrong with the path is reported before a model is downloaded.
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
    """The version that an address means now, and where it comes from.

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
    found = {
        "registered_model": version.name,
        "registered_version": str(version.version),
        "run_id": version.run_id,
        **store.client.get_registered_model(version.name).tags,
    }
    found |= {key: value for key, value in version.tags.items() if key in ("git.commit", "git.dirty", "data.md5")}
    if run is not None:
        # The size that it was trained on.
        sizes = ("data.load_size", "train.crop_size")
        found |= {key: run.data.params[key] for key in sizes if key in run.data.params}
    # An alias may move before the download.
    return f"models:/{version.name}/{version.version}", {key: value for key, value in found.items() if value}
