"""A parameter file is read here, and what is wrong with it told in one line for each finding."""

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
        UserError: the file is missing, is not YAML, or a key is unknown, missing, of the wrong type, out of range
            or at odds with another. One line per finding.
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
    """One line that names the keys that a file leaves out, with their defaults; none where it is complete."""
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
    """Parse a YAML 1.2 file, as DVC does (PyYAML would read `2e-4` as text).

    Raises:
        UserError: the file is missing, unreadable or not YAML.
    """
    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; 'cyclegan preset quickstart' writes one") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    # A tag that does not fit its value, such as `!!int x`, ends in an exception of Python's.
    except (YAMLError, ValueError, LookupError, RecursionError) as error:
        reason = one_line(error)
        raise UserError(f"{path.name} is not valid YAML: {reason}") from None


def validate(tree: Any, name: str = "params.yaml") -> Params:
    """Turn a parsed parameter file into `Params`.

    Raises:
        UserError: see `load`; every message starts with `name`.
    """
    if not isinstance(tree, dict):
        raise UserError(f"{name} must hold the sections {', '.join(Params.model_fields)}; it holds no mapping")
    try:
        return Params.model_validate(tree)
    except ValidationError as failure:
        # A key that takes one of several kinds of value has one finding for each: tell them in one line.
        findings: dict[str, list[str]] = {}
        for detail in failure.errors():
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


def _explain(detail: ErrorDetails) -> tuple[str, str]:
    """One validation finding as `("key = value: ", "what is wrong; remedy")`."""
    where = [str(part) for part in detail["loc"] if not _is_branch_label(part)]
    key, kind, value = ".".join(where), detail["type"], detail["input"]
    if kind == "impossible":
        # A section's own check names the keys that are at odds; a single value's check does not repeat its key.
        return (
            ("", detail["msg"]) if isinstance(value, dict | Section) else (f"{key} = {_shown(value)}: ", detail["msg"])
        )
    if kind in ("extra_forbidden", "invalid_key"):
        # Whatever the key is, it is no label; and it may hold anything, a line break for instance.
        path, last = [str(part) for part in detail["loc"][:-1] if not _is_branch_label(part)], str(detail["loc"][-1])
        known = _known_keys(path)
        near = difflib.get_close_matches(last, known, n=1, cutoff=0.5)
        hint = f"did you mean {'.'.join([*path, near[0]])}?" if near else f"known keys: {', '.join(known)}"
        shown = last if re.fullmatch(r"[\w-]+", last) else _shown(last)
        return f"{'.'.join([*path, shown])}: ", f"unknown key; {hint}"
    if kind == "missing":
        return f"{key}: ", "missing; add it ('cyclegan preset quickstart' writes a complete file)"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    message = message.replace("input should be", "must be").replace("greater than or equal to", "at least")
    if kind == "model_type":
        message = "must be a mapping of keys"
    elif isinstance(value, float) and not math.isfinite(value):
        message = "must be a finite number"
    return f"{key} = {_shown(value)}: ", message


def _shown(value: Any) -> str:
    """A value for a message, in one line of bearable length."""
    text = "a mapping" if isinstance(value, dict) else without_credentials(repr(value))
    return text if len(text) <= 200 else f"{text[:200]}…"


def _is_branch_label(part: Any) -> bool:
    """Pydantic adds the tried branch of a union (`constrained-int`, `literal['auto']`) to a key's path."""
    return not re.fullmatch(r"[A-Za-z_]\w*", str(part)) or part in ("bool", "int", "float", "str")


def _known_keys(path: list[str]) -> list[str]:
    """The keys of the section at a path, of `params.yaml` where the path names no section."""
    section: Any = Params
    for part in path:
        field = section.model_fields.get(part)
        # A section that may be null, or one of a list, stands inside the annotation.
        kinds = [] if field is None else [field.annotation, *_arguments(field.annotation)]
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), Section)
    return list(section.model_fields)


def _arguments(annotation: Any) -> Iterator[Any]:
    for argument in get_args(annotation):
        yield argument
        yield from _arguments(argument)
