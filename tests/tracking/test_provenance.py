from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from cyclegan.project import Project
from cyclegan.tracking.provenance import dvc_lock_digest, tags


def git(project: Project, *arguments: str) -> str:
    identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    command = ["git", *identity, "-C", str(project.root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(project: Project) -> Project:
    (project.root / "params.yaml").write_text("lr: 1\n")
    (project.root / "dvc.lock").write_text("schema: '2.0'\n")
    (project.root / "reports").mkdir()
    (project.root / "reports" / "metrics.json").write_text("{}\n")
    git(project, "init", "--quiet")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message", "one")
    return project


def test_clean_commit(repository: Project) -> None:
    found = tags(repository)
    assert found["git.commit"] == found["mlflow.source.git.commit"] == git(repository, "rev-parse", "HEAD")
    assert found["git.dirty"] == "false"


def test_an_image_without_history_names_its_commit(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYCLEGAN_GIT_COMMIT", "0123abcd")
    found = tags(project)
    assert found["git.commit"] == found["mlflow.source.git.commit"] == "0123abcd"
    assert "git.dirty" not in found


def test_outputs_of_the_pipeline_itself_do_not_make_it_dirty(repository: Project) -> None:
    (repository.root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (repository.root / "reports" / "metrics.json").write_text('{"psnr": 1}\n')
    (repository.root / "my-own-notes.txt").write_text("not tracked\n")
    assert tags(repository)["git.dirty"] == "false"


def test_parameters_do_not_make_it_dirty_and_code_does(repository: Project) -> None:
    """A run records its parameters; `dvc exp run -S` writes them into the file."""
    (repository.root / "params.yaml").write_text("lr: 2\n")
    assert tags(repository)["git.dirty"] == "false"
    (repository.root / "dvc.yaml").write_text("stages: {}\n# changed\n")
    assert tags(repository)["git.dirty"] == "true"


def test_a_real_experiment_with_another_parameter_is_not_dirty(repository: Project) -> None:
    root = repository.root
    (root / "train.py").write_text(TRAIN.replace('tags(project)["dvc.stage"]', "tags(project)"))
    (root / "dvc.yaml").write_text(
        f"stages:\n  train:\n    cmd: {sys.executable} train.py\n    params: [lr]\n    outs: [seen.json]\n"
    )
    environment = {**os.environ, "DVC_NO_ANALYTICS": "true"}
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--quiet"], cwd=root, check=True, env=environment)
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "two")
    command = [*dvc, "exp", "run", "-S", "lr=3", "-n", "three"]
    subprocess.run(command, cwd=root, check=True, env=environment, capture_output=True)
    assert "lr: 3" in (root / "params.yaml").read_text()
    _, found = json.loads((root / "seen.json").read_text())
    assert (found["dvc.exp"], found["git.dirty"]) == ("three", "false")


def test_no_repository(project: Project) -> None:
    assert not [key for key in tags(project) if "git" in key]


def test_project_untracked_in_another_repository(repository: Project) -> None:
    inner = repository.root / "unpacked"
    inner.mkdir()
    (inner / "dvc.yaml").write_text("stages: {}\n")
    assert not [key for key in tags(Project(root=inner, home=inner)) if "git" in key]


def test_no_git_installed(repository: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository.root))
    assert not [key for key in tags(repository) if "git" in key]


def test_dvc_and_versions(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [key for key in tags(project) if key.startswith("dvc.")]
    monkeypatch.setenv("DVC_STAGE", "train")
    monkeypatch.setenv("DVC_EXP_NAME", "curly-cats")
    monkeypatch.setattr("sys.argv", ["cyclegan", "train"])
    found = tags(project)
    assert (found["dvc.stage"], found["dvc.exp"]) == ("train", "curly-cats")
    assert found["versions"].split(", ")[0] == f"python {platform.python_version()}"
    assert f"mlflow {metadata.version('mlflow')}" in found["versions"].split(", ")
    assert (found["mlflow.source.name"], found["mlflow.source.type"]) == ("cyclegan train", "LOCAL")


def test_no_heavy_import() -> None:
    code = "import sys, cyclegan.tracking.provenance; print({'mlflow', 'tensorflow', 'dvc'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


TRAIN = """
import json
from cyclegan.project import Project
from cyclegan.tracking.provenance import dvc_lock_digest, tags

project = Project.find()
digests = [dvc_lock_digest(project, path) for path in ("data/split", "data/other")]
print(json.dumps([digests, tags(project)["dvc.stage"]]), file=open("seen.json", "w"))
"""


def test_real_pipeline_shows_a_stage_the_md5_of_its_input(project: Project) -> None:
    """`dvc.lock` has the input's entry while the stage runs, and the entry is what DVC's cache holds."""
    root = project.root
    (root / "train.py").write_text(TRAIN)
    python = sys.executable
    (root / "dvc.yaml").write_text(
        f"stages:\n"
        f"  split:\n    cmd: mkdir -p data/split && echo pixels > data/split/a.bin\n    outs: [data/split]\n"
        f"  train:\n    cmd: {python} train.py\n    deps: [data/split]\n    outs: [seen.json]\n"
    )
    environment = {**os.environ, "DVC_NO_ANALYTICS": "true"}
    for command in (["init", "--no-scm", "--quiet"], ["repro", "--quiet"]):
        subprocess.run([python, "-m", "dvc", *command], cwd=root, check=True, env=environment)

    (digest, missing), stage = json.loads((root / "seen.json").read_text())
    assert digest is not None
    assert digest.endswith(".dir")
    assert (root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]).is_file()
    assert missing is None
    assert stage == "train"
    assert dvc_lock_digest(project, "data/split") == digest


def test_no_lock_file(project: Project) -> None:
    assert dvc_lock_digest(project, "data/split") is None
    (project.root / "dvc.lock").write_text("")
    assert dvc_lock_digest(project, "data/split") is None


def test_lock_file_of_a_stage_without_outputs(project: Project) -> None:
    (project.root / "dvc.lock").write_text("schema: '2.0'\nstages:\n  notify:\n    cmd: 'true'\n")
    assert dvc_lock_digest(project, "data/split") is None


def test_tags_fit_mlflow(repository: Project) -> None:
    assert all(isinstance(value, str) and value for value in tags(repository).values())
    assert Path(tags(repository)["host"]).name
