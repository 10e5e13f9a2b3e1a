"""The entries of a journal, and their form as lines of JSON."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import asdict, dataclass, field


def _new_id() -> str:
    return uuid.uuid4().hex


def _now() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing to record in a run.

    Attributes:
        id: unique, so that an entry that is delivered twice is recorded once.
        time: its creation, in milliseconds since 1970.
    """

    id: str = field(default_factory=_new_id)
    time: int = field(default_factory=_now)


@dataclass(frozen=True, kw_only=True)
class MetricsEntry(Entry):
    """All metrics of one step."""

    step: int
    values: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class TagsEntry(Entry):
    """Tags to set."""

    tags: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class EndEntry(Entry):
    """The end of the run at the entry's time: FINISHED, FAILED or KILLED."""

    status: str


@dataclass(frozen=True, kw_only=True)
class FileEntry(Entry):
    """An entry whose content is a file or folder beside the journal.

    Attributes:
        file: the path of the content, relative to the journal's folder.
    """

    file: str


@dataclass(frozen=True, kw_only=True)
class ImageEntry(FileEntry):
    """An image, stored by `journal.write_image`.

    Attributes:
        step: the training step.
        key: what it shows, such as `samples/AtoB`: folder and first part of the name of its file.
        epoch: the number of completed epochs, for the name; None: the name has the step.
    """

    step: int
    key: str
    epoch: int | None = None

    @property
    def path(self) -> str:
        """Its path among the run's artifacts, such as `samples/AtoB_epoch_006.png`."""
        when = f"step_{self.step:06}" if self.epoch is None else f"epoch_{self.epoch:03}"
        return f"{self.key}_{when}.png"


@dataclass(frozen=True, kw_only=True)
class ArtifactEntry(FileEntry):
    """A file, or the contents of a folder, for `folder` of the run's artifacts; None for their root."""

    folder: str | None


# The value of "kind" in a line. Never change one: users' disks hold journals of earlier versions.
KINDS: dict[str, type[Entry]] = {
    "metrics": MetricsEntry,
    "tags": TagsEntry,
    "image": ImageEntry,
    "files": ArtifactEntry,
    "end": EndEntry,
}
_KIND_OF = {kind: name for name, kind in KINDS.items()}


def to_line(entry: Entry) -> str:
    """The entry as one line of JSON, with the newline."""
    return json.dumps({"kind": _KIND_OF[type(entry)], **asdict(entry)}) + "\n"


def from_line(line: bytes) -> Entry:
    """The entry that a line holds.

    Raises:
        json.JSONDecodeError: the line is not JSON.
        ValueError: the line is no entry of this version.
    """
    content = json.loads(line)
    try:
        return KINDS[content.pop("kind")](**content)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not an entry of this version: {line[:80].decode(errors='replace')}") from error
