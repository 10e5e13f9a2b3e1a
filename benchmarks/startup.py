"""Seconds of `cyclegan --help`, and of `dvc repro` without changes.

    python -m benchmarks.startup

The second needs an up-to-date project: run `dvc repro` first.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

from benchmarks import measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10, help="default 10")
    parser.add_argument("--no-dvc", action="store_true", help="only the command line")
    options = parser.parse_args()
    measure.describe(f"{options.turns} starts of each, in turn, after one warm-up; median (smallest to largest)")
    expected = {("cyclegan", "--help"): "usage: cyclegan"}
    if not options.no_dvc:
        expected["dvc", "repro"] = "Data and pipelines are up to date."
        # Otherwise the warm-up could be a complete training.
        run(("dvc", "repro", "--dry"), expected["dvc", "repro"])
    wall: dict[tuple[str, ...], list[float]] = {command: [] for command in expected}
    cpu: dict[tuple[str, ...], list[float]] = {command: [] for command in expected}
    for turn in range(options.turns + 1):
        for command, text in expected.items():
            seconds, used = run(command, text)
            if turn:
                wall[command].append(seconds)
                cpu[command].append(used)
    rows = [
        [" ".join(command), measure.spread(wall[command], 2), measure.spread(cpu[command], 2)] for command in expected
    ]
    measure.table(["", "wall s", "CPU s"], rows)
    print("\nchecked: the output of each command")


def run(command: tuple[str, ...], text: str) -> tuple[float, float]:
    """Measure the wall and CPU seconds of one start.

    Raises:
        SystemExit: its output lacks `text`.
    """
    usage, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    answer = subprocess.run(command, capture_output=True, text=True)
    seconds, new_usage = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if answer.returncode or text not in answer.stdout:
        sys.exit(f"{' '.join(command)} did not answer {text!r}: {answer.stdout[-300:]}{answer.stderr[-300:]}")
    return seconds, new_usage.ru_utime + new_usage.ru_stime - usage.ru_utime - usage.ru_stime


if __name__ == "__main__":
    main()
