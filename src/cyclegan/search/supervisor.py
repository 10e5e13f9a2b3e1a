"""Start this machine's workers, replace those that are killed, and say how the search gets on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from cyclegan.search.shared_search import SharedSearch
from cyclegan.search.study import Phase, reason_of
from cyclegan.system.errors import UserError
from cyclegan.system.processes import wait_or_kill

POLL_SECONDS = 0.5
SECONDS_TO_END = 30.0
REPLACEMENTS = 10
"""So many killed workers are replaced, for each one that was asked for."""


def supervise(search: SharedSearch, count: int, arguments: Sequence[str], root: Path) -> None:
    """Run workers until the search is done.

    Args:
        count: workers at once.
        arguments: of `cyclegan search worker`.
        root: where they run.

    Raises:
        UserError: a worker ended with an error, or too many were killed.
    """
    command = [sys.executable, "-m", "cyclegan", "search", "worker", "--supervised", *arguments]
    told: set[tuple[str, str]] = set()
    replaced = 0
    workers = [_start(command, root) for _ in range(count)]
    try:
        while (phase := search.phase()) is not None:
            _tell("trial", search.trials, told)
            if phase is not search.trials:
                _tell("final", phase, told)
            for index, worker in enumerate(workers):
                code = worker.poll()
                if code is None or code == 0:
                    continue
                by = _signal_that_ended(code)
                if by is None:
                    raise UserError(f"a worker of the search ended with exit code {code}; the reason stands above")
                if replaced == REPLACEMENTS * count:
                    raise UserError(
                        f"{replaced + 1} workers of the search were killed (the last by {by}): is there "
                        "enough memory? Run the same command again to go on"
                    )
                replaced += 1
                print(f"a worker was killed by {by}: another one takes its place", flush=True)
                workers[index] = _start(command, root)
            time.sleep(POLL_SECONDS)
        _tell("trial", search.trials, told)
        _tell("final", search.finals(), told)
    finally:
        end(workers)


def _start(command: list[str], root: Path) -> subprocess.Popen[bytes]:
    # The pipe closes when this process dies, however it dies, and the worker ends.
    return subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE)


def _signal_that_ended(code: int) -> str | None:
    """Name of the signal by which a worker ended; None: it ended by itself."""
    # Workers end with the shell's codes for those that they clear up after.
    number = -code if code < 0 else code - 128
    return signal.Signals(number).name if code < 0 or number in (signal.SIGTERM, signal.SIGHUP) else None


def end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Have all workers end at once, and wait for them: whoever ends this process leaves it little time."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
    wait_or_kill(workers, SECONDS_TO_END)


def _tell(kind: str, phase: Phase, told: set[tuple[str, str]]) -> None:
    """Print a line for each slot that has ended since the last time."""
    counted = phase.counted()
    for name, trial in counted.items():
        if (kind, name) not in told:
            told.add((kind, name))
            done = sum(1 for other, _ in told if other == kind)
            print(f"{kind} {name} ({done} of {len(phase.slots)}): {outcome(trial)}", flush=True)


def outcome(trial: FrozenTrial) -> str:
    """What became of a trial, for people."""
    values = ", ".join(f"{value:.5g}" for value in trial.values or [])
    setting = ", ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
    if trial.state == TrialState.COMPLETE:
        return f"{values} with {setting}"
    if trial.state == TrialState.PRUNED:
        return f"pruned, {setting}"
    return f"failed, {setting}: {reason_of(trial)}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
