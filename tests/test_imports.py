"""Imports flow one way, from commands and stages down to the base, as docs/architecture.md lists them."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import cyclegan

ROOT = Path(__file__).parents[1]
PACKAGE = Path(cyclegan.__file__).parent
BASE = {"domains", "metric_names", "project", "system"}
# The other parts that each part may import, besides the base.
ALLOWED: dict[str, set[str]] = {
    "system": set(),
    "params": set(),
    "data.images": set(),
    "data.fetching": {"data.images", "params"},
    "data.packing": {"data.images", "params"},
    "data.loading": set(),
    "models": set(),
    "training": {"models"},
    "evaluation": {"data.loading", "models"},
    "inference": {"data.images", "models"},
    "export": {"models"},
    "tracking": {"params"},
    "search": {"data.loading", "evaluation", "params", "tracking"},
    "report": {"data.loading", "evaluation", "models", "params", "search"},
    "registry": {"evaluation", "export", "models", "tracking"},
    "serving": {"data.images", "inference", "models"},
    "experiment": {
        *("data.loading", "evaluation", "models", "params", "report", "search", "tracking", "training"),
    },
    "advice": {
        *("data.fetching", "data.images", "data.loading", "evaluation", "experiment", "models", "params", "report"),
        *("tracking", "training"),
    },
    "stages": {
        *("data.fetching", "data.images", "data.loading", "data.packing", "evaluation", "experiment", "models"),
        *("params", "registry", "report", "search", "tracking", "training"),
    },
    "commands": {
        *("advice", "data.fetching", "data.images", "data.loading", "evaluation", "experiment", "export", "inference"),
        *("models", "params", "registry", "search", "serving", "tracking"),
    },
}
# Libraries that these parts must not import, because a notebook or a GPU machine may lack them.
FORBIDDEN = {
    "models": {"mlflow", "dvc", "optuna", "pydantic", "pandas"},
    "training": {"mlflow", "dvc", "optuna", "pydantic", "pandas"},
    "inference": {"mlflow", "dvc", "optuna", "pydantic"},
    "evaluation": {"mlflow", "dvc", "optuna", "pydantic"},
}


# The largest number of lines of a function and of a module, and of methods of a class.
FUNCTION_LINES, MODULE_LINES, METHODS = 60, 400, 20


def imported(file: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "cyclegan"}
    return names


def part_of(file: Path) -> str:
    return part_of_module(".".join(file.relative_to(PACKAGE).with_suffix("").parts))


def part_of_module(name: str) -> str:
    """The package of a module; in `data`, the sub-package."""
    first, second = (*name.split("."), "")[:2]
    return f"data.{second}" if first == "data" else first


def test_arrows_point_one_way() -> None:
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        part = part_of(file)
        if part not in ALLOWED:
            continue
        for name in imported(file):
            if name.startswith("cyclegan."):
                target = part_of_module(name.removeprefix("cyclegan."))
                if target not in BASE | {part} | ALLOWED[part] | {"__version__"}:
                    wrong.append(f"{file.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_lower_parts_do_not_import_the_tools_above() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE)} imports {name}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for name in imported(file)
        if name.split(".")[0] in FORBIDDEN.get(part_of(file), set())
    ]
    assert wrong == []


def is_keras_model(node: ast.ClassDef) -> bool:
    """Whether a class is a Keras model, whose interface alone has many methods."""
    return any(ast.unparse(base) in ("keras.Model", "Model") for base in node.bases)


def methods(node: ast.ClassDef) -> int:
    return sum(isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) for part in node.body)


def too_large(file: Path) -> set[str]:
    """The functions and classes of a file that exceed the limits, and the file itself if it does."""
    name, text = file.relative_to(PACKAGE).as_posix(), file.read_text(encoding="utf-8")
    found = {name} if len(text.splitlines()) > MODULE_LINES else set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno + 1 > FUNCTION_LINES:
                found.add(f"{name}: {node.name}")
        elif isinstance(node, ast.ClassDef) and not is_keras_model(node) and methods(node) > METHODS:
            found.add(f"{name}: {node.name}")
    return found


def test_functions_classes_and_modules_keep_their_size_limits() -> None:
    found = {name for file in sorted(PACKAGE.rglob("*.py")) for name in too_large(file)}
    assert not found


def test_one_module_installs_signal_handlers_and_none_but_the_console_prints_to_stderr() -> None:
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        name, text = file.relative_to(PACKAGE).as_posix(), file.read_text(encoding="utf-8")
        if "signal.signal(" in text and name != "system/signals.py":
            wrong.append(f"{name} installs a signal handler; see system/signals.py")
        if "file=sys.stderr" in text and name not in ("system/messages.py", "training/console.py"):
            wrong.append(f"{name} prints to stderr; use a logger")
    assert wrong == []


def test_the_wheel_declares_that_the_package_is_typed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert "cyclegan/py.typed" in zipfile.ZipFile(wheel).namelist()
