"""The alias `champion`: its moves, their history, and their rollback.

Each move is a tag of the registered model: `champion.move.0001-v1`, its number and version. With the version, moves of
two machines at the same moment have two names. Tags of moves never change. The alias is set before the tag: a kill in
between loses the reason of a move, but cannot record a move that did not happen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from cyclegan.system.errors import UserError
from cyclegan.system.locks import claimed
from cyclegan.tracking.store import Store, search_all

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
    """The version that held the alias before; None if none did."""
    by: Action
    at: str
    """UTC, ISO 8601."""
    reason: str


@contextmanager
def registry_lock(store: Store) -> Iterator[None]:
    """Hold the lock under which one process of this machine changes versions and aliases.

    `concurrent_moves.settle` handles other machines.

    Raises:
        UserError: another process holds it for too long.
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
    """Move the alias to a version, and record the move. The caller holds `registry_lock`."""
    made = Move(version, champion_of(store, name), by, datetime.now(UTC).isoformat(timespec="seconds"), reason)
    upsert(store.client.set_registered_model_alias, name, CHAMPION, version)
    # Earlier releases wrote the number alone.
    numbers = (int(key.removeprefix(MOVE_TAG).partition("-")[0]) for key in _move_tags(store, name))
    tag = f"{MOVE_TAG}{1 + max(numbers, default=0):04}-v{version}"
    upsert(store.client.set_registered_model_tag, name, tag, json.dumps(asdict(made)))
    upsert(store.client.set_model_version_tag, name, version, SINCE_TAG, made.at)
    return made


def upsert(write: Callable[..., None], *arguments: str) -> None:
    """Set an alias or a tag of the registry.

    MLflow's database refuses it if another machine creates the same entry at that moment. The second attempt finds the
    entry and updates it.
    """
    try:
        write(*arguments)
    except MlflowException as error:
        if error.error_code != "BAD_REQUEST":
            raise
        write(*arguments)


def previous_champion(store: Store, name: str) -> str | None:
    """The latest champion before the current one that still exists; None if there is none.

    Two rollbacks go back two champions, not back and forth. Moves of the alias by other programs count once they are
    visible.
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


def rolled_back_versions(store: Store, name: str) -> set[str]:
    """The versions that a user rolled back, and that have not become champion since."""
    versions: set[str] = set()
    for made in moves(store, name):
        if made.by == "rollback" and made.before is not None:
            versions.add(made.before)
        versions.discard(made.version)
    return versions


def all_models(store: Store) -> list[str]:
    """The names of all registered models."""
    return sorted(model.name for model in search_all(store.client.search_registered_models))


def find_model(store: Store, name: str) -> None:
    """Check that a registered model exists.

    Raises:
        UserError: it does not; the message lists the existing ones.
    """
    try:
        store.client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = ", ".join(all_models(store)) or "(none yet)"
        raise UserError(f"{store.display_uri}: no registered model {name!r}; available: {known}") from None


def find_version(store: Store, name: str, version: str) -> ModelVersion:
    """Find a version of a registered model by its number.

    Raises:
        UserError: the model or version does not exist; the message lists the existing ones.
    """
    find_model(store, name)
    known = sorted(int(found.version) for found in store.client.search_model_versions(f"name = '{name}'"))
    if version not in map(str, known):
        listed = ", ".join(map(str, known)) or "(none)"
        raise UserError(f"{name}: no version {version!r}; available: {listed}")
    # Get the version by itself: a search of a database returns no aliases.
    return store.client.get_model_version(name, version)


def find_alias(store: Store, name: str, alias: str) -> ModelVersion:
    """Find the version of a registered model that holds an alias.

    Raises:
        UserError: the model or alias does not exist; the message lists the existing ones.
    """
    find_model(store, name)
    aliases = store.client.get_registered_model(name).aliases
    if alias not in aliases:
        listed = ", ".join(f"{key} (version {version})" for key, version in sorted(aliases.items())) or "(none)"
        raise UserError(f"{name}: no alias {alias!r}; available: {listed}")
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
