"""One training is one MLflow run, however often it is interrupted, and its status is always the truth."""

from __future__ import annotations

import getpass
import json
import logging
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import entities
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from cyclegan.errors import UserError
from cyclegan.locks import held
from cyclegan.signals import signals_raise, undisturbed
from cyclegan.tracking.credentials import without_credentials
from cyclegan.tracking.delivery import AT_ONCE, Delivery, Past, Sender, batches, is_hopeless, reason
from cyclegan.tracking.host import PREFIX, host_figures
from cyclegan.tracking.journal import ABOUT, Entry, Journal, journals, only_user, stamped, write_picture
from cyclegan.tracking.store import LOCK_TAG, Store, impatient

# On a run that was opened in place of an id that the store does not know: it lost that run, or never had it, offline.
REPLACES_TAG = "cyclegan.replaces"
PROCESS_TAGS = ("process.pid", "process.host", "mlflow.user")
# Where a resumption differs in these from the first process, it is noted beside them.
RESUMED_TAGS = {"git.commit": "cyclegan.resumed_at_commit", "device": "cyclegan.resumed_on_device"}
# A server that needs longer than this is away for now.
PATIENCE_SECONDS = 10

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
    """A run that metrics, pictures and files go to.

    Made by `start` for a training, by `offline` for one without a tracking server, by `attach` for later stages.
    """

    def __init__(
        self,
        run_id: str,
        *,
        delivery: Delivery | None = None,
        journal: Journal | None = None,
        sender: Sender | None = None,
        lock: Path | None = None,
    ) -> None:
        self.id = run_id
        self._delivery, self._journal, self._sender, self._lock = delivery, journal, sender, lock

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

        What is recorded goes into a journal on disk first and from there to the store, which may be away for a while:
        the training goes on. What could not be delivered by the end stays in the journal, and a warning says so; see
        `deliver_waiting`.

        The run ends FINISHED, or FAILED after an exception, or KILLED after Ctrl-C, SIGTERM or SIGHUP; the last two
        raise SystemExit inside the context, unless the program handles them itself.

        Args:
            experiment: its name; created where it does not exist.
            params: flat; written once, values over MLflow's limit are cut, credentials in URIs are left out.
            tags: where a resumed run has one already, it keeps it.
            resume: id of the run to go on with; of `params` it takes those that it does not have yet. If the store no
                longer has it, a new run is opened, with a warning.

        Raises:
            UserError: another live process writes to the run, the store went away, or see `Store.experiment`.
        """
        about = _about(resume, experiment, name, params, tags, inputs)
        with signals_raise(), impatient(PATIENCE_SECONDS):
            with away_is_an_error(store):
                found = None if resume is None else find_run(store, resume, experiment)
            if resume is not None and found is None:
                logger.warning("MLflow run %s is no longer in %s: a new run is opened", resume, store.shown)
            with _held_lock(store, found) as lock:
                with away_is_an_error(store):
                    about["tags"][LOCK_TAG] = str(lock)
                    run_id = _open_run(store, about, found)
                with (
                    _status_if_not_begun(store, run_id, lock),
                    only_user(store.journals / run_id, wait=2) as free,
                ):
                    if not free:
                        raise UserError(f"{store.journals / run_id} is in use by another process: wait for it")
                    past = None if found is None else Past(store, run_id, keep="any")
                    delivery = Delivery(store, run_id, past)
                    journal = Journal(store.journals / run_id, {**about, "run_id": run_id, "params": {}, "inputs": []})
                    with away_is_an_error(store):
                        _deliver_all(journal, delivery)
                        if found is not None:
                            store.client.update_run(run_id, status="RUNNING")
                    sender = Sender(journal, delivery, store.shown)
                    run = cls(run_id, journal=journal, sender=sender, lock=lock)
                    with _ended(run, journal), host_figures(run._log_host, _next_host_step(found, journal)):
                        yield run

    @classmethod
    @contextmanager
    def offline(
        cls,
        journals: Path,
        *,
        experiment: str,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        inputs: Sequence[DatasetInput] = (),
        resume: str | None = None,
    ) -> Iterator[TrackedRun]:
        """As `start`, but nothing is delivered: all stays in the journal until `deliver_waiting`.

        The run gets an id of its own. The MLflow run that is opened at last has that id as its tag `cyclegan.replaces`,
        by which later stages find it.

        Args:
            journals: the folder of all journals.

        Raises:
            UserError: another live process writes to the run.
        """
        run_id = resume or uuid.uuid4().hex
        about = _about(run_id, experiment, name, params, tags, inputs)
        with signals_raise(), only_user(journals / run_id, wait=2) as free:
            if not free:
                raise UserError(f"{journals / run_id} is being written by another process: wait for it, or end it")
            journal = Journal(journals / run_id, _merged(journals / run_id, about))
            run = cls(run_id, journal=journal)
            with _ended(run, journal), host_figures(run._log_host, _next_host_step(None, journal)):
                yield run

    @classmethod
    def attach(cls, store: Store, run_id: str, *, experiment: str, name: str) -> TrackedRun:
        """Write to a run that has ended, leaving its status, name and end as they are.

        A store that has lost the run (a fresh clone with cached stage outputs, say) gets a finished run in its
        place, with a warning; attaching again finds that same run.

        Raises:
            UserError: see `Store.experiment`.
        """
        found = find_run(store, run_id, experiment)
        if found is None:
            lost, experiment_id = run_id, store.experiment(experiment)
            logger.warning("MLflow run %s is not in %s: a run is opened in its place", lost, store.shown)
            run_id = store.client.create_run(experiment_id, tags={REPLACES_TAG: lost}, run_name=name).info.run_id
            store.client.set_terminated(run_id, "FINISHED")
        else:
            run_id = found.info.run_id
        return cls(run_id, delivery=Delivery(store, run_id, past=Past(store, run_id, keep="equal")))

    @classmethod
    @contextmanager
    def attach_offline(cls, journals: Path, run_id: str, *, experiment: str, name: str) -> Iterator[TrackedRun]:
        """As `attach`, but into the run's journal.

        Raises:
            UserError: another live process writes to the run.
        """
        with only_user(journals / run_id, wait=2) as free:
            if not free:
                raise UserError(f"{journals / run_id} is being written by another process: wait for it, or end it")
            about = _merged(journals / run_id, _about(run_id, experiment, name, {}, {}, ()))
            yield cls(run_id, journal=Journal(journals / run_id, about))

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record all metrics of a step. NaN is kept as NaN, infinity as the largest float.

        A resumed run keeps the points it has; an attached run keeps those that are equal.
        """
        self.log_rows([(step, metrics)])
        if self._lock is not None:
            # Should the process be killed, this is when its run ended.
            with suppress(FileNotFoundError):
                # Not the file system's own clock, which is coarser and may lie before the points' time.
                os.utime(self._lock, ns=(time.time_ns(), time.time_ns()))

    def log_rows(self, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Record many steps, `(step, metrics)`, as `log_metrics` does."""
        self._record(
            *(
                {"kind": "metrics", "step": step, "values": {key: float(value) for key, value in metrics.items()}}
                for step, metrics in rows
            )
        )

    def log_image(self, step: int, key: str, image: np.ndarray) -> None:
        """Add a picture [H, W, C] (uint8; C = 1, 3 or 4) to the series `key`, which the run's page shows with a slider.

        A resumed run keeps the pictures it has.
        """
        if image.dtype != np.uint8 or image.ndim != 3:
            raise ValueError(f"expected a uint8 picture [H, W, C], not {image.dtype} {list(image.shape)}")
        entry = {"kind": "image", "step": step, "key": key}
        if self._journal is not None:
            self._record({**entry, "file": self._journal.keep_picture(image)})
            return
        assert self._delivery is not None
        with tempfile.TemporaryDirectory() as folder:
            write_picture(Path(folder) / "picture", image)
            self._delivery.apply([stamped({**entry, "file": "picture"})], Path(folder))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file, or the contents of a folder, under `folder` of the run's artifacts."""
        if self._journal is not None:
            self._record({"kind": "files", "folder": folder, "file": self._journal.keep_files(path)})
        else:
            assert self._delivery is not None
            self._delivery.log_files(path, folder)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; what a tag held before is replaced."""
        self._record({"kind": "tags", "tags": {key: without_credentials(str(value)) for key, value in tags.items()}})

    def delivered(self, patience: float = 20.0) -> bool:
        """Wait until the store has all that was recorded so far; False if it did not take it in so many seconds."""
        deadline = time.monotonic() + patience
        while self._journal is not None and len(self._journal) and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self._journal

    def _record(self, *entries: Entry) -> None:
        if self._journal is None:
            assert self._delivery is not None
            self._delivery.apply([stamped(entry) for entry in entries], Path())
            return
        if self._sender is not None and self._sender.failure is not None:
            raise self._sender.failure
        self._journal.append(*entries)

    def _log_host(self, step: int, metrics: Mapping[str, float]) -> None:
        self.log_rows([(step, metrics)])

    def _end(self, status: str, patience: float, limit: float) -> None:
        """Note how the run ended, and deliver what is left as far as that is possible in so many seconds."""
        assert self._journal is not None
        self._journal.append({"kind": "end", "status": status})
        if self._lock is not None:
            # From here on the journal knows how the run ended, whether or not the store does.
            self._lock.unlink(missing_ok=True)
        if self._sender is not None:
            if self._sender.finish(patience, limit):
                self._journal.remove()
            elif self._sender.failure is not None:
                raise self._sender.failure
        if len(self._journal):
            logger.warning(
                "%d entries for MLflow run %s wait in %s: 'cyclegan sync', or the next training, delivers them",
                len(self._journal), self.id, self._journal.folder,
            )  # fmt: skip


def deliver_waiting(store: Store) -> dict[str, int]:
    """Deliver the journals that trainings have left behind; return the number of entries for each MLflow run.

    Those of trainings that are still alive are left to them. A run whose trainer vanished without saying how it ended
    becomes KILLED. A journal that cannot be delivered at all (its run was deleted for good, say) is left, with a
    warning.

    Raises:
        UserError: the store went away meanwhile; what is left stays in its journal.
    """
    done: dict[str, int] = {}
    for folder in journals(store.journals):
        with only_user(folder) as free:
            # It may have been delivered by another process since it was listed.
            if not free or not (folder / ABOUT).is_file():
                continue
            journal = Journal(folder)
            about, count, last = journal.about, len(journal), [*journal.all()][-1:]
            with away_is_an_error(store):
                found = find_run(store, about["run_id"], about["experiment"])
                if found is None and not count and not about["params"]:
                    # Left by a killed process whose run the store has lost since: nothing to tell.
                    journal.remove()
                    continue
                run_id = _open_run(store, about, found)
                _deliver_all(journal, Delivery(store, run_id, Past(store, run_id, keep="any")))
                run = store.client.get_run(run_id)
                if run.info.status == "RUNNING" and LOCK_TAG not in run.data.tags:
                    end = last[0]["time"] if last else about["time"]
                    store.client.set_terminated(run_id, "KILLED", end)
            journal.remove()
            done[run_id] = count
    return done


def find_run(store: Store, run_id: str, experiment: str) -> entities.Run | None:
    """The run of this id, or the one that was opened in its place; None if there is neither."""
    if found := _find(store, run_id):
        return found
    ours = store.client.search_runs(
        [store.experiment(experiment)], f"tags.`{REPLACES_TAG}` = '{run_id}'", max_results=1
    )
    return ours[0] if ours else None


def _deliver_all(journal: Journal, delivery: Delivery) -> None:
    while entries := journal.oldest(AT_ONCE):
        delivery.apply(entries, journal.folder)
        journal.drop(len(entries))


def _about(
    run_id: str | None,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str] | None,
    inputs: Sequence[DatasetInput],
) -> dict[str, Any]:
    """All that is needed to open a run, now or later."""
    return {
        "run_id": run_id,
        "experiment": experiment,
        "name": name,
        "time": time.time_ns() // 1_000_000,
        "params": {key: _fit(value) for key, value in params.items()},
        "tags": {key: without_credentials(str(value)) for key, value in (tags or {}).items()}
        | {"process.pid": str(os.getpid()), "process.host": socket.gethostname(), "mlflow.user": _user()},
        "inputs": [{**asdict(item), "source": without_credentials(item.source)} for item in inputs],
    }


def _merged(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What an earlier process wrote down of the same run comes first."""
    if not (folder / ABOUT).is_file():
        return about
    before = Journal(folder).about
    tags = {**about["tags"], **before["tags"], **_of_this_process(before["tags"], about["tags"])}
    return {**about, **before, "tags": tags, "params": {**about["params"], **before["params"]}}


def _of_this_process(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """The tags that a resumption replaces or adds; all others keep what they held first."""
    replaced = {key: now[key] for key in (*PROCESS_TAGS, LOCK_TAG) if key in now}
    for key, tag in RESUMED_TAGS.items():
        if key in now and before.get(key, now[key]) != now[key]:
            replaced[tag] = now[key]
    return replaced


def _open_run(store: Store, about: Mapping[str, Any], found: entities.Run | None) -> str:
    """Create the run, or bring one up to date; return its id."""
    if found is None:
        experiment_id = store.experiment(about["experiment"])
        tags = {key: about["tags"][key] for key in (*PROCESS_TAGS, LOCK_TAG) if key in about["tags"]}
        if about["run_id"] is not None:
            tags[REPLACES_TAG] = about["run_id"]
        run_id = store.client.create_run(experiment_id, about["time"], tags, about["name"]).info.run_id
        new = dict(about["tags"])
    else:
        run_id, before = found.info.run_id, found.data.tags
        new = {key: value for key, value in about["tags"].items() if key not in before}
        new |= _of_this_process(before, about["tags"])
    # On a run that was there, too: its process may have been killed between creating it and this.
    Delivery(store, run_id).set_tags(new)
    params = about["params"] if found is None else _not_written_before(about["params"], found)
    for batch in batches([entities.Param(key, value) for key, value in params.items()]):
        store.client.log_batch(run_id, params=batch, synchronous=True)
    _log_inputs(store, run_id, [DatasetInput(**item) for item in about["inputs"]])
    return run_id


@contextmanager
def away_is_an_error(store: Store) -> Iterator[None]:
    """For what cannot go on without the store: one line that says what can be done."""
    try:
        yield
    except MlflowException as error:
        if is_hopeless(error):
            raise
        raise UserError(
            f"MLflow at {store.shown} went away or refuses to be written: bring it back, or set tracking.offline: true "
            f"to do without it and deliver later ({reason(error)})"
        ) from error


def _next_host_step(run: entities.Run | None, journal: Journal) -> int:
    """Host figures have steps of their own, which a resumption goes on with."""
    steps = [entry["step"] for entry in journal.all() if any(key.startswith(PREFIX) for key in entry.get("values", {}))]
    if run is not None:
        steps += [metric.step for metric in run.data._metric_objs if metric.key.startswith(PREFIX)]
    return max(steps, default=-1) + 1


@contextmanager
def _ended(run: TrackedRun, journal: Journal) -> Iterator[None]:
    """Give the run the status that fits the way in which this context is left."""
    try:
        yield
    except BaseException as error:
        try:
            with undisturbed():
                if isinstance(error, Exception):
                    run._end("FAILED", patience=5, limit=30)
                else:
                    run._end("KILLED", patience=2, limit=3)
        except (OSError, MlflowException) as second:
            # The reason why the training ended must not be hidden behind this.
            logger.warning("MLflow run %s could not be closed: %s", run.id, type(second).__name__)
        raise
    with undisturbed():
        run._end("FINISHED", patience=10, limit=float("inf"))


@contextmanager
def _status_if_not_begun(store: Store, run_id: str, lock: Path) -> Iterator[None]:
    """A run that was opened, and whose training then could not begin, must not stay RUNNING."""
    try:
        yield
    except BaseException as error:
        if lock.exists():
            with suppress(MlflowException), undisturbed():
                status = "FAILED" if isinstance(error, Exception) else "KILLED"
                store.client.set_terminated(run_id, status)
                lock.unlink()
        raise


def close_stale_runs(store: Store, experiment: str) -> list[str]:
    """Mark as KILLED every RUNNING run whose process on this machine is gone; return their ids.

    MLflow leaves the run of a killed process RUNNING for ever. Runs of other machines are left alone.
    """
    with away_is_an_error(store):
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
    text = without_credentials(str(value))
    return text if len(text) <= MAX_PARAM_VAL_LENGTH else text[: MAX_PARAM_VAL_LENGTH - 1] + "…"


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
