"""The tracking store is unavailable for a while, and gets all entries later. Real servers, real locks, a real store."""

from __future__ import annotations

import errno
import json
import logging
import math
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import requests

from cyclegan.commands.sync import sync
from cyclegan.project import Project
from cyclegan.system.errors import UserError
from cyclegan.tracking.description import DatasetInput, RunDescription
from cyclegan.tracking.journal import Journal, journals
from cyclegan.tracking.outbox import PATIENCE_SECONDS, Outbox
from cyclegan.tracking.recovery import close_stale_runs, deliver_waiting
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.store import Store, journals_folder, local_path
from cyclegan.tracking.store_errors import require_store
from cyclegan.tracking.tags import REPLACES_TAG
from mlflow_server import Server
from proxy import Proxy

Opened = Callable[..., Store]
IMAGE = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)


def steps_of(store: Store, run_id: str, key: str) -> list[int]:
    return sorted(point.step for point in store.client.get_metric_history(run_id, key))


def images_of(store: Store, run_id: str) -> list[str]:
    """The paths of all stored images."""
    return [file.path for file in store.client.list_artifacts(run_id, "samples")]


def record(run: TrackedRun, *steps: int) -> None:
    for step in steps:
        run.log_metrics(step, {"loss": 1 / step, "nan": math.nan})
        if step % 2 == 0:
            run.log_image(step, "samples/AtoB", IMAGE)


def images_at(*steps: int) -> list[str]:
    return [f"samples/AtoB_step_{step:06}.png" for step in sorted(steps)]


# Offline from the start ------------------------------------------------------------------------------------------


def test_an_offline_run_is_delivered_completely(project: Project, opened: Opened) -> None:
    with TrackedRun.offline(
        journals_folder(project),
        experiment="emoji",
        name="first",
        params={"lr": 1e-4, "source": "https://ann:s3cret@host/x.zip?token=s3same&part=1"},
        tags={"git.commit": "c1", "device": "CPU"},
        inputs=[DatasetInput("emoji", "d" * 32, "https://ann:s3cret@host/x.zip", "training")],
    ) as run:
        record(run, 1, 2, 3)
        run.set_tags({"note": "see https://ann:s3cret@host/"})
    assert not (project.mlruns / "mlflow.db").exists()
    kept = b"".join(file.read_bytes() for file in journals_folder(project).rglob("*.json*"))
    assert b"s3cret" not in kept
    assert b"s3same" not in kept

    with TrackedRun.attach_offline(journals_folder(project), run.id, experiment="emoji", name="other") as later:
        later.log_metrics(3, {"test_AtoB/pair_psnr": 20.0})
        (project.root / "report").mkdir()
        (project.root / "report" / "a.html").write_text("<p>")
        later.log_artifact(project.root / "report", "evaluate")

    store = opened()
    ((run_id, count),) = deliver_waiting(store).entries.items()
    assert count > 5
    found = store.client.get_run(run_id)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "first")
    assert found.info.end_time > found.info.start_time
    assert found.data.tags[REPLACES_TAG] == run.id
    assert found.data.tags["note"] == "see https://host/"
    assert found.data.params == {"lr": "0.0001", "source": "https://host/x.zip?token=***&part=1"}
    (dataset,) = [entry.dataset for entry in found.inputs.dataset_inputs]
    assert dataset.source == '{"uri": "https://host/x.zip"}'
    assert steps_of(store, run_id, "loss") == steps_of(store, run_id, "nan") == [1, 2, 3]
    assert steps_of(store, run_id, "test_AtoB/pair_psnr") == [3]
    assert images_of(store, run_id) == images_at(2)
    assert [file.path for file in store.client.list_artifacts(run_id, "evaluate")] == ["evaluate/a.html"]

    # Later stages find the run by its offline id, and nothing is delivered twice.
    assert TrackedRun.attach(store, run.id, experiment="emoji", name="n").id == run_id
    assert deliver_waiting(store).entries == {}
    assert journals(journals_folder(project)) == []
    with TrackedRun.start(store, experiment="emoji", name="n", params={}, resume=run.id) as resumed:
        record(resumed, 3, 4)
    assert resumed.id == run_id
    assert steps_of(store, run_id, "loss") == [1, 2, 3, 4]
    assert images_of(store, run_id) == images_at(2, 4)


OFFLINE = """
import os, sys, time
from pathlib import Path
from cyclegan.tracking.run import TrackedRun
known = sys.argv[2] or None
with TrackedRun.offline(Path(sys.argv[1]), experiment="emoji", name="n", params={"lr": 1}, resume=known) as run:
    for step in range(int(sys.argv[3]), int(sys.argv[4])):
        run.log_metrics(step, {"loss": float(step)})
    print(run.id, flush=True)
    time.sleep(float(sys.argv[5]))
"""


def test_an_offline_run_that_was_killed_and_resumed_is_one_run(project: Project, opened: Opened) -> None:
    def train(resume: str, first: int, last: int, seconds: float) -> subprocess.Popen[str]:
        arguments = [str(journals_folder(project)), resume, str(first), str(last), str(seconds)]
        return subprocess.Popen([sys.executable, "-c", OFFLINE, *arguments], stdout=subprocess.PIPE, text=True)

    with train("", 1, 6, 120) as first:
        assert first.stdout is not None
        run_id = first.stdout.readline().strip()
        # The process is alive, so its journal is not delivered.
        store = opened()
        assert deliver_waiting(store).entries == {}
        first.kill()
    # The run resumes at step 3, so steps 4 and 5 are repeated.
    with train(run_id, 4, 9, 0) as second:
        assert second.stdout is not None
        assert second.stdout.readline().strip() == run_id
    ((delivered, _),) = deliver_waiting(store).entries.items()
    run = store.client.get_run(delivered)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "1"}
    assert steps_of(store, delivered, "loss") == list(range(1, 9))


def test_an_offline_run_whose_process_disappears_becomes_killed(project: Project, opened: Opened) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OFFLINE, str(journals_folder(project)), "", "1", "3", "120"],
        stdout=subprocess.PIPE,
        text=True,
    ) as trainer:
        assert trainer.stdout is not None
        trainer.stdout.readline()
        trainer.send_signal(signal.SIGKILL)
    store = opened()
    ((run_id, _),) = deliver_waiting(store).entries.items()
    assert store.client.get_run(run_id).info.status == "KILLED"
    assert steps_of(store, run_id, "loss") == [1, 2]


def test_an_empty_journal_of_a_run_that_is_lost_opens_no_run(project: Project, opened: Opened) -> None:
    store = opened()
    run_id = "0" * 32
    Journal(store.journals / run_id, RunDescription(run_id, "e", "n", 1, {}, {}, opened=True))
    assert deliver_waiting(store).entries == {}
    assert store.client.search_runs([store.experiment("e")]) == []
    assert journals(store.journals) == []


def test_a_journal_that_cannot_be_delivered_is_reported_and_delays_no_other(
    project: Project, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    def offline(experiment: str, tag: str) -> str:
        with TrackedRun.offline(journals_folder(project), experiment=experiment, name="n", params={"lr": 1}) as run:
            run.set_tags({tag: "x"})
            record(run, 1)
        return run.id

    shutil.copy(Path(__file__).parents[2] / "params.yaml", project.params)
    store = opened()
    number = store.experiment("gone")
    store.client.delete_experiment(number)
    gone, refused, fine = offline("gone", "a"), offline("e", "b" * 251), offline("e", "c")

    caplog.clear()
    done = deliver_waiting(store)
    ((run_id, _),) = done.entries.items()
    assert store.client.get_run(run_id).data.tags[REPLACES_TAG] == fine
    assert {folder.name for folder in done.left} == {gone, refused}
    messages = {
        folder.name: [r.getMessage() for r in caplog.records if str(folder) in r.getMessage()] for folder in done.left
    }
    remedy = f"restore it with 'mlflow experiments restore --experiment-id {number}', or delete the folder"
    assert messages[gone] == [
        f"{journals_folder(project) / gone} cannot be delivered: MLflow experiment 'gone' was deleted; {remedy}"
    ]
    (line,) = messages[refused]
    assert "refuses an entry" in line
    assert line.endswith("fix it in entries.jsonl, or delete the folder")
    with pytest.raises(UserError, match=rf"cannot deliver .*{gone}.*; see the warnings above"):
        sync(project)

    store.client.restore_experiment(number)
    shutil.rmtree(journals_folder(project) / refused)
    assert len(deliver_waiting(store).entries) == 1
    sync(project)
    assert journals(store.journals) == []


def test_a_journal_of_another_version_stays_with_the_remedy_and_delays_no_other(
    project: Project, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    def offline() -> str:
        with TrackedRun.offline(journals_folder(project), experiment="e", name="n", params={}) as run:
            record(run, 1)
        return run.id

    later, fine = offline(), offline()
    with (journals_folder(project) / later / "entries.jsonl").open("a") as file:
        file.write('{"id": "v", "time": 1, "kind": "video", "step": 1}\n')
    store = opened()
    done = deliver_waiting(store)
    ((run_id, _),) = done.entries.items()
    assert store.client.get_run(run_id).data.tags[REPLACES_TAG] == fine
    assert [folder.name for folder in done.left] == [later]
    fault = "cannot be delivered: entries.jsonl was written by another version"
    assert f"{journals_folder(project) / later} {fault}" in caplog.text
    assert "deliver it with that version, or delete the folder" in caplog.text
    assert "video" in (journals_folder(project) / later / "entries.jsonl").read_text()


def test_a_file_delivered_before_a_kill_is_not_required(project: Project, opened: Opened) -> None:
    """Files are removed with their entries; the journal is emptied when all are delivered."""
    (project.root / "a.txt").write_text("a")
    with TrackedRun.offline(journals_folder(project), experiment="e", name="n", params={}) as run:
        run.log_artifact(project.root / "a.txt")
        record(run, 2)
    entries = journals_folder(project) / run.id / "entries.jsonl"
    written = entries.read_bytes()
    journal = Journal(journals_folder(project) / run.id)
    journal.drop(len(journal) - 1)
    entries.write_bytes(written)
    store = opened()
    ((run_id, _),) = deliver_waiting(store).entries.items()
    assert steps_of(store, run_id, "loss") == [2]


def test_a_journal_is_written_by_one_process(project: Project) -> None:
    with (
        TrackedRun.offline(journals_folder(project), experiment="e", name="n", params={}) as run,
        pytest.raises(UserError, match="another process writes to it"),
        TrackedRun.offline(journals_folder(project), experiment="e", name="n", params={}, resume=run.id),
    ):
        pass


def test_a_refused_file_is_reported_and_a_full_disk_raises_its_own_error(store: Store) -> None:
    with pytest.raises(UserError, match=r"not writable.*403"), require_store(store):
        raise requests.HTTPError("403 Client Error: FORBIDDEN")
    with pytest.raises(OSError, match="No space left"), require_store(store):
        raise OSError(errno.ENOSPC, "No space left on device")


# A run that a user deletes -----------------------------------------------------------------------------------------


def wait_for_text(caplog: pytest.LogCaptureFixture, text: str) -> None:
    deadline = time.monotonic() + 60
    while text not in caplog.text:
        assert time.monotonic() < deadline, caplog.text
        time.sleep(0.05)


def test_a_run_that_is_deleted_and_restored_gets_all_entries(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    store = opened()
    with TrackedRun.start(store, experiment="e", name="n", params={}) as run:
        record(run, 1)
        assert run.delivered()
        store.client.delete_run(run.id)
        record(run, 2)
        wait_for_text(caplog, f"MLflow run {run.id} was deleted: the training continues")
        record(run, 3)
        store.client.restore_run(run.id)
        assert run.delivered(60)
    assert f"MLflow run {run.id} is available again" in caplog.text
    assert store.client.get_run(run.id).info.status == "FINISHED"
    assert steps_of(store, run.id, "loss") == [1, 2, 3]
    assert images_of(store, run.id) == images_at(2)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run, to which nothing can be delivered, comes after a second in place of ten."""
    monkeypatch.setitem(PATIENCE_SECONDS, "FINISHED", (1.0, math.inf))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("for_good", [False, True])
def test_a_run_that_stays_deleted_does_not_end_its_training_and_is_replaced(
    opened: Opened, caplog: pytest.LogCaptureFixture, for_good: bool
) -> None:
    store = opened()
    data = DatasetInput("emoji", "d" * 32, "fluent-emoji", "training")
    with TrackedRun.start(store, experiment="e", name="first", params={"lr": 1}, inputs=[data]) as run:
        record(run, 1, 2)
        assert run.delivered()
        store.client.delete_run(run.id)
        if for_good:
            # As `mlflow gc` does.
            store.client._tracking_client.store._hard_delete_run(run.id)
        record(run, 3)
        wait_for_text(caplog, f"MLflow run {run.id} was deleted: the training continues")
        record(run, 4)
    assert caplog.text.count("was deleted") == 1
    assert "wait in" in caplog.text

    ((other, _),) = deliver_waiting(store).entries.items()
    found = store.client.get_run(other)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "first")
    assert found.data.params == {"lr": "1"}
    assert found.data.tags[REPLACES_TAG] == run.id
    assert [item.dataset.name for item in found.inputs.dataset_inputs] == ["emoji"]
    assert steps_of(store, other, "loss") == [3, 4]
    assert images_of(store, other) == images_at(4)
    assert TrackedRun.attach(store, run.id, experiment="e", name="n").id == other


@pytest.mark.usefixtures("impatient")
def test_an_experiment_that_is_deleted_while_it_trains_does_not_end_the_training(opened: Opened) -> None:
    store = opened()
    with TrackedRun.start(store, experiment="e", name="n", params={}) as run:
        assert run.delivered()
        number = store.experiment("e")
        store.client.delete_experiment(number)
        record(run, 1, 2)
    assert [folder.name for folder in deliver_waiting(store).left] == [run.id]
    store.client.restore_experiment(number)
    assert deliver_waiting(store).left == []
    assert steps_of(store, run.id, "loss") == [1, 2]


# A store that is locked for a while ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_locked_database_delays_and_loses_nothing(
    project: Project, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened()
    with TrackedRun.start(store, experiment="e", name="n", params={}) as run:
        record(run, 1)
        assert run.delivered()
        other = sqlite3.connect(project.mlruns / "mlflow.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        record(run, *range(2, 9))
        # MLflow itself would wait for 20 seconds at each entry.
        assert time.monotonic() - began < 15
        # MLflow then raises an error, once.
        deadline = time.monotonic() + 90
        while "cannot be written" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert "database is locked" in caplog.text
        other.execute("COMMIT")
        other.close()
        assert run.delivered(60)
        record(run, 9)
    assert "is available again" in caplog.text
    assert store.client.get_run(run.id).info.status == "FINISHED"
    assert steps_of(store, run.id, "loss") == list(range(1, 10))
    assert images_of(store, run.id) == images_at(2, 4, 6, 8)
    assert journals(store.journals) == []


def test_a_database_that_stays_locked_is_reported_at_the_start(
    project: Project, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    # MLflow's own journal mode. With a write-ahead log, which this package sets, a lock does not prevent opening.
    project.mlruns.mkdir()
    other = sqlite3.connect(project.mlruns / "mlflow.db", isolation_level=None)
    other.execute("CREATE TABLE t (x)")
    other.execute("BEGIN EXCLUSIVE")
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda file, timeout: connect(file, timeout=0.2))
    with pytest.raises(UserError, match=r"mlflow.db: locked by another process; .*wait for it"):
        opened()
    other.close()


@pytest.mark.slow
def test_a_database_that_is_locked_when_a_run_opens(project: Project, opened: Opened) -> None:
    store = opened()
    other = sqlite3.connect(project.mlruns / "mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with (
        pytest.raises(UserError, match=r"not writable; restart it, or set tracking\.offline.*is locked"),
        TrackedRun.start(store, experiment="e", name="n", params={}),
    ):
        pass
    with pytest.raises(UserError, match="is locked"):
        close_stale_runs(store, "e")
    other.close()


# A store that takes metrics and no files --------------------------------------------------------------------------


def kinds_of(folder: Path) -> list[str]:
    """The contents of a journal on disk."""
    return [json.loads(line)["kind"] for line in (folder / "entries.jsonl").read_text().splitlines()]


def test_refused_files_delay_no_other_entries(
    project: Project, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened()
    with TrackedRun.start(store, experiment="e", name="n", params={}) as run:
        artifacts = Path(local_path(store.client.get_run(run.id).info.artifact_uri) or "").parents[1]
        artifacts.write_text("a file in place of the folder")
        record(run, *range(1, 8))
        run.set_tags({"note": "x"})
    found = store.client.get_run(run.id)
    assert found.info.status == "FINISHED"
    assert found.data.tags["note"] == "x"
    assert steps_of(store, run.id, "loss") == list(range(1, 8))
    assert kinds_of(store.journals / run.id) == ["image"] * 3
    assert caplog.text.count("takes metrics but no files: ") == 1
    assert f"MLflow run {run.id}: 3 files wait in {store.journals / run.id}; 'cyclegan sync'" in caplog.text
    # Tags that are set meanwhile stay, because only files are delivered later.
    store.client.set_tag(run.id, "note", "y")

    assert [folder.name for folder in deliver_waiting(store).left] == [run.id]
    artifacts.unlink()
    assert deliver_waiting(store).entries == {run.id: 3}
    assert images_of(store, run.id) == images_at(2, 4, 6)
    assert store.client.get_run(run.id).data.tags["note"] == "y"
    assert steps_of(store, run.id, "loss") == list(range(1, 8))
    assert journals(store.journals) == []


def test_temporarily_refused_files_arrive_during_the_run(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    store = opened()
    with TrackedRun.start(store, experiment="e", name="n", params={}) as run:
        artifacts = Path(local_path(store.client.get_run(run.id).info.artifact_uri) or "").parents[1]
        artifacts.write_text("a file in place of the folder")
        record(run, 1, 2, 3, 4)
        wait_for_text(caplog, "takes metrics but no files")
        artifacts.unlink()
        assert run.delivered(60)
    assert images_of(store, run.id) == images_at(2, 4)
    assert journals(store.journals) == []


def register_a_model(store: Store, run_id: str, folder: Path) -> None:
    """Store a generator's files as stage `register` does."""
    (folder / "model.txt").write_text("weights")
    experiment = store.client.get_run(run_id).info.experiment_id
    with require_store(store):
        model = store.client.create_logged_model(experiment, name="G_AtoB", source_run_id=run_id)
        store.client.log_model_artifacts(model.model_id, str(folder))


@pytest.mark.slow
def test_an_unreachable_artifact_root_is_named_and_delays_no_metrics(
    tmp_path: Path,
    project: Project,
    opened: Opened,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "file").write_text("")
    shutil.copy(Path(__file__).parents[2] / "params.yaml", project.params)
    root = tmp_path / "file" / "artifacts"
    server = Server(tmp_path / "server", artifact_root=str(root))
    server.start()
    try:
        store = opened(server.uri)
        with TrackedRun.start(store, experiment="e", name="n", params={}) as run:
            record(run, *range(1, 6))
        assert store.client.get_run(run.id).info.status == "FINISHED"
        assert steps_of(store, run.id, "loss") == list(range(1, 6))
        assert kinds_of(store.journals / run.id) == ["image"] * 2
        remedy = rf"artifact root .*Not a directory: {root}.*start the server with --artifacts-destination"
        assert len(re.findall(remedy, caplog.text)) == 1

        caplog.clear()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        with pytest.raises(UserError, match=f"cannot deliver {run.id}"):
            sync(project)
        assert re.search(remedy, caplog.text)
        with pytest.raises(UserError, match=remedy):
            register_a_model(store, run.id, tmp_path / "model")
        with pytest.raises(UserError, match=remedy):
            TrackedRun.attach(store, run.id, experiment="e", name="n").log_image(9, "samples/AtoB", IMAGE)
        # A user mounts the folder.
        (tmp_path / "file").unlink()
        assert deliver_waiting(store).entries == {run.id: 2}
        assert images_of(store, run.id) == images_at(2, 4)
    finally:
        server.kill()


@pytest.mark.slow
def test_a_proxys_body_limit_is_named_and_delays_only_larger_files(
    server: Server, tmp_path: Path, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "model").mkdir()
    large = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    with Proxy(server.uri, body_limit=60_000) as proxy:
        store = opened(proxy.uri)
        with TrackedRun.start(store, experiment="e", name="n", params={}) as run:
            run.log_image(1, "samples/AtoB", large)
            record(run, *range(1, 6))
        assert store.client.get_run(run.id).info.status == "FINISHED"
        assert steps_of(store, run.id, "loss") == list(range(1, 6))
        assert kinds_of(store.journals / run.id) == ["image"]
        assert images_of(store, run.id) == images_at(2, 4)
        remedy = r"HTTP 413.*raise the proxy's body limit \(nginx: client_max_body_size\)"
        assert len(re.findall(remedy, caplog.text)) == 1

        caplog.clear()
        assert [folder.name for folder in deliver_waiting(store).left] == [run.id]
        assert re.search(remedy, caplog.text)
        (tmp_path / "model" / "weights").write_bytes(bytes(100_000))
        with pytest.raises(UserError, match=remedy):
            register_a_model(store, run.id, tmp_path / "model")
        proxy.body_limit = None
        assert deliver_waiting(store).entries == {run.id: 1}
        assert images_of(store, run.id) == images_at(1, 2, 4)


# A server that is killed and comes back --------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    running = Server(tmp_path / "server")
    running.start()
    yield running
    running.kill()


@pytest.mark.slow
def test_a_killed_server_gets_everything_after_its_restart(
    server: Server, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(server.uri)
    with TrackedRun.start(store, experiment="e", name="n", params={"lr": 1}) as run:
        record(run, 1, 2)
        assert run.delivered()
        server.kill()
        record(run, *range(3, 60))
        assert not run.delivered(1.0)
        assert len(Journal(store.journals / run.id)) > 57
        server.start()
        # The entries arrive during the run.
        assert run.delivered(120)
        record(run, 60)
    assert caplog.text.count("cannot be written") == 1
    assert caplog.text.count("is available again") == 1
    assert store.client.get_run(run.id).info.status == "FINISHED"
    for key in ("loss", "nan"):
        assert steps_of(store, run.id, key) == list(range(1, 61))
    assert images_of(store, run.id) == images_at(*range(2, 61, 2))
    assert journals(store.journals) == []


@pytest.mark.slow
def test_the_next_process_delivers_what_a_server_missed_at_the_end(
    server: Server, project: Project, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(server.uri)
    with TrackedRun.start(store, experiment="e", name="n", params={"lr": 1}) as run:
        record(run, 1, 2)
        assert run.delivered()
        server.kill()
        record(run, 3, 4)
    (line,) = [entry.getMessage() for entry in caplog.records if "'cyclegan sync'" in entry.getMessage()]
    assert line.startswith(f"MLflow run {run.id}: 4 entries wait in ")

    with pytest.raises(UserError, match=r"set tracking\.offline: true to train without it"):
        opened(server.uri)
    # Offline, the training continues as the same run.
    with TrackedRun.offline(
        journals_folder(project), experiment="e", name="n", params={"lr": 1}, resume=run.id
    ) as again:
        record(again, 4, 5, 6)
    assert again.id == run.id

    server.start()
    store = opened(server.uri)
    assert store.client.get_run(run.id).info.status == "RUNNING"
    assert list(deliver_waiting(store).entries) == [run.id]
    assert close_stale_runs(store, "e") == []
    assert store.client.get_run(run.id).info.status == "FINISHED"
    assert steps_of(store, run.id, "loss") == [1, 2, 3, 4, 5, 6]
    assert images_of(store, run.id) == images_at(2, 4, 6)


@pytest.mark.slow
def test_a_server_that_fails_during_a_later_stage_is_reported(
    server: Server, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = TrackedRun.attach(opened(server.uri), "1" * 32, experiment="e", name="n")
    server.kill()
    message = r"unavailable or not writable; restart it, or set tracking\.offline"
    with pytest.raises(UserError, match=message):
        run.log_metrics(1, {"loss": 1.0})
    with pytest.raises(UserError, match=message):
        run.log_image(1, "samples/AtoB", IMAGE)
    (tmp_path / "report.html").write_text("<p>")
    with pytest.raises(UserError, match=message):
        run.log_artifact(tmp_path / "report.html")


ONLINE = """
import sys, time
from pathlib import Path
from cyclegan.params import Tracking
from cyclegan.project import Project
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.store import open_store

root = Path(sys.argv[1])
store = open_store(Project(root=root, home=root), Tracking(uri=sys.argv[2], experiment=None, offline=False))
with TrackedRun.start(store, experiment="e", name="n", params={}) as run:
    run.log_metrics(1, {"loss": 1.0})
    assert run.delivered()
    print(run.id, flush=True)
    input()
    for step in range(2, 8):
        run.log_metrics(step, {"loss": 1.0})
    print("logged", flush=True)
    time.sleep(300)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_killed_while_the_server_is_unavailable_loses_nothing(
    server: Server, project: Project, opened: Opened, sent: signal.Signals
) -> None:
    command = [sys.executable, "-c", ONLINE, str(project.root), server.uri]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdin is not None
        assert trainer.stdout is not None
        run_id = trainer.stdout.readline().strip()
        server.kill()
        print(file=trainer.stdin, flush=True)
        assert trainer.stdout.readline() == "logged\n"
        trainer.send_signal(sent)
        began = time.monotonic()
        trainer.wait(timeout=60)
        assert time.monotonic() - began < 10
    server.start()
    store = opened(server.uri)
    with TrackedRun.start(store, experiment="e", name="n", params={}, resume=run_id) as run:
        # Resume from a checkpoint of step 5.
        record(run, 6, 7, 8)
    assert run.id == run_id
    assert steps_of(store, run_id, "loss") == list(range(1, 9))
    assert store.client.get_run(run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_an_entry_that_is_sent_twice_is_recorded_once(
    server: Server, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer is lost: the server has the entries, but the client does not know."""
    caplog.set_level(logging.WARNING)
    store = opened(server.uri)
    with TrackedRun.start(store, experiment="e", name="n", params={}) as run:
        assert isinstance(run._sink, Outbox)
        journal = run._sink._journal
        folder = journal.folder
        record(run, 1, 2, 3)
        kept = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "lock"}
        entries = [*journal.all()]
        assert run.delivered()
    # Check that all were held before the thread took them.
    assert len(entries) + len(steps_of(store, run.id, "loss")) >= 3
    folder.mkdir(exist_ok=True)
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    deliver_waiting(store)
    assert steps_of(store, run.id, "loss") == [1, 2, 3]
    assert images_of(store, run.id) == images_at(2)
