"""The targets of make, and pytest with the project's configuration."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_clean_removes_only_what_can_be_regenerated(tmp_path: Path) -> None:
    made = ["data/raw/A/1.png", "data/split/trainA.npy", "models/generator_AtoB.keras", "reports/search/best.yaml"]
    made += ["reports/evaluate/report.html", "src/cyclegan/__pycache__/cli.pyc", ".mypy_cache/3.11/x.json"]
    kept = [".venv/bin/python", "checkpoints/0/step.npz", "mlruns/mlflow.db", ".search/journal.log"]
    kept += ["data/downloads/a.zip", "my-notes.txt", "reports/mine.md"]
    tracked = ["reports/evaluate/metrics.json", "reports/train/losses.csv"]
    ignoring = [".gitignore", *(f"{folder}/.gitignore" for folder in ("data", "models", "reports"))]
    ignoring += [f"reports/{folder}/.gitignore" for folder in ("train", "evaluate")]
    for file in ["Makefile", *ignoring]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    for folder in ("src", "tests", "benchmarks"):
        (tmp_path / folder).mkdir()
    for file in made + kept + tracked:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("x")
    run("git", "init", "--quiet", cwd=tmp_path)
    run("git", "add", "Makefile", *ignoring, *tracked, cwd=tmp_path)
    run("make", "clean", cwd=tmp_path)
    assert [file for file in made if (tmp_path / file).exists()] == []
    assert [file for file in ["Makefile", *ignoring, *tracked, *kept] if not (tmp_path / file).exists()] == []
    run("make", "distclean", cwd=tmp_path)
    assert not (tmp_path / ".venv").exists()
    assert (tmp_path / "mlruns/mlflow.db").exists()


@pytest.mark.parametrize("processes", [0, 2])
def test_pytest_reports_what_it_left_out_and_why(tmp_path: Path, processes: int) -> None:
    for file in ("pyproject.toml", "tests/conftest.py", "tests/postgresql.py"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "tests/test_some.py").write_text(
        "import pytest\n"
        "def test_quick(): pass\n"
        "@pytest.mark.skip(reason='no GPU here')\n"
        "def test_on_gpu(): pass\n"
        "@pytest.mark.slow\n"
        "@pytest.mark.parametrize('n', range(3))\n"
        "def test_slow(n): pass\n"
    )
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", str(processes))
    printed = run(*command, cwd=tmp_path)
    assert "3 slow tests left out: make test-all" in printed
    assert "no GPU here" in printed
    assert "1 passed, 1 skipped" in printed
    everything = run(*command, "-m", "", cwd=tmp_path)
    assert "left out" not in everything
    assert "4 passed, 1 skipped" in everything
