"""A real server in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Served:
    """A running `cyclegan serve`."""

    process: subprocess.Popen[str]
    port: int
    model: Path


@contextmanager
def serving(model: Path, *options: str) -> Iterator[Served]:
    """Start a server, wait until it listens, end it."""
    command = [sys.executable, "-m", "cyclegan", "serve", model.name, "--port", "0", *options]
    with subprocess.Popen(
        command, cwd=model.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("http://"), process.stderr.read()
            yield Served(process, int(line.split()[0].rpartition(":")[2]), model)
        finally:
            process.kill()
