"""The alias `champion`: who held it, who moved it, and moving it back.

Each move is a tag of the registered model, `champion.move.0001` and so on, which nothing ever changes. The alias comes
first and the tag second, so that a process killed in between loses a reason and never invents a champion.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from cyclegan.system.errors import UserError
from cyclegan.system.locks import claimed
from cyclegan.tracking.store import Store, all_found

CHAMPION = "champion"
MOVE_TAG = "champion.move."
SINCE_TAG = "champion.since"
WAIT_SECONDS = 300

Action = Literal["register", "promote", "rollback"]


@dataclass(frozen=True)
class Move:
    """One move of the alias."""

    version: str
    before: str | None
    """The version that held it until then."""
    by: Action
    at: str
    """UTC, ISO 8601."""
    reason: str


@contextmanager
def changing(store: Store) -> Iterator[None]:
    """Hold the registry's lock: of all processes on this machine only one changes versions and aliases at a time.

    Raises:
        UserError: another process does not let go of it.
    """
    with claimed(store.locks.parent / "registry.lock", WAIT_SECONDS):
        yield


def champion_of(store: Store, name: str) -> str | None:
    """The version that holds the alias; None if none does."""
    version = store.client.get_registered_model(name).aliases.get(CHAMPION)
    return None if version is None else str(version)


def moves(store: Store, name: str) -> list[Move]:
    """All recorded moves, oldest first."""
    tags = store.client.get_registered_model(name).tags
    return [Move(**json.loads(tags[key])) for key in sorted(tags) if key.startswith(MOVE_TAG)]


def move(store: Store, name: str, version: str, by: Action, reason: str) -> Move:
    """Give the alias to a version and record it. To be called while `changing`."""
    made = Move(version, champion_of(store, name), by, datetime.now(UTC).isoformat(timespec="seconds"), reason)
    store.client.set_registered_model_alias(name, CHAMPION, version)
    number = 1 + max((int(key.removeprefix(MOVE_TAG)) for key in _move_tags(store, name)), default=0)
    store.client.set_registered_model_tag(name, f"{MOVE_TAG}{number:04}", json.dumps(asdict(made)))
    store.client.set_model_version_tag(name, version, SINCE_TAG, made.at)
    return made


def previous(store: Store, name: str) -> str | None:
    """The champion before the present one, as far as it still exists; None if there is none.

    Moves are undone one after the other: two rollbacks go two champions back, and not to and fro. A move of the alias
    by other means than this package is taken into account as soon as it shows.
    """
    held_by: list[str] = []

    def take(version: str | None) -> None:
        if version is not None and held_by[-1:] != [version]:
            held_by.append(version)

    for made in moves(store, name):
        take(made.before)
        if made.by == "rollback":
            while made.version in held_by and held_by[-1] != made.version:
                held_by.pop()
        take(made.version)
    take(champion_of(store, name))
    return next((version for version in reversed(held_by[:-1]) if _exists(store, name, version)), None)


def rolled_back(store: Store, name: str) -> set[str]:
    """The versions from which a person took the alias away, unless it was given back to them since."""
    taken: set[str] = set()
    for made in moves(store, name):
        if made.by == "rollback" and made.before is not None:
            taken.add(made.before)
        taken.discard(made.version)
    return taken


def all_models(store: Store) -> list[str]:
    """The names of all registered models; MLflow itself gives a hundred at a time."""
    return sorted(model.name for model in all_found(store.client.search_registered_models))


def find_model(store: Store, name: str) -> None:
    """Check that there is such a registered model.

    Raises:
        UserError: there is not; the message lists those that there are.
    """
    try:
        store.client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = ", ".join(all_models(store)) or "(none yet)"
        raise UserError(f"no registered model {name!r} in {store.shown}; there are: {known}") from None


def find_version(store: Store, name: str, version: str) -> ModelVersion:
    """A version of a registered model, by number.

    Raises:
        UserError: no such model or version; the message lists those that there are.
    """
    find_model(store, name)
    known = sorted(int(found.version) for found in store.client.search_model_versions(f"name = '{name}'"))
    if version not in map(str, known):
        listed = ", ".join(map(str, known)) or "(none)"
        raise UserError(f"{name} has no version {version!r}; there are: {listed}")
    # Not from the search: on a database that leaves the aliases out.
    return store.client.get_model_version(name, version)


def find_alias(store: Store, name: str, alias: str) -> ModelVersion:
    """The version of a registered model that holds an alias.

    Raises:
        UserError: no such model or alias; the message lists those that there are.
    """
    find_model(store, name)
    aliases = store.client.get_registered_model(name).aliases
    if alias not in aliases:
        listed = ", ".join(f"{key} (version {version})" for key, version in sorted(aliases.items())) or "(none)"
        raise UserError(f"{name} has no alias {alias!r}; there are: {listed}")
    return store.client.get_model_version(name, str(aliases[alias]))


def _move_tags(store: Store, name: str) -> list[str]:
    return [key for key in store.client.get_registered_model(name).tags if key.startswith(MOVE_TAG)]


def _exists(store: Store, name: str, version: str) -> bool:
    try:
        store.client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True
