"""Command `sync`: deliver what trainings could not, or were not to, record in MLflow at once."""

from __future__ import annotations

from cyclegan.params import load
from cyclegan.project import Project
from cyclegan.system.errors import UserError
from cyclegan.tracking.recovery import deliver_waiting
from cyclegan.tracking.store import open_store


def run(project: Project) -> None:
    """Deliver all journals of the project, also with `tracking.offline: true`; print what was delivered.

    Raises:
        UserError: the store cannot be used, or something cannot be delivered, of which a warning has told.
    """
    store = open_store(project, load(project.params).tracking)
    done = deliver_waiting(store)
    for run_id, count in done.entries.items():
        print(f"MLflow run {run_id}: {count} entries delivered to {store.shown}")
    if done.left:
        names = ", ".join(folder.name for folder in done.left)
        raise UserError(f"{store.journals} still holds what cannot be delivered, as told above: {names}")
    if not done.entries:
        print("nothing was waiting")
