"""The container image: its files, its entry point, and with podman the image itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
ENTRY = str(ROOT / "docker-entrypoint.sh")
LOCKS = {
    "requirements.lock": "requirements-runtime.lock",
    "requirements-gpu.lock": "requirements-runtime-gpu.lock",
}
PIN = re.compile(r"^([\w.-]+)==([^ ;\\]+)(.*)$", re.MULTILINE)


def pins(lock: str) -> set[tuple[str, str]]:
    return {(name, version) for name, version, _ in PIN.findall((ROOT / lock).read_text())}


@pytest.mark.parametrize("lock", [*LOCKS, *LOCKS.values()])
def test_every_locked_package_has_hashes(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert len(pins(lock)) > 100
    for name, _, rest in PIN.findall(text):
        assert rest.endswith("\\"), name
    assert len(re.findall(r"\\\n    --hash=sha256:[0-9a-f]{64}", text)) >= len(PIN.findall(text))


@pytest.mark.parametrize(("development", "runtime"), LOCKS.items())
def test_the_image_has_the_tested_versions_without_the_test_tools(development: str, runtime: str) -> None:
    # On a CPU, the same TensorFlow has another name.
    found = {(name.replace("tensorflow-cpu", "tensorflow"), version) for name, version in pins(runtime)}
    assert found < pins(development)
    names = {name for name, _ in found}
    assert {"tensorflow", "mlflow", "dvc-s3", "boto3", "psycopg", "flask-wtf"} <= names
    assert not {"pytest", "mypy", "ruff", "hypothesis", "ipykernel"} & names


def test_the_image_is_built_from_pinned_parts() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE=python:3\.12-slim@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    installs = re.findall(r"pip install ([^\\&\n]*)", text)
    assert all("--require-hashes" in options or "--no-deps" in options for options in installs)
    for sources in re.findall(r"^COPY (?!\. )(.*) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert list(ROOT.glob(source)), source


def test_secrets_and_generated_files_stay_out_of_the_image() -> None:
    ignored = set((ROOT / ".dockerignore").read_text().split("\n"))
    assert {".env", ".git", ".venv", "*.key", "*.pem", "dvc.lock", ".hypothesis", "build", "dist"} <= ignored
    assert {"**/*.egg-info", ".dvc/config.local", "mlruns", "checkpoints"} <= ignored


# The entry point -------------------------------------------------------------------------------------------------


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `mlflow` and `cyclegan` print their arguments and variables."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("mlflow", "cyclegan"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@"\nenv | grep "^MLFLOW_" || true\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("EXAMPLE_DATA", str(tmp_path / "example"))
    for name in list(os.environ):
        if name.startswith("MLFLOW_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        ["sh", ENTRY, *command], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_ui_shows_the_projects_own_store_to_this_machine(entry: Path) -> None:
    command, *variables = run("ui").splitlines()
    assert command == "mlflow server --host 0.0.0.0 --port 5000 --default-artifact-root /project/mlruns/artifacts"
    assert "MLFLOW_SERVER_ALLOWED_HOSTS=localhost:*,127.0.0.1:*" in variables
    assert "MLFLOW_BACKEND_STORE_URI=sqlite:////project/mlruns/mlflow.db" in variables


def test_ui_serves_a_team(entry: Path) -> None:
    given = {
        "MLFLOW_BACKEND_STORE_URI": "postgresql://db/mlflow",
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "mlflow.example.org",
    }
    command, *variables = run("ui", "--app-name", "basic-auth", **given).splitlines()
    assert command == "mlflow server --host 0.0.0.0 --port 5000 --app-name basic-auth"
    assert {f"{name}={value}" for name, value in given.items()} <= set(variables)


def test_serve_accepts_the_names_of_this_machine_or_those_that_are_given(entry: Path) -> None:
    options = "cyclegan serve --host 0.0.0.0 --port 8000 --access-log --allowed-hosts"
    assert run("serve", "x.keras").splitlines()[0] == f"{options} localhost,127.0.0.1 x.keras"
    given = run("serve", "x.keras", SERVE_ALLOWED_HOSTS="images.example.org")
    assert given.splitlines()[0] == f"{options} images.example.org x.keras"


def test_the_health_check_asks_a_server_and_accepts_a_training(entry: Path) -> None:
    check = ["sh", ENTRY, "healthcheck"]
    assert subprocess.run(check, check=False).returncode == 0
    # Port 9 has no server.
    (entry / "cyclegan-health").write_text("http://127.0.0.1:9/health\n")
    assert subprocess.run(check, check=False, capture_output=True).returncode != 0


def test_example_data_of_an_older_image_is_replaced_and_other_data_kept(entry: Path) -> None:
    for folder, text in (("example/set", "new"), ("data/set", "old"), ("data/mine", "mine")):
        (entry / folder).mkdir(parents=True)
        (entry / folder / "file").write_text(text)
    run("true")
    assert (entry / "data/set/file").read_text() == "new"
    assert (entry / "data/mine/file").read_text() == "mine"


def test_dvc_finds_a_lock_file_in_an_empty_volume(entry: Path) -> None:
    (entry / "cache").mkdir()
    (entry / "dvc.lock").symlink_to("cache/dvc.lock")
    run("true")
    assert (entry / "cache/dvc.lock").read_text() == "schema: '2.0'\nstages: {}\n"


# The image -------------------------------------------------------------------------------------------------------

SMALL = {
    "model": {"base_filters": 4, "blocks": 1, "discriminator_filters": 4},
    "train": {"epochs": 1, "steps_per_epoch": 4, "evaluate_every": 1},
}
FOLDERS = ("data", "mlruns", "checkpoints", "models", "reports", ".search", ".dvc/cache")


@pytest.mark.slow
def test_all_stages_run_in_the_image_as_any_user(tmp_path: Path) -> None:
    """Needs podman, and a base image with Python and pip, which CYCLEGAN_BASE_IMAGE names.

    CYCLEGAN_PODMAN_OPTIONS, CYCLEGAN_BUILD_OPTIONS and CYCLEGAN_RUN_OPTIONS are options that podman needs on this
    machine, such as `--isolation chroot` for a build inside another container.
    """
    base = os.environ.get("CYCLEGAN_BASE_IMAGE")
    if not shutil.which("podman") or base is None:
        pytest.skip("no podman, or CYCLEGAN_BASE_IMAGE names no base image")

    def options(kind: str) -> list[str]:
        return os.environ.get(f"CYCLEGAN_{kind}_OPTIONS", "").split()

    def podman(*command: str) -> str:
        whole = ["podman", *options("PODMAN"), *command]
        done = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    tree = YAML(typ="safe").load(ROOT / "params.yaml")
    for section, values in SMALL.items():
        tree[section].update(values)
    YAML().dump(tree, tmp_path / "params.yaml")
    arguments = (f"BASE={base}", "LOCK=requirements-runtime.lock", "GIT_COMMIT=0123abcd")
    build = [f"--build-arg={argument}" for argument in arguments]
    podman("build", *options("BUILD"), "--format", "docker", *build, "--tag", "cyclegan-test", ".")
    volumes = {f"cyclegan-test-{folder.strip('.').replace('/', '-')}": folder for folder in FOLDERS}
    mounts = [f"--volume={name}:/project/{folder}" for name, folder in volumes.items()]
    mounts.append(f"--volume={tmp_path}/params.yaml:/project/params.yaml:ro")
    container = ["run", "--rm", "--user=12345:0", *options("RUN"), *mounts, "cyclegan-test"]
    try:
        podman(*container)
        # A new container finds the same state.
        assert "Data and pipelines are up to date." in podman(*container)
    finally:
        podman("volume", "rm", "--force", *volumes)
