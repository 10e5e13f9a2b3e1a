"""Command `preset`: replace params.yaml by a preset."""

from __future__ import annotations

import argparse

from cyclegan.project import Project


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name of the preset."""
    parser.add_argument("name", metavar="NAME", help="a file in presets/ without .yaml; 'list' lists them")


def run(options: argparse.Namespace) -> None:
    """Print the names of all presets, or apply one and print the changes.

    Raises:
        UserError: there is no such preset, or it is not a valid parameter file.
    """
    from cyclegan.params.presets import apply_preset, preset_names

    project = Project.find()
    print("\n".join(preset_names(project) if options.name == "list" else apply_preset(project, options.name)))
