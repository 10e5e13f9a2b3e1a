"""Command `params`: check params.yaml and print every value."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cyclegan.project import Project

if TYPE_CHECKING:
    from cyclegan.params import Params


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the option to write the files."""
    parser.add_argument(
        "--write",
        action="store_true",
        help="write params.yaml with every key and its description, and docs/parameters.md if it exists",
    )


def run(options: argparse.Namespace) -> None:
    """Print one `key = value` line per parameter; with `--write`, regenerate the files instead.

    Raises:
        UserError: params.yaml is invalid, or a folder that it names.
    """
    from cyclegan.params import flatten
    from cyclegan.system.credentials import shown_parameter

    project = Project.find()
    params = load_checked(project)
    if params.data.source == "folders":
        from cyclegan.data.fetching.raw_folder import image_folders

        image_folders(params.data, project)
    if options.write:
        _write(project, params)
        return
    for key, value in flatten(params.model_dump()):
        print(f"{key} = {shown_parameter(key, value)}")


def _write(project: Project, params: Params) -> None:
    from cyclegan.params import Params as Parameters
    from cyclegan.params.presets import write_params
    from cyclegan.params.yaml_text import header_of, parameters_page
    from cyclegan.system.files import write_text

    write_params(project.params, params, header_of(project.params.read_text(encoding="utf-8")))
    print(f"{project.params}: every key, with its description")
    page = project.root / "docs" / "parameters.md"
    if page.is_file():
        write_text(page, parameters_page(Parameters()))
        print(f"{page}: every key, with its default")


def load_checked(project: Project) -> Params:
    """Load the parameters of all stages, and check the search space if there is a search.

    Raises:
        UserError: a parameter is invalid.
    """
    from cyclegan.params import load

    params = load(project.params)
    if params.search.trials:
        from cyclegan.search.space import dimensions

        dimensions(params)
    return params
