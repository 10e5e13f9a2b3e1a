"""A worker: claims trials from the shared study and runs each in a process of its own.

Any program can be a trial's process. It reads and writes one JSON object per line on its standard input and output:

- It reads the request, `{"setting", "values", "seed", "cheap", "slot", "final", "folder", "parent", "experiment",
  "study", "definition"}`.
- At each evaluation it writes `{"metrics": {"val_AtoB/pair_psnr": 20.1, …}}` and reads the reply, `{"continue": true}`.
  The reply is `{"continue": false}` when the trial is pruned: the program should end with exit code 0.
  The key `"figures"` of earlier versions is accepted in place of `"metrics"`.
- It may write `{"result": {"val_AtoB/pair_psnr": 20.1, …}}`, the metrics of the generators that it keeps. Without it,
  those of the last evaluation count.
- It may write `{"run_id": "…"}`, its MLflow run.

Exit code 75 (EX_TEMPFAIL) means that every trial would fail here and now: the worker gives the trial back and ends.
With any other exit code but 0, or without metrics, only this trial fails. When its standard input closes, the worker is
dead and the program should end.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from cyclegan.params import Params
from cyclegan.project import Project
from cyclegan.search.shared_search import PARENT, SharedSearch, log_file, objective_values, work_folder
from cyclegan.search.space import to_overrides
from cyclegan.search.study import METRICS, REASON, SLOT, Phase, definition, worker_lock
from cyclegan.system.digests import run_key
from cyclegan.system.errors import UserError
from cyclegan.system.processes import wait_or_kill
from cyclegan.system.signals import signals_raise

POLL_SECONDS = 0.5
# A trial that has to end writes a checkpoint first. It is killed after this time.
SECONDS_TO_END = 20.0
# Prefix in the log of what a trial prints to standard output beside the protocol.
STDOUT_PREFIX = b"stdout: "
# Prefix of the command line's message about a UserError.
ERROR_PREFIX = "cyclegan: "
REASON_CHARACTERS = 500
THREAD_VARIABLES = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")


@dataclass
class Outcome:
    """How a trial's process ended.

    Attributes:
        metrics: of the result or, without one, of the last evaluation.
        run_id: of its MLflow run, if it has reported one.
        pruned: whether it was pruned.
        reason: why it failed; None if it did not.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    run_id: str | None = None
    pruned: bool = False
    reason: str | None = None


def work(project: Project, search: SharedSearch, threads: int | None = None) -> int:
    """Run trials until the search is done; return their number.

    Args:
        threads: for each trial; None leaves the choice to TensorFlow.

    Raises:
        UserError: no trial can run here and now.
    """
    command = trial_command(search.options.command)
    done = 0
    # On a signal, the running trial is ended and given back.
    with worker_lock(project.studies / "workers") as owner, signals_raise():
        while (phase := search.phase()) is not None:
            trial = phase.claim(owner)
            if trial is None:
                # Other workers run the last trials, or one of them has just died.
                time.sleep(POLL_SECONDS)
                continue
            try:
                with phase.working(trial):
                    _run_trial(project, search, phase, trial, command, threads)
            except UpdateFinishedTrialError:
                # On a database: without its heartbeats, this worker counted as dead.
                print(f"trial {trial.user_attrs[SLOT]}: another worker took it over; continuing", flush=True)
                continue
            done += 1
    return done


def trial_command(given: str | None) -> list[str]:
    """The command that runs one trial.

    Raises:
        UserError: there is no such program.
    """
    if given is None:
        return [sys.executable, "-m", "cyclegan", "search", "trial"]
    command = shlex.split(given)
    if not command or shutil.which(command[0]) is None:
        raise UserError(
            f"search.command = {given!r}: program {command[0] if command else ''!r} not found; correct it or install it"
        )
    return command


def threads_for(workers: int) -> int:
    """The number of this machine's cores for each of several parallel trials."""
    return max(1, len(os.sched_getaffinity(0)) // workers)


def end_with_standard_input() -> None:
    """End this process by SIGTERM when its standard input closes, which means that its parent is gone."""

    def watch() -> None:
        # Read the file descriptor, because the lock of sys.stdin would be held when Python ends.
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _run_trial(
    project: Project, search: SharedSearch, phase: Phase, trial: Trial, command: list[str], threads: int | None
) -> None:
    """Run a trial in a process of its own, and record its outcome in the study."""
    final, name = phase is not search.trials, trial.user_attrs[SLOT]

    # Choose the hyperparameters and the seed.
    hyperparameters = {dimension.name: dimension.suggest(trial) for dimension in search.space}
    seed = search.seed(name, final=final)
    trial.set_user_attr("seed", seed)

    # Run its process.
    started = time.monotonic()
    outcome = _run_process(
        command,
        _request(search, name, hyperparameters, seed, final=final),
        _make_report(search, trial, prunable=phase.slots[name].prunable),
        cwd=project.root,
        log=log_file(search.folder, name, final=final),
        environment=_environment(threads),
    )
    trial.set_user_attr("seconds", round(time.monotonic() - started, 1))

    # Record the outcome.
    _record(search, phase, trial, outcome)


def _request(
    search: SharedSearch, slot: str, hyperparameters: Mapping[str, Any], seed: int, *, final: bool
) -> dict[str, Any]:
    """The first line that a trial's process reads."""
    return {
        "setting": hyperparameters,
        "values": to_overrides(search.space, hyperparameters),
        "seed": seed,
        "cheap": not final,
        "slot": slot,
        "final": final,
        "folder": str(search.folder),
        "parent": search.trials.study.user_attrs.get(PARENT),
        "experiment": experiment(search.params),
        "study": search.name,
        "definition": run_key(definition(search.options)),
    }


def _make_report(search: SharedSearch, trial: Trial, *, prunable: bool) -> Callable[[dict[str, float]], bool]:
    """Make a function that reports an evaluation to Optuna and returns whether the trial continues."""
    numbers = itertools.count(1)

    def report(metrics: dict[str, float]) -> bool:
        number = next(numbers)
        values = objective_values(metrics, search.options.compared)
        if len(values) > 1:
            # Optuna accepts no reports with two objectives.
            return True
        trial.report(values[0], number)
        return not (prunable and trial.should_prune())

    return report


def _record(search: SharedSearch, phase: Phase, trial: Trial, outcome: Outcome) -> None:
    """Record in the study how a trial ended. A trial without all objectives fails and loses its checkpoints."""
    values, reason = None, outcome.reason
    if reason is None:
        try:
            values = objective_values(outcome.metrics, search.options.compared)
        except ValueError as error:
            reason = str(error)
    trial.set_user_attr(METRICS, outcome.metrics)
    if outcome.run_id is not None:
        trial.set_user_attr("run_id", outcome.run_id)
    if reason is not None:
        trial.set_user_attr(REASON, reason)
        phase.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        final = phase is not search.trials
        shutil.rmtree(work_folder(search.folder, trial.user_attrs[SLOT], final=final), ignore_errors=True)
    elif outcome.pruned:
        phase.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
    else:
        phase.study.tell(trial, values, skip_if_finished=True)


def experiment(params: Params) -> str:
    """The MLflow experiment of a search's runs."""
    return f"{params.tracking.experiment or params.data.dataset}-search"


def _run_process(
    command: list[str],
    request: dict[str, Any],
    report: Callable[[dict[str, float]], bool],
    *,
    cwd: Path,
    log: Path,
    environment: dict[str, str],
) -> Outcome:
    """Run a trial's process to its end.

    Args:
        report: receives the metrics of each evaluation and returns whether the trial continues.

    Raises:
        UserError: no trial can run here and now.
    """
    outcome = Outcome()
    with log.open("ab") as output, _process(command, cwd, output, environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        start = output.tell()
        _send(process.stdin, request)
        for line in process.stdout:
            match _parsed(line):
                case {"run_id": str(run_id)}:
                    outcome.run_id = run_id
                case {"result": dict(metrics)}:
                    try:
                        outcome.metrics = _to_numbers(metrics)
                    except ValueError as error:
                        outcome.reason = str(error)
                case {"metrics": dict(metrics)} | {"figures": dict(metrics)}:
                    try:
                        outcome.metrics = _to_numbers(metrics)
                        outcome.pruned = not report(outcome.metrics)
                    except ValueError as error:
                        # A metric is missing or not a number, so the trial cannot be compared.
                        outcome.reason = str(error)
                    _send(process.stdin, {"continue": not outcome.pruned and outcome.reason is None})
                case _:
                    output.write(STDOUT_PREFIX + line)
                    output.flush()
        code = process.wait()
    if code == os.EX_TEMPFAIL and outcome.reason is None:
        reason = _last_error(log, start, code)
        raise UserError(f"{log.stem} was given back: {reason}; fix this and run the same command again")
    if code != 0 and outcome.reason is None:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        outcome.reason = f"{how}: {_last_error(log, start, code)}"
    return outcome


@contextmanager
def _process(
    command: list[str], cwd: Path, output: IO[bytes], environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a trial's process; end it when this context ends."""
    # In its own session, Ctrl-C does not reach the trial: this worker ends it and gives it back.
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=output,
        cwd=cwd,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        wait_or_kill([process], SECONDS_TO_END)
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()


def _send(pipe: IO[bytes], message: dict[str, Any]) -> None:
    # The exit code shows whether the process is gone.
    with suppress(BrokenPipeError):
        pipe.write(json.dumps(message).encode() + b"\n")
        pipe.flush()


def _parsed(line: bytes) -> Any:
    """The JSON value of a line; None if it is not JSON. Lines of a program's own log may be JSON too."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _to_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Convert metrics to numbers.

    Raises:
        ValueError: a metric is not a number.
    """
    numbers = {}
    for name, value in metrics.items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"reported {name} = {json.dumps(value)[:100]}, which is not a number") from None
    return numbers


def _last_error(log: Path, start: int, code: int) -> str:
    """The last error of a trial: one line, or all lines of a UserError.

    Args:
        start: offset in the log where this attempt begins.
        code: its exit code.
    """
    lines = log.read_bytes()[start:].decode(errors="replace").replace("\r", "\n").splitlines()
    # Skip its standard output, which may reach the log after a later error.
    errors = [line.strip() for line in lines if line.strip() and not line.startswith(STDOUT_PREFIX.decode())]
    if not errors:
        return "no error message"
    first = len(errors) - 1
    if code in (UserError.exit_code, os.EX_TEMPFAIL):
        first = max((number for number, line in enumerate(errors) if line.startswith(ERROR_PREFIX)), default=first)
    return "; ".join(errors[first:]).removeprefix(ERROR_PREFIX)[:REASON_CHARACTERS]


def _environment(threads: int | None) -> dict[str, str]:
    """The environment of a trial's process. Variables that the user has set stay."""
    added = {} if threads is None else {name: str(threads) for name in THREAD_VARIABLES if name not in os.environ}
    return {**os.environ, **added}
