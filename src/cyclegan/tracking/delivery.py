"""Idempotent delivery of journal entries into one MLflow run: a repeated entry is recorded once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient, entities
from mlflow.tracking.multimedia import compress_image_size
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES
from mlflow.utils.validation import MAX_METRICS_PER_BATCH, MAX_PARAMS_TAGS_PER_BATCH
from PIL import Image

from cyclegan.tracking.entries import ArtifactEntry, EndEntry, Entry, FileEntry, ImageEntry, MetricsEntry, TagsEntry
from cyclegan.tracking.journal import Journal, read_image
from cyclegan.tracking.store import Store
from cyclegan.tracking.store_errors import permanent_refusal

# Number of entries that one delivery takes from the journal.
ENTRIES_AT_ONCE = 200


class RunContents:
    """Metrics and images that a reopened run already holds, read from the store on first use.

    Args:
        keep: `any`: a stored point of the same step counts as recorded; `equal`: only if its value is equal, so that a
            changed metric is added.
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

    def add_point(self, metric: entities.Metric) -> None:
        """Note a point that was delivered."""
        self._points[metric.key][metric.step] = metric.value

    def has_image(self, key: str, step: int) -> bool:
        if self._images is None:
            # The names are those of Delivery._log_image, which writes the compressed image last.
            names = [file.path.removeprefix("images/") for file in self._client.list_artifacts(self._run_id, "images")]
            complete = [name.split("+") for name in names if name.endswith("+compressed.webp")]
            self._images = {(part[0], part[2]) for part in complete if len(part) > 2}
        return (key.replace("/", "~"), str(step)) in self._images

    def add_image(self, key: str, step: int) -> None:
        """Note an image that was delivered."""
        if self._images is not None:
            self._images.add((key.replace("/", "~"), str(step)))


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
        for batch in batches([entities.RunTag(key, str(value)) for key, value in tags.items()]):
            self._client.log_batch(self.run_id, tags=batch, synchronous=True)

    def _new_points(self, entry: MetricsEntry, queued: Sequence[entities.Metric]) -> list[entities.Metric]:
        """The points of an entry that are neither in the run nor in `queued`, which is delivered first."""
        points = [entities.Metric(key, value, entry.time, entry.step) for key, value in entry.values.items()]
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
        if self._contents is not None and self._contents.has_image(entry.key, entry.step):
            return
        # As MlflowClient.log_image, but with names that do not change at a second attempt.
        key = entry.key.replace("/", "~")
        name = f"{key}+step+{entry.step}+timestamp+{entry.time}+{entry.id}"
        pixels = read_image(file)
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        with tempfile.TemporaryDirectory() as folder:
            full, small = Path(folder) / f"{name}.png", Path(folder) / f"{name}+compressed.webp"
            # Pillow's default compression takes twice the time, for a file that is a few percent smaller.
            image.save(full, compress_level=1)
            compress_image_size(image).save(small)
            for written in (full, small):
                self._client.log_artifact(self.run_id, str(written), "images")
        self._client.set_tag(self.run_id, MLFLOW_LOGGED_IMAGES, "True", synchronous=True)
        if self._contents is not None:
            self._contents.add_image(entry.key, entry.step)


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
