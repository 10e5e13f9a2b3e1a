"""How a search ends its workers; `tests/pipeline/test_search.py` ends real ones."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cyclegan.search.supervisor import end

WORKER = "import sys, time; print(flush=True); sys.stdin.read(); time.sleep(float(sys.argv[1])); sys.exit(7)"


def workers(*arguments: float, code: str = WORKER) -> list[subprocess.Popen[bytes]]:
    """Workers that live until they are asked to end, and then need some seconds."""
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(argument)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for argument in arguments
    ]
    for worker in started:
        assert worker.stdout is not None
        worker.stdout.readline()
        worker.stdout.close()
    return started


def test_all_workers_save_at_the_same_time(tmp_path: Path) -> None:
    """Each of these workers ends only after all of them have been asked to."""
    asked = f"""import pathlib, sys, time; print(flush=True); sys.stdin.read(); folder = pathlib.Path({str(tmp_path)!r})
(folder / sys.argv[1]).touch()
while len(list(folder.iterdir())) < 3: time.sleep(0.02)
sys.exit(7)"""
    running = workers(1, 2, 3, code=asked)
    end(running)
    assert [worker.returncode for worker in running] == [7, 7, 7]


def test_only_those_that_do_not_end_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyclegan.search.supervisor.SECONDS_TO_END", 2)
    running = workers(60, 0.1, 60)
    began = time.monotonic()
    end(running)
    assert time.monotonic() - began < 10
    assert [worker.returncode for worker in running] == [-9, 7, -9]
