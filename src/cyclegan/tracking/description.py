"""What must be known of a run to open it in MLflow, now or in a later process."""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cyclegan.system.credentials import without_credentials
from cyclegan.tracking.tags import LOCK_TAG, PROCESS_TAGS, RESUMED_TAGS


@dataclass(frozen=True)
class DatasetInput:
    """A data set that a run read, as MLflow lists it.

    Attributes:
        digest: at most 36 characters: DVC's md5 of the folder.
        context: what the run used it for, such as `training`.
    """

    name: str
    digest: str
    source: str
    context: str


@dataclass(frozen=True)
class RunDescription:
    """All that is needed to open a run; a journal's `about.json` holds these fields.

    Attributes:
        run_id: the run to continue; None: a new one.
        time: its start, in milliseconds since 1970.
        opened: whether the store had the run when the journal was begun.
    """

    run_id: str | None
    experiment: str
    name: str
    time: int
    params: dict[str, str]
    tags: dict[str, str]
    inputs: list[DatasetInput] = field(default_factory=list)
    opened: bool = False

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> RunDescription:
        """The description that `dataclasses.asdict` gave.

        Raises:
            TypeError: the fields are not those of this version.
        """
        inputs = [DatasetInput(**item) for item in content.get("inputs", [])]
        return cls(**{**content, "inputs": inputs})

    def after(self, first: RunDescription) -> RunDescription:
        """The description of a run that an earlier process described as `first`, and which this one continues."""
        tags = {**self.tags, **first.tags, **tags_of_resumption(first.tags, self.tags)}
        return replace(first, tags=tags, params={**self.params, **first.params})


def describe(
    run_id: str | None,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str] | None,
    inputs: Sequence[DatasetInput],
) -> RunDescription:
    """Describe a run of this process, without credentials."""
    process = {"process.pid": str(os.getpid()), "process.host": socket.gethostname(), "mlflow.user": _user()}
    return RunDescription(
        run_id=run_id,
        experiment=experiment,
        name=name,
        time=time.time_ns() // 1_000_000,
        params={key: without_credentials(str(value)) for key, value in params.items()},
        tags={key: without_credentials(str(value)) for key, value in (tags or {}).items()} | process,
        inputs=[replace(item, source=without_credentials(item.source)) for item in inputs],
    )


def tags_of_resumption(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """The tags that a resumption replaces or adds; all others keep their first value."""
    replaced = {key: now[key] for key in (*PROCESS_TAGS, LOCK_TAG) if key in now}
    for key, tag in RESUMED_TAGS.items():
        if key in now and before.get(key, now[key]) != now[key]:
            replaced[tag] = now[key]
    return replaced


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under an id without a name
        return str(os.getuid())
