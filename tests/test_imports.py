"""Imports flow one way, from commands and stages down to the base, as CONTRIBUTING.md lists them."""

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
# What each part may import of the others, beside the base and itself.
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
    "tracking": {"params"},
    "search": {"data.loading", "evaluation", "params", "tracking"},
    "report": {"data.loading", "evaluation", "models", "params", "search"},
    "registry": {"evaluation", "models", "tracking"},
    "serving": {"data.images", "inference", "models"},
    "experiment": {
        *("data.loading", "evaluation", "models", "params", "report", "search", "tracking", "training"),
    },
    "stages": {
        *("data.fetching", "data.images", "data.loading", "data.packing", "evaluation", "experiment", "models"),
        *("params", "registry", "report", "search", "tracking", "training"),
    },
    "commands": {
        *("data.fetching", "data.images", "data.loading", "evaluation", "experiment", "inference", "models"),
        *("params", "registry", "search", "serving", "tracking"),
    },
}
# Libraries that parts must do without: what a notebook or a GPU machine without them uses.
FORBIDDEN = {
    "models": {"mlflow", "dvc", "optuna", "pydantic", "pandas"},
    "training": {"mlflow", "dvc", "optuna", "pydantic", "pandas"},
    "inference": {"mlflow", "dvc", "optuna", "pydantic"},
    "evaluation": {"mlflow", "dvc", "optuna", "pydantic"},
}


def imported(file: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in the file."""
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
    """The package that a module lies in; of `data` its sub-package."""
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


def test_lower_parts_know_nothing_of_the_tools_above() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE)} imports {name}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for name in imported(file)
        if name.split(".")[0] in FORBIDDEN.get(part_of(file), set())
    ]
    assert wrong == []


def test_the_wheel_says_that_the_package_is_typed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert "cyclegan/py.typed" in zipfile.ZipFile(wheel).namelist()
