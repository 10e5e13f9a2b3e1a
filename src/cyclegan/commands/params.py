"""Command `params`: check params.yaml and print every value."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING

from cyclegan.project import Project

if TYPE_CHECKING:
    from cyclegan.params import Params

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(_options: argparse.Namespace) -> None:
    """Print one `key = value` line for each parameter.

    Raises:
        UserError: something in params.yaml is wrong, or a folder that it names.
    """
    from cyclegan.params import flatten
    from cyclegan.system.credentials import shown_parameter

    project = Project.find()
    params = load_checked(project)
    if params.data.source == "folders":
        from cyclegan.data.fetching.raw_folder import picture_folders

        picture_folders(params.data, project)
    for warning in params.data.without_effect:
        logger.warning("%s", warning)
    for key, value in flatten(params.model_dump()):
        print(f"{key} = {shown_parameter(key, value)}")


def load_checked(project: Project) -> Params:
    """All parameters, with the search that they ask for.

    Raises:
        UserError: something in params.yaml is wrong, of whichever stage.
    """
    from cyclegan.params import load

    params = load(project.params)
    if params.search.trials:
        from cyclegan.search.space import dimensions

        dimensions(params)
    return params
