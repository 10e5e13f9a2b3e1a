"""One training is one MLflow run, however often it is interrupted, and its status is always the truth."""

from __future__ import annotations

import getpass
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient, entities
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

from cyclegan.errors import UserError
from cyclegan.tracking.locks import held
from cyclegan.tracking.store import LOCK_TAG, Store, impatient

# On a run that was opened in place of one that the store had lost.
REPLACES_TAG = "cyclegan.replaces"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetInput:
    """A data set that a run read, as MLflow lists it."""

    name: str
    digest: str
    """At most 36 characters: DVC's md5 of the folder."""
    source: str
    context: str
    """What the run used it for, such as `training`."""


class TrackedRun:
    """A run that metrics, pictures and files go to: made by `start` for a training, by `attach` for later stages."""

    def __init__(self, store: Store, run_id: str, past: _Past | None = None, lock: Path | None = None) -> None:
        self.id = run_id
        self._client: MlflowClient = store.client
        self._past = past
        self._lock = lock

    @classmethod
    @contextmanager
    def start(
        cls,
        store: Store,
        *,
        experiment: str,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        inputs: Sequence[DatasetInput] = (),
        resume: str | None = None,
    ) -> Iterator[TrackedRun]:
        """Open a run around a training; host and GPU figures are sampled as long as it is open.

        The run ends FINISHED, or FAILED after an exception, or KILLED after Ctrl-C, SIGTERM or SIGHUP; the last two
        raise SystemExit inside the context, unless the program handles them itself.

        Args:
            experiment: its name; created where it does not exist.
            params: flat; written once, values over MLflow's limit are cut.
            resume: id of the run to go on with; of `params` it takes those that it does not have yet. If the store no
                longer has it, a new run is opened, with a warning.

        Raises:
            UserError: another live process writes to the run, or see `Store.experiment`.
        """
        with _signals_raise():
            experiment_id = store.experiment(experiment)
            found = None if resume is None else _find(store, resume)
            if resume is not None and found is None:
                logger.warning("MLflow run %s is no longer in %s: a new run is opened", resume, store.shown)
            with _held_lock(store, found) as lock:
                fixed = {key: _fit(value) for key, value in params.items()}
                process = {
                    LOCK_TAG: str(lock),
                    "process.pid": str(os.getpid()),
                    "process.host": socket.gethostname(),
                    "mlflow.user": _user(),
                }
                if found is None:
                    created = store.client.create_run(experiment_id, tags=process, run_name=name)
                    run = cls(store, created.info.run_id, lock=lock)
                else:
                    fixed = _not_written_before(fixed, found)
                    run = cls(store, found.info.run_id, past=_Past(store, found.info.run_id, keep="any"), lock=lock)
                with _status(store, run.id, lock):
                    if found is not None:
                        store.client.update_run(run.id, status="RUNNING")
                    # Again on resume: the process may have been killed between creating the run and this.
                    run.set_tags({**(tags or {}), **process})
                    run._write_params(fixed)
                    _log_inputs(store, run.id, inputs)
                    with _system_metrics(store, run.id):
                        yield run

    @classmethod
    def attach(cls, store: Store, run_id: str, *, experiment: str, name: str) -> TrackedRun:
        """Write to a run that has ended, leaving its status, name and end as they are.

        A store that has lost the run (a fresh clone with cached stage outputs, say) gets a finished run in its
        place, with a warning; attaching again finds that same run.

        Raises:
            UserError: see `Store.experiment`.
        """
        if _find(store, run_id) is None:
            lost, experiment_id = run_id, store.experiment(experiment)
            ours = store.client.search_runs([experiment_id], f"tags.`{REPLACES_TAG}` = '{lost}'", max_results=1)
            if ours:
                run_id = ours[0].info.run_id
            else:
                logger.warning("MLflow run %s is not in %s: a run is opened in its place", lost, store.shown)
                run_id = store.client.create_run(experiment_id, tags={REPLACES_TAG: lost}, run_name=name).info.run_id
                store.client.set_terminated(run_id, "FINISHED")
        return cls(store, run_id, past=_Past(store, run_id, keep="equal"))

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record all metrics of a step in one call. NaN is kept as NaN, infinity as the largest float.

        A resumed run keeps the points it has; an attached run keeps those that are equal.
        """
        now = time.time_ns() // 1_000_000
        points = [
            entities.Metric(key, float(value), now, step)
            for key, value in metrics.items()
            if self._past is None or not self._past.has_point(key, step, float(value))
        ]
        if points:
            self._client.log_batch(self.id, metrics=points, synchronous=True)
        if self._lock is not None:
            # Should the process be killed, this is when its run ended.
            with suppress(FileNotFoundError):
                # Not the file system's own clock, which is coarser and may lie before the points' time.
                os.utime(self._lock, ns=(time.time_ns(), time.time_ns()))

    def log_image(self, step: int, key: str, image: np.ndarray) -> None:
        """Add a picture [H, W, C] (uint8; C = 1, 3 or 4) to the series `key`, which the run's page shows with a slider.

        It is stored when this returns. A resumed run keeps the pictures it has.
        """
        if image.dtype != np.uint8 or image.ndim != 3:
            raise ValueError(f"expected a uint8 picture [H, W, C], not {image.dtype} {list(image.shape)}")
        if self._past is None or not self._past.has_image(key, step):
            self._client.log_image(self.id, image, key=key, step=step, synchronous=True)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file, or the contents of a folder, under `folder` of the run's artifacts."""
        if path.is_dir():
            self._client.log_artifacts(self.id, str(path), folder)
        else:
            self._client.log_artifact(self.id, str(path), folder)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; what a tag held before is replaced."""
        for batch in _batches([entities.RunTag(key, str(value)) for key, value in tags.items()]):
            self._client.log_batch(self.id, tags=batch, synchronous=True)

    def _write_params(self, params: Mapping[str, str]) -> None:
        for batch in _batches([entities.Param(key, value) for key, value in params.items()]):
            self._client.log_batch(self.id, params=batch, synchronous=True)


def close_stale_runs(store: Store, experiment: str) -> list[str]:
    """Mark as KILLED every RUNNING run whose process on this machine is gone; return their ids.

    MLflow leaves the run of a killed process RUNNING for ever. Runs of other machines are left alone.
    """
    experiment_id, running = store.experiment(experiment), "attributes.status = 'RUNNING'"
    page = store.client.search_runs([experiment_id], running)
    found = list(page)
    while page.token:
        page = store.client.search_runs([experiment_id], running, page_token=page.token)
        found += page
    return [run.info.run_id for run in found if _close_if_stale(store, run)]


def _close_if_stale(store: Store, run: entities.Run) -> bool:
    path = Path(run.data.tags.get(LOCK_TAG, ""))
    if path.parent != store.locks or not path.exists():
        return False
    last_sign = path.stat().st_mtime
    with held(path) as free:
        # It may have ended by itself since the search.
        stale = free and store.client.get_run(run.info.run_id).info.status == "RUNNING"
        if stale:
            end = max(int(last_sign * 1000), run.info.start_time)
            store.client.set_terminated(run.info.run_id, "KILLED", end)
            logger.warning("MLflow run %s was left RUNNING by a process that is gone: now KILLED", run.info.run_id)
        if free:
            path.unlink(missing_ok=True)
    return stale


class _Past:
    """What a reopened run already holds, read when it is first asked for.

    Args:
        keep: `any` point of the same step, or only an `equal` one (then a changed figure is added).
    """

    def __init__(self, store: Store, run_id: str, keep: str) -> None:
        self._client: MlflowClient = store.client
        self._run_id = run_id
        self._keep = keep
        self._points: dict[str, dict[int, float]] = {}
        self._images: set[tuple[str, str]] | None = None

    def has_point(self, key: str, step: int, value: float) -> bool:
        if key not in self._points:
            history = self._client.get_metric_history(self._run_id, key)
            self._points[key] = {point.step: point.value for point in history}
        points = self._points[key]
        return step in points and (self._keep == "any" or np.array_equal(points[step], value, equal_nan=True))

    def has_image(self, key: str, step: int) -> bool:
        if self._images is None:
            # MLflow's naming: images/<key>+step+<step>+timestamp+<ms>+<uuid>.png, then the same +compressed.webp.
            names = [file.path.removeprefix("images/") for file in self._client.list_artifacts(self._run_id, "images")]
            complete = [name.split("+") for name in names if name.endswith("+compressed.webp")]
            self._images = {(part[0], part[2]) for part in complete if len(part) > 2}
        return (key.replace("/", "~"), str(step)) in self._images


def _find(store: Store, run_id: str) -> entities.Run | None:
    try:
        run = store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _not_written_before(params: Mapping[str, str], run: entities.Run) -> dict[str, str]:
    """MLflow writes a parameter once: those that have another value now keep the first one, with a warning."""
    stored = run.data.params
    differing = sorted(key for key, value in params.items() if key in stored and stored[key] != value)
    if differing:
        logger.warning("MLflow run %s keeps its first values of %s", run.info.run_id, ", ".join(differing))
    return {key: value for key, value in params.items() if key not in stored}


def _fit(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_PARAM_VAL_LENGTH else text[: MAX_PARAM_VAL_LENGTH - 1] + "…"


def _batches(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), MAX_PARAMS_TAGS_PER_BATCH):
        yield items[start : start + MAX_PARAMS_TAGS_PER_BATCH]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under an id without a name
        return str(os.getuid())


def _log_inputs(store: Store, run_id: str, inputs: Sequence[DatasetInput]) -> None:
    datasets = [
        entities.DatasetInput(
            entities.Dataset(item.name, item.digest, "local", json.dumps({"uri": item.source})),
            [entities.InputTag("mlflow.data.context", item.context)],
        )
        for item in inputs
    ]
    if datasets:
        store.client.log_inputs(run_id, datasets)


@contextmanager
def _held_lock(store: Store, run: entities.Run | None) -> Iterator[Path]:
    """Hold the run's lock file. It goes when the run is closed; without that, it stays behind, unlocked."""
    path = Path(run.data.tags.get(LOCK_TAG, "")) if run is not None else Path()
    if path.parent != store.locks:
        path = store.locks / f"{uuid.uuid4().hex}.lock"
    with held(path, wait=2) as free:
        if not free:
            assert run is not None
            process = f"process {run.data.tags.get('process.pid')} on {run.data.tags.get('process.host')}"
            raise UserError(f"MLflow run {run.info.run_id} is being written by {process}: wait for it, or end it")
        yield path


@contextmanager
def _status(store: Store, run_id: str, lock: Path) -> Iterator[None]:
    """Give the run the status that fits the way in which this context is left."""
    try:
        yield
    except BaseException as error:
        try:
            with _undisturbed(), impatient():
                _close(store, run_id, lock, "FAILED" if isinstance(error, Exception) else "KILLED")
        except MlflowException as second:
            # The reason why the training ended must not be hidden behind this.
            logger.warning("MLflow run %s could not be closed: %s", run_id, type(second).__name__)
        raise
    with _undisturbed():
        _close(store, run_id, lock, "FINISHED")


def _close(store: Store, run_id: str, lock: Path, status: str) -> None:
    store.client.set_terminated(run_id, status)
    lock.unlink(missing_ok=True)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP, which would end the process on the spot, raise SystemExit here, so that runs get closed."""

    def leave(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    numbers: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        # A handler of the program's own, or nohup's choice to ignore, stays.
        numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore signals for the moment in which a run is closed: a second Ctrl-C would leave it RUNNING."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(TypeError):  # None: a handler that was not installed from Python
                signal.signal(number, handler)


@contextmanager
def _system_metrics(store: Store, run_id: str) -> Iterator[None]:
    """Sample processor, memory and, with nvidia-ml-py, each GPU; every ten seconds unless MLflow is told otherwise."""
    monitor: Any = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
        run_id, resume_logging=True, tracking_uri=store.uri
    )
    # Disk and network of the host say nothing about a training and would double the number of series.
    monitor.monitors = [m for m in monitor.monitors if not isinstance(m, DiskMonitor | NetworkMonitor)]
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
