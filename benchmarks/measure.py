"""The shared parts of the benchmarks: child processes, turns, checks and tables.

A measurement is a block of steps: wall seconds and the process's own CPU seconds per step. Contestants are child
processes that take their blocks in turn, so that a disturbance of the machine affects all of them. Ratios are formed
within a turn. Other load distorts wall seconds more than CPU seconds.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

# Runs one training step, and returns its losses once they have left the device.
Step = Callable[[], Mapping[str, Any]]


@dataclass
class Contestant:
    """The measurements of a child process."""

    first_step: float
    """Seconds of the first step, which includes tracing and compiling."""
    wall: list[float] = field(default_factory=list)
    """Seconds per step, one for each turn."""
    cpu: list[float] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)
    """One for each step, the warm-up included."""
    peak_mib: float = 0.0
    """Largest resident memory of the process."""
    device_peak_mib: float = 0.0
    """Largest use of the GPU's memory; 0 without one."""


def serve(step: Step, warm_up: int = 2) -> None:
    """Serve a child process: warm up, then run the number of steps that each line of stdin holds, and report."""
    begin = time.perf_counter()
    losses = [_floats(step())]
    _report({"first_step": time.perf_counter() - begin})
    losses += [_floats(step()) for _ in range(warm_up)]
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        losses += [_floats(step()) for _ in range(int(line))]
        wall, cpu = (time.perf_counter() - wall) / int(line), (time.process_time() - cpu) / int(line)
        _report({"wall": wall, "cpu": cpu, "losses": losses, "peak_mib": peak_mib(), "device_peak_mib": device_peak()})
        losses = []


def alternate(commands: Mapping[str, list[str]], turns: int, steps: int) -> dict[str, Contestant]:
    """Start a child for each command, and let them take turns.

    Raises:
        SystemExit: a child failed, after it printed its own message.
    """
    children: dict[str, subprocess.Popen[str]] = {}
    contestants: dict[str, Contestant] = {}
    try:
        for name, command in commands.items():
            children[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            contestants[name] = Contestant(**_read(name, children[name]))
        for _ in range(turns):
            for name, child in children.items():
                assert child.stdin is not None
                child.stdin.write(f"{steps}\n")
                child.stdin.flush()
                report, one = _read(name, child), contestants[name]
                one.wall.append(report["wall"])
                one.cpu.append(report["cpu"])
                one.losses += report["losses"]
                one.peak_mib, one.device_peak_mib = report["peak_mib"], report["device_peak_mib"]
    finally:
        for child in children.values():
            child.kill()
            child.wait()
    return contestants


def require_learning(name: str, losses: list[dict[str, float]]) -> None:
    """Check that the timed steps trained: losses are finite, and the cycle losses fell.

    Raises:
        SystemExit: they did not.
    """
    values = np.array([list(row.values()) for row in losses])
    if not np.isfinite(values).all():
        sys.exit(f"{name}: a loss is not finite")
    cycles = np.array([sum(value for key, value in row.items() if "cycle" in key) for row in losses])
    tail = max(1, len(cycles) // 4)
    if not cycles[-tail:].mean() < cycles[0]:
        sys.exit(f"{name}: the cycle losses did not fall: {cycles[0]:.4g} to {cycles[-tail:].mean():.4g}")


def spread(values: list[float], digits: int = 3) -> str:
    """Median, minimum and maximum as text."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def describe(protocol: str, *packages: str) -> None:
    """Print the device, versions and protocol."""
    names = ("cyclegan", "keras", "tensorflow", "numpy", *packages)
    print(f"CPU: {_processor()}, {len(os.sched_getaffinity(0))} cores; load {os.getloadavg()[0]:.1f}")
    print(f"GPU: {gpus()}")
    print("versions: Python " + platform.python_version() + "".join(f", {name} {_version(name)}" for name in names))
    print(f"protocol: {protocol}\n")


def table(head: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def peak_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def device_peak() -> float:
    """Largest use of the first GPU's memory by TensorFlow or PyTorch in this process, in MiB; 0 without one."""
    peak = 0
    if "torch" in sys.modules:
        peak = sys.modules["torch"].cuda.max_memory_allocated()
    if "tensorflow" in sys.modules:
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            peak = max(peak, tf.config.experimental.get_memory_info("GPU:0")["peak"])
    return peak / 2**20


def gpus() -> str:
    """Names and drivers of the GPUs, or `none`."""
    try:
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().replace("\n", "; ")
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _read(name: str, child: subprocess.Popen[str]) -> dict[str, Any]:
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("{"):
            return json.loads(line)
    sys.exit(f"{name} failed with exit code {child.wait()}")


def _report(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


def _floats(losses: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in losses.items()}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
