"""Destinations for the entries of a run: a journal, an outbox, or the store itself."""

from __future__ import annotations

import tempfile
from collections.abc import Sized
from pathlib import Path
from typing import Protocol

import numpy as np

from cyclegan.tracking.delivery import Delivery
from cyclegan.tracking.entries import Entry, ImageEntry
from cyclegan.tracking.journal import write_image
from cyclegan.tracking.store import Store
from cyclegan.tracking.store_errors import require_store


class Sink(Sized, Protocol):
    """Takes the entries of one run. Its length is the number of undelivered entries.

    `Journal` keeps them for a later process, `Outbox` delivers them in a thread, `StoreSink` at once.
    """

    def append(self, *entries: Entry) -> None:
        """Take entries in order."""

    def keep_image(self, image: np.ndarray) -> str:
        """Store an image [H, W, C] for an entry; return the value of its `file`."""

    def keep_files(self, path: Path) -> str:
        """Store a file or folder for an entry; return the value of its `file`."""


class StoreSink:
    """Delivers entries to the store at once, for a stage after the training."""

    def __init__(self, store: Store, delivery: Delivery) -> None:
        self._store, self._delivery = store, delivery

    def __len__(self) -> int:
        return 0

    def append(self, *entries: Entry) -> None:
        """Deliver entries.

        Raises:
            UserError: the store is unavailable.
        """
        try:
            with require_store(self._store):
                # The entries name their files by absolute paths.
                self._delivery.apply(entries, Path())
        finally:
            for entry in entries:
                if isinstance(entry, ImageEntry):
                    Path(entry.file).unlink(missing_ok=True)

    def keep_image(self, image: np.ndarray) -> str:
        with tempfile.NamedTemporaryFile(suffix=".npy", delete=False) as file:
            write_image(Path(file.name), image)
        return file.name

    def keep_files(self, path: Path) -> str:
        return str(path.resolve(strict=True))
