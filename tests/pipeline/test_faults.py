"""The plug pulled from outside: dvc, the tracking server. Real commands, real processes, a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from sandbox import Sandbox

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
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.2)


def losses_of(client: MlflowClient, run_id: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run_id, "G_AtoB/total")]


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


def test_a_stopped_container_saves_its_training_and_goes_on_when_started_again(make_sandbox: MakeSandbox) -> None:
    """`docker stop` signals the first process alone, and kills what is left ten seconds later."""
    sandbox = make_sandbox()
    sandbox.configure(train=LONG | {"checkpoint_every": 60.0, "log_every": 10, "steps_per_epoch": 100_000})
    sandbox.run("dvc", "repro", "split")
    entry = str(ROOT / "docker-entrypoint.sh")
    container = started(sandbox, "sh", entry, "dvc", "repro", "train", stdin=subprocess.DEVNULL)
    wait_until(lambda: "RUNNING" in _statuses(sandbox))
    time.sleep(25)
    container.terminate()
    began = time.monotonic()
    assert container.wait(timeout=60) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 10
    assert _statuses(sandbox) == ["KILLED"]
    (checkpoint,) = sandbox.root.glob("checkpoints/*/step-*.npz")
    assert checkpoint.with_suffix(".sha256").exists()
    assert sandbox.run("sh", entry, "dvc", "status", "split").stdout.strip() == "Data and pipelines are up to date."
    assert sandbox.run("sh", entry, "cyclegan", "params", "--no-such", check=False).returncode == 2


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_takes_less_than_ten_seconds_and_leaves_a_checkpoint(
    make_sandbox: MakeSandbox, sent: signal.Signals
) -> None:
    """However long a window is: here one is the whole training."""
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


def test_a_training_goes_on_while_its_server_is_away(make_sandbox: MakeSandbox, tmp_path: Path) -> None:
    sandbox, server = make_sandbox(), Server(tmp_path)
    sandbox.configure(train=LONG)
    sandbox.run("dvc", "repro", "split")
    server.start()
    try:
        trainer = started(sandbox, "cyclegan", "train", MLFLOW_TRACKING_URI=server.uri)
        wait_for_step(sandbox, trainer, 30)
        server.kill()
        told, _ = trainer.communicate(timeout=400)
        assert trainer.returncode == 0, told
        assert told.count("cannot be written") == 1
        assert told.count("'cyclegan sync', or the next training, delivers them") == 1
        assert (sandbox.root / "models" / "generator_AtoB.keras").exists()
        run_id = sandbox.json("reports/train/run.json")["run_id"]

        refused = sandbox.run("cyclegan", "train", check=False, MLFLOW_TRACKING_URI=server.uri)
        assert refused.returncode == 2
        assert "tracking.offline: true" in refused.stderr

        server.start()
        synced = sandbox.run("cyclegan", "sync", MLFLOW_TRACKING_URI=server.uri)
        assert f"MLflow run {run_id}: " in synced.stdout
        assert sandbox.run("cyclegan", "sync", MLFLOW_TRACKING_URI=server.uri).stdout == "nothing was waiting\n"
        client = MlflowClient(tracking_uri=server.uri)
        assert client.get_run(run_id).info.status == "FINISHED"
        assert losses_of(client, run_id) == POINTS
        assert [point.step for point in client.get_metric_history(run_id, "val_AtoB/pair_psnr")] == [240]
        pictures = [file.path for file in client.list_artifacts(run_id, "images")]
        assert len(pictures) == 4, pictures
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
    metrics = json.loads((sandbox.root / "reports/evaluate/metrics.json").read_text())
    assert run.data.metrics["test_AtoB/pair_psnr"] == pytest.approx(metrics["AtoB"]["pair_psnr"])
    assert [file.path for file in sandbox.client.list_artifacts(run.info.run_id, "evaluate")]
    version = sandbox.client.get_model_version_by_alias("fluent-emoji-AtoB", "challenger")
    assert version.run_id == run.info.run_id
