"""Private names of other libraries: docs/private-names.md lists all of them, with the checked version."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import cyclegan

PACKAGE = Path(cyclegan.__file__).parent
PAGE = (Path(__file__).parents[1] / "docs" / "private-names.md").read_text(encoding="utf-8")
# The modules that the package imports and MLflow's reference documents.
DOCUMENTED = {
    *("mlflow", "mlflow.entities", "mlflow.entities.model_registry", "mlflow.environment_variables"),
    *("mlflow.exceptions", "mlflow.models", "mlflow.pyfunc.model", "mlflow.types"),
}
LIBRARIES = ("keras", "mlflow", "optuna", "tensorflow")
# Documented names with an underscore.
PUBLIC = {"_asdict", "_exit", "_fields", "_replace"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def private_modules(tree: ast.AST) -> Iterator[str]:
    """Imported modules of the libraries that are not documented."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if is_undocumented(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module:
            if is_undocumented(node.module):
                yield node.module
            if node.module.split(".")[0] in LIBRARIES:
                yield from (alias.name for alias in node.names if is_private(alias.name))


def is_undocumented(module: str) -> bool:
    library, *rest = module.split(".")
    if library == "mlflow":
        return module not in DOCUMENTED
    return library in LIBRARIES and (any(map(is_private, rest)) or rest[:1] in (["src"], ["python"]))


def private_attributes(tree: ast.AST) -> Iterator[str]:
    """Private attributes that the file does not define itself."""
    nodes = [*ast.walk(tree)]
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    defined |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    # Fields and constants of a class.
    defined |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in defined:
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr"):
            yield from (
                argument.value
                for argument in node.args[1:2]
                if isinstance(argument, ast.Constant) and is_private(str(argument.value))
            )


def found_in(source: str) -> set[str]:
    tree = ast.parse(source)
    return {*private_modules(tree), *private_attributes(tree)}


def test_the_page_lists_every_private_name_and_no_other() -> None:
    listed = re.findall(r"^\| `([\w.]+)` \|", PAGE, re.MULTILINE)
    assert len(listed) == len(set(listed))
    found = set().union(*(found_in(file.read_text(encoding="utf-8")) for file in PACKAGE.rglob("*.py")))
    assert set(listed) == found


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from mlflow.utils.uri import is_local_uri", "mlflow.utils.uri"),
        ("from keras.src.backend import config", "keras.src.backend"),
        ("from tensorflow.python.eager import context", "tensorflow.python.eager"),
        ("import optuna.storages._rdb", "optuna.storages._rdb"),
        ("from optuna.trial import _frozen", "_frozen"),
        ("run.data._metric_objs", "_metric_objs"),
        ("getattr(model, '_layers', None)", "_layers"),
    ],
)
def test_a_private_name_is_found(source: str, name: str) -> None:
    assert found_in(source) == {name}


@pytest.mark.parametrize("library", ["mlflow", "optuna", "keras"])
def test_the_version_that_was_checked_is_installed(library: str) -> None:
    """A patch release should change nothing; a minor release must be checked."""
    (checked,) = re.findall(rf"^## {library}, checked with ([\d.]+)$", PAGE, re.MULTILINE | re.IGNORECASE)
    assert metadata.version(library).split(".")[:2] == checked.split(".")[:2]
