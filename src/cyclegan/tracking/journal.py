"""The journal: entries wait on disk until the store has them. A trainer may be killed, a server unavailable."""

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
        fault: why not, and the remedy where its entries are to be delivered.
    """

    def __init__(self, file: Path, found: str) -> None:
        self.fault = f"{file.name} was written by another version or is corrupt ({found}): use that version to deliver"
        super().__init__(f"{file.parent}: {self.fault}, or delete that folder")


class Journal:
    """The entries of one run that have not been delivered, oldest first; an append-only file of JSON lines.

    An entry is durable when `append` returns. It has an id and a time of its own, so that delivering it twice, which
    happens when a process is killed in between, does not record it twice. Once all are delivered the file is emptied.
    Any thread may append; one may take entries off. Processes are kept apart by `only_user`.

    An entry that is refused for now can be set aside: those behind it are delivered before it.

    Args:
        folder: of this run; created where it is missing.
        description: of the run, for the process that delivers the entries; None: it was written down before.

    Raises:
        JournalError: the folder holds entries that this version cannot read.
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
        self._left: list[Entry] = []

    def __len__(self) -> int:
        return len(self._entries) + len(self._aside) + len(self._left)

    @property
    def pending(self) -> int:
        """The number of entries that are not set aside."""
        return len(self._entries)

    @property
    def aside(self) -> int:
        """The number of entries that `take_back` would take."""
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
        """Store an image [H, W, C] beside the entries; return the name by which one of them can refer to it."""
        name = f"{uuid.uuid4().hex}.npy"
        write_image(self.folder / name, image)
        return name

    def keep_files(self, path: Path) -> str:
        """Copy a file or folder, as `keep_image` does."""
        name = uuid.uuid4().hex
        (self.folder / name).mkdir()
        target = self.folder / name / path.name
        _ = shutil.copytree(path, target) if path.is_dir() else shutil.copy2(path, target)
        for file in [target, *target.rglob("*")]:
            sync_folder(file)
        return f"{name}/{path.name}"

    def waiting(self, seconds: float) -> bool:
        """Whether there is an entry that is not set aside, after at most so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._entries), seconds)

    def oldest(self, count: int) -> list[Entry]:
        with self._changed:
            return list(islice(self._entries, count))

    def drop(self, count: int) -> None:
        """Take off the oldest entries, which have been delivered."""
        with self._changed:
            gone = [self._entries.popleft() for _ in range(count)]
            self._forget_delivered()
        for entry in gone:
            if isinstance(entry, FileEntry):
                kept = self.folder / entry.file.split("/")[0]
                if kept.is_dir():
                    shutil.rmtree(kept, ignore_errors=True)
                else:
                    kept.unlink(missing_ok=True)

    def set_aside(self, for_good: bool = False) -> None:
        """Let the oldest entry wait apart from the others.

        Args:
            for_good: until another process reads the journal.
        """
        with self._changed:
            (self._left if for_good else self._aside).append(self._entries.popleft())
            self._forget_delivered()

    def take_back(self) -> None:
        """Put what is set aside in front of the other entries, its oldest entry last: that one was tried before."""
        with self._changed:
            self._entries.extendleft(reversed([*self._aside[1:], *self._aside[:1]]))
            self._aside.clear()
            self._changed.notify_all()

    def _forget_delivered(self) -> None:
        """Keep in the file only what is set aside, once all else has been delivered."""
        if self._entries:
            return
        if waiting := [*self._left, *self._aside]:
            # On a full disk the file keeps what was delivered; delivering that again does no harm.
            with suppress(OSError):
                write_text(self._file, _lines(waiting))
        else:
            os.truncate(self._file, 0)

    def all(self) -> Iterator[Entry]:
        yield from [*self._left, *self._aside, *self._entries]

    def remove(self) -> None:
        """Remove the folder of a journal that is empty."""
        if not len(self):
            shutil.rmtree(self.folder)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image [H, W, C] durably, for `read_image`.

    As it is: a PNG of a grid takes forty times as long, and is made by the thread that delivers, beside the training.
    """
    # Not by NumPy into the file, which forgets why the system takes no more.
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
def only_user(folder: Path, wait: float = 0) -> Iterator[bool]:
    """Keep other processes from the journal in `folder`; yields False if one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / LOCK, wait) as free:
        yield free


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Take the journal in `folder` for this process.

    Raises:
        UserError: another live process has it.
    """
    with only_user(folder, wait=2) as free:
        if not free:
            raise UserError(f"{folder} is being written by another process: wait for it, or end it")
        yield


def end_offline(journal: Journal, status: str) -> None:
    """Record how a run ended whose entries a later process delivers."""
    journal.append(EndEntry(status=status))
    warn_of_rest(journal)


def warn_of_rest(journal: Journal) -> None:
    """Warn of what a run leaves undelivered, with the command that delivers it."""
    if len(journal):
        logger.warning(
            "%d %s for MLflow run %s wait in %s: 'cyclegan sync', or the next training, delivers them",
            len(journal), "entries" if journal.pending else "files", journal.folder.name, journal.folder,
        )  # fmt: skip


def journals(root: Path) -> list[Path]:
    """The folders of all journals under `root`, the oldest first."""
    return sorted((file.parent for file in root.glob(f"*/{ABOUT}")), key=lambda folder: folder.stat().st_mtime)


def continued(folder: Path, description: RunDescription) -> Journal:
    """The journal of a run that an earlier process may have begun there; what that one described stays."""
    if (folder / ABOUT).is_file():
        description = description.after(read_description(folder))
    return Journal(folder, description)


def read_description(folder: Path) -> RunDescription:
    """The description of the run whose journal lies in `folder`.

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
    """The complete lines; the rest of one that a killed process did not finish is cut off.

    Raises:
        JournalError: a line holds something else than an entry of this version.
    """
    if not file.is_file():
        return []
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(file, len(whole))
    entries = []
    for line in whole.splitlines():
        try:
            entries.append(from_line(line))
        except (json.JSONDecodeError, UnicodeDecodeError):
            logger.warning("%s: a line that is not JSON was passed over", file)
        except ValueError as error:
            raise JournalError(file, str(error)) from error
    return entries
