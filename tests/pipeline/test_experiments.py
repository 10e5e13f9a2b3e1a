"""DVC experiments in a copy of the project read the images of this copy, and DVC hashes them there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML
from sandbox import Sandbox

from in_process import cyclegan_here

ROOT = Path(__file__).parents[2]

IDENTITY = {
    f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "T"), ("EMAIL", "t@e"))
}
COUNT = 20
SPLIT_OF_ALL = "A: 16 train, 2 val, 2 test; B: 16 train, 2 val, 2 test"


def paint(folder: Path, start: int, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(start, start + count):
        pixels = np.random.default_rng([n, ord(folder.name[-1])]).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{n:02}.png")


@pytest.fixture
def own_images(make_sandbox: Callable[[], Sandbox]) -> Sandbox:
    """A project with 20 images of its own in each domain, not in git yet."""
    sandbox = make_sandbox()
    for name in ("a", "b"):
        paint(sandbox.root / name, 0, COUNT)
    sandbox.configure(data={"source": "folders", "folder_A": "a", "folder_B": "b", "load_size": 32, "name": "own"})
    return sandbox


def commit(sandbox: Sandbox) -> None:
    sandbox.run("git", "add", "--all", **IDENTITY)
    sandbox.run("git", "commit", "--quiet", "--message", "images", **IDENTITY)


def recorded_files(sandbox: Sandbox, experiment: str) -> dict[str, int]:
    """The number of files in each dependency of stage fetch, from the dvc.lock of an experiment."""
    ref = sandbox.run("git", "for-each-ref", "--format=%(objectname)", f"refs/exps/**/{experiment}").stdout.strip()
    lock = YAML(typ="safe").load(sandbox.run("git", "show", f"{ref}:dvc.lock").stdout)
    return {dep["path"]: dep.get("nfiles", 1) for dep in lock["stages"]["fetch"]["deps"]}


@pytest.mark.slow
@pytest.mark.parametrize("keeper", ["git", "dvc"])
def test_a_queued_experiment_reads_the_images_of_its_own_copy(own_images: Sandbox, keeper: str) -> None:
    if keeper == "dvc":
        own_images.run("dvc", "add", "a", "b")
    commit(own_images)
    own_images.run("dvc", "exp", "run", "split", "--queue", "-S", "data.seed=5", "--name", "queued")
    for n in range(COUNT // 2):
        (own_images.root / f"a/{n:02}.png").unlink()
    done = own_images.run("dvc", "exp", "run", "--run-all", **IDENTITY)
    assert SPLIT_OF_ALL in done.stdout
    recorded = recorded_files(own_images, "queued")
    assert (recorded["a"], recorded["b"]) == (COUNT, COUNT)


def test_a_temporary_experiment_reads_the_images_of_its_own_copy(own_images: Sandbox) -> None:
    commit(own_images)
    # DVC does not copy untracked files.
    paint(own_images.root / "a", COUNT, COUNT)
    done = own_images.run(
        "dvc", "exp", "run", "split", "--temp", "-S", "data.seed=5", "--name", "temporary", **IDENTITY
    )
    assert SPLIT_OF_ALL in done.stdout
    assert recorded_files(own_images, "temporary")["a"] == COUNT


def test_folders_that_a_queued_experiment_lacks_are_printed(own_images: Sandbox) -> None:
    lines = cyclegan_here("fetch", cwd=own_images.root).stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["data.folder_A = a", "data.folder_B = b"]
    assert all("neither in git nor in DVC" in line and "'dvc add'" in line for line in lines)
    own_images.run("dvc", "add", "a")
    own_images.run("git", "add", "b")
    assert cyclegan_here("fetch", cwd=own_images.root).stdout == ""


def test_absolute_folders_outside_the_project_serve_every_experiment(own_images: Sandbox, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (own_images.root / name).rename(tmp_path / name)
    own_images.configure(data={"folder_A": str(tmp_path / "a"), "folder_B": str(tmp_path / "b")})
    commit(own_images)
    assert cyclegan_here("fetch", cwd=own_images.root).stdout == ""
    done = own_images.run("dvc", "exp", "run", "split", "--temp", "-S", "data.seed=5", **IDENTITY)
    assert SPLIT_OF_ALL in done.stdout


@pytest.mark.slow
def test_a_pull_request_gets_a_report_of_its_differences(make_sandbox: Callable[[], Sandbox]) -> None:
    """The command of `.github/workflows/experiment.yml`, as it runs there."""
    sandbox = make_sandbox()
    shutil.copytree(ROOT / ".ci", sandbox.root / ".ci")
    sandbox.run("dvc", "repro")
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    sandbox.run("git", "add", "--all")
    sandbox.run("git", *identity, "commit", "--quiet", "--message", "numbers")
    base = sandbox.run("git", "rev-parse", "HEAD").stdout.strip()
    sandbox.run("bash", ".ci/experiment", base, "experiment", EXPERIMENT_OVERRIDES="-S train.learning_rate=0.001")
    report = (sandbox.root / "experiment/report.md").read_text()
    assert "| params.yaml | train.learning_rate |" in report
    assert "reports/evaluate/metrics.json" in report
    assert "models:/fluent-emoji-AtoB/2" in report
    assert {"grid.png", "report.html", "samples.png"} <= {file.name for file in sandbox.root.glob("experiment/*")}
