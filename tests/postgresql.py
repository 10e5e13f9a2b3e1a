"""A real PostgreSQL server for tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


class PostgreSQL:
    """A database in its own folder, and a server on a free port that can be started and stopped."""

    def __init__(self) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not programs and not shutil.which("initdb"):
            pytest.skip("no PostgreSQL server on this machine")
        pytest.importorskip("psycopg", reason="PostgreSQL's driver is not installed")
        self._programs = programs[-1] if programs else Path(str(shutil.which("initdb"))).parent
        # Not below pytest's own folder, which other users cannot enter.
        self._folder = Path(tempfile.mkdtemp())
        self._data, self._as_user = self._folder / "data", list[str]()
        if os.geteuid() == 0:
            # The server refuses to run as root.
            self._as_user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
            os.chown(self._folder, 65534, 65534)
        initdb = [*self._as_user, str(self._programs / "initdb"), "-D", str(self._data), "-U", "search", "--auth=trust"]
        subprocess.run([*initdb, "--no-sync"], check=True, capture_output=True, cwd="/")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = str(free.getsockname()[1])
        self.url = f"postgresql://search@127.0.0.1:{self._port}/postgres"
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = ["-D", str(self._data), "-p", self._port, "-h", "127.0.0.1", "-k", str(self._folder), "-F"]
        self._server = subprocess.Popen(
            [*self._as_user, str(self._programs / "postgres"), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        ready = [str(self._programs / "pg_isready"), "-h", "127.0.0.1", "-p", self._port]
        deadline = time.monotonic() + 120
        while subprocess.run(ready, capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.05)

    def stop(self) -> None:
        """Close all connections and stop the server if it runs."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(60)
            self._server = None

    def remove(self) -> None:
        """Stop the server and remove the database."""
        self.stop()
        shutil.rmtree(self._folder)
