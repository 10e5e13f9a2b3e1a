"""A team's store: PostgreSQL, an S3 server and an MLflow server as in `compose.yaml`, and two clones of a project."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sandbox import Sandbox

from compose import ROOT, services
from mlflow_server import Server
from postgresql import PostgreSQL
from s3_server import KEYS, S3

pytestmark = pytest.mark.slow
MODELS = ("fluent-emoji-AtoB", "fluent-emoji-BtoA")


@dataclass(frozen=True)
class Team:
    """The servers of a team."""

    database: PostgreSQL
    storage: S3
    server: Server

    @property
    def client(self) -> dict[str, str]:
        """What a client of the server needs: no key of the storage."""
        return {"MLFLOW_TRACKING_URI": self.server.uri}


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The servers, wired as `compose.yaml` does; only their addresses differ."""
    folder = tmp_path_factory.mktemp("team")
    database, storage = PostgreSQL(), S3(folder / "s3")
    given = {
        "POSTGRES_PASSWORD": "unused",
        "S3_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"],
        "S3_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"],
    }
    variables = services(given)["mlflow"]["environment"]
    variables["MLFLOW_BACKEND_STORE_URI"] = database.url.replace("postgresql:", "postgresql+psycopg:")
    variables["MLFLOW_S3_ENDPOINT_URL"] = storage.url
    variables["MLFLOW_AUTH_CONFIG_PATH"] = str(ROOT / "deploy/logins.ini")
    server = Server(folder, variables={name: value for name, value in variables.items() if value})
    try:
        database.start()
        storage.start("mlflow", "dvc")
        server.start()
        yield Team(database, storage, server)
    finally:
        server.kill()
        storage.kill()
        database.remove()


@pytest.fixture(scope="module")
def first(team: Team, make_sandbox: Callable[[], Sandbox]) -> Sandbox:
    """A clone that has trained, registered and pushed."""
    sandbox = make_sandbox()
    sandbox.run("dvc", "remote", "add", "--default", "team", "s3://dvc/project")
    sandbox.run("dvc", "remote", "modify", "team", "endpointurl", team.storage.url)
    sandbox.run("dvc", "repro", **team.client)
    sandbox.run("dvc", "push", **KEYS)
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    sandbox.run("git", "add", "--all")
    sandbox.run("git", *identity, "commit", "--quiet", "--message", "trained")
    return sandbox


@pytest.fixture(scope="module")
def second(first: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """Another clone, with the data and models of the first."""
    sandbox = Sandbox(tmp_path_factory.mktemp("clone") / "project")
    subprocess.run(["git", "clone", "--quiet", str(first.root), str(sandbox.root)], check=True)
    sandbox.run("dvc", "pull", **KEYS)
    return sandbox


def test_a_second_clone_has_nothing_to_repeat(second: Sandbox, team: Team) -> None:
    assert "Data and pipelines are up to date." in second.run("dvc", "repro", **team.client).stdout


def test_a_second_clone_promotes_and_translates_without_keys_of_the_storage(
    second: Sandbox, team: Team, tmp_path: Path
) -> None:
    assert "AWS_SECRET_ACCESS_KEY" not in second.environment(**team.client)
    for model in MODELS:
        second.run("cyclegan", "registry", "promote", model, "1", "--yes", **team.client)
    images = second.root / "data/fluent-emoji/testA"
    second.run("cyclegan", "translate", f"models:/{MODELS[0]}@champion", str(images), "--output", "out", **team.client)
    assert len(list((second.root / "out").rglob("*.png"))) == len(list(images.glob("*.png")))
    # The files lie in the object storage, and nowhere on the first machine.
    listed = team.storage.client().list_objects_v2(Bucket="mlflow")
    assert any(entry["Key"].endswith(".keras") for entry in listed["Contents"])


def test_a_forgotten_address_names_the_store_that_was_asked(second: Sandbox) -> None:
    """The project's own store has no such model."""
    done = second.run("cyclegan", "translate", f"models:/{MODELS[0]}@champion", "data", "--output", "o", check=False)
    assert done.returncode == 2
    assert "mlruns/mlflow.db" in done.stderr
    assert "MLFLOW_TRACKING_URI" in done.stderr


def test_the_database_of_a_server_is_refused_with_the_servers_remedy(second: Sandbox, team: Team) -> None:
    address = team.database.url.replace("postgresql:", "postgresql+psycopg:")
    done = second.run("cyclegan", "register", check=False, MLFLOW_TRACKING_URI=address)
    assert done.returncode == 2
    assert "set MLFLOW_TRACKING_URI to the server" in done.stderr


@pytest.mark.parametrize("stage", ["evaluate", "register"])
def test_a_storage_that_is_unavailable_is_reported_in_one_line(second: Sandbox, team: Team, stage: str) -> None:
    team.storage.kill()
    try:
        done = second.run("cyclegan", stage, check=False, **team.client)
        assert done.returncode == 2
        assert team.server.uri in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        team.storage.start("mlflow", "dvc")
