"""A worker: takes trials from the shared study and runs each in a process of its own.

A trial's process may be anything that speaks this protocol, one JSON object a line, on its standard input and output:

- it is given `{"setting", "values", "seed", "cheap", "slot", "final", "folder", "parent", "experiment", "study",
  "definition"}`;
- whenever it has measured, it says `{"figures": {"val_AtoB/pair_psnr": 20.1, …}}` and is answered `{"continue": true}`,
  or `{"continue": false}` when it is pruned and should end, with exit code 0 like at its normal end;
- it may say `{"result": {"val_AtoB/pair_psnr": 20.1, …}}`, the metrics of the generators that it results in, where
  these are not those of its last evaluation;
- it may say `{"run_id": "…"}`, the MLflow run with its details.

Without a result the last metrics are it. Another exit code, or no metrics, costs this trial and nothing else; but 75
(EX_TEMPFAIL) says that any other trial would fail here and now as well: the worker gives the trial back and ends. When
its standard input closes its worker is dead: it should end.
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
from cyclegan.search.space import overlay
from cyclegan.search.study import REASON, SLOT, Phase, definition, living
from cyclegan.system.digests import run_key
from cyclegan.system.errors import UserError
from cyclegan.system.processes import wait_or_kill
from cyclegan.system.signals import signals_raise

POLL_SECONDS = 0.5
SECONDS_TO_END = 20.0
"""A trial that is told to end writes a checkpoint; after this long it is killed."""
PRINTED = b"stdout: "
OURS = "cyclegan: "
"""Begins what the command line says of a UserError."""
MOST_CHARACTERS = 500
THREAD_VARIABLES = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")


@dataclass
class Outcome:
    """What became of a trial's process."""

    metrics: dict[str, float] = field(default_factory=dict)
    run_id: str | None = None
    pruned: bool = False
    reason: str | None = None
    """Why it counts as failed."""


def work(project: Project, search: SharedSearch, threads: int | None = None) -> int:
    """Run trials until the search is done; returns how many.

    Args:
        threads: for each trial; None leaves it to TensorFlow.

    Raises:
        UserError: something is wrong that is no trial's fault.
    """
    command = trial_command(search.options.command)
    done = 0
    # Told to end, it ends the running trial and gives it back.
    with living(project.studies / "workers") as owner, signals_raise():
        while (phase := search.phase()) is not None:
            trial = phase.claim(owner)
            if trial is None:
                # Others are at the last trials, or one of them has just died.
                time.sleep(POLL_SECONDS)
                continue
            try:
                with phase.working(trial):
                    _run_trial(project, search, phase, trial, command, threads)
            except UpdateFinishedTrialError:
                # On a database: this worker was silent for so long that another one took it for dead.
                print(f"{trial.user_attrs[SLOT]}: another worker took this trial over, this one goes on", flush=True)
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
        raise UserError(f"search.command = {given!r}: there is no program {command[0] if command else ''!r}")
    return command


def threads_for(workers: int) -> int:
    """How many of this machine's cores each of so many trials at once may use."""
    return max(1, len(os.sched_getaffinity(0)) // workers)


def end_with_standard_input() -> None:
    """End this process, as by SIGTERM, once its standard input closes: whoever started it is gone."""

    def watch() -> None:
        # Not through sys.stdin, whose lock would be held when Python ends.
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _run_trial(
    project: Project, search: SharedSearch, phase: Phase, trial: Trial, command: list[str], threads: int | None
) -> None:
    """Run a trial in a process of its own, and record in the study what became of it."""
    final, name = phase is not search.trials, trial.user_attrs[SLOT]

    # Choose the hyperparameters and the seed.
    setting = {dimension.name: dimension.suggest(trial) for dimension in search.space}
    seed = search.seed(name, final=final)
    trial.set_user_attr("seed", seed)

    # Run its process.
    started = time.monotonic()
    outcome = _converse(
        command,
        _request(search, name, setting, seed, final=final),
        _reporter(search, trial, prunable=phase.slots[name].prunable),
        cwd=project.root,
        log=log_file(search.folder, name, final=final),
        environment=_environment(threads),
    )
    trial.set_user_attr("seconds", round(time.monotonic() - started, 1))

    # Record the outcome.
    _record(search, phase, trial, outcome)


def _request(search: SharedSearch, slot: str, setting: Mapping[str, Any], seed: int, *, final: bool) -> dict[str, Any]:
    """The first line that a trial's process reads."""
    return {
        "setting": setting,
        "values": overlay(search.space, setting),
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


def _reporter(search: SharedSearch, trial: Trial, *, prunable: bool) -> Callable[[dict[str, float]], bool]:
    """A function that reports an evaluation to Optuna, and returns whether the trial continues."""
    reports = itertools.count(1)

    def continues(metrics: dict[str, float]) -> bool:
        report = next(reports)
        values = objective_values(metrics, search.options.compared)
        if len(values) > 1:
            # Optuna takes no reports with two objectives.
            return True
        trial.report(values[0], report)
        return not (prunable and trial.should_prune())

    return continues


def _record(search: SharedSearch, phase: Phase, trial: Trial, outcome: Outcome) -> None:
    """Record in the study how a trial ended; one without all objectives has failed, and leaves nothing to resume."""
    values, reason = None, outcome.reason
    if reason is None:
        try:
            values = objective_values(outcome.metrics, search.options.compared)
        except ValueError as error:
            reason = str(error)
    trial.set_user_attr("figures", outcome.metrics)
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


def _converse(
    command: list[str],
    request: dict[str, Any],
    go_on: Callable[[dict[str, float]], bool],
    *,
    cwd: Path,
    log: Path,
    environment: dict[str, str],
) -> Outcome:
    """Run a trial's process to its end.

    Raises:
        UserError: the trial cannot be run here and now, and neither can any other.
    """
    outcome = Outcome()
    with log.open("ab") as output, _process(command, cwd, output, environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        began = output.tell()
        _say(process.stdin, request)
        for line in process.stdout:
            match _message(line):
                case {"run_id": str(run_id)}:
                    outcome.run_id = run_id
                case {"result": dict(told)}:
                    try:
                        outcome.metrics = _metrics(told)
                    except ValueError as error:
                        outcome.reason = str(error)
                case {"figures": dict(told)}:
                    try:
                        outcome.metrics = _metrics(told)
                        outcome.pruned = not go_on(outcome.metrics)
                    except ValueError as error:
                        # Not a number, or not there: no use in going on.
                        outcome.reason = str(error)
                    _say(process.stdin, {"continue": not outcome.pruned and outcome.reason is None})
                case _:
                    output.write(PRINTED + line)
                    output.flush()
        code = process.wait()
    if code == os.EX_TEMPFAIL and outcome.reason is None:
        reason = _last_error(log, began, code)
        raise UserError(f"{log.stem} was given back: {reason}. Mend that and run the same command again")
    if code != 0 and outcome.reason is None:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        outcome.reason = f"{how}: {_last_error(log, began, code)}"
    return outcome


@contextmanager
def _process(
    command: list[str], cwd: Path, output: IO[bytes], environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    # A session of its own: Ctrl-C reaches this worker, which then ends the trial and gives it back.
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


def _say(pipe: IO[bytes], message: dict[str, Any]) -> None:
    # A process that is gone is noticed by its exit code.
    with suppress(BrokenPipeError):
        pipe.write(json.dumps(message).encode() + b"\n")
        pipe.flush()


def _message(line: bytes) -> Any:
    """What a line says if it is JSON, as a program's own log may be, too; else None."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _metrics(told: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as numbers.

    Raises:
        ValueError: one is none.
    """
    metrics = {}
    for name, value in told.items():
        try:
            metrics[name] = float(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"reported {name} = {json.dumps(value)[:100]}, which is no number") from None
    return metrics


def _last_error(log: Path, began: int, code: int) -> str:
    """What a trial said last: one line, or all lines of a UserError.

    Args:
        began: where in the log this attempt begins.
        code: with which it ended.
    """
    lines = log.read_bytes()[began:].decode(errors="replace").replace("\r", "\n").splitlines()
    # What it printed reaches the log later than the error that came after it.
    errors = [line.strip() for line in lines if line.strip() and not line.startswith(PRINTED.decode())]
    if not errors:
        return "it said nothing"
    first = len(errors) - 1
    if code in (UserError.exit_code, os.EX_TEMPFAIL):
        first = max((number for number, line in enumerate(errors) if line.startswith(OURS)), default=first)
    return "; ".join(errors[first:]).removeprefix(OURS)[:MOST_CHARACTERS]


def _environment(threads: int | None) -> dict[str, str]:
    chosen = {} if threads is None else {name: str(threads) for name in THREAD_VARIABLES if name not in os.environ}
    return {**os.environ, **chosen}
