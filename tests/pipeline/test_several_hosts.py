"""One training in two processes, as on two hosts: the whole pipeline, hosts that differ, and hosts that are lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sandbox import Sandbox

pytestmark = pytest.mark.slow
TRAIN = (sys.executable, "-m", "cyclegan", "train")
LOST = 75
# Every wait is for an event; this limit is for a machine that hangs.
LIMIT = 1500


@pytest.fixture(scope="module")
def prepared(make_sandbox: Callable[[], Sandbox]) -> Sandbox:
    """A project with packed data, whose training would take long and saves often."""
    sandbox = make_sandbox()
    sandbox.configure(
        train={"epochs": 400, "batch_size": 2, "discriminator_batch": None, "checkpoint_every": 0.01, "select": "last"}
    )
    sandbox.run(sys.executable, "-m", "cyclegan", "fetch")
    sandbox.run(sys.executable, "-m", "cyclegan", "split")
    return sandbox


class Pair:
    """The chief and a follower, on this machine."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.ports = []
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            self.ports = [each.getsockname()[1] for each in (one, other)]
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, index: int, *command: str, root: Path | None = None, **more: str) -> subprocess.Popen[str]:
        cluster = {"worker": [f"127.0.0.1:{port}" for port in self.ports]}
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        process = subprocess.Popen(
            command or TRAIN,
            cwd=root or self.sandbox.root,
            env=self.sandbox.environment(TF_CONFIG=config, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def step(self) -> int:
        """The step of the newest checkpoint."""
        found = self.sandbox.root.glob("checkpoints/*/step-*.sha256")
        return max((int(path.stem.removeprefix("step-")) for path in found), default=0)

    def wait_for_step(self, above: int) -> None:
        """Wait until both have trained."""
        end = time.monotonic() + LIMIT
        while self.step() <= above:
            for process in self.processes:
                assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end
            time.sleep(0.2)


@pytest.fixture
def pair(prepared: Sandbox) -> Iterator[Pair]:
    made = Pair(prepared)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def ended(process: subprocess.Popen[str], code: int) -> str:
    """The output of a process that ends with this code."""
    output = process.communicate(timeout=LIMIT)[0]
    assert process.returncode == code, output
    return output


def test_a_lost_host_ends_the_other_and_both_resume(pair: Pair) -> None:
    """A killed follower, a killed chief, and a follower that stands still."""
    reached = 0
    for lost, number in ((1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP)):
        both = [pair.start(index) for index in (0, 1)]
        pair.wait_for_step(reached)
        reached = pair.step()
        both[lost].send_signal(number)
        start = time.monotonic()
        output = ended(both[1 - lost], LOST)
        print(f"host {lost} got {number.name}: the other ended after {time.monotonic() - start:.1f} s")
        (line,) = [line for line in output.splitlines() if "start all hosts again" in line]
        assert "a host was lost" in line
        both[lost].kill()
        both[lost].communicate()
        pair.processes.clear()

    # A signal stops both after a checkpoint, wherever it comes.
    both = [pair.start(index) for index in (0, 1)]
    pair.wait_for_step(reached)
    both[1].terminate()
    output = ended(both[0], 128 + signal.SIGTERM)
    ended(both[1], 128 + signal.SIGTERM)
    assert "resuming at step" in output


def test_a_host_that_never_comes_is_named(pair: Pair) -> None:
    for index, missing in ((0, 1), (1, 0)):
        output = ended(pair.start(index, CYCLEGAN_HOSTS_SECONDS="3"), LOST)
        assert f"host {missing} (127.0.0.1:{pair.ports[missing]})" in output


def test_a_host_with_other_parameters_is_refused(pair: Pair, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(pair.sandbox.root, other, ignore=shutil.ignore_patterns("checkpoints", "mlruns", ".git"))
    Sandbox(other).configure(train={"learning_rate": 0.5})
    both = [pair.start(0), pair.start(1, root=other)]
    for process in both:
        output = ended(process, 2)
        assert "host 1" in output
        assert socket.gethostname() in output
        assert "train.learning_rate: 0.0005 -> 0.5" in output


def test_the_whole_pipeline(make_sandbox: Callable[[], Sandbox]) -> None:
    """The chief runs `dvc repro`, the follower writes nothing of its own."""
    sandbox = make_sandbox()
    sandbox.configure(train={"batch_size": 2, "discriminator_batch": None})
    pair = Pair(sandbox)
    follower = pair.start(1)
    chief = pair.start(0, "dvc", "repro")
    ended(chief, 0)
    assert "following the chief" in ended(follower, 0)
    trained = sandbox.json("reports/train/run.json")
    run = sandbox.client.get_run(trained["run_id"])
    assert run.data.tags["devices"] == "2"
    assert (sandbox.root / "reports/evaluate/metrics.json").is_file()
    assert os.listdir(sandbox.root / "checkpoints")
