"""The supervisor: starts this machine's workers, replaces those that are killed, and prints the progress."""

from __future__ import annotations

import os
import shutil
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
# Maximum number of killed workers that are replaced, per worker asked for.
REPLACEMENTS = 10


def supervise(search: SharedSearch, count: int, arguments: Sequence[str], root: Path) -> None:
    """Run workers until the search is done.

    Args:
        count: number of parallel workers.
        arguments: of `cyclegan search worker`.
        root: working directory of the workers.

    Raises:
        UserError: a worker ended with an error, or too many were killed.
    """
    command = [sys.executable, "-m", "cyclegan", "search", "worker", "--supervised", *arguments]
    printed: set[tuple[str, str]] = set()
    replaced = 0
    environments = worker_environments(count)
    workers = [_start(command, root, environment) for environment in environments]
    try:
        while (phase := search.phase()) is not None:
            _print_ended("trial", search.trials, printed)
            if phase is not search.trials:
                _print_ended("final", phase, printed)
            for index, worker in enumerate(workers):
                code = worker.poll()
                if code is None or code == 0:
                    continue
                by = _signal_that_ended(code)
                if by is None:
                    raise UserError(f"a worker of the search ended with exit code {code}; see the error above")
                if replaced == REPLACEMENTS * count:
                    raise UserError(
                        f"{replaced + 1} workers of the search were killed (the last by {by}); "
                        "free memory or lower search.workers, then run the same command again to continue"
                    )
                replaced += 1
                print(f"a worker was killed by {by}: starting another one", flush=True)
                workers[index] = _start(command, root, environments[index])
            time.sleep(POLL_SECONDS)
        _print_ended("trial", search.trials, printed)
        _print_ended("final", search.finals(), printed)
    finally:
        end(workers)


def worker_environments(count: int) -> list[dict[str, str]]:
    """The environment variables of each of several workers: every worker sees one GPU, which its trials use.

    A single worker sees all GPUs. More workers than GPUs share them evenly.
    """
    gpus = _visible_gpus() if count > 1 else []
    if not gpus:
        return [dict(os.environ)] * count
    if count > len(gpus):
        print(f"{count} workers share {len(gpus)} GPU{'s' * (len(gpus) > 1)}", flush=True)
    return [{**os.environ, "CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} for index in range(count)]


def _visible_gpus() -> list[str]:
    """The GPUs that this process may use, as values of CUDA_VISIBLE_DEVICES."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        # CUDA ignores everything from the first negative number on.
        given = [name.strip() for name in chosen.split(",")]
        stop = next((place for place, name in enumerate(given) if not name or name.startswith("-")), len(given))
        return given[:stop]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    # The numbers of nvidia-smi and of CUDA may differ, so use the identifiers.
    query = [program, "--query-gpu=uuid", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, check=False)
    return listed.stdout.split() if listed.returncode == 0 else []


def _start(command: list[str], root: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    # The worker ends when this pipe closes, which happens whenever this process dies.
    return subprocess.Popen(command, cwd=root, env=environment, stdin=subprocess.PIPE)


def _signal_that_ended(code: int) -> str | None:
    """Name of the signal that ended a worker; None if it ended by itself."""
    # A worker that handles a signal exits with the shell's code for it.
    number = -code if code < 0 else code - 128
    return signal.Signals(number).name if code < 0 or number in (signal.SIGTERM, signal.SIGHUP) else None


def end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask all workers to end, then wait for them: together, because a scheduler may soon kill this process."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
    wait_or_kill(workers, SECONDS_TO_END)


def _print_ended(kind: str, phase: Phase, printed: set[tuple[str, str]]) -> None:
    """Print a line for each slot that has ended since the previous call."""
    counted = phase.counted()
    for name, trial in counted.items():
        if (kind, name) not in printed:
            printed.add((kind, name))
            done = sum(1 for other, _ in printed if other == kind)
            print(f"{kind} {name} ({done} of {len(phase.slots)}): {_describe(trial)}", flush=True)


def _describe(trial: FrozenTrial) -> str:
    """How a trial ended, with its hyperparameters."""
    values = ", ".join(f"{value:.5g}" for value in trial.values or [])
    hyperparameters = ", ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
    if trial.state == TrialState.COMPLETE:
        return f"{values} with {hyperparameters}"
    if trial.state == TrialState.PRUNED:
        return f"pruned, {hyperparameters}"
    return f"failed, {hyperparameters}: {reason_of(trial)}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
