"""Every benchmark runs, checks the code that it times, and prints its table. No time is asserted."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SMALL = ("--size", "32", "--filters", "4", "--blocks", "1")
COMMANDS = {
    "input": ("--images", "8", "--filled", "8", "--load-size", "40", "--crop", "32", "--steps", "4", "--turns", "1"),
    "memory": (*SMALL, "--sizes", "32", "--batches", "1"),
    "scaling": (*SMALL, "--turns", "1", "--output", "growth"),
    "startup": ("--turns", "1", "--no-dvc"),
    "step": (*SMALL, "--forms", "joint-add", "--turns", "1", "--steps", "1"),
    "tracking": SMALL,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_benchmark_prints_its_table_and_checks(name: str, tmp_path: Path) -> None:
    if name == "step" and find_spec("tf_keras") is None:
        pytest.skip("the extra `bench` is not installed")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", f"benchmarks.{name}", *COMMANDS[name]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "\n| --" in done.stdout
    assert "\nchecked: " in done.stdout
    if name == "scaling":
        assert (tmp_path / "growth.csv").stat().st_size > 0
        assert (tmp_path / "growth.png").stat().st_size > 0
