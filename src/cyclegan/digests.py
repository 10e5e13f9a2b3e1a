"""Short names for content: of code, of a folder, of everything that shapes a run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TRAINING_CODE = (
    *("data", "evaluation", "inference/translate.py", "models", "params", "training"),
    *("stages/features.py", "stages/networks.py", "stages/series.py", "stages/session.py"),
)
"""The parts of the package on which trained weights, and the choice among them, depend."""


def run_key(shapes_the_run: Mapping[str, Any]) -> str:
    """A short name for everything that shapes a run: 16 hexadecimal digits of the SHA-256 of its JSON form."""
    text = json.dumps(shapes_the_run, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_digest(*sources: Path) -> str:
    """SHA-256 over some Python files and those in some folders: the version of the code that shapes a run."""
    digest = hashlib.sha256()
    for source in sources:
        for file in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            digest.update(os.fsencode(file.relative_to(source.parent)))
            digest.update(file.read_bytes())
    return digest.hexdigest()


def file_digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """The MD5 by which DVC knows a flat folder: within a stage and outside one, equal data has one name."""
    files = []
    for file in sorted(folder.iterdir()):
        with file.open("rb") as content:
            files.append({"md5": hashlib.file_digest(content, "md5").hexdigest(), "relpath": file.name})
    return hashlib.md5(json.dumps(files).encode(), usedforsecurity=False).hexdigest() + ".dir"
