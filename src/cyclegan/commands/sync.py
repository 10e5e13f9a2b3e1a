"""Command `sync`: deliver records to MLflow that are waiting because it was unavailable or offline."""

from __future__ import annotations

import argparse

from cyclegan.project import Project
from cyclegan.system.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no arguments."""


def run(_options: argparse.Namespace) -> None:
    """Deliver the records of the project in the current directory."""
    sync(Project.find())


def sync(project: Project) -> None:
    """Deliver all journals of the project, even with `tracking.offline: true`; print their numbers of entries.

    Raises:
        UserError: a parameter is invalid, the store cannot be used, or a journal cannot be delivered; a warning has
            the reason.
    """
    from cyclegan.commands.params import load_checked
    from cyclegan.tracking.recovery import deliver_waiting
    from cyclegan.tracking.store import open_store

    store = open_store(project, load_checked(project).tracking)
    delivery = deliver_waiting(store)
    for run_id, count in delivery.entries.items():
        print(f"MLflow run {run_id}: {count} entries delivered to {store.display_uri}")
    if delivery.left:
        names = ", ".join(folder.name for folder in delivery.left)
        raise UserError(f"{store.journals}: cannot deliver {names}; see the warnings above")
    if not delivery.entries:
        print("no entries are waiting")
