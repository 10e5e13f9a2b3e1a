"""A data base that goes away: for a moment, and for good."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from cyclegan.errors import UserError
from cyclegan.search.storage import needing_storage, open_storage
from postgresql import PostgreSQL


def test_what_needs_a_server_waits_while_it_is_started_again(
    tmp_path: Path, postgresql: PostgreSQL, capfd: pytest.CaptureFixture[str]
) -> None:
    postgresql.start()
    storage = open_storage(postgresql.url, tmp_path)
    assert storage.get_all_studies() == []
    postgresql.stop()
    starting = threading.Timer(2, postgresql.start)
    starting.start()
    assert storage.get_all_studies() == []
    starting.join()
    assert "the search's data base is away; waiting up to 300 seconds" in capfd.readouterr().err


def test_a_server_that_stays_away_is_told_in_one_line(
    tmp_path: Path, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyclegan.search.storage.SECONDS_AWAY", 1.0)
    postgresql.start()
    storage = open_storage(postgresql.url, tmp_path)
    postgresql.stop()
    with (
        pytest.raises(UserError, match=r"the data base went away \(.*refused.*; start it and run the same") as caught,
        needing_storage(postgresql.url.replace("search@", "search:secret@")),
    ):
        storage.get_all_studies()
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_never_answers_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg", reason="PostgreSQL's driver is not installed")
    monkeypatch.setattr("cyclegan.search.storage.CONNECT_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://search@127.0.0.1:{silent.getsockname()[1]}/studies"
        for given in (url, f"{url}?connect_timeout=3"):
            with pytest.raises(UserError, match=r"the data base cannot be used; start it, .*timeout"):
                open_storage(given, tmp_path)
