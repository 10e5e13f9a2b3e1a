"""Repeated `dvc repro`: a better version becomes champion, a worse one does not, and a rollback restores one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image
from sandbox import Sandbox

from cyclegan.models.translator import Translator, load_generator

pytestmark = pytest.mark.slow
NAMES = ("fluent-emoji-AtoB", "fluent-emoji-BtoA")
# Small, but better than the identity baseline by several standard errors: 20.8 dB, and 21.3 dB after 750 steps.
SMALL = {
    "data": {"load_size": 32},
    "model": {"generator": "unet", "base_filters": 8, "blocks": "auto", "patch_layers": 2, "discriminator_filters": 8},
    "train": {"crop_size": 32, "steps_per_epoch": 150, "log_every": 50, "evaluate_every": 100, "pool_size": 10},
}


@pytest.fixture(scope="module")
def project(make_sandbox: Callable[[], Sandbox]) -> Sandbox:
    """A project with one training, which is better than the identity baseline."""
    sandbox = make_sandbox()
    sandbox.configure(**SMALL)
    train(sandbox, epochs=5)
    return sandbox


def train(sandbox: Sandbox, **values: float) -> dict:
    sandbox.configure(train={"learning_rate": 0.0005, **values})
    sandbox.run("dvc", "repro")
    return sandbox.json("reports/register.json")


def champions(sandbox: Sandbox) -> list[str]:
    return [str(sandbox.client.get_model_version_by_alias(name, "champion").version) for name in NAMES]


def test_champion_moves_once_and_stays_and_comes_back(project: Sandbox) -> None:
    first = project.json("reports/register.json")
    assert champions(project) == ["1", "1"]
    # The first version was compared with the identity baseline.
    assert "identity baseline" in first["AtoB"]["gate"]["reason"]
    assert ": better by more than its standard error" in first["AtoB"]["gate"]["reason"]

    better = train(project, epochs=14)
    assert champions(project) == ["2", "2"]
    for direction in ("AtoB", "BtoA"):
        assert better[direction]["alias"] == "champion"
        assert ": better (" in better[direction]["gate"]["reason"]

    worse = train(project, epochs=1, learning_rate=0.02)
    assert champions(project) == ["2", "2"]
    for direction in ("AtoB", "BtoA"):
        decision = worse[direction]
        assert (decision["version"], decision["alias"], decision["champion"]) == ("3", "challenger", "2")
        assert ": worse (" in decision["gate"]["reason"]
        assert decision["gate"]["gain"] < 0
        assert decision["gate"]["images"] == 233

    # A repeated training registers no version again, and the champion stays.
    again = train(project, epochs=14)
    assert again["AtoB"]["version"] == "2"
    assert again["AtoB"]["gate"]["reason"] == "already the champion"
    assert [len(project.client.search_model_versions(f"name = '{name}'")) for name in NAMES] == [3, 3]

    refused = project.run("cyclegan", "registry", "rollback", NAMES[0], check=False)
    assert refused.returncode == 2
    done = project.run("cyclegan", "registry", "rollback", NAMES[0], "--yes").stdout
    assert "champion of fluent-emoji-AtoB: version 2 -> version 1\n" in done
    assert champions(project) == ["1", "2"]

    # The gate does not promote a version again that a person has rolled back.
    project.run("dvc", "repro", "--force", "--single-item", "register")
    assert champions(project) == ["1", "2"]
    assert "was rolled back" in project.json("reports/register.json")["AtoB"]["gate"]["reason"]


def test_a_gate_that_the_data_does_not_have_is_refused(project: Sandbox) -> None:
    project.configure(registry={"gate": {"AtoB": "pair_psnr", "BtoA": "pair_pnsr"}})
    done = project.run("cyclegan", "register", check=False)
    project.configure(registry={"gate": "auto"})
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "registry.gate = 'pair_pnsr'" in line
    assert "for BtoA; use auto, or one of cycle_l1, cycle_psnr" in line


@pytest.fixture
def address(project: Sandbox) -> Iterator[str]:
    """The champion behind MLflow's own server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"models:/{NAMES[0]}@champion"
    command = ["mlflow", "models", "serve", "-m", uri, "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    store = f"sqlite:///{project.root}/mlruns/mlflow.db"
    with subprocess.Popen(
        command,
        cwd=project.root,
        env=project.environment(MLFLOW_TRACKING_URI=store, TF_CPP_MIN_LOG_LEVEL="2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            deadline = time.monotonic() + 300
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                    break
                except (urllib.error.URLError, OSError):
                    assert process.poll() is None, process.stdout and process.stdout.read()
                    assert time.monotonic() < deadline
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_mlflow_serves_the_champion(project: Sandbox, address: str) -> None:
    file = next((project.root / "data/fluent-emoji/testA").glob("*.png"))
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB").resize((24, 20)))
    request = urllib.request.Request(
        address, json.dumps({"inputs": pixels[None].tolist()}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        got = np.array(json.load(answer)["predictions"])
    version = project.client.get_model_version_by_alias(NAMES[0], "champion")
    model = project.client.get_logged_model(version.source.removeprefix("models:/"))
    folder = project.root / model.artifact_location.removeprefix("file://")
    expected = Translator(load_generator(next(folder.rglob("*.keras")))).translate(pixels[None])
    assert got.shape == (1, 20, 24, 3)
    assert np.abs(got - expected.astype(int)).max() <= 1
