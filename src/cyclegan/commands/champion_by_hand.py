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
from cyclegan.registry.model_page import update_model_page
from cyclegan.registry.versions import explain_decision
from cyclegan.system.errors import UserError
from cyclegan.tracking.store import Store
from cyclegan.tracking.store_errors import require_store


def promote(store: Store, name: str, version: str, yes: bool) -> None:
    """Make a version champion, regardless of its gate.

    Raises:
        UserError: there is no such version, or confirmation needs a terminal.
    """
    find_version(store, name, version)
    current = champion_of(store, name)
    if current == version:
        print(f"{name}: version {version} is already champion")
        return
    with require_store(store):
        print(f"{name}: {explain_decision(store, name, version)}")
    _change(store, name, current, version, "promote", yes)


def rollback(store: Store, name: str, yes: bool) -> None:
    """Make the previous champion the champion again.

    Raises:
        UserError: there is no previous champion, or confirmation needs a terminal.
    """
    find_model(store, name)
    current, target = champion_of(store, name), previous_champion(store, name)
    if target is None:
        reason = "has no champion" if current is None else f"had no champion before version {current}"
        raise UserError(f"{name}: {reason}; choose one with 'cyclegan registry promote {name} VERSION'")
    _change(store, name, current, target, "rollback", yes)


def _change(store: Store, name: str, current: str | None, target: str, by: Action, yes: bool) -> None:
    """Print the change, ask for confirmation unless `yes`, and move the alias.

    Raises:
        UserError: stdin is not a terminal, or another process has changed the champion meanwhile.
    """
    print(f"champion of {name}: {'none' if current is None else f'version {current}'} -> version {target}")
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("stdin is not a terminal: pass --yes to confirm")
        if input("Change it? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing changed")
            sys.exit(1)
    with registry_lock(store):
        if champion_of(store, name) != current:
            raise UserError(f"{name}: another process has changed the champion; check it and run the command again")
        move(store, name, target, by, "by hand")
        update_model_page(store, name)
    print(f"models:/{name}@champion is version {target}")
