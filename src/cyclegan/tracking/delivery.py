"""Idempotent delivery of journal entries into one MLflow run: a repeated entry is recorded once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from mlflow import MlflowClient, entities
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from mlflow.utils.validation import MAX_METRICS_PER_BATCH, MAX_PARAMS_TAGS_PER_BATCH
from PIL import Image

from cyclegan.tracking.entries import ArtifactEntry, EndEntry, Entry, FileEntry, ImageEntry, MetricsEntry, TagsEntry
from cyclegan.tracking.journal import Journal, read_image
from cyclegan.tracking.series import mlflow_name
from cyclegan.tracking.store import Store
from cyclegan.tracking.store_errors import permanent_refusal

# Number of entries that one delivery takes from the journal.
ENTRIES_AT_ONCE = 200
# Stands for the id of the run in its description: a run that was recorded offline gets its id at the delivery.
RUN_ID = "{run_id}"


class RunContents:
    """Metrics and files that a reopened run already holds, read from the store on first use.

    Args:
        keep: `any`: a stored point of the same step counts as recorded; `equal`: only if its value is equal, so that a
            changed metric is added.
    """

    def __init__(self, store: Store, run_id: str, keep: str) -> None:
        self._client: MlflowClient = store.client
        self._run_id = run_id
        self._keep = keep
        self._points: dict[str, dict[int, float]] = {}
        self._files: dict[str, set[str]] = {}
        self._has_plain_names: bool | None = None

    def name_of(self, series: str) -> str:
        """The name of a series in this run. A run of an earlier version keeps its names without numbers."""
        if self._has_plain_names is None:
            stored = self._client.get_run(self._run_id).data.metrics
            self._has_plain_names = any(mlflow_name(name) != name for name in stored)
        return series if self._has_plain_names else mlflow_name(series)

    def has_point(self, key: str, step: int, value: float) -> bool:
        if key not in self._points:
            history = self._client.get_metric_history(self._run_id, key)
            self._points[key] = {point.step: point.value for point in history}
        points = self._points[key]
        return step in points and (self._keep == "any" or np.array_equal(points[step], value, equal_nan=True))

    def add_point(self, metric: entities.Metric) -> None:
        """Note a point that was delivered."""
        self._points[metric.key][metric.step] = metric.value

    def has_file(self, path: str) -> bool:
        """Whether the run has an artifact."""
        folder = _parent(path)
        if folder not in self._files:
            self._files[folder] = {file.path for file in self._client.list_artifacts(self._run_id, folder or None)}
        return path in self._files[folder]

    def add_file(self, path: str) -> None:
        """Note a file that was delivered."""
        self._files.get(_parent(path), set()).add(path)


class Delivery:
    """Delivers entries to one run.

    Args:
        contents: what the run already holds; None for a new run.
    """

    def __init__(self, store: Store, run_id: str, contents: RunContents | None = None) -> None:
        self._store, self._client = store, store.client
        self.run_id = run_id
        self._contents = contents

    def apply(self, entries: Sequence[Entry], folder: Path) -> None:
        """Deliver entries in order.

        Args:
            folder: the folder of the files that they name.
        """
        points: list[entities.Metric] = []
        for entry in entries:
            if isinstance(entry, FileEntry) and not (folder / entry.file).exists():
                # A process delivered it, removed its file, and was killed before it emptied the journal.
                continue
            if isinstance(entry, MetricsEntry):
                points += self._new_points(entry, points)
                continue
            self._log(points)
            points = []
            match entry:
                case TagsEntry():
                    self.set_tags(entry.tags)
                case ImageEntry():
                    self._log_image(entry, folder / entry.file)
                case ArtifactEntry():
                    self.log_files(folder / entry.file, entry.folder)
                case EndEntry():
                    self._client.set_terminated(self.run_id, entry.status, entry.time)
        self._log(points)

    def is_run_deleted(self) -> bool:
        """Whether the run was deleted."""
        return self._store.run(self.run_id) is None

    def is_run_reachable(self) -> bool:
        """Whether the store is available and has the run."""
        try:
            return not self.is_run_deleted()
        except Exception:
            return False

    def permanent_refusal(self, error: Exception) -> str | None:
        """Why the store permanently refuses files; None for a temporary error."""
        return permanent_refusal(error, self._store)

    def log_files(self, path: Path, folder: str | None) -> None:
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder)
        else:
            self._client.log_artifact(self.run_id, str(path), folder)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Set tags, replacing earlier values."""
        if MLFLOW_RUN_NOTE in tags:
            tags = {**tags, MLFLOW_RUN_NOTE: tags[MLFLOW_RUN_NOTE].replace(RUN_ID, self.run_id)}
        for batch in batches([entities.RunTag(key, str(value)) for key, value in tags.items()]):
            self._client.log_batch(self.run_id, tags=batch, synchronous=True)

    def _new_points(self, entry: MetricsEntry, queued: Sequence[entities.Metric]) -> list[entities.Metric]:
        """The points of an entry that are neither in the run nor in `queued`, which is delivered first."""
        name_of = mlflow_name if self._contents is None else self._contents.name_of
        points = [entities.Metric(name_of(key), value, entry.time, entry.step) for key, value in entry.values.items()]
        if self._contents is None:
            return points
        queued_steps = {(point.key, point.step) for point in queued}
        return [
            point
            for point in points
            if (point.key, point.step) not in queued_steps
            and not self._contents.has_point(point.key, point.step, point.value)
        ]

    def _log(self, points: list[entities.Metric]) -> None:
        for batch in batches(points, MAX_METRICS_PER_BATCH):
            # MLflow ignores a point whose step, value and time it already has.
            self._client.log_batch(self.run_id, metrics=batch, synchronous=True)
            if self._contents is not None:
                for point in batch:
                    self._contents.add_point(point)

    def _log_image(self, entry: ImageEntry, file: Path) -> None:
        path = entry.path
        if self._contents is not None and self._contents.has_file(path):
            return
        pixels = read_image(file)
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / PurePosixPath(path).name
            # Pillow's default compression takes twice the time, for a file that is a few percent smaller.
            image.save(written, compress_level=1)
            self._client.log_artifact(self.run_id, str(written), _parent(path) or None)
        if self._contents is not None:
            self._contents.add_file(path)


def _parent(path: str) -> str:
    """The folder of an artifact; empty for the root."""
    return path.rpartition("/")[0]


def deliver_all(journal: Journal, delivery: Delivery, upload: bool = True) -> Exception | None:
    """Deliver a whole journal that no process writes to.

    Args:
        upload: whether to deliver files; otherwise they stay in the journal.

    Returns:
        Why a file was refused, which then stays in the journal.
    """
    refused: Exception | None = None
    while journal.pending:
        refused = deliver_next(journal, delivery, upload) or refused
    return refused


def deliver_next(journal: Journal, delivery: Delivery, upload: bool = True) -> Exception | None:
    """Deliver the oldest entries of a journal, and set aside a file that is refused while the run is reachable.

    Files and metrics may have different stores. That of the files may be unavailable, or a proxy may refuse their size.

    Args:
        upload: whether to try files; otherwise they are set aside at once.

    Returns:
        Why a file was refused.
    """
    entries = journal.oldest(ENTRIES_AT_ONCE)
    others = list(takewhile(lambda entry: not isinstance(entry, FileEntry), entries))
    if others:
        delivery.apply(others, journal.folder)
        journal.drop(len(others))
        return None
    if not upload:
        journal.set_aside()
        return None
    try:
        delivery.apply(entries[:1], journal.folder)
    except Exception as error:
        if not delivery.is_run_reachable():
            raise
        journal.set_aside(for_good=delivery.permanent_refusal(error) is not None)
        return error
    journal.drop(1)
    return None


def batches(items: list[Any], size: int = MAX_PARAMS_TAGS_PER_BATCH) -> Iterator[list[Any]]:
    """Split `items` into batches of at most `size`, MLflow's limit."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
