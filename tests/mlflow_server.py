"""A real MLflow server that can be killed and restarted on the same port and data."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path


class Server:
    """`mlflow server` on a free loopback port, with its store and artifacts in `root`.

    Args:
        artifact_root: a folder to which clients write artifacts themselves.
        variables: MLflow's environment variables, which name another store and another place of artifacts.
    """

    def __init__(
        self, root: Path, artifact_root: str | None = None, variables: Mapping[str, str] | None = None
    ) -> None:
        self.root = root
        self._variables = dict(variables or {})
        self._artifacts: tuple[str, ...] = (
            ("--artifacts-destination", str(root / "artifacts"))
            if artifact_root is None
            else ("--no-serve-artifacts", "--default-artifact-root", artifact_root)
        )
        self._store: tuple[str, ...] = ("--backend-store-uri", f"sqlite:///{root}/server.db")
        if variables is not None:
            self._artifacts = self._store = ()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        environment |= self._variables
        with (self.root / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
                    *("--workers", "1", *self._store, *self._artifacts),
                ],
                cwd=self.root,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                assert self._process.poll() is None, (self.root / "server.log").read_text()
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.2)

    def kill(self) -> None:
        """Kill the server."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
