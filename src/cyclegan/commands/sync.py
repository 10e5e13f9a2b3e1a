"""Command `sync`: deliver to MLflow what trainings could not, or were not to, record at once."""

from __future__ import annotations

import argparse

from cyclegan.project import Project
from cyclegan.system.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(_options: argparse.Namespace) -> None:
    """Deliver for the project that the current directory lies in."""
    from cyclegan.commands.params import load_checked

    project = Project.find()
    load_checked(project)
    sync(project)


def sync(project: Project) -> None:
    """Deliver all journals of the project, also with `tracking.offline: true`; print what was delivered.

    Raises:
        UserError: the store cannot be used, or something cannot be delivered, which a warning has explained.
    """
    from cyclegan.params import load
    from cyclegan.tracking.recovery import deliver_waiting
    from cyclegan.tracking.store import open_store

    store = open_store(project, load(project.params).tracking)
    done = deliver_waiting(store)
    for run_id, count in done.entries.items():
        print(f"MLflow run {run_id}: {count} entries delivered to {store.display_uri}")
    if done.left:
        names = ", ".join(folder.name for folder in done.left)
        raise UserError(f"{store.journals} still holds what cannot be delivered, as reported above: {names}")
    if not done.entries:
        print("nothing was waiting")
