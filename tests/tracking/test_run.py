from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow.entities import Run
from PIL import Image

from cyclegan.system.errors import UserError
from cyclegan.tracking.delivery import RUN_ID
from cyclegan.tracking.description import DatasetInput
from cyclegan.tracking.recovery import _close_if_stale, close_stale_runs, deliver_waiting
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.series import plain_name
from cyclegan.tracking.store import Store
from cyclegan.tracking.tags import LOCK_TAG

# One process for each name, all of which share the imports: these take longer than the rest.
TRAININGS = """
import os, sys, time
from pathlib import Path
from cyclegan.params import Tracking
from cyclegan.project import Project
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.store import open_store

root, *names = sys.argv[1:]
pids = []
for name in names:
    pids.append(os.fork())
    if not pids[-1]:
        break
else:
    for name, pid in zip(names, pids):
        print(name, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    sys.exit()
store = open_store(Project(root=Path(root), home=Path(root)), Tracking(uri=None, experiment=None, offline=False))
with TrackedRun.start(store, experiment="signals", name=name, params={}) as run:
    run.log_metrics(1, {"loss": 1.0})
    assert run.delivered()
    print(name, run.id, os.getpid(), flush=True)
    time.sleep(120)
"""


@pytest.fixture(scope="module")
def killed(store: Store) -> dict[str, tuple[str, int]]:
    """Trainings in separate processes, each ended by a signal: name → run id, exit code."""
    names = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")
    command = [sys.executable, "-c", TRAININGS, str(store.locks.parents[1]), *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        started = [parent.stdout.readline().split() for _ in names]
        for name, _, pid in started:
            os.kill(int(pid), getattr(signal, name))
        codes = dict(line.split() for line in parent.stdout)
    return {name: (run_id, int(codes[name])) for name, run_id, _ in started}


def get(store: Store, run_id: str) -> Run:
    return store.client.get_run(run_id)


def points(store: Store, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in store.client.get_metric_history(run_id, key)]


def lock_of(store: Store, run_id: str) -> Path:
    return Path(get(store, run_id).data.tags[LOCK_TAG])


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", -signal.SIGINT)])
def test_interrupted_run_is_killed_and_closed(
    killed: dict[str, tuple[str, int]], store: Store, name: str, code: int
) -> None:
    run_id, exit_code = killed[name]
    run = get(store, run_id)
    assert run.info.status == "KILLED"
    assert run.info.end_time is not None
    assert exit_code == code
    assert not lock_of(store, run_id).exists()


def test_run_of_a_killed_process_is_found_even_if_its_pid_is_reused(
    killed: dict[str, tuple[str, int]], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run_id, exit_code = killed["SIGKILL"]
    assert exit_code == -signal.SIGKILL
    assert get(store, run_id).info.status == "RUNNING"
    # The pid belongs to a live process, this one.
    store.client.set_tag(run_id, "process.pid", os.getpid())
    (logged,) = store.client.get_metric_history(run_id, "loss")
    time.sleep(0.5)
    closing = time.time() * 1000

    assert close_stale_runs(store, "signals") == [run_id]

    run = get(store, run_id)
    assert run.info.status == "KILLED"
    # The run ended at its last sign of life, not now.
    assert logged.timestamp <= run.info.end_time <= closing - 500
    assert run_id in caplog.text
    assert not lock_of(store, run_id).exists()
    assert close_stale_runs(store, "signals") == []


def test_living_runs_and_those_of_other_machines_are_not_stale(store: Store, experiment: str, tmp_path: Path) -> None:
    number = store.experiment(experiment)
    elsewhere = tmp_path / "there.lock"
    elsewhere.touch()
    others = [
        store.client.create_run(number, tags={LOCK_TAG: str(elsewhere)}),
        store.client.create_run(number, tags={LOCK_TAG: str(store.locks / "on-another-machine.lock")}),
        store.client.create_run(number),
    ]
    with TrackedRun.start(store, experiment=experiment, name="alive", params={}) as run:
        assert close_stale_runs(store, experiment) == []
        assert get(store, run.id).info.status == "RUNNING"
    assert [get(store, other.info.run_id).info.status for other in others] == ["RUNNING"] * 3
    assert elsewhere.exists()


def test_run_that_ends_during_the_check_keeps_its_status(store: Store, experiment: str) -> None:
    number = store.experiment(experiment)
    lock = store.locks / "ended.lock"
    lock.touch()
    run = store.client.create_run(number, tags={LOCK_TAG: str(lock)})
    seen = get(store, run.info.run_id)
    store.client.set_terminated(run.info.run_id, "FINISHED")
    assert _close_if_stale(store, seen) is False
    assert get(store, run.info.run_id).info.status == "FINISHED"
    assert not lock.exists()


def test_more_stale_runs_than_fit_on_a_page(store: Store, experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    number = store.experiment(experiment)
    for index in range(5):
        lock = store.locks / f"{experiment}-{index}.lock"
        lock.touch()
        store.client.create_run(number, tags={LOCK_TAG: str(lock)})
    search = store.client.search_runs
    monkeypatch.setattr(store.client, "search_runs", lambda *args, **more: search(*args, max_results=2, **more))
    assert len(close_stale_runs(store, experiment)) == 5


def test_a_finished_run_stays_finished_when_it_is_run_again(store: Store, experiment: str) -> None:
    """After a kill, DVC may restore the outputs from its run cache, so that the training does not run a third time."""
    with TrackedRun.start(store, experiment=experiment, name="first", params={}) as run:
        pass
    with TrackedRun.start(store, experiment=experiment, name="again", params={}, resume=run.id) as again:
        assert (again.id, get(store, run.id).info.status) == (run.id, "FINISHED")


def test_clean_end_is_finished(store: Store, experiment: str) -> None:
    with TrackedRun.start(store, experiment=experiment, name="first", params={"a": 1}) as run:
        assert get(store, run.id).info.status == "RUNNING"
        assert lock_of(store, run.id).exists()
    info = get(store, run.id).info
    assert (info.status, info.run_name) == ("FINISHED", "first")
    assert not lock_of(store, run.id).exists()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("x"), "FAILED"),
        (UserError("x"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(0), "KILLED"),
    ],
)
def test_end_by_an_exception(store: Store, experiment: str, error: BaseException, status: str) -> None:
    def train() -> None:
        with TrackedRun.start(store, experiment=experiment, name="n", params={}) as run:
            ids.append(run.id)
            raise error

    ids: list[str] = []
    with pytest.raises(type(error)):
        train()
    assert get(store, ids[0]).info.status == status


def test_handlers_of_the_program_itself_stay(store: Store, experiment: str) -> None:
    def own(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGTERM, own)
    try:
        with TrackedRun.start(store, experiment=experiment, name="n", params={}):
            assert signal.getsignal(signal.SIGTERM) is own
            assert signal.getsignal(signal.SIGHUP) not in (signal.SIG_DFL, own)
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_params_tags_and_inputs_beyond_mlflows_batch_limits(store: Store, experiment: str) -> None:
    params = {f"section.key_{index}": index for index in range(230)}
    params |= {"none": None, "size": (64, 48), "on": True, "rate": 2e-4, "text": "auto", "long": "x" * 7000}
    with TrackedRun.start(
        store,
        experiment=experiment,
        name="n",
        params=params,
        tags={f"tag_{index}": str(index) for index in range(150)},
        inputs=[DatasetInput("emoji", "d41d8cd98f00b204e9800998ecf8427e.dir", "fluent-emoji", "training")],
    ) as run:
        run.set_tags({"tag_0": "new"})
    found = get(store, run.id)
    assert len(found.data.params) == 236
    assert found.data.params["section.key_229"] == "229"
    # As YAML writes them.
    assert {key: found.data.params[key] for key in ("none", "size", "on", "rate", "text")} == {
        "none": "null", "size": "[64, 48]", "on": "true", "rate": "0.0002", "text": "auto",
    }  # fmt: skip
    assert found.data.params["long"] == "x" * 5999 + "…"
    assert (found.data.tags["tag_0"], found.data.tags["tag_149"]) == ("new", "149")
    assert found.data.tags["process.pid"] == str(os.getpid())
    (data,) = found.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("emoji", "d41d8cd98f00b204e9800998ecf8427e.dir")
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]


def test_values_that_are_not_finite_are_kept(store: Store, experiment: str) -> None:
    with TrackedRun.start(store, experiment=experiment, name="n", params={}) as run:
        run.log_metrics(3, {"nan": math.nan, "inf": math.inf, "array": np.float32(0.5)})
    metrics = get(store, run.id).data.metrics
    assert math.isnan(metrics["nan"])
    assert metrics["inf"] == sys.float_info.max
    assert points(store, run.id, "array") == [(3, 0.5)]


def test_images_are_files_named_by_their_epoch(store: Store, experiment: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with TrackedRun.start(store, experiment=experiment, name="n", params={}, steps_per_epoch=2) as run:
        for step, channels in ((2, 3), (4, 1), (5, 4)):
            run.log_image(step, "samples/AtoB", rng.integers(0, 256, (20, 30, channels), np.uint8))
        image = rng.integers(0, 256, (20, 30, 3), np.uint8)
        path = run.log_image(12, "samples/AtoB", image)
        assert run.delivered()
        with pytest.raises(ValueError, match="uint8"):
            run.log_image(13, "samples/AtoB", image / 255)
    # Step 5 is in the middle of an epoch.
    names = ["AtoB_epoch_001.png", "AtoB_epoch_002.png", "AtoB_epoch_006.png", "AtoB_step_000005.png"]
    assert [file.path for file in store.client.list_artifacts(run.id, "samples")] == [f"samples/{n}" for n in names]
    file = store.client.download_artifacts(run.id, path, tmp_path)
    np.testing.assert_array_equal(np.asarray(Image.open(file)), image)


def test_series_are_numbered_so_that_mlflow_shows_validation_first(store: Store, experiment: str) -> None:
    names = ["D_A/real", "G_BtoA/total", "loss", "system/x", "test_AtoB/kid", "training/epoch", "val_AtoB/kid"]
    with TrackedRun.start(store, experiment=experiment, name="n", params={}) as run:
        run.log_metrics(1, dict.fromkeys(names, 0.5))
    stored = sorted(name for name in get(store, run.id).data.metrics if "system_" not in name and "cpu_" not in name)
    assert stored == [
        "1_val_AtoB/kid", "2_G_BtoA/total", "3_D_A/real", "4_training/epoch", "loss", "system/x", "test_AtoB/kid",
    ]  # fmt: skip
    assert sorted(plain_name(name) for name in stored) == names


def test_a_run_of_an_earlier_version_keeps_the_names_of_its_series(store: Store, experiment: str) -> None:
    old = store.client.create_run(store.experiment(experiment)).info.run_id
    store.client.log_metric(old, "val_AtoB/kid", 0.2, step=1)
    with TrackedRun.start(store, experiment=experiment, name="n", params={}, resume=old) as run:
        for step in (1, 2):
            run.log_metrics(step, {"val_AtoB/kid": 0.2, "G_AtoB/total": 1.0})
    assert points(store, old, "val_AtoB/kid") == [(1, 0.2), (2, 0.2)]
    assert points(store, old, "G_AtoB/total") == [(1, 1.0), (2, 1.0)]
    assert not [name for name in get(store, old).data.metrics if name[0].isdigit()]


def test_a_description_names_its_run(store: Store, experiment: str, tmp_path: Path) -> None:
    with TrackedRun.offline(tmp_path, experiment=experiment, name="n", params={}) as run:
        run.describe(f"![grid](get-artifact?path=grid.png&run_uuid={RUN_ID})")
    assert deliver_waiting(replace(store, journals=tmp_path)).entries
    (found,) = store.client.search_runs([store.experiment(experiment)])
    assert found.info.run_id != run.id
    assert found.data.tags["mlflow.note.content"].endswith(f"run_uuid={found.info.run_id})")


def test_files_and_folders_become_artifacts(store: Store, experiment: str, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    for name in ("a.txt", "report/b.txt"):
        (tmp_path / name).write_text(name)
    with TrackedRun.start(store, experiment=experiment, name="n", params={}) as run:
        run.log_artifact(tmp_path / "a.txt")
        run.log_artifact(tmp_path / "report", "evaluate")
    files = [file.path for folder in ("", "evaluate") for file in store.client.list_artifacts(run.id, folder or None)]
    assert files == ["a.txt", "evaluate", "evaluate/b.txt"]


def test_host_metrics_are_sampled_in_few_series(store: Store, experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")

    def sampled(run: TrackedRun) -> int:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            steps = points(store, run.id, "system/cpu_utilization_percentage")
            if len(steps) > before:
                return len(steps)
            time.sleep(0.05)
        raise AssertionError("no metrics")

    before = 0
    with TrackedRun.start(store, experiment=experiment, name="n", params={}) as run:
        sampled(run)
    keys = {key for key in get(store, run.id).data.metrics if "/gpu_" not in key}
    assert keys == {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/system_memory_usage_percentage",
    }
    before = len(points(store, run.id, "system/cpu_utilization_percentage"))
    with TrackedRun.start(store, experiment=experiment, name="n", params={}, resume=run.id) as run:
        sampled(run)
    steps = [step for step, _ in points(store, run.id, "system/cpu_utilization_percentage")]
    assert sorted(steps) == list(range(len(steps)))


def test_resumed_run_has_one_point_per_step_and_no_holes(store: Store, experiment: str) -> None:
    def loss(step: int) -> dict[str, float]:
        return {"G_AtoB/total": 1 / step, "nan": math.nan}

    image = np.zeros((4, 4, 3), np.uint8)
    params = {"lr": 2e-4, "long": "x" * 7000}

    def train_until_interrupted() -> None:
        with TrackedRun.start(store, experiment=experiment, name="first", params=params) as run:
            ids.append(run.id)
            for step in range(1, 8):
                run.log_metrics(step, loss(step))
            run.log_image(5, "samples/AtoB", image)
            raise KeyboardInterrupt

    ids: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        train_until_interrupted()
    (first,) = ids

    # The checkpoint is of step 4: steps 5 to 7 are repeated, and differ in the last digits, as on a GPU.
    with TrackedRun.start(
        store, experiment=experiment, name="second", params=params, tags={"commit": "new"}, resume=first
    ) as run:
        assert get(store, first).info.status == "RUNNING"
        for step in range(5, 11):
            run.log_metrics(step, {key: value + 1e-9 for key, value in loss(step).items()} | {"new": 1.0})
            if step % 5 == 0:
                run.log_image(step, "samples/AtoB", image)

    assert run.id == first
    info = get(store, first).info
    assert (info.status, info.run_name) == ("FINISHED", "first")
    assert [step for step, _ in points(store, first, "2_G_AtoB/total")] == list(range(1, 11))
    assert [step for step, _ in points(store, first, "nan")] == list(range(1, 11))
    assert [step for step, _ in points(store, first, "new")] == list(range(5, 11))
    images = [file.path for file in store.client.list_artifacts(first, "samples")]
    assert images == ["samples/AtoB_step_000005.png", "samples/AtoB_step_000010.png"]
    assert get(store, first).data.tags["commit"] == "new"


def test_resumed_run_keeps_its_first_params(store: Store, experiment: str, caplog: pytest.LogCaptureFixture) -> None:
    with TrackedRun.start(store, experiment=experiment, name="n", params={"lr": 1e-4, "seed": 1}) as run:
        pass
    params = {"lr": 2e-4, "seed": 1, "new": 3}
    with TrackedRun.start(store, experiment=experiment, name="n", params=params, resume=run.id):
        pass
    assert get(store, run.id).data.params == {"lr": "0.0001", "seed": "1", "new": "3"}
    assert "keeps its first values of lr" in caplog.text


def test_resumed_run_keeps_its_first_commit_and_device_and_notes_the_later_ones(store: Store, experiment: str) -> None:
    first = {"git.commit": "c1", "git.dirty": "false", "mlflow.source.git.commit": "c1", "device": "CPU"}
    with TrackedRun.start(store, experiment=experiment, name="n", params={}, tags=first) as run:
        pass
    with TrackedRun.start(store, experiment=experiment, name="n", params={}, tags=first, resume=run.id):
        pass
    tags = get(store, run.id).data.tags
    assert "cyclegan.resumed_at_commit" not in tags
    second = {
        "git.commit": "c2",
        "git.dirty": "true",
        "mlflow.source.git.commit": "c2",
        "device": "GPU",
        "dvc.exp": "e",
    }
    with TrackedRun.start(store, experiment=experiment, name="n", params={}, tags=second, resume=run.id):
        pass
    tags = get(store, run.id).data.tags
    assert {key: tags[key] for key in first} == first
    assert tags["cyclegan.resumed_at_commit"] == "c2"
    assert tags["cyclegan.resumed_on_device"] == "GPU"
    assert tags["dvc.exp"] == "e"
    assert tags["process.pid"] == str(os.getpid())


def test_run_killed_before_its_params_were_written_gets_them_on_resume(store: Store, experiment: str) -> None:
    bare = store.client.create_run(store.experiment(experiment), run_name="bare").info.run_id
    with TrackedRun.start(store, experiment=experiment, name="n", params={"lr": 1}, resume=bare) as run:
        pass
    assert run.id == bare
    assert get(store, bare).data.params == {"lr": "1"}


@pytest.mark.parametrize("lost", ["wiped", "deleted"])
def test_lost_run_becomes_a_new_one_with_a_warning(
    store: Store, experiment: str, caplog: pytest.LogCaptureFixture, lost: str
) -> None:
    old = "0" * 32
    if lost == "deleted":
        old = store.client.create_run(store.experiment(experiment)).info.run_id
        store.client.delete_run(old)
    with TrackedRun.start(store, experiment=experiment, name="n", params={"lr": 1}, resume=old) as run:
        run.log_metrics(1, {"loss": 1.0})
    assert run.id != old
    assert f"run {old} is no longer in" in caplog.text
    assert get(store, run.id).info.status == "FINISHED"


def test_run_of_a_living_process_is_not_resumed_by_a_second_one(store: Store, experiment: str) -> None:
    with TrackedRun.start(store, experiment=experiment, name="n", params={}) as run:
        with (
            pytest.raises(UserError, match=f"{run.id}: process {os.getpid()} on .* writes to it"),
            TrackedRun.start(store, experiment=experiment, name="n", params={}, resume=run.id),
        ):
            pass
        assert get(store, run.id).info.status == "RUNNING"


def test_later_stage_does_not_change_the_finished_run(store: Store, experiment: str, tmp_path: Path) -> None:
    with TrackedRun.start(store, experiment=experiment, name="training", params={}) as run:
        run.log_metrics(1, {"loss": 1.0})
    before = get(store, run.id).info

    for psnr in (20.0, 20.0, 21.0):
        attached = TrackedRun.attach(store, run.id, experiment=experiment, name="other")
        attached.log_metrics(1, {"test_AtoB/pair_psnr": psnr})
        attached.log_image(1, "grid", np.zeros((4, 4, 3), np.uint8))
        (tmp_path / "report.html").write_text("<p>")
        attached.log_artifact(tmp_path / "report.html", "evaluate")

    after = get(store, run.id)
    assert attached.id == run.id
    assert (after.info.status, after.info.run_name, after.info.end_time) == ("FINISHED", "training", before.end_time)
    # Equal metrics are recorded once. A changed metric is added, and MLflow displays it.
    assert points(store, run.id, "test_AtoB/pair_psnr") == [(1, 20.0), (1, 21.0)]
    assert after.data.metrics["test_AtoB/pair_psnr"] == 21.0
    assert [file.path for file in store.client.list_artifacts(run.id)] == ["evaluate", "grid_step_000001.png"]


def test_later_stage_whose_run_is_lost_gets_one_in_its_place_once(
    store: Store, experiment: str, caplog: pytest.LogCaptureFixture
) -> None:
    lost = "1" * 32
    first = TrackedRun.attach(store, lost, experiment=experiment, name="emoji")
    assert f"run {lost} is not in" in caplog.text
    caplog.clear()
    second = TrackedRun.attach(store, lost, experiment=experiment, name="emoji")
    assert caplog.text == ""
    assert first.id == second.id
    info = get(store, first.id).info
    assert (info.status, info.run_name) == ("FINISHED", "emoji")


def test_folder_of_locks_removed_during_a_training_does_not_stop_it(store: Store, experiment: str) -> None:
    with TrackedRun.start(store, experiment=experiment, name="n", params={}) as run:
        lock_of(store, run.id).unlink()
        run.log_metrics(1, {"loss": 1.0})
    assert get(store, run.id).info.status == "FINISHED"
