"""Digests of code, of files and folders, and of everything that shapes a run."""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any


def run_key(shapes_the_run: Mapping[str, Any]) -> str:
    """The key of everything that shapes a run: 16 hexadecimal digits of the SHA-256 of its JSON form."""
    text = json.dumps(shapes_the_run, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_digest(*sources: Path) -> str:
    """SHA-256 of the code in Python files, and in the files directly in folders.

    Comments, docstrings, layout and the version of Python do not change it.
    """
    digest = hashlib.sha256()
    for source in sources:
        for file in sorted(source.glob("*.py")) if source.is_dir() else [source]:
            digest.update(os.fsencode(file.relative_to(source.parent)))
            digest.update(_code(file.read_bytes()))
    return digest.hexdigest()


@cache
def _code(content: bytes) -> bytes:
    """The syntax of a file. All code takes a second, and each registered generator asks for it."""
    return _syntax(ast.parse(content)).encode()


def _syntax(node: Any) -> str:
    """A syntax tree as text, without positions and bare strings.

    Empty fields are left out, because newer versions of Python add some.
    """
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
        return f"{type(node).__name__}({','.join(f'{name}={_syntax(value)}' for name, value in fields)})"
    if isinstance(node, list):
        return f"[{','.join(_syntax(item) for item in node if not _is_bare_string(item))}]"
    return ascii(node)


def _is_bare_string(node: Any) -> bool:
    """Whether a statement is the docstring of a module, class, function, attribute or constant."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def file_digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """The MD5 that DVC gives to a flat folder, computed here also outside of a DVC stage."""
    files = []
    for file in sorted(folder.iterdir()):
        with file.open("rb") as content:
            files.append({"md5": hashlib.file_digest(content, "md5").hexdigest(), "relpath": file.name})
    return hashlib.md5(json.dumps(files).encode(), usedforsecurity=False).hexdigest() + ".dir"
