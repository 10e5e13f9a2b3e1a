from __future__ import annotations

import http.server
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from cyclegan.params import Tracking
from cyclegan.project import Project
from cyclegan.system.credentials import refuse_unescaped, shown_address, without_credentials
from cyclegan.system.errors import UserError
from cyclegan.system.locks import held
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.store import Store, open_store
from proxy import Proxy

Opened = Callable[..., Store]
DEFAULT = Tracking(uri=None, experiment=None, offline=False)

OPEN = """
import sys
from multiprocessing import get_context
from pathlib import Path
from cyclegan.params import Tracking
from cyclegan.project import Project
from cyclegan.tracking.store import open_store

def open_it():
    root = Path(sys.argv[1])
    store = open_store(Project(root=root, home=root), Tracking(uri=None, experiment=None, offline=False))
    print(store.experiment("shared"), flush=True)
"""
OPEN_ONCE = OPEN + "open_it()"
# Four processes that share the imports, which take longer than the rest.
OPEN_AT_ONCE = f"""{OPEN}
processes = [get_context("fork").Process(target=open_it) for _ in range(4)]
for process in processes:
    process.start()
for process in processes:
    process.join()
sys.exit([process.exitcode for process in processes] != [0] * 4)
"""


def start(code: str, root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def journal_mode(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("PRAGMA journal_mode").fetchone()[0]


def test_four_processes_that_start_on_a_missing_store_all_succeed(tmp_path: Path) -> None:
    process = start(OPEN_AT_ONCE, tmp_path)
    out, err = process.communicate()
    assert (process.returncode, out.split(), err) == (0, ["1"] * 4, "")
    assert journal_mode(tmp_path / "mlruns" / "mlflow.db") == "wal"


def test_process_killed_while_creating_the_store_leaves_no_incomplete_file(tmp_path: Path) -> None:
    mlruns = tmp_path / "mlruns"
    process = start(OPEN_ONCE, tmp_path)
    while not any(mlruns.glob(".mlflow.*.db")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (mlruns / "mlflow.db").exists()

    store = open_store(Project(root=tmp_path, home=tmp_path), DEFAULT)
    assert store.client.get_experiment(store.experiment("after")).name == "after"


def test_files_of_a_removed_database_are_not_applied_to_the_new_one(project: Project, opened: Opened) -> None:
    project.mlruns.mkdir()
    for leftover in ("mlflow.db-wal", "mlflow.db-shm", "mlflow.db-journal"):
        (project.mlruns / leftover).write_bytes(os.urandom(4096))
    (project.mlruns / "mlflow.db").touch()
    assert opened().experiment("new") == "1"


def test_default_store_is_in_the_project_for_any_working_directory(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An old file store makes MLflow's own default raise.
    (project.mlruns / "0").mkdir(parents=True)
    (project.mlruns / "0" / "meta.yaml").write_text("experiment_id: '0'\n")
    below = project.root / "notebooks"
    below.mkdir()
    monkeypatch.chdir(below)

    store = open_store(Project.find(), DEFAULT)

    found = store.client.get_experiment(store.experiment("digits"))
    assert found.artifact_location == (project.mlruns / "artifacts").as_uri()
    assert (project.mlruns / "mlflow.db").is_file()
    assert list(below.iterdir()) == []
    assert mlflow.get_tracking_uri() == mlflow.get_registry_uri() == store.uri
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_temporary_dvc_experiment_writes_to_the_users_own_store(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmpx"
    copy.mkdir(parents=True)
    shutil.copy(project.root / "dvc.yaml", copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(project.root))

    store = open_store(Project.find(), DEFAULT)
    with TrackedRun.start(store, experiment="e", name="n", params={}) as run:
        run.log_image(1, "samples/AtoB", np.zeros((4, 4, 3), np.uint8))

    shutil.rmtree(copy)
    assert (project.mlruns / "mlflow.db").is_file()
    assert len(store.client.list_artifacts(run.id, "samples")) == 1
    # MLflow's default experiment must not point into the temporary copy either.
    assert str(copy) not in store.client.get_experiment("0").artifact_location


def test_parameter_comes_before_environment_before_default(
    project: Project, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root.parent)
    assert opened().uri.endswith("/mlruns/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere/environment.db")
    # A relative path starts at the project.
    assert opened().uri == f"sqlite:///{project.root}/elsewhere/environment.db"
    assert opened("sqlite:///elsewhere/parameter.db").uri == f"sqlite:///{project.root}/elsewhere/parameter.db"
    assert os.environ["MLFLOW_TRACKING_URI"] == "sqlite:///elsewhere/environment.db"
    assert (project.root / "elsewhere" / "parameter.db").is_file()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert opened().uri.endswith("/mlruns/mlflow.db")


@pytest.mark.parametrize(
    "uri", ["file:///data/mlruns", "mlruns", "./mlruns", "/data/mlruns", "databricks", "ftp://host/x"]
)
def test_folders_and_unknown_kinds_are_refused_with_the_remedy(opened: Opened, project: Project, uri: str) -> None:
    with pytest.raises(UserError, match=r"not supported.*sqlite:///FILE.*migrate-filestore") as caught:
        opened(uri)
    assert uri in str(caught.value)
    assert not project.mlruns.exists()


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_store_that_would_vanish_is_refused(opened: Opened, uri: str) -> None:
    with pytest.raises(UserError, match="names no file"):
        opened(uri)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_unavailable_server_is_reported_at_once_without_its_password(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    started = time.monotonic()
    with pytest.raises(UserError, match="is unavailable") as caught:
        opened(f"http://ann:s%40cret@127.0.0.1:{free_port()}")
    assert time.monotonic() - started < 8
    message = str(caught.value)
    assert "tracking.uri = http://127.0.0.1:" in message
    assert "\n" not in message
    assert "ann" not in message
    assert "cret" not in message
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "s@cret"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_server_that_is_no_mlflow_server_is_refused(opened: Opened) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(UserError, match="the MLflow server is unavailable"):
            opened(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()


def test_unavailable_sql_server_is_reported_without_its_password(opened: Opened) -> None:
    with pytest.raises(UserError, match="cannot be used") as caught:
        opened(f"postgresql://ann:s3cret@127.0.0.1:{free_port()}/mlflow")
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_silent_sql_server_is_reported(opened: Opened) -> None:
    pytest.importorskip("psycopg", reason="PostgreSQL's driver is not installed")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(UserError, match=r"cannot be used; start it.*timeout"):
            opened(f"postgresql+psycopg://ann@127.0.0.1:{silent.getsockname()[1]}/mlflow")
        assert time.monotonic() - began < 60
        # The address may set another timeout.
        with pytest.raises(UserError, match=r"cannot be used; start it.*timeout"):
            opened(f"postgresql+psycopg://ann@127.0.0.1:{silent.getsockname()[1]}/mlflow?connect_timeout=2")


def test_credentials_are_dropped_from_texts_and_representations(store: Store) -> None:
    text = "at postgresql://ann:p@ss@db/x?password=s3cret&y=1 and sqlite:////home/a@b/x.db"
    assert without_credentials(text) == "at postgresql://db/x?password=***&y=1 and sqlite:////home/a@b/x.db"
    slashed = "postgresql://ann:pa/s:s@db:5432/x sqlite:////a@b"
    assert without_credentials(slashed) == "postgresql://db:5432/x sqlite:////a@b"
    assert "uri" not in repr(store)


# Passwords without escapes; each holds "s3c" and "ret".
UNESCAPED = [
    "http://ann:s3c/ret@127.0.0.1:9",
    "http://ann:s3c#ret@127.0.0.1:9",
    "http://ann:s3c?ret@127.0.0.1:9",
    "http://ann:s3c@ret@127.0.0.1:9",
    "http://ann:8080/s3cret@127.0.0.1:9",
    "http://ann:p@s3c/w:ret#1@127.0.0.1:9",
    "http://ann:s3c ret@127.0.0.1:9",
    "http://ann:s3c[ret@127.0.0.1:9",
    "https://s3c/ret@127.0.0.1:9",
    "postgresql://ann:s3c@ret@127.0.0.1:9/x",
]


@pytest.mark.parametrize("address", UNESCAPED)
def test_a_password_with_special_characters_is_refused_and_not_shown(opened: Opened, address: str) -> None:
    with pytest.raises(UserError, match=r"write / as %2F, # as %23, \? as %3F, @ as %40") as refused:
        opened(address)
    message = str(refused.value)
    assert message.startswith("tracking.uri = ")
    for text in (message, shown_address(address), without_credentials(f"at {address.replace(' ', '')}, they say")):
        assert "127.0.0.1:9" in text
        assert not re.search("s3c|ret@|ret#|w:", text), text


@pytest.mark.parametrize("address", ["ann:s3cret@host/x", "http:/ann:s3cret@host/x", "ftp://ann:s3c/ret@host/x"])
def test_an_address_of_no_known_kind_is_refused_and_its_password_not_shown(opened: Opened, address: str) -> None:
    with pytest.raises(UserError, match=r"tracking\.uri = .*host/x: not supported") as refused:
        opened(address)
    assert "s3c" not in str(refused.value)


def test_an_address_without_credentials_is_shown_as_it_is() -> None:
    for address in ("sqlite:////home/a@b/x.db", "http://host:5000/p", "postgresql://db/x", "mlruns"):
        assert shown_address(address) == address
        refuse_unescaped("tracking.uri", address)
    refuse_unescaped("tracking.uri", "http://ann:p%40ss%2Fw@host:5000/p")
    # SQLAlchemy reads everything up to the @ as the password.
    refuse_unescaped("search.storage", "postgresql://ann:pa/s#s@db:5432/x?application_name=a@b")


def test_a_server_that_asks_for_a_login_names_the_variables(opened: Opened) -> None:
    with (
        Proxy("http://127.0.0.1:9", authorization="Basic x") as proxy,
        pytest.raises(UserError, match=rf"tracking\.uri = {proxy.uri}: .*HTTP 401\); set MLFLOW_TRACKING_USERNAME and"),
    ):
        opened(proxy.uri)


def test_a_dead_proxy_names_no_proxy(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://ann:s3cret@127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"http_proxy = http://127\.0\.0\.1:9 fails; correct it, or set NO_PROXY=mlflow\.example\.org"
    ) as refused:
        opened("http://mlflow.example.org:5000")
    assert "s3cret" not in str(refused.value)


def test_file_that_is_no_database(project: Project, opened: Opened) -> None:
    project.mlruns.mkdir()
    database = project.mlruns / "mlflow.db"
    database.write_bytes(b"not a database, but long enough to be one " * 50)
    with pytest.raises(UserError, match=r"mlflow\.db: not a usable MLflow store \(file is not a database\)"):
        opened()
    assert database.read_bytes().startswith(b"not a database")


def test_folder_that_cannot_be_written(project: Project, opened: Opened) -> None:
    project.mlruns.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="must be writable"):
        opened()


def test_store_of_another_mlflow_version(project: Project, store: Store, opened: Opened) -> None:
    project.mlruns.mkdir()
    database = project.mlruns / "mlflow.db"
    with (
        closing(sqlite3.connect(store.locks.parent / "mlflow.db")) as source,
        closing(sqlite3.connect(database)) as copy,
    ):
        source.backup(copy)
        with copy:
            copy.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    with pytest.raises(UserError, match=r"another version of MLflow.*mlflow db upgrade sqlite:///"):
        opened()


def test_deleted_experiment_is_named_with_the_remedy(store: Store, experiment: str) -> None:
    number = store.experiment(experiment)
    assert store.experiment(experiment) == number
    store.client.delete_experiment(number)
    with pytest.raises(UserError, match=f"was deleted.*--experiment-id {number}"):
        store.experiment(experiment)
    store.client.restore_experiment(number)
    assert store.experiment(experiment) == number


def record(store: Store, experiment: str, value: float) -> str:
    with TrackedRun.start(store, experiment=experiment, name="n", params={}) as run:
        run.log_metrics(1, {"loss": value})
        run.log_image(1, "samples/AtoB", np.zeros((4, 4, 3), np.uint8))
    return run.id


def test_copied_project_finds_its_artifacts_and_leaves_the_original_alone(
    project: Project, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    original = opened()
    run_id = record(original, "digits", 1.0)
    # A training was killed: its run is RUNNING, and its lock file exists, unlocked.
    lost = original.client.create_run("1", tags={"cyclegan.lock": str(original.locks / "x.lock")}).info.run_id
    (original.locks / "x.lock").touch()
    home = project.root.with_name(project.root.name + " copy %")
    # Use another process: closing any handle of a database drops the SQLite locks of the whole process.
    subprocess.run(["cp", "-r", str(project.root), str(home)], check=True)

    with held(home / "mlruns" / "running" / "x.lock"), pytest.raises(UserError, match="uses it under its former path"):
        open_store(Project(root=home, home=home), DEFAULT)
    copy = open_store(Project(root=home, home=home), DEFAULT)

    assert "the project moved" in caplog.text
    assert copy.client.get_run(run_id).info.artifact_uri.startswith((home / "mlruns" / "artifacts").as_uri())
    (image, *_) = copy.client.list_artifacts(run_id, "samples")
    assert Path(copy.client.download_artifacts(run_id, image.path)).stat().st_size == image.file_size
    assert copy.client.get_run(lost).data.tags["cyclegan.lock"] == str(copy.locks / "x.lock")
    assert copy.client.get_experiment("0").artifact_location.startswith((home / "mlruns" / "artifacts").as_uri())
    record(copy, "digits", 2.0)
    assert len(list((project.mlruns / "artifacts").iterdir())) == 1

    caplog.clear()
    assert opened().client.get_run(run_id).info.artifact_uri.startswith((project.mlruns / "artifacts").as_uri())
    open_store(Project(root=home, home=home), DEFAULT)
    assert caplog.text == ""


def test_experiments_of_other_programs_in_the_same_database_do_not_change(opened: Opened, tmp_path: Path) -> None:
    store = opened()
    location = (tmp_path / "theirs").as_uri()
    store.client.create_experiment("theirs", location)
    assert opened().client.get_experiment(store.experiment("theirs")).artifact_location == location


AWKWARD = ("feature%2Flogin", "my%20project", "50%25 off", "what? #1")
"""Names of folders; Jenkins makes the first one from a branch."""


@pytest.mark.parametrize("name", AWKWARD)
def test_a_path_with_percent_signs_holds_the_store_and_nothing_appears_beside_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / name
    (root / "sub").mkdir(parents=True)
    monkeypatch.chdir(root / "sub")
    store = open_store(Project(root=root, home=root), DEFAULT)
    run_id = record(store, "e", 1.0)
    assert len(store.client.list_artifacts(run_id, "samples")) == 1
    assert (root / "mlruns" / "mlflow.db").is_file()
    assert list((root / "mlruns" / "artifacts").rglob("*.png"))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.name for path in root.rglob("*") if "%" in path.name and path.is_dir()] == []


@pytest.mark.slow
def test_make_ui_opens_the_store_of_a_path_with_percent_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, port = tmp_path / AWKWARD[0], free_port()
    root.mkdir()
    shutil.copy(Path(__file__).parents[2] / "Makefile", root)
    monkeypatch.chdir(root)
    run_id = record(open_store(Project(root=root, home=root), DEFAULT), "e", 1.0)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["make", "--old-file=install", "ui", f"PORT={port}"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        client = MlflowClient(f"http://127.0.0.1:{port}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        while True:
            try:
                assert client.get_run(run_id).data.metrics == {"loss": 1.0}
                break
            except MlflowException:
                assert server.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.5)
        assert client.create_experiment("new")
        assert client.get_experiment_by_name("new").artifact_location.startswith((root / "mlruns").as_uri())
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert {path.name for path in tmp_path.iterdir()} == {AWKWARD[0], "log"}


@pytest.mark.slow
def test_real_server(project: Project, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    local = opened()
    local.experiment("local")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", local.uri, "--artifacts-destination", str(project.root / "served")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (project.root / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                remote = opened(f"http://ann:secret@127.0.0.1:{port}")
                break
            except UserError:
                assert time.monotonic() < deadline
                time.sleep(0.5)
        assert remote.uri == f"http://127.0.0.1:{port}"
        remote_run = record(remote, "remote", 1.0)
        local_run = record(remote, "local", 1.0)
        assert remote.client.get_run(remote_run).info.status == "FINISHED"
        assert len(local.client.list_artifacts(local_run, "samples")) == 1
        with pytest.raises(UserError, match="created by an MLflow server"):
            local.experiment("remote")
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
        monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
