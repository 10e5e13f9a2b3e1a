"""A stage stops when its dvc process has ended. The processes are real, only their work is simulated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

STAGE = """
import os, sys, time
from cyclegan.system.processes import ends_with_dvc
try:
    with ends_with_dvc(interval=0.05):
        print(os.getpid(), flush=True)
        time.sleep(float(sys.argv[1]))
finally:
    open(sys.argv[2], "w").write("left")
"""
# A training that needs longer to save its state than the interval between two checks.
SAVING = """
import os, signal, sys, threading, time
from cyclegan.system.processes import ends_with_dvc
from cyclegan.system.signals import stopping
received = []
with ends_with_dvc(interval=0.05), stopping() as stop:
    handler = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, frame: (received.append(number), handler(number, frame)))
    (watcher,) = [thread for thread in threading.enumerate() if thread.name == "watch dvc"]
    print(os.getpid(), flush=True)
    while not stop.signal:
        time.sleep(0.01)
    watcher.join()
    open(sys.argv[2], "w").write(f"saved after {received}")
"""
# A stand-in for dvc: it runs a stage's command in a shell, which stays the parent process.
DVC = """
import os, subprocess, sys
environment = {**os.environ, **({"DVC_STAGE": "train"} if sys.argv[1] else {})}
subprocess.run(["sh", "-c", '"$@"; true', "sh", *sys.argv[2:]], env=environment)
"""


def started(
    inside_dvc: bool, seconds: float, left: Path, code: str = STAGE, **options: Any
) -> tuple[subprocess.Popen[str], psutil.Process]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    stage = [sys.executable, "-c", code, str(seconds), str(left)]
    dvc = subprocess.Popen(
        [sys.executable, "-c", DVC, "yes" if inside_dvc else "", *stage],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )
    assert dvc.stdout is not None
    return dvc, psutil.Process(int(dvc.stdout.readline()))


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_stops_when_its_dvc_has_ended(tmp_path: Path, sent: signal.Signals) -> None:
    dvc, stage = started(inside_dvc=True, seconds=120, left=tmp_path / "left")
    dvc.send_signal(sent)
    # dvc stays a zombie here, because its parent may not wait for it either.
    gone, _ = psutil.wait_procs([stage], timeout=30)
    assert gone == [stage]
    dvc.wait()
    assert not (tmp_path / "left").exists(), "SIGTERM ended the process on the spot: no handler of its own was set"


def test_a_stage_that_stops_with_its_dvc_gets_no_second_signal(tmp_path: Path) -> None:
    """`docker stop`, systemd, SLURM and a closed terminal signal all processes: dvc has ended while the stage saves."""
    with (tmp_path / "text").open("w") as text:
        dvc, stage = started(True, 0, tmp_path / "left", SAVING, start_new_session=True, stderr=text)
    os.killpg(dvc.pid, signal.SIGTERM)
    dvc.wait()
    psutil.wait_procs([stage], timeout=60)
    assert (tmp_path / "left").read_text() == f"saved after {[int(signal.SIGTERM)]}"
    assert (tmp_path / "text").read_text() == ""


def test_outside_dvc_a_process_may_outlive_its_parent(tmp_path: Path) -> None:
    dvc, stage = started(inside_dvc=False, seconds=1.5, left=tmp_path / "left")
    dvc.kill()
    dvc.wait()
    psutil.wait_procs([stage], timeout=30)
    assert (tmp_path / "left").read_text() == "left"


def test_a_stage_continues_while_its_dvc_runs(tmp_path: Path) -> None:
    dvc, _ = started(inside_dvc=True, seconds=0.5, left=tmp_path / "left")
    assert dvc.wait(timeout=60) == 0
    assert (tmp_path / "left").read_text() == "left"
