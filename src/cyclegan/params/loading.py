"""Read and validate a parameter file. Each mistake is reported in one line."""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cyclegan.params.schema import Params
from cyclegan.params.section import Section, plain
from cyclegan.system.credentials import without_credentials
from cyclegan.system.errors import UserError, one_line

# Missing keys that a warning names at most.
MISSING_SHOWN = 3

logger = logging.getLogger(__name__)


def load(path: Path) -> Params:
    """Read and validate a parameter file.

    Raises:
        UserError: the file is missing or not YAML, or a key is unknown, missing, of the wrong type, out of range
            or in conflict with another. One line per mistake.
    """
    tree = read(path)
    params = validate(tree, path.name)
    for line in (*_missing(tree, params, path.name), *params.without_effect):
        _warn(line)
    return params


@cache
def _warn(line: str) -> None:
    """Log a line, once in a process."""
    logger.warning(line)


def _missing(tree: dict[str, Any], params: Params, name: str) -> list[str]:
    """Report the keys that a file lacks, with their defaults, in at most one line."""
    given = {key for key, _ in flatten(tree)}
    defaults = [
        f"{key} = {value}"
        for key, value in flatten(plain(params))
        if not any(key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.") for other in given)
    ]
    if not defaults:
        return []
    listed = ", ".join(defaults[:MISSING_SHOWN]) + (", …" if len(defaults) > MISSING_SHOWN else "")
    keys = "1 key is" if len(defaults) == 1 else f"{len(defaults)} keys are"
    return [f"{name}: {keys} missing, using the default: {listed}; 'cyclegan params --write' adds them"]


def read(path: Path) -> Any:
    """Parse a YAML 1.2 file like DVC (PyYAML reads `2e-4` as text).

    Raises:
        UserError: the file is missing, unreadable or not YAML.
    """
    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist; 'cyclegan preset quickstart' writes one") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    # A tag that does not fit its value, such as `!!int x`, raises an exception of Python.
    except (YAMLError, ValueError, LookupError, RecursionError) as error:
        reason = one_line(error)
        raise UserError(
            f"{path.name}: is not valid YAML ({reason}); correct it, or write a new one with 'cyclegan preset'"
        ) from None


def validate(tree: Any, name: str = "params.yaml") -> Params:
    """Turn a parsed parameter file into `Params`.

    Raises:
        UserError: as for `load`; every line starts with `name`.
    """
    if not isinstance(tree, dict):
        raise UserError(f"{name}: holds no mapping; it needs the sections {', '.join(Params.model_fields)}")
    try:
        return Params.model_validate(tree)
    except ValidationError as failure:
        # A key that takes several kinds of value has one finding for each kind: report them in one line.
        findings: dict[str, list[str]] = {}
        for detail in _innermost(failure.errors()):
            subject, message = _explain(detail)
            findings.setdefault(subject, []).append(message)
        lines = [
            f"{name}: {subject}{', or '.join(dict.fromkeys(messages)).replace(', or must be', ', or')}"
            for subject, messages in findings.items()
        ]
        raise UserError("\n".join(lines)) from None


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `("train.loss_weights.identity", 5.0)` for every leaf of nested mappings."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _innermost(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Drop "must be 'auto'" and its like for a list or mapping that has findings inside."""
    places = [_place(detail) for detail in details]
    return [
        detail
        for detail, place in zip(details, places, strict=True)
        if detail["type"] != "literal_error"
        or not any(len(other) > len(place) and other[: len(place)] == place for other in places)
    ]


def _place(detail: ErrorDetails) -> list[str]:
    """The sections and the key of a finding."""
    return [str(part) for part in detail["loc"] if not _is_branch_label(part)]


def _explain(detail: ErrorDetails) -> tuple[str, str]:
    """One validation finding as `("key = value: ", "what is wrong; remedy")`."""
    where = _place(detail)
    key, kind, value = ".".join(where), detail["type"], detail["input"]
    if kind == "impossible":
        if not isinstance(value, dict | Section):
            return f"{key} = {_shown(value)}: ", detail["msg"]
        # The check of a top-level section names the keys that conflict.
        return f"{key}: " if len(where) > 1 else "", detail["msg"]
    if kind in ("extra_forbidden", "invalid_key"):
        # An unknown key is never a branch label. It may hold any character, such as a line break.
        path, last = [str(part) for part in detail["loc"][:-1] if not _is_branch_label(part)], str(detail["loc"][-1])
        known = _known_keys(path)
        near = difflib.get_close_matches(last, known, n=1, cutoff=0.5)
        hint = f"did you mean {'.'.join([*path, near[0]])}?" if near else f"known keys: {', '.join(known)}"
        shown = last if re.fullmatch(r"[\w-]+", last) else _shown(last)
        return f"{'.'.join([*path, shown])}: ", f"unknown key; {hint}"
    if kind == "missing":
        return f"{key}: ", "missing; add it ('cyclegan preset quickstart' writes a complete file)"
    message = re.sub(r"^(Input|List|Dictionary|String) should", "must", detail["msg"]).partition(" after validation")[0]
    message = message[0].lower() + message[1:]
    message = message.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    if kind == "model_type":
        message = "must be a mapping of keys"
    elif isinstance(value, float) and not math.isfinite(value):
        message = "must be a finite number"
    return f"{key} = {_shown(value)}: ", message


def _shown(value: Any) -> str:
    """A value for a message: one line of at most 200 characters."""
    text = "a mapping" if isinstance(value, dict) else without_credentials(repr(value))
    return text if len(text) <= 200 else f"{text[:200]}…"


def _is_branch_label(part: Any) -> bool:
    """Whether a part of a key's path is a branch of a union (`literal['auto']`), which pydantic adds, or an index."""
    return not re.fullmatch(r"[A-Za-z_]\w*", str(part)) or part in ("bool", "int", "float", "str")


def _known_keys(path: list[str]) -> list[str]:
    """The keys of the section at a path."""
    section: Any = Params
    for part in path:
        field = section.model_fields.get(part)
        # The annotation contains a section that may be null or in a list.
        kinds = [] if field is None else [field.annotation, *_arguments(field.annotation)]
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), Section)
    return list(section.model_fields)


def _arguments(annotation: Any) -> Iterator[Any]:
    for argument in get_args(annotation):
        yield argument
        yield from _arguments(argument)
