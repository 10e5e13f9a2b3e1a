"""Imports flow one way: stages → {registry, evaluation, inference, tracking} → training → {models, data} → the base."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import cyclegan

ROOT = Path(__file__).parents[1]
PACKAGE = Path(cyclegan.__file__).parent
BASE = {"digests", "domains", "errors", "files", "keras_settings", "locks", "pages", "project", "signals"}
# What each part may import of the others, beside the base and itself.
ALLOWED = {
    "models": set(),
    "data": {"params"},
    "training": {"models", "data"},
    "inference": {"models", "data"},
    "evaluation": {"data", "inference"},
    "tracking": {"params"},
    "registry": {"tracking", "inference", "evaluation"},
    "serving": {"data", "inference"},
    "search": {"params", "overlay", "tracking"},
    "params": set(),
    "overlay": {"params"},
    "presets": {"params"},
    "quiet": set(),
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
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_arrows_point_one_way() -> None:
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        part = part_of(file)
        if part not in ALLOWED:
            continue
        for name in imported(file):
            if name.startswith("cyclegan."):
                target = name.split(".")[1]
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
