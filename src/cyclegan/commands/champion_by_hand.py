"""Move the alias `champion` by hand."""

from __future__ import annotations

import sys

from cyclegan.registry.champion import (
    Action,
    champion_of,
    find_model,
    find_version,
    move,
    previous_champion,
    registry_lock,
)
from cyclegan.registry.versions import explain_decision
from cyclegan.system.errors import UserError
from cyclegan.tracking.store import Store
from cyclegan.tracking.store_errors import require_store


def promote(store: Store, name: str, version: str, yes: bool) -> None:
    """Make a version champion, whatever the gate says of it.

    Raises:
        UserError: there is no such version, or stdin is not a terminal to ask on.
    """
    find_version(store, name, version)
    before = champion_of(store, name)
    if before == version:
        print(f"{name}: version {version} is champion already")
        return
    with require_store(store):
        print(f"{name}: {explain_decision(store, name, version)}")
    _change(store, name, before, version, "promote", yes)


def rollback(store: Store, name: str, yes: bool) -> None:
    """Make the previous champion the champion again.

    Raises:
        UserError: there is none, or stdin is not a terminal to ask on.
    """
    find_model(store, name)
    before, target = champion_of(store, name), previous_champion(store, name)
    if target is None:
        now = "has no champion" if before is None else f"had no champion before version {before}"
        raise UserError(f"{name} {now}; 'cyclegan registry promote {name} VERSION' names one")
    _change(store, name, before, target, "rollback", yes)


def _change(store: Store, name: str, before: str | None, after: str, by: Action, yes: bool) -> None:
    change = f"champion of {name}: {'none' if before is None else f'version {before}'} -> version {after}"
    print(change)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("stdin is not a terminal: pass --yes to change the alias")
        if input("Change it? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was changed")
            sys.exit(1)
    with registry_lock(store):
        if champion_of(store, name) != before:
            raise UserError(f"the champion of {name} was changed meanwhile by another process: look again")
        move(store, name, after, by, "by hand")
    print(f"models:/{name}@champion is version {after}")
