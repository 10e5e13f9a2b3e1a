"""`compose.yaml`, `.env.example` and the files of `deploy/`."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from compose import ROOT, services

REQUIRED = {"POSTGRES_PASSWORD": "p", "S3_ACCESS_KEY": "k", "S3_SECRET_KEY": "s"}
ALWAYS = {"postgres", "s3", "buckets", "mlflow"}


def test_the_store_runs_without_a_profile_and_the_rest_with_its_own() -> None:
    profiles = {name: set(service.get("profiles", ())) for name, service in services(REQUIRED).items()}
    assert {name for name, needed in profiles.items() if not needed} == ALWAYS
    others = {"train": {"cpu"}, "train-gpu": {"gpu"}, "search-worker": {"search"}, "serve": {"serve"}}
    assert {name: needed for name, needed in profiles.items() if needed} == others


def test_ports_are_published_to_this_machine_only() -> None:
    ports = [port for service in services(REQUIRED).values() for port in service.get("ports", ())]
    assert sorted(ports) == ["127.0.0.1:5000:5000", "127.0.0.1:8000:8000"]


@pytest.mark.parametrize("missing", REQUIRED)
def test_a_password_must_be_set(missing: str) -> None:
    with pytest.raises(KeyError, match=missing):
        services(REQUIRED | {missing: ""})


def test_the_example_names_every_variable_without_a_secret() -> None:
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text()))
    example = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    # The image's own variables have defaults.
    assert used - {"TAG", "LOCK", "GIT_COMMIT"} == set(example)
    assert {name for name, value in example.items() if value} == {"MLFLOW_HOSTS", "SERVE_HOSTS", "MODEL"}
    assert "/.env" in (ROOT / ".gitignore").read_text().split()


def test_clients_of_the_server_get_no_key_of_the_storage_unless_they_use_it() -> None:
    found = {name: set(service.get("environment", ())) for name, service in services(REQUIRED).items()}
    assert "AWS_SECRET_ACCESS_KEY" not in found["serve"]
    assert "AWS_SECRET_ACCESS_KEY" in found["mlflow"]
    # `docker stop` kills after ten seconds by default.
    for name in ("train", "train-gpu", "search-worker"):
        assert services(REQUIRED)[name]["stop_grace_period"] == "60s"


def test_files_that_are_mounted_exist() -> None:
    for service in services(REQUIRED).values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), volume


def test_docker_compose_accepts_it(tmp_path: Path) -> None:
    candidates = (["docker", "compose"], ["docker-compose"])
    command = next(
        (
            one
            for one in candidates
            if shutil.which(one[0])
            and subprocess.run([*one, "version"], check=False, capture_output=True).returncode == 0
        ),
        None,
    )
    if command is None:
        pytest.skip("docker compose is not installed")
    (tmp_path / "env").write_text("".join(f"{name}={value}\n" for name, value in REQUIRED.items()))
    profiles = [f"--profile={name}" for name in ("cpu", "gpu", "search", "serve")]
    done = subprocess.run(
        [*command, *profiles, "--env-file", str(tmp_path / "env"), "config", "--services"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == set(services(REQUIRED))
