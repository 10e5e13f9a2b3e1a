"""Moves of the alias `champion`, by the gate and by hand, and their rollback."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from cyclegan.registry.champion import (
    champion_of,
    find_alias,
    find_version,
    move,
    moves,
    previous_champion,
    registry_lock,
    rolled_back_versions,
)
from cyclegan.registry.listing import format_models
from cyclegan.system.errors import UserError
from cyclegan.tracking.store import Store

NUMBER = itertools.count()


@pytest.fixture
def model(store: Store) -> str:
    """A registered model with four versions, all without files."""
    name = f"moves-{next(NUMBER)}"
    store.client.create_registered_model(name)
    for _ in range(4):
        store.client.create_model_version(name, "file:///nowhere")
    return name


@pytest.fixture
def promote(store: Store, model: str) -> Callable[[str], None]:
    def to(version: str) -> None:
        move(store, model, version, "promote", "better")

    return to


def roll_back(store: Store, model: str) -> str | None:
    target = previous_champion(store, model)
    if target is not None:
        move(store, model, target, "rollback", "by hand")
    return target


def test_rollbacks_go_back_one_champion_after_the_other(
    store: Store, model: str, promote: Callable[[str], None]
) -> None:
    assert champion_of(store, model) is None
    assert previous_champion(store, model) is None
    for version in "123":
        promote(version)
    assert [roll_back(store, model), champion_of(store, model)] == ["2", "2"]
    assert rolled_back_versions(store, model) == {"3"}
    promote("4")
    assert [roll_back(store, model) for _ in range(3)] == ["2", "1", None]
    assert champion_of(store, model) == "1"
    promote("3")
    assert rolled_back_versions(store, model) == {"4", "2"}
    assert [(made.before, made.version, made.by) for made in moves(store, model)] == [
        (None, "1", "promote"),
        ("1", "2", "promote"),
        ("2", "3", "promote"),
        ("3", "2", "rollback"),
        ("2", "4", "promote"),
        ("4", "2", "rollback"),
        ("2", "1", "rollback"),
        ("1", "3", "promote"),
    ]


def test_a_rollback_skips_a_deleted_version(store: Store, model: str, promote: Callable[[str], None]) -> None:
    for version in "123":
        promote(version)
    store.client.delete_model_version(model, "2")
    assert [roll_back(store, model), previous_champion(store, model)] == ["1", None]


def test_moves_by_other_means_count(store: Store, model: str, promote: Callable[[str], None]) -> None:
    store.client.set_registered_model_alias(model, "champion", "1")
    assert previous_champion(store, model) is None
    promote("2")
    assert previous_champion(store, model) == "1"
    store.client.set_registered_model_alias(model, "champion", "3")
    assert previous_champion(store, model) == "2"
    promote("4")
    assert previous_champion(store, model) == "3"


def test_more_than_nine_moves_stay_in_order(store: Store, model: str, promote: Callable[[str], None]) -> None:
    for version in "121212121212":
        promote(version)
    assert [made.version for made in moves(store, model)] == list("121212121212")


def test_a_missing_model_version_or_alias_is_reported_with_the_existing_ones(store: Store, model: str) -> None:
    with pytest.raises(UserError, match=rf"no registered model 'none'; available: .*{model}"):
        find_version(store, "none", "1")
    with pytest.raises(UserError, match=r"no version '9'; available: 1, 2, 3, 4$"):
        find_version(store, model, "9")
    with pytest.raises(UserError, match=r"no alias 'champion'; available: \(none\)$"):
        find_alias(store, model, "champion")
    store.client.set_registered_model_alias(model, "champion", "2")
    with pytest.raises(UserError, match=r"no alias 'best'; available: champion \(version 2\)$"):
        find_alias(store, model, "best")
    assert str(find_alias(store, model, "champion").version) == "2"


def test_more_models_than_one_page_of_mlflow_are_all_listed(store: Store) -> None:
    names = [f"many-{number:03}" for number in range(101)]
    for name in names:
        store.client.create_registered_model(name)
    assert [line.split()[0] for line in format_models(store).splitlines() if line.startswith("many-")] == names
    with pytest.raises(UserError, match="many-100"):
        find_version(store, "none", "1")


def test_only_one_process_changes_the_registry(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyclegan.registry.champion.WAIT_SECONDS", 0)
    with registry_lock(store), pytest.raises(UserError, match="is held by another process"), registry_lock(store):
        pass
