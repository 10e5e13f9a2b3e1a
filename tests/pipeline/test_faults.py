"""Faults from outside: dvc is killed, the tracking server is away. Real commands, processes and servers."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from sandbox import Sandbox

from cyclegan.training.checkpoint import CheckpointFolder
from mlflow_server import Server

pytestmark = pytest.mark.slow

MakeSandbox = Callable[[], Sandbox]
ROOT = Path(__file__).parents[2]

# Long enough to be caught in the middle: every step is followed by a checkpoint.
LONG = {"epochs": 1, "steps_per_epoch": 240, "log_every": 20, "checkpoint_every": 1e-9}
POINTS = list(range(20, 241, 20))


def started(sandbox: Sandbox, *command: str, stdin: int | None = None, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=sandbox.root,
        env=sandbox.environment(**environment),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_step(sandbox: Sandbox, process: subprocess.Popen[str], step: int) -> None:
    deadline = time.monotonic() + 240
    while True:
        found = [int(file.stem[5:]) for file in sandbox.root.glob("checkpoints/*/step-*.sha256")]
        if max(found, default=0) >= step:
            return
        assert time.monotonic() < deadline, "no checkpoint was written"
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        time.sleep(0.02)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.2)


def losses_of(client: MlflowClient, run_id: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run_id, "2_G_AtoB/total")]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_trainer_does_not_outlive_its_dvc(make_sandbox: MakeSandbox, sent: signal.Signals) -> None:
    sandbox = make_sandbox()
    sandbox.configure(train=LONG)
    sandbox.run("dvc", "repro", "split")
    dvc = started(sandbox, "dvc", "repro", "train")
    wait_for_step(sandbox, dvc, 5)
    trainers = [child for child in psutil.Process(dvc.pid).children(recursive=True) if "train" in child.cmdline()]
    assert trainers
    os.kill(dvc.pid, sent)
    began = time.monotonic()
    _, alive = psutil.wait_procs(trainers, timeout=60)
    assert alive == []
    assert time.monotonic() - began < 12
    dvc.wait()
    experiment = sandbox.client.get_experiment_by_name("fluent-emoji")
    (run,) = sandbox.client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"

    again = sandbox.run("dvc", "repro", "train")
    assert "resuming at step" in again.stdout
    run = sandbox.client.get_run(sandbox.json("reports/train/run.json")["run_id"])
    assert run.info.status == "FINISHED"
    assert losses_of(sandbox.client, run.info.run_id) == POINTS


# Replaces `cyclegan`. A checkpoint takes longer than dvc's watcher, and the completed steps are logged.
SLOW_SAVER = """#!{python}
import time
from cyclegan.system.quiet_tensorflow import import_tensorflow
import_tensorflow()
from cyclegan.cli import main
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.dispatch import Dispatcher

save, advance = CheckpointFolder.save, Dispatcher.advance

def slow_save(self, *arguments):
    time.sleep(1.5)
    save(self, *arguments)

def counted_advance(self, *arguments):
    steps, seconds = advance(self, *arguments)
    with open("{made}", "a") as file:
        print(steps, file=file)
    return steps, seconds

CheckpointFolder.save, Dispatcher.advance = slow_save, counted_advance
main()
"""
ENDLESS = LONG | {"checkpoint_every": 60.0, "log_every": 10, "steps_per_epoch": 100_000}


class SlowSaver:
    """A project with endless trainings that save slowly. `dvc` starts them, with or without a terminal."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox, self.made = sandbox, folder / "made"
        sandbox.configure(train=ENDLESS)
        sandbox.run("dvc", "repro", "split")
        (folder / "bin").mkdir()
        command = folder / "bin" / "cyclegan"
        command.write_text(SLOW_SAVER.format(python=sys.executable, made=self.made))
        command.chmod(0o755)
        self.environment = {"PATH": f"{folder / 'bin'}{os.pathsep}{sandbox.environment()['PATH']}"}
        self.environment["TF_CPP_MIN_LOG_LEVEL"] = "2"

    def start(self, *command: str, terminal: bool) -> tuple[subprocess.Popen[str], subprocess.Popen[bytes] | None]:
        """Start a training and wait until it makes steps. The second process, if any, is the terminal."""
        before = len(self.calls())
        if terminal:
            process, screen = on_terminal(self.sandbox, *command, **self.environment)
        else:
            process, screen = started(self.sandbox, *command, stdin=subprocess.DEVNULL, **self.environment), None
        # Wait for later calls, because the first one builds the graph and may be interrupted.
        wait_until(lambda: len(self.calls()) > before + 2 or process.poll() is not None)
        assert process.poll() is None
        return process, screen

    def calls(self) -> list[int]:
        return [int(line) for line in self.made.read_text().splitlines()] if self.made.exists() else []

    def saved(self) -> int:
        """The step of the newest intact checkpoint."""
        (folder,) = {file.parent for file in self.sandbox.root.glob("checkpoints/*/step-*.npz")}
        return CheckpointFolder(folder).steps()[0]


def on_terminal(
    sandbox: Sandbox, *command: str, **environment: str
) -> tuple[subprocess.Popen[str], subprocess.Popen[bytes]]:
    """Start a command as the leader of a session with a terminal, as `docker run -t` and a login do."""
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        command,
        cwd=sandbox.root,
        env=sandbox.environment(**environment),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    reader = subprocess.Popen(["cat"], stdin=screen, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(screen)
    return process, reader


def test_a_stop_of_all_processes_at_any_moment_loses_no_step(make_sandbox: MakeSandbox, tmp_path: Path) -> None:
    """systemd, SLURM, a closed terminal: dvc dies at once, while its stage saves its state."""
    saver, rng = SlowSaver(make_sandbox(), tmp_path), random.Random(15)
    for number in range(20):
        terminal, closed = number % 3 > 0, number % 3 == 2
        dvc, screen = saver.start("dvc", "repro", "train", terminal=terminal)
        trainers = psutil.Process(dvc.pid).children(recursive=True)
        time.sleep(rng.uniform(0, 2))
        if closed:
            assert screen is not None
            screen.kill()
        else:
            os.killpg(dvc.pid, signal.SIGTERM)
        dvc.wait(timeout=60)
        _, alive = psutil.wait_procs(trainers, timeout=60)
        assert alive == []
        if screen is not None:
            screen.kill()
            screen.wait()
        assert saver.saved() == sum(saver.calls()), f"stop {number}: terminal {terminal}, closed {closed}"
        assert _statuses(saver.sandbox) == ["KILLED"]


# Makes a command process 1, as a container does.
NAMESPACE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_stopped_container_saves_its_training(
    make_sandbox: MakeSandbox, tmp_path: Path, terminal: bool, first: bool
) -> None:
    """`docker stop` signals only the first process, and kills the others ten seconds later."""
    if first and subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("unshare makes no process 1 here")
    entry = str(ROOT / "docker-entrypoint.sh")
    saver = SlowSaver(make_sandbox(), tmp_path)
    around = NAMESPACE if first else ()
    outer, screen = saver.start(*around, "sh", entry, "dvc", "repro", "train", terminal=terminal)
    container = psutil.Process(outer.pid).children()[0] if first else psutil.Process(outer.pid)
    container.terminate()
    began = time.monotonic()
    code = outer.wait(timeout=60)
    assert time.monotonic() - began < 10
    assert code == 128 + signal.SIGTERM
    if screen is not None:
        screen.kill()
        screen.wait()
    assert saver.saved() == sum(saver.calls())
    assert _statuses(saver.sandbox) == ["KILLED"]


def test_a_container_runs_any_command_and_ends_with_its_code(make_sandbox: MakeSandbox) -> None:
    sandbox, entry = make_sandbox(), str(ROOT / "docker-entrypoint.sh")
    assert sandbox.run("sh", entry, "cyclegan", "params", "--no-such", check=False).returncode == 2
    assert sandbox.run("sh", entry, "sh", "-c", "kill -9 $$", check=False).returncode == 128 + signal.SIGKILL
    missing = sandbox.run("sh", entry, "no-such-command", check=False)
    assert (missing.returncode, missing.stderr) == (127, "no-such-command: No such file or directory\n")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_takes_less_than_ten_seconds_and_leaves_a_checkpoint(
    make_sandbox: MakeSandbox, sent: signal.Signals
) -> None:
    """The length of a window does not matter: here the whole training is one."""
    sandbox = make_sandbox()
    sandbox.configure(train=LONG | {"log_every": 10_000, "steps_per_epoch": 10_000, "checkpoint_every": 60.0})
    sandbox.run("dvc", "repro", "split")
    trainer = started(sandbox, "cyclegan", "train")
    wait_until(lambda: "RUNNING" in _statuses(sandbox))
    # The graph is built, and some steps are done.
    time.sleep(25)
    trainer.send_signal(sent)
    began = time.monotonic()
    assert trainer.wait(timeout=60) == 128 + sent
    assert time.monotonic() - began < 10
    assert _statuses(sandbox) == ["KILLED"]
    (checkpoint,) = sandbox.root.glob("checkpoints/*/step-*.npz")
    assert int(checkpoint.stem[5:]) > 0
    assert checkpoint.with_suffix(".sha256").exists()


def _statuses(sandbox: Sandbox) -> list[str]:
    if not (sandbox.root / "mlruns" / "mlflow.db").exists():
        return []
    experiment = sandbox.client.get_experiment_by_name("fluent-emoji")
    return (
        []
        if experiment is None
        else [run.info.status for run in sandbox.client.search_runs([experiment.experiment_id])]
    )


def test_a_second_trainer_is_refused_with_the_number_of_the_first(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox()
    sandbox.configure(train=LONG | {"steps_per_epoch": 2000})
    sandbox.run("dvc", "repro", "split")
    first = started(sandbox, "cyclegan", "train")
    wait_for_step(sandbox, first, 1)
    second = sandbox.run("cyclegan", "train", check=False)
    assert second.returncode == 2
    assert f"process {first.pid} trains this run" in second.stderr
    first.terminate()
    first.wait(timeout=30)


def test_a_training_continues_while_its_server_is_unavailable(make_sandbox: MakeSandbox, tmp_path: Path) -> None:
    sandbox, server = make_sandbox(), Server(tmp_path)
    sandbox.configure(train=LONG)
    sandbox.run("dvc", "repro", "split")
    server.start()
    try:
        trainer = started(sandbox, "cyclegan", "train", MLFLOW_TRACKING_URI=server.uri)
        wait_for_step(sandbox, trainer, 30)
        server.kill()
        printed, _ = trainer.communicate(timeout=400)
        assert trainer.returncode == 0, printed
        assert printed.count("cannot be written") == 1
        assert printed.count("'cyclegan sync' or the next training delivers them") == 1
        assert (sandbox.root / "models" / "generator_AtoB.keras").exists()
        run_id = sandbox.json("reports/train/run.json")["run_id"]

        refused = sandbox.run("cyclegan", "train", check=False, MLFLOW_TRACKING_URI=server.uri)
        assert refused.returncode == 2
        assert "tracking.offline: true" in refused.stderr

        server.start()
        synced = sandbox.run("cyclegan", "sync", MLFLOW_TRACKING_URI=server.uri)
        assert f"MLflow run {run_id}: " in synced.stdout
        assert sandbox.run("cyclegan", "sync", MLFLOW_TRACKING_URI=server.uri).stdout == "no entries are waiting\n"
        client = MlflowClient(tracking_uri=server.uri)
        assert client.get_run(run_id).info.status == "FINISHED"
        assert losses_of(client, run_id) == POINTS
        assert [point.step for point in client.get_metric_history(run_id, "1_val_AtoB/pair_psnr")] == [240]
        images = [file.path for file in client.list_artifacts(run_id, "samples")]
        assert len(images) == 2, images
    finally:
        server.kill()


def test_offline_from_beginning_to_end(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox()
    sandbox.configure(tracking={"offline": True})
    sandbox.run("dvc", "repro", "evaluate")
    assert not (sandbox.root / "mlruns" / "mlflow.db").exists()
    register = sandbox.run("cyclegan", "register", check=False)
    assert register.returncode == 2
    assert "tracking.offline: true, but the model registry is part of MLflow" in register.stderr
    known = sandbox.json("reports/train/run.json")["run_id"]

    sandbox.configure(tracking={"offline": False})
    done = sandbox.run("dvc", "repro")
    assert "Running stage 'train'" not in done.stdout
    experiment = sandbox.client.get_experiment_by_name("fluent-emoji")
    (run,) = sandbox.client.search_runs([experiment.experiment_id])
    assert run.data.tags["cyclegan.replaces"] == known
    assert run.info.status == "FINISHED"
    assert losses_of(sandbox.client, run.info.run_id) == [4, 6, 8, 12]
    metrics = json.loads((sandbox.root / "reports/evaluate/details.json").read_text())
    assert run.data.metrics["test_AtoB/pair_psnr"] == pytest.approx(metrics["AtoB"]["pair_psnr"])
    assert [file.path for file in sandbox.client.list_artifacts(run.info.run_id, "evaluate")]
    version = sandbox.client.get_model_version_by_alias("fluent-emoji-AtoB", "challenger")
    assert version.run_id == run.info.run_id
