"""Slots, attempts and who may take them, on real storages; `tests/pipeline/test_search.py` kills real workers."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.trial import Trial, TrialState

from cyclegan.params import Search, read, validate
from cyclegan.params.overrides import nested, overlaid
from cyclegan.search.storage import DATABASE_ERRORS, open_storage
from cyclegan.search.study import (
    ATTEMPTS,
    METRICS,
    OWNER,
    REASON,
    SLOT,
    Phase,
    Slot,
    definition,
    open_study,
    worker_lock,
)
from cyclegan.search.worker import threads_for
from cyclegan.system.errors import UserError
from cyclegan.training.selection import Selection
from postgresql import PostgreSQL

GOOD = read(Path(__file__).parents[2] / "params.yaml")
SLOTS = [Slot("0", {"x": 0.5}, prunable=False), Slot("1"), Slot("2"), Slot("3")]
MakePhase = Callable[[], Phase]


def search(**changes: object) -> Search:
    values = {f"search.{key.replace('__', '.')}": value for key, value in changes.items()}
    series = [f"val_{way}/{metric}" for way in ("AtoB", "BtoA") for metric in ("kid", "pair_psnr")]
    return validate(overlaid(GOOD, nested(values))).search.resolved(series)


@pytest.fixture(params=["journal", "sqlite"])
def make_phase(request: pytest.FixtureRequest, tmp_path: Path) -> MakePhase:
    """Opens the same study again, as another process would."""

    def make() -> Phase:
        where = None if request.param == "journal" else "sqlite:///studies.db"
        storage = open_storage(where, tmp_path / ".search")
        lock = tmp_path / "claims"
        study = open_study(storage, "s", search(), lock, create=True, pruner=optuna.pruners.NopPruner())
        return Phase(study, SLOTS, 0, lock)

    return make


def finish(phase: Phase, trial: Trial) -> float:
    value = trial.suggest_float("x", 0.0, 1.0)
    phase.study.tell(trial, value)
    return value


def claimed(phase: Phase, owner: Path) -> Trial:
    trial = phase.claim(owner)
    assert trial is not None
    return trial


def test_each_slot_is_run_once_and_values_do_not_depend_on_who_runs_it(make_phase: MakePhase, tmp_path: Path) -> None:
    with worker_lock(tmp_path / "workers") as owner:
        values = [finish(phase, claimed(phase, owner)) for phase in (make_phase() for _ in SLOTS)]
        phase = make_phase()
        assert phase.done
        assert phase.claim(owner) is None
    assert values[0] == 0.5
    assert len(set(values)) == 4
    assert list(phase.counted()) == ["0", "1", "2", "3"]


def test_an_attempt_that_was_given_back_is_what_comes_next(make_phase: MakePhase, tmp_path: Path) -> None:
    with worker_lock(tmp_path / "workers") as owner:
        phase = make_phase()
        finish(phase, claimed(phase, owner))
        trial = claimed(phase, owner)
        value = trial.suggest_float("x", 0.0, 1.0)
        with pytest.raises(KeyboardInterrupt), phase.working(trial):
            raise KeyboardInterrupt
        again = claimed(make_phase(), owner)
        assert again.user_attrs[SLOT] == "1"
        assert again.number == 2
        assert finish(phase, again) == value


def test_a_slot_that_loses_every_worker_is_given_up(make_phase: MakePhase, tmp_path: Path) -> None:
    with worker_lock(tmp_path / "workers") as owner:
        phase = make_phase()
        for _ in range(ATTEMPTS):
            trial = claimed(phase, owner)
            assert trial.user_attrs[SLOT] == "0"
            phase.study.tell(trial, state=TrialState.FAIL)
        assert claimed(phase, owner).user_attrs[SLOT] == "1"
        assert phase.counted()["0"].state == TrialState.FAIL
        assert len(phase.attempts()["0"]) == ATTEMPTS


@pytest.mark.parametrize(
    "stop",
    [KeyboardInterrupt(), SystemExit(143), UserError("MLflow is unavailable"), OSError(errno.ENOSPC, "No space left")],
)
def test_interruptions_and_faults_around_a_trial_never_give_a_slot_up(
    make_phase: MakePhase, tmp_path: Path, stop: BaseException
) -> None:
    with worker_lock(tmp_path / "workers") as owner:
        phase = make_phase()
        for _ in range(ATTEMPTS + 1):
            trial = claimed(phase, owner)
            with pytest.raises(type(stop)), phase.working(trial):
                raise stop
        assert finish(phase, claimed(phase, owner)) == 0.5
        assert phase.counted()["0"].state == TrialState.COMPLETE
        assert len(phase.attempts()["0"]) == ATTEMPTS + 2


@pytest.mark.parametrize("stop", [None, SystemExit(143)])
def test_an_unavailable_database_never_gives_a_slot_up(
    tmp_path: Path, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch, stop: BaseException | None
) -> None:
    """Neither alone, nor if the worker also has to end."""
    monkeypatch.setattr("cyclegan.search.storage.RECONNECT_SECONDS", 0.5)

    def make() -> Phase:
        storage = open_storage(postgresql.url, tmp_path / ".search")
        study = open_study(storage, "s", search(), tmp_path / "claims", create=True, pruner=optuna.pruners.NopPruner())
        return Phase(study, SLOTS, 0, tmp_path / "claims")

    def use_database(trial: Trial) -> None:
        if stop is not None:
            raise stop
        trial.set_user_attr(METRICS, {})

    with worker_lock(tmp_path / "workers") as owner:
        for number in range(ATTEMPTS + 1):
            postgresql.start()
            phase = make()
            # The slot is open at once, not only after its heartbeats are too old.
            trial = claimed(phase, owner)
            assert (trial.number, trial.user_attrs[SLOT]) == (number, "0")
            postgresql.stop()
            with pytest.raises((SystemExit, *DATABASE_ERRORS)), phase.working(trial):
                use_database(trial)
        postgresql.start()
        assert finish(phase, claimed(make(), owner)) == 0.5
        assert make().counted()["0"].state == TrialState.COMPLETE
    assert not list(tmp_path.glob("*.given-back"))


def test_a_failure_with_a_reason_is_an_end(make_phase: MakePhase, tmp_path: Path) -> None:
    with worker_lock(tmp_path / "workers") as owner:
        phase = make_phase()
        trial = claimed(phase, owner)
        trial.set_user_attr(REASON, "out of memory")
        phase.study.tell(trial, state=TrialState.FAIL)
        assert claimed(phase, owner).user_attrs[SLOT] == "1"


def test_a_second_attempt_at_a_running_slot_is_given_up(make_phase: MakePhase, tmp_path: Path) -> None:
    """Two hosts that queue the same slot at the same moment."""
    with worker_lock(tmp_path / "workers") as owner, worker_lock(tmp_path / "workers") as other:
        phase = make_phase()
        first = claimed(phase, owner)
        phase.study.enqueue_trial({}, user_attrs={SLOT: "0"})
        assert make_phase().claim(other) is None
        assert claimed(make_phase(), other).user_attrs[SLOT] == "1"
        finish(phase, first)
        assert [trial.number for trial in phase.attempts()["0"]] == [first.number]


def test_the_trial_of_a_killed_process_is_lost_at_once_on_a_journal(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path\n"
        "from cyclegan.search.study import worker_lock\n"
        "with worker_lock(Path(sys.argv[1])) as owner: print(owner, flush=True); time.sleep(60)"
    )
    storage = open_storage(None, tmp_path / ".search")
    study = open_study(storage, "s", search(), tmp_path / "claims", create=True, pruner=optuna.pruners.NopPruner())
    phase = Phase(study, SLOTS, 0, tmp_path / "claims")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "workers")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        trial = claimed(phase, theirs)
        assert trial.user_attrs[OWNER] == str(theirs)
        with worker_lock(tmp_path / "workers") as owner:
            assert claimed(phase, owner).user_attrs[SLOT] == "1"
            process.kill()
            process.wait()
            assert claimed(phase, owner).user_attrs[SLOT] == "0"


def test_a_worker_of_another_host_is_lost_when_it_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyclegan.search.study.HEARTBEAT_SECONDS", 0.05)
    storage = open_storage(f"sqlite:///{tmp_path}/studies.db", tmp_path / ".search")
    study = open_study(storage, "s", search(), tmp_path / "claims", create=True, pruner=optuna.pruners.NopPruner())
    phase = Phase(study, SLOTS, 0, tmp_path / "claims")
    # This host has no such file, which does not mean that the worker is dead.
    theirs = claimed(phase, Path("/another/host/worker-1"))
    others = set(threading.enumerate())
    with (
        worker_lock(tmp_path / "workers") as owner,
        closing(sqlite3.connect(tmp_path / "studies.db", isolation_level=None, timeout=20)) as database,
    ):

        def count(condition: str) -> int:
            return len(database.execute(f"SELECT * FROM trial_heartbeats WHERE {condition}").fetchall())

        def let_an_hour_pass() -> None:
            database.execute("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-1 hour')")

        with phase.working(theirs):
            (beating,) = set(threading.enumerate()) - others
            assert claimed(phase, owner).user_attrs[SLOT] == "1"
            let_an_hour_pass()
            deadline = time.monotonic() + 20
            while not count("heartbeat > datetime('now', '-1 minute')"):
                assert time.monotonic() < deadline, "no heartbeat"
                time.sleep(0.05)
            assert claimed(phase, owner).user_attrs[SLOT] != "0"
        beating.join(20)
        let_an_hour_pass()
        assert claimed(phase, owner).user_attrs[SLOT] == "0"


def test_heartbeats_continue_after_one_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyclegan.search.study.HEARTBEAT_SECONDS", 0.05)
    storage = open_storage(f"sqlite:///{tmp_path}/studies.db", tmp_path / ".search")
    study = open_study(storage, "s", search(), tmp_path / "claims", create=True, pruner=optuna.pruners.NopPruner())
    phase = Phase(study, SLOTS, 0, tmp_path / "claims")
    with (
        worker_lock(tmp_path / "workers") as owner,
        closing(sqlite3.connect(tmp_path / "studies.db", isolation_level=None, timeout=20)) as database,
        phase.working(claimed(phase, owner)),
    ):
        database.execute("ALTER TABLE trial_heartbeats RENAME TO away")
        time.sleep(0.5)
        database.execute("ALTER TABLE away RENAME TO trial_heartbeats")
        database.execute("DELETE FROM trial_heartbeats")
        deadline = time.monotonic() + 20
        while not database.execute("SELECT * FROM trial_heartbeats").fetchall():
            assert time.monotonic() < deadline, "no further heartbeat"
            time.sleep(0.05)


def test_another_search_under_the_same_name_is_refused(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path / ".search")
    lock, pruner = tmp_path / "claims", optuna.pruners.NopPruner()

    def opened(**changes: object) -> optuna.Study:
        return open_study(storage, "s", search(**changes), lock, create=True, pruner=pruner)

    opened().ask()
    assert len(opened(trials=9, workers=4, finalists=3, repeats=5).trials) == 1
    for changes, difference in (
        ({"seed": 3}, "search.seed was 0 and is 3"),
        ({"pruner": "median"}, "search.pruner was none and is median"),
        ({"fidelity__epochs": 1}, "search.fidelity.epochs was None and is 1"),
        ({"space__identity": None}, "search.space.identity.high was 5.0 and is (none)"),
    ):
        with pytest.raises(UserError, match="1 trials of another search") as caught:
            opened(**changes)
        assert difference in str(caught.value)
    objectives = [{"name": name, "direction": "maximize", "terms": {"val_AtoB/kid": 1.0}} for name in "ab"]
    two = open_study(storage, "two", search(objectives=objectives), lock, create=True, pruner=pruner)
    assert two.metric_names == ["a", "b"]
    two.ask()
    with pytest.raises(UserError, match=r"search\.objectives was \['a', 'b'\] and is \['b', 'a'\]"):
        open_study(storage, "two", search(objectives=objectives[::-1]), lock, create=True, pruner=pruner)
    # The refused search has not renamed the objectives.
    assert optuna.load_study(study_name="two", storage=storage).metric_names == ["a", "b"]
    with pytest.raises(UserError, match=r"no study t\b.* s, two"):
        open_study(storage, "t", search(), lock, create=False, pruner=pruner)


def test_workers_share_the_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    assert threads_for(1) == cores
    assert threads_for(cores) == 1
    assert threads_for(10 * cores) == 1


SERIES = {name: {f"val_{way}/{name}" for way in ("AtoB", "BtoA")} for name in ("cycle_l1", "kid", "pair_psnr")}


@pytest.mark.parametrize(
    ("available", "name", "direction", "metric"),
    [
        ({"cycle_l1", "kid", "pair_psnr"}, "pair PSNR", "maximize", "pair_psnr"),
        ({"cycle_l1", "kid"}, "KID", "minimize", "kid"),
        ({"cycle_l1", "pair_psnr"}, "pair PSNR", "maximize", "pair_psnr"),
    ],
)
def test_auto_objectives_follow_the_data_as_the_selection_does(
    available: set[str], name: str, direction: str, metric: str
) -> None:
    series = set.union(*(SERIES[some] for some in available))
    chosen = validate(GOOD).search
    assert chosen.objectives == "auto"
    (objective,) = chosen.resolved(series).compared
    assert (objective.name, objective.direction) == (name, direction)
    assert objective.terms == dict.fromkeys(SERIES[metric], 0.5)
    selection = Selection.of("auto", None, series)
    assert selection is not None
    assert set(selection.series) == set(objective.terms)


def test_auto_objectives_need_pairs_or_two_images() -> None:
    with pytest.raises(UserError, match=r"^search\.objectives: auto .* 2 images .*; raise data\.val_fraction"):
        validate(GOOD).search.resolved(SERIES["cycle_l1"])


def test_data_without_pairs_is_another_study_definition() -> None:
    """Workers that see other data than the one that created the study are refused."""
    chosen = validate(GOOD).search
    paired, unpaired = (definition(chosen.resolved(SERIES[name])) for name in ("pair_psnr", "kid"))
    assert paired["search.objectives"] == ["pair PSNR"]
    assert unpaired["search.objectives"] == ["KID"]
    assert unpaired["search.objectives.KID.direction"] == "minimize"
