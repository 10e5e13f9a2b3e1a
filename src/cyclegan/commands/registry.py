"""Commands `registry …`: look at the registered models, and move the alias `champion` by hand."""

from __future__ import annotations

import sys

from cyclegan.params import load
from cyclegan.project import Project
from cyclegan.registry.champion import Action, champion_of, changing, find_model, find_version, move, previous
from cyclegan.registry.listing import listed, shown
from cyclegan.registry.versions import compared
from cyclegan.system.errors import UserError
from cyclegan.tracking.store import Store, open_store
from cyclegan.tracking.store_errors import require_store


def show(model: str | None) -> None:
    """Print all models, or one model, or one version.

    Raises:
        UserError: there is no such model, alias or version.
    """
    store = _store()
    print(listed(store) if model is None else shown(store, model))


def promote(name: str, version: str, yes: bool) -> None:
    """Make a version champion, whatever the gate says of it.

    Raises:
        UserError: there is no such version, or nobody is there to ask.
    """
    store = _store()
    find_version(store, name, version)
    before = champion_of(store, name)
    if before == version:
        print(f"{name}: version {version} is champion already")
        return
    with require_store(store):
        print(f"{name}: {compared(store, name, version)}")
    _change(store, name, before, version, "promote", "by hand", yes)


def rollback(name: str, yes: bool) -> None:
    """Make the champion before the present one champion again.

    Raises:
        UserError: there is none, or nobody is there to ask.
    """
    store = _store()
    find_model(store, name)
    before, target = champion_of(store, name), previous(store, name)
    if target is None:
        now = "has no champion" if before is None else f"had no champion before version {before}"
        raise UserError(f"{name} {now}; 'cyclegan registry promote {name} VERSION' names one")
    _change(store, name, before, target, "rollback", "by hand", yes)


def _store() -> Store:
    project = Project.find()
    return open_store(project, load(project.params).tracking)


def _change(store: Store, name: str, before: str | None, after: str, by: Action, reason: str, yes: bool) -> None:
    change = f"champion of {name}: {'none' if before is None else f'version {before}'} -> version {after}"
    print(change)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("nobody can be asked, for the input is no terminal: add --yes to change the alias")
        if input("Change it? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was changed")
            sys.exit(1)
    with changing(store):
        if champion_of(store, name) != before:
            raise UserError(f"the champion of {name} was changed by somebody else meanwhile: look again")
        move(store, name, after, by, reason)
    print(f"models:/{name}@champion is version {after}")
