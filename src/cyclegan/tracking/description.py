"""The description of a run: all that MLflow needs to open it, in this process or a later one."""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cyclegan.params.section import plain
from cyclegan.system.credentials import without_credentials
from cyclegan.tracking.tags import LOCK_TAG, PROCESS_TAGS, RESUMED_TAGS


@dataclass(frozen=True)
class DatasetInput:
    """A data set that a run used, as MLflow lists it.

    Attributes:
        digest: DVC's md5 of the folder, at most 36 characters.
        context: its use, such as `training`.
    """

    name: str
    digest: str
    source: str
    context: str


@dataclass(frozen=True)
class RunDescription:
    """Everything needed to open a run. A journal's `about.json` holds these fields.

    Attributes:
        run_id: the run to continue; None for a new one.
        time: the start of the run, in milliseconds since 1970.
        opened: whether the store had the run when the journal was created.
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
        """The inverse of `dataclasses.asdict`.

        Raises:
            TypeError: the fields do not match this version.
        """
        inputs = [DatasetInput(**item) for item in content.get("inputs", [])]
        return cls(**{**content, "inputs": inputs})

    def merged_into(self, first: RunDescription) -> RunDescription:
        """This description merged into `first`, that of the process which began the run."""
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
    """Describe a run of this process. Credentials are removed."""
    process = {"process.pid": str(os.getpid()), "process.host": socket.gethostname(), "mlflow.user": _user()}
    return RunDescription(
        run_id=run_id,
        experiment=experiment,
        name=name,
        time=time.time_ns() // 1_000_000,
        params={key: without_credentials(yaml_value(value)) for key, value in params.items()},
        tags={key: without_credentials(str(value)) for key, value in (tags or {}).items()} | process,
        inputs=[replace(item, source=without_credentials(item.source)) for item in inputs],
    )


def yaml_value(value: Any) -> str:
    """A parameter's value as params.yaml has it: `null`, `true`, `0.0002`, `[64, 48]`, but `64` for `[64, 64]`."""
    value = plain(value)
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool | list | tuple) or value is None else str(value)


def tags_of_resumption(first: Mapping[str, str], current: Mapping[str, str]) -> dict[str, str]:
    """The tags that a resumed run replaces or adds. All other tags keep their first value."""
    changed = {key: current[key] for key in (*PROCESS_TAGS, LOCK_TAG) if key in current}
    for key, tag in RESUMED_TAGS.items():
        if key in current and first.get(key, current[key]) != current[key]:
            changed[tag] = current[key]
    return changed


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user id may have no name.
        return str(os.getuid())
