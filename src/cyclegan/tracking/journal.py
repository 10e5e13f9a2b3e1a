"""The journal: a run's entries on disk, kept until the store has them. They survive kills and server failures."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import threading
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np

from cyclegan.system.errors import UserError
from cyclegan.system.files import sync_folder, write_json, write_text
from cyclegan.system.locks import held
from cyclegan.tracking.description import RunDescription
from cyclegan.tracking.entries import EndEntry, Entry, FileEntry, from_line, to_line

ABOUT, ENTRIES, LOCK = "about.json", "entries.jsonl", "lock"

logger = logging.getLogger(__name__)


class JournalError(UserError):
    """A journal that this version cannot read.

    Attributes:
        fault: the cause, and the remedy that delivers the entries.
    """

    def __init__(self, file: Path, cause: str) -> None:
        self.fault = f"{file.name} was written by another version or is corrupt ({cause}); deliver it with that version"
        super().__init__(f"{file.parent}: {self.fault}, or delete the folder")


class Journal:
    """The undelivered entries of one run, oldest first: an append-only file of JSON lines.

    An entry is durable when `append` returns. A process that is killed may deliver an entry twice; its id and time then
    prevent a second record. When all entries are delivered, the file is emptied. Any thread may append; only one may
    remove entries. `try_lock_journal` excludes other processes.

    An entry that is refused can be set aside. Later entries are then delivered first.

    Args:
        folder: the run's own; created if missing.
        description: of the run, for the process that delivers the entries; None if the folder already holds it.

    Raises:
        JournalError: this version cannot read the entries in the folder.
    """

    def __init__(self, folder: Path, description: RunDescription | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if description is not None:
            write_json(folder / ABOUT, asdict(description))
        self._file = folder / ENTRIES
        self._changed = threading.Condition()
        self._entries: deque[Entry] = deque(_read(self._file))
        self._aside: list[Entry] = []
        self._refused: list[Entry] = []

    def __len__(self) -> int:
        return len(self._entries) + len(self._aside) + len(self._refused)

    @property
    def pending(self) -> int:
        """The number of entries that are not set aside."""
        return len(self._entries)

    @property
    def aside(self) -> int:
        """The number of entries that `take_back` returns to the queue."""
        return len(self._aside)

    @property
    def description(self) -> RunDescription:
        return read_description(self.folder)

    def append(self, *entries: Entry) -> None:
        """Add entries."""
        with self._changed:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(_lines(entries))
                file.flush()
                os.fsync(file.fileno())
            self._entries += entries
            self._changed.notify_all()

    def keep_image(self, image: np.ndarray) -> str:
        """Store an image [H, W, C] beside the entries; return its file name for an entry."""
        name = f"{uuid.uuid4().hex}.npy"
        write_image(self.folder / name, image)
        return name

    def keep_files(self, path: Path) -> str:
        """Copy a file or folder beside the entries; return its path for an entry."""
        name = uuid.uuid4().hex
        (self.folder / name).mkdir()
        target = self.folder / name / path.name
        _ = shutil.copytree(path, target) if path.is_dir() else shutil.copy2(path, target)
        for file in [target, *target.rglob("*")]:
            sync_folder(file)
        return f"{name}/{path.name}"

    def wait_for_entry(self, seconds: float) -> bool:
        """Wait at most `seconds` for an entry that is not set aside; return whether there is one."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._entries), seconds)

    def oldest(self, count: int) -> list[Entry]:
        with self._changed:
            return list(islice(self._entries, count))

    def drop(self, count: int) -> None:
        """Remove the oldest entries, which have been delivered."""
        with self._changed:
            delivered = [self._entries.popleft() for _ in range(count)]
            self._forget_delivered()
        for entry in delivered:
            if isinstance(entry, FileEntry):
                kept = self.folder / entry.file.split("/")[0]
                if kept.is_dir():
                    shutil.rmtree(kept, ignore_errors=True)
                else:
                    kept.unlink(missing_ok=True)

    def set_aside(self, for_good: bool = False) -> None:
        """Move the oldest entry out of the queue.

        Args:
            for_good: keep it out until another process reads the journal.
        """
        with self._changed:
            (self._refused if for_good else self._aside).append(self._entries.popleft())
            self._forget_delivered()

    def take_back(self) -> None:
        """Put the entries that were set aside in front of the queue, the one that was tried first behind the others."""
        with self._changed:
            self._entries.extendleft(reversed([*self._aside[1:], *self._aside[:1]]))
            self._aside.clear()
            self._changed.notify_all()

    def _forget_delivered(self) -> None:
        """Once the queue is empty, keep in the file only the entries that are set aside."""
        if self._entries:
            return
        if wait_for_entry := [*self._refused, *self._aside]:
            # On a full disk the file keeps the delivered entries. Delivering them again does no harm.
            with suppress(OSError):
                write_text(self._file, _lines(wait_for_entry))
        else:
            os.truncate(self._file, 0)

    def all(self) -> Iterator[Entry]:
        yield from [*self._refused, *self._aside, *self._entries]

    def remove(self) -> None:
        """Remove the folder if the journal is empty."""
        if not len(self):
            shutil.rmtree(self.folder)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image [H, W, C] durably, for `read_image`.

    The pixels are not compressed: a PNG takes forty times as long. The delivering thread makes it beside the training.
    """
    # NumPy would hide the system's reason when it cannot write to the file.
    content = io.BytesIO()
    np.save(content, image, allow_pickle=False)
    with path.open("wb") as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def read_image(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


@contextmanager
def try_lock_journal(folder: Path, wait: float = 0) -> Iterator[bool]:
    """Lock the journal in `folder` against other processes; yields False if another one holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / LOCK, wait) as free:
        yield free


@contextmanager
def lock_journal(folder: Path) -> Iterator[None]:
    """Lock the journal in `folder` for this process.

    Raises:
        UserError: another live process holds it.
    """
    with try_lock_journal(folder, wait=2) as free:
        if not free:
            raise UserError(f"{folder}: another process writes to it; wait for it, or end it")
        yield


def record_offline_end(journal: Journal, status: str) -> None:
    """Record the end of a run whose entries a later process delivers."""
    journal.append(EndEntry(status=status))
    warn_of_undelivered(journal)


def warn_of_undelivered(journal: Journal) -> None:
    """Warn of undelivered entries, and name the command that delivers them."""
    if len(journal):
        logger.warning(
            "MLflow run %s: %d %s wait in %s; 'cyclegan sync' or the next training delivers them",
            journal.folder.name, len(journal), "entries" if journal.pending else "files", journal.folder,
        )  # fmt: skip


def journals(root: Path) -> list[Path]:
    """The folders of all journals under `root`, the oldest first."""
    return sorted((file.parent for file in root.glob(f"*/{ABOUT}")), key=lambda folder: folder.stat().st_mtime)


def reopen_journal(folder: Path, description: RunDescription) -> Journal:
    """Open the journal of a run that an earlier process may have created. Its description takes precedence."""
    if (folder / ABOUT).is_file():
        description = description.merged_into(read_description(folder))
    return Journal(folder, description)


def read_description(folder: Path) -> RunDescription:
    """Read the description of a run from its journal's folder.

    Raises:
        JournalError: this version cannot read it.
    """
    file = folder / ABOUT
    try:
        return RunDescription.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (AttributeError, TypeError, ValueError) as error:
        raise JournalError(file, str(error)) from error


def _lines(entries: Iterable[Entry]) -> str:
    return "".join(map(to_line, entries))


def _read(file: Path) -> Iterable[Entry]:
    """Read the entries, and cut off an incomplete last line, which a killed process leaves.

    Raises:
        JournalError: a line is no entry of this version.
    """
    if not file.is_file():
        return []
    content = file.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if len(complete) < len(content):
        os.truncate(file, len(complete))
    entries = []
    for line in complete.splitlines():
        try:
            entries.append(from_line(line))
        except (json.JSONDecodeError, UnicodeDecodeError):
            logger.warning("%s: skipped a line that is not JSON", file)
        except ValueError as error:
            raise JournalError(file, str(error)) from error
    return entries
