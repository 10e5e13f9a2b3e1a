"""Delivery of entries into one MLflow run: each as often as need be, with the result of once."""

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
from cyclegan.tracking.store_errors import lasting_refusal

# Entries delivered between two looks at the rest of the journal.
AT_ONCE = 200


class Past:
    """What a reopened run already holds, read when it is first asked for.

    Args:
        keep: `any` point of the same step, or only an `equal` one (then a changed metric is added).
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

    def note(self, metric: entities.Metric) -> None:
        """A point that the run holds from now on."""
        self._points[metric.key][metric.step] = metric.value

    def has_image(self, key: str, step: int) -> bool:
        if self._images is None:
            # MLflow's naming, see Delivery: the compressed image comes last.
            names = [file.path.removeprefix("images/") for file in self._client.list_artifacts(self._run_id, "images")]
            complete = [name.split("+") for name in names if name.endswith("+compressed.webp")]
            self._images = {(part[0], part[2]) for part in complete if len(part) > 2}
        return (key.replace("/", "~"), str(step)) in self._images

    def note_image(self, key: str, step: int) -> None:
        """An image that the run holds from now on."""
        if self._images is not None:
            self._images.add((key.replace("/", "~"), str(step)))


class Delivery:
    """Brings entries into one run.

    Args:
        past: what the run holds of what may come again; None: it is new.
    """

    def __init__(self, store: Store, run_id: str, past: Past | None = None) -> None:
        self._store, self._client = store, store.client
        self.run_id = run_id
        self._past = past

    def apply(self, entries: Sequence[Entry], folder: Path) -> None:
        """Bring entries into the run, in their order.

        Args:
            folder: where the files lie that they name.
        """
        points: list[entities.Metric] = []
        for entry in entries:
            if isinstance(entry, FileEntry) and not (folder / entry.file).exists():
                # It was delivered, and its file removed, by a process that was killed before it emptied the journal.
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

    def run_is_gone(self) -> bool:
        """Whether somebody has deleted the run."""
        return self._store.run(self.run_id) is None

    def run_answers(self) -> bool:
        """Whether the store can be reached and has the run."""
        try:
            return not self.run_is_gone()
        except Exception:
            return False

    def lasting_refusal(self, error: Exception) -> str | None:
        """Why the store takes no files, if that cannot pass by itself."""
        return lasting_refusal(error, self._store)

    def log_files(self, path: Path, folder: str | None) -> None:
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder)
        else:
            self._client.log_artifact(self.run_id, str(path), folder)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Set tags; what a tag held before is replaced."""
        for batch in batches([entities.RunTag(key, str(value)) for key, value in tags.items()]):
            self._client.log_batch(self.run_id, tags=batch, synchronous=True)

    def _new_points(self, entry: MetricsEntry, before: Sequence[entities.Metric]) -> list[entities.Metric]:
        """The points of an entry that the run does not hold, nor will hold from what comes before it."""
        points = [entities.Metric(key, value, entry.time, entry.step) for key, value in entry.values.items()]
        if self._past is None:
            return points
        coming = {(point.key, point.step) for point in before}
        return [
            point
            for point in points
            if (point.key, point.step) not in coming and not self._past.has_point(point.key, point.step, point.value)
        ]

    def _log(self, points: list[entities.Metric]) -> None:
        for batch in batches(points, MAX_METRICS_PER_BATCH):
            # MLflow takes a point of equal step, value and time for the same one.
            self._client.log_batch(self.run_id, metrics=batch, synchronous=True)
            if self._past is not None:
                for point in batch:
                    self._past.note(point)

    def _log_image(self, entry: ImageEntry, file: Path) -> None:
        if self._past is not None and self._past.has_image(entry.key, entry.step):
            return
        # What MlflowClient.log_image does, but under names that are the same at a second attempt.
        key = entry.key.replace("/", "~")
        name = f"{key}+step+{entry.step}+timestamp+{entry.time}+{entry.id}"
        pixels = read_image(file)
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        with tempfile.TemporaryDirectory() as folder:
            full, small = Path(folder) / f"{name}.png", Path(folder) / f"{name}+compressed.webp"
            # Compression 1: Pillow's own takes twice the time for a file that is a few per cent smaller.
            image.save(full, compress_level=1)
            compress_image_size(image).save(small)
            for written in (full, small):
                self._client.log_artifact(self.run_id, str(written), "images")
        self._client.set_tag(self.run_id, MLFLOW_LOGGED_IMAGES, "True", synchronous=True)
        if self._past is not None:
            self._past.note_image(entry.key, entry.step)


def deliver_all(journal: Journal, delivery: Delivery, upload: bool = True) -> Exception | None:
    """Bring all of a journal that nobody writes to into its run; return why files were refused, which then wait.

    Args:
        upload: False: all files wait, too.
    """
    refused: Exception | None = None
    while journal.pending:
        refused = deliver_next(journal, delivery, upload) or refused
    return refused


def deliver_next(journal: Journal, delivery: Delivery, upload: bool = True) -> Exception | None:
    """Bring the oldest entries of a journal into its run; set a file aside that alone is refused.

    Files need not lie where metrics and tags do: their store may be out of reach, or a proxy may refuse their size.

    Args:
        upload: False: set a file aside without a try.

    Returns:
        Why a file was refused.
    """
    entries = journal.oldest(AT_ONCE)
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
        if not delivery.run_answers():
            raise
        journal.set_aside(for_good=delivery.lasting_refusal(error) is not None)
        return error
    journal.drop(1)
    return None


def batches(items: list[Any], size: int = MAX_PARAMS_TAGS_PER_BATCH) -> Iterator[list[Any]]:
    """As many at once as MLflow takes."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
