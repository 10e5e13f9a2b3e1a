"""What `best.yaml` does to the parameters, and what is said of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cyclegan.params import load
from cyclegan.params.overrides import effective
from cyclegan.project import Project
from cyclegan.system.errors import UserError

ROOT = Path(__file__).parents[2]
BEST = """
origin: {study: emoji-main, trial: 7, run_id: abc}
train:
  loss_weights:
    identity: {AtoB: 2.0, BtoA: 2.5}
"""
TOGETHER = "params.yaml with reports/search/best.yaml laid over it"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "reports" / "search").mkdir(parents=True)
    return Project(tmp_path, tmp_path)


def test_values_are_replaced_and_told(project: Project) -> None:
    project.best.write_text(BEST)
    found = effective(project)
    before = load(project.params)
    assert found.params.train.loss_weights.identity.model_dump() == {"AtoB": 2.0, "BtoA": 2.5}
    assert found.params.train.epochs == before.train.epochs
    weight = before.train.loss_weights.identity.AtoB
    assert found.replaced == {
        "train.loss_weights.identity.AtoB": {"params.yaml": weight, "best.yaml": 2.0},
        "train.loss_weights.identity.BtoA": {"params.yaml": weight, "best.yaml": 2.5},
    }
    assert found.tags == {
        "search.replaced.train.loss_weights.identity.AtoB": f"2.0 (params.yaml: {weight})",
        "search.replaced.train.loss_weights.identity.BtoA": f"2.5 (params.yaml: {weight})",
        "search.study": "emoji-main",
        "search.trial": "7",
        "search.run_id": "abc",
    }


@pytest.mark.parametrize("text", ["{}\n", None])
def test_nothing_found_leaves_params_as_they_are(project: Project, text: str | None) -> None:
    if text is not None:
        project.best.write_text(text)
    found = effective(project)
    assert found.params == load(project.params)
    assert (found.replaced, found.tags) == ({}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train: {learning_rate: -1.0}\n",
            f"{TOGETHER}: train.learning_rate = -1.0: must be greater than 0",
        ),
        (
            "train: {loss_weights: {forward_cycle: {AtoB: 9.0, BtoA: 1.0}}}\n",
            f"{TOGETHER}: train.loss_weights: with train.update_order: joint",
        ),
        ("data: {seed: 3}\n", "reports/search/best.yaml must hold sections model, train; run 'dvc repro search'"),
        ("- 1\n", "reports/search/best.yaml must hold sections model, train"),
    ],
)
def test_an_error_names_the_file(project: Project, text: str, message: str) -> None:
    project.best.write_text(text)
    with pytest.raises(UserError) as caught:
        effective(project)
    assert str(caught.value).startswith(message)
