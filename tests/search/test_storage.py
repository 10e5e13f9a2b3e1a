"""A database that is unavailable: for a moment, and for long."""

from __future__ import annotations

import socket
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from cyclegan.search.storage import DATABASE_ERRORS, open_storage, require_storage
from cyclegan.system.errors import UserError, system_fault
from postgresql import PostgreSQL


def test_a_search_waits_while_its_server_restarts(
    tmp_path: Path, postgresql: PostgreSQL, caplog: pytest.LogCaptureFixture
) -> None:
    postgresql.start()
    storage = open_storage(postgresql.url, tmp_path)
    assert storage.get_all_studies() == []
    postgresql.stop()
    starting = threading.Timer(2, postgresql.start)
    starting.start()
    assert storage.get_all_studies() == []
    starting.join()
    assert "search.storage: the database is unavailable; waiting up to 300 seconds" in caplog.text


def test_a_server_that_stays_unavailable_is_a_user_error(
    tmp_path: Path, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyclegan.search.storage.RECONNECT_SECONDS", 1.0)
    postgresql.start()
    storage = open_storage(postgresql.url, tmp_path)
    postgresql.stop()
    with (
        pytest.raises(UserError, match=r"became unavailable \(.*refused.*; start it and run the same") as caught,
        require_storage(postgresql.url.replace("search@", "search:secret@")),
    ):
        storage.get_all_studies()
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_never_answers_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg", reason="PostgreSQL's driver is not installed")
    monkeypatch.setattr("cyclegan.search.storage.CONNECT_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://search@127.0.0.1:{silent.getsockname()[1]}/studies"
        for given in (url, f"{url}?connect_timeout=3"):
            with pytest.raises(UserError, match=r"the database cannot be used; start it, .*timeout"):
                open_storage(given, tmp_path)


@pytest.mark.parametrize("url", ["postgresql://ann:p@s3cret@db/x", "postgresql:/ann:s3cret@db/x", "ann:s3cret@db/x"])
def test_a_password_in_an_address_that_cannot_be_read_is_not_shown(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match=r"search\.storage = .*db/x: ") as refused:
        open_storage(url, tmp_path)
    assert "s3cret" not in str(refused.value)


def test_an_error_names_the_database_that_refuses_its_service(tmp_path: Path) -> None:
    file = tmp_path / "studies.db"
    url = f"sqlite:///{file}"
    study = optuna.create_study(storage=open_storage(url, tmp_path))

    def message_of(needs_it: Callable[[], object]) -> str:
        with pytest.raises(UserError) as caught, require_storage(url):
            needs_it()
        return str(caught.value)

    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for needs_it in (lambda: open_storage(url, tmp_path), study.get_trials):
            message = message_of(needs_it)
            assert all(fact in message for fact in ("search.storage", url, "locked by another process")), message
            assert "\n" not in message
        # A journal needs no database.
        with pytest.raises(DATABASE_ERRORS) as caught, require_storage(None):
            study.get_trials()
    fault = str(system_fault(caught.value))
    assert all(fact in fault for fact in ("MLflow", "locked by another process")), fault
    file.write_bytes(b"no database, but something else" * 100)
    assert "file is not a database" in message_of(study.get_trials)
