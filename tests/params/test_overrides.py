"""`best.yaml` overrides parameters, and runs record its origin."""

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


@pytest.fixture
def project(tmp_path: Path) -> Project:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "reports" / "search").mkdir(parents=True)
    return Project(tmp_path, tmp_path)


def test_overrides_replace_values_and_are_recorded(project: Project) -> None:
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
def test_without_overrides_parameters_stay_the_same(project: Project, text: str | None) -> None:
    if text is not None:
        project.best.write_text(text)
    found = effective(project)
    assert found.params == load(project.params)
    assert (found.replaced, found.tags) == ({}, {})


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (
            "train: {learning_rate: -1.0}\n",
            ["params.yaml", "train.learning_rate", "-1.0", "greater than 0"],
        ),
        (
            "train: {loss_weights: {forward_cycle: {AtoB: 9.0, BtoA: 1.0}}}\n",
            ["params.yaml", "train.loss_weights", "train.update_order: joint"],
        ),
        ("data: {seed: 3}\n", ["reports/search/best.yaml: ", "model, train", "dvc repro search"]),
        ("- 1\n", ["model, train", "dvc repro search"]),
    ],
)
def test_an_error_names_the_file(project: Project, text: str, facts: list[str]) -> None:
    project.best.write_text(text)
    with pytest.raises(UserError) as caught:
        effective(project)
    message = str(caught.value)
    assert "reports/search/best.yaml" in message
    assert [fact for fact in facts if fact not in message] == [], message
