"""What a worker leaves of a trial, by programs of a few lines in place of trainings."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from cyclegan.errors import UserError
from cyclegan.overlay import nested, overlaid
from cyclegan.params import read, validate
from cyclegan.project import Project
from cyclegan.search.shared import SharedSearch
from cyclegan.search.study import REASON
from cyclegan.search.worker import work

KID = {"name": "KID", "direction": "minimize", "terms": {"val_AtoB/kid": 1.0}}
GOOD = read(Path(__file__).parents[2] / "params.yaml")
SAVES = "import json, pathlib, sys\nrequest = json.loads(input())\n"
SAVES += "folder = pathlib.Path(request['folder'], 'trial-' + request['slot'])\nfolder.mkdir()\n"
SAVES += "(folder / 'checkpoint').touch()\n"


def run(project: Project, then: str) -> SharedSearch:
    """Run one trial, which keeps a checkpoint."""
    (project.root / "trial.py").write_text(SAVES + then)
    changes = {"search.trials": 1, "search.command": "python trial.py", "search.objectives": [KID]}
    params = validate(overlaid(GOOD, nested(changes)))
    search = SharedSearch(project, params, "0123456789", None, create=True)
    work(project, search)
    return search


@pytest.mark.parametrize("then", ["sys.exit(2)", "raise MemoryError", "print(json.dumps({'figures': {}}), flush=True)"])
def test_a_trial_that_failed_leaves_no_checkpoint(tmp_path: Path, then: str) -> None:
    search = run(Project(root=tmp_path, home=tmp_path), then)
    (trial,) = search.trials.study.trials
    assert (trial.state, REASON in trial.user_attrs) == (TrialState.FAIL, True)
    assert not (search.folder / "trial-0").exists()
    assert (search.folder / "trial-0.log").exists()


def test_a_trial_that_is_given_back_keeps_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trial-0 was given back"):
        run(Project(root=tmp_path, home=tmp_path), "sys.exit(75)")
    assert list(tmp_path.glob(".search/*/trial-0/checkpoint"))
