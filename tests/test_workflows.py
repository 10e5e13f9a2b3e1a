"""The workflows of continuous integration: valid, and every command is one that the tests run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
# Where each command of a workflow is run. `gh` and `docker` need an account.
RUN_BY = {
    "bash .ci/run": "this test suite",
    "make install": "`.ci/run`",
    'echo "$PWD/.venv/bin" >> "$GITHUB_PATH"': "the runner",
    '.ci/experiment "$BASE" experiment': "tests/pipeline/test_experiments.py",
    '.ci/release "$GITHUB_REF_NAME"': "test_a_release_needs_its_own_tag_and_becomes_a_wheel",
}


def steps(workflow: Path) -> list[dict]:
    jobs = YAML(typ="safe").load(workflow.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_fits_its_schema(workflow: Path) -> None:
    check(workflow, "vendor.github-workflows")


def test_compose_fits_its_schema() -> None:
    check(ROOT / "compose.yaml", "vendor.compose-spec")


def check(file: Path, schema: str) -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_command_of_a_workflow_is_run_by_a_test() -> None:
    commands = {step["run"] for workflow in WORKFLOWS for step in steps(workflow) if "run" in step}
    local = {command for command in commands if not command.lstrip().startswith(("gh ", "image=", 'echo "$GH_TOKEN"'))}
    assert local == set(RUN_BY)


def test_no_workflow_puts_what_others_write_into_a_shell() -> None:
    """A title or a branch name with shell code would run. Values reach a shell as variables only."""
    for workflow in WORKFLOWS:
        for step in steps(workflow):
            assert "${{" not in step.get("run", ""), step


def test_the_tests_run_on_the_oldest_and_newest_python() -> None:
    tree = YAML(typ="safe").load((ROOT / ".github/workflows/ci.yml").read_text())
    assert tree["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]


def test_a_release_needs_its_own_tag_and_becomes_a_wheel(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}

    def release(tag: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", ".ci/release", tag]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    wrong = release("v9.9.9")
    assert wrong.returncode == 2
    assert "tag v9.9.9: pyproject.toml has version" in wrong.stderr
    right = wrong.stderr.split("; tag ")[1].strip()
    done = release(right)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"cyclegan/cli.py", "cyclegan/py.typed", "cyclegan/serving/page.html.j2"} <= set(names)
