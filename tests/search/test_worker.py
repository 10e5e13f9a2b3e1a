"""What a worker records of a trial. Programs of a few lines replace the trainings."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState, create_trial

from cyclegan.params import read, validate
from cyclegan.params.overrides import nested, overlaid
from cyclegan.project import Project
from cyclegan.search.shared_search import SharedSearch
from cyclegan.search.study import REASON, reported_metrics
from cyclegan.search.worker import work
from cyclegan.system.errors import UserError

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


@pytest.mark.parametrize("key", ["metrics", "figures"])
def test_a_trial_may_report_with_the_key_of_this_or_of_earlier_versions(tmp_path: Path, key: str) -> None:
    report = f"print(json.dumps({{{key!r}: {{'val_AtoB/kid': 0.5}}}}), flush=True)\nprint(input(), file=sys.stderr)"
    search = run(Project(root=tmp_path, home=tmp_path), report)
    (trial,) = search.trials.study.trials
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.COMPLETE, 0.5, {1: 0.5})
    assert trial.user_attrs["metrics"] == reported_metrics(trial) == {"val_AtoB/kid": 0.5}
    assert (search.folder / "trial-0.log").read_text() == '{"continue": true}\n'


def test_metrics_of_a_study_of_an_earlier_version_are_read() -> None:
    trial = create_trial(value=0.5, user_attrs={"figures": {"val_AtoB/kid": 0.5}})
    assert reported_metrics(trial) == {"val_AtoB/kid": 0.5}
    assert reported_metrics(create_trial(value=0.5)) == {}


@pytest.mark.parametrize("then", ["sys.exit(2)", "raise MemoryError", "print(json.dumps({'metrics': {}}), flush=True)"])
def test_a_trial_that_failed_leaves_no_checkpoint(tmp_path: Path, then: str) -> None:
    search = run(Project(root=tmp_path, home=tmp_path), then)
    (trial,) = search.trials.study.trials
    assert (trial.state, REASON in trial.user_attrs) == (TrialState.FAIL, True)
    assert not (search.folder / "trial-0").exists()
    assert (search.folder / "trial-0.log").exists()


TWO_LINES = (
    "cyclegan: params.yaml: train.epochs = 0: must be at least 1\\nparams.yaml: train.pool_size = x: must be an integer"
)


@pytest.mark.parametrize(
    ("printed", "code", "reason"),
    [
        (TWO_LINES, 2, "ended with exit code 2: " + TWO_LINES.removeprefix("cyclegan: ").replace("\\n", "; ")),
        (
            f"first\\n{TWO_LINES}\\nTraceback (most recent call last):\\nValueError: x",
            1,
            "ended with exit code 1: ValueError: x",
        ),
        ("one\\ntwo", 1, "ended with exit code 1: two"),
        ("", 1, "ended with exit code 1: no error message"),
    ],
)
def test_the_reason_has_all_lines_of_a_user_error(tmp_path: Path, printed: str, code: int, reason: str) -> None:
    search = run(Project(root=tmp_path, home=tmp_path), f"print('{printed}', file=sys.stderr)\nsys.exit({code})")
    assert search.trials.study.trials[0].user_attrs[REASON] == reason


def test_the_error_of_an_earlier_attempt_is_not_the_reason_of_the_next(tmp_path: Path) -> None:
    project = Project(root=tmp_path, home=tmp_path)
    with pytest.raises(UserError, match="trial-0 was given back: a full disk; or so"):
        run(project, "print('cyclegan: a full disk\\nor so', file=sys.stderr)\nsys.exit(75)")
    (tmp_path / "trial.py").write_text("import sys\ninput()\nsys.exit(1)")
    changes = {"search.trials": 1, "search.command": "python trial.py", "search.objectives": [KID]}
    params = validate(overlaid(GOOD, nested(changes)))
    search = SharedSearch(project, params, "0123456789", None, create=False)
    work(project, search)
    assert search.trials.study.trials[-1].user_attrs[REASON] == "ended with exit code 1: no error message"


def test_a_trial_that_is_given_back_keeps_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trial-0 was given back"):
        run(Project(root=tmp_path, home=tmp_path), "sys.exit(75)")
    assert list(tmp_path.glob(".search/*/trial-0/checkpoint"))
