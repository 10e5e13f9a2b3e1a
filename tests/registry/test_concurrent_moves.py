"""Two machines make a version champion at the same moment."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from cyclegan.params import Tracking
from cyclegan.project import Project
from cyclegan.registry.champion import MOVE_TAG, Action, Move, champion_of, move, moves
from cyclegan.registry.concurrent_moves import settle
from cyclegan.registry.measurements import Measured
from cyclegan.registry.versions import EVALUATION, WEIGHTS_TAG
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.store import Store, open_store
from mlflow_server import Server
from postgresql import PostgreSQL

NUMBER = itertools.count()
ROUNDS = 50


@pytest.fixture
def model(store: Store) -> str:
    """A registered model with four versions, of which version 1 is champion. Each is better than the previous one."""
    name = f"overlap-{next(NUMBER)}"
    store.client.create_registered_model(name)
    for _ in range(4):
        store.client.create_model_version(name, "file:///nowhere")
    move(store, name, "1", "promote", "first")
    return name


def move_elsewhere(store: Store, model: str, before: str, version: str, by: Action = "register") -> Move:
    """Another machine moves the alias; it saw version `before` as champion."""
    number = 1 + len(moves(store, model))
    made = Move(version, before, by, "2026-01-01T00:00:00+00:00", "better")
    store.client.set_registered_model_alias(model, "champion", version)
    tag = f"{MOVE_TAG}{number:04}-v{version}"
    store.client.set_registered_model_tag(model, tag, json.dumps(asdict(made)))
    return made


def is_better(one: str, champion: str | None) -> bool:
    return champion is None or int(one) > int(champion)


def is_not_better(_one: str, champion: str | None) -> bool:
    return champion == "1"


def test_an_undisturbed_move_is_final(store: Store, model: str) -> None:
    known = moves(store, model)
    settle(store, model, move(store, model, "2", "register", "better"), known, is_better)
    assert (champion_of(store, model), len(moves(store, model))) == ("2", 2)


@pytest.mark.parametrize(("mine", "theirs"), [("2", "3"), ("3", "2")])
@pytest.mark.parametrize("first", ["mine", "theirs"])
def test_of_two_moves_at_once_the_better_version_stays(
    store: Store, model: str, mine: str, theirs: str, first: str
) -> None:
    known = moves(store, model)
    if first == "mine":
        made = move(store, model, mine, "register", "better")
        move_elsewhere(store, model, "1", theirs)
    else:
        move_elsewhere(store, model, "1", theirs)
        made = move_elsewhere(store, model, "1", mine)
    settle(store, model, made, known, is_better)
    assert champion_of(store, model) == "3"
    assert moves(store, model)[-1].version in (mine, "3")


def test_of_two_equal_versions_every_machine_chooses_the_first(store: Store, model: str) -> None:
    known = moves(store, model)
    both = [move_elsewhere(store, model, "1", version) for version in ("3", "2")]
    for made in both:
        settle(store, model, made, known, is_not_better)
        assert champion_of(store, model) == "2"


def test_a_move_that_saw_ours_is_respected(store: Store, model: str) -> None:
    """For example a rollback, or a promotion of another version by hand."""
    known = moves(store, model)
    made = move(store, model, "3", "register", "better")
    move_elsewhere(store, model, "3", "2", "promote")
    settle(store, model, made, known, is_better)
    assert champion_of(store, model) == "2"


def test_a_choice_by_hand_is_compared_with_ours_but_not_with_what_it_replaced(store: Store, model: str) -> None:
    known = moves(store, model)
    made = move(store, model, "3", "register", "better")
    move_elsewhere(store, model, "1", "4")
    move_elsewhere(store, model, "4", "2", "promote")
    settle(store, model, made, known, is_better)
    assert champion_of(store, model) == "3"


def test_a_move_whose_tag_is_still_missing_is_compared(store: Store, model: str) -> None:
    known = moves(store, model)
    made = move(store, model, "3", "register", "better")
    store.client.set_registered_model_alias(model, "champion", "2")
    settle(store, model, made, known, is_better)
    assert champion_of(store, model) == "3"


# A process on a machine of its own: each has a project with its own lock files.
RACER = """
import sys
from pathlib import Path
from cyclegan.params import Tracking
from cyclegan.project import Project
from cyclegan.registry.champion import moves
from cyclegan.registry.versions import decision_on, load_measurements, make_champion
from cyclegan.tracking.store import open_store

root, uri, version = sys.argv[1:]
store = open_store(Project(root=Path(root), home=Path(root)), Tracking(uri=uri, experiment=None, offline=False))
measured = load_measurements(store, "race-0", version)
print("ready", flush=True)
for name in map(str.strip, sys.stdin):
    known = moves(store, name)
    decision = decision_on(store, name, version, measured, "pair_psnr")
    if decision.promote:
        decision = make_champion(store, name, version, decision, known)
    print(decision.promote, flush=True)
"""


def opened(root: Path, uri: str | None) -> Store:
    root.mkdir(exist_ok=True)
    return open_store(Project(root=root, home=root), Tracking(uri=uri, experiment=None, offline=False))


def measured(psnr: float) -> Measured:
    table = pd.DataFrame({"direction": "AtoB", "domain": "A", "id": ["x", "y", "z"], "scored": True})
    table = table.assign(pair_psnr=[psnr - 0.1, psnr, psnr + 0.1], baseline_pair_psnr=18.0)
    return Measured({"pair_psnr": psnr}, {"pair_psnr": 18.0}, {"version": 1, "split": "test", "md5": "aa"}, table)


@pytest.fixture(params=["server", "postgresql"])
def shared_uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a store that two machines share."""
    if request.param == "server":
        server = Server(tmp_path)
        server.start()
        yield server.uri
        server.kill()
    else:
        database: PostgreSQL = request.getfixturevalue("postgresql")
        database.start()
        yield database.url.replace("postgresql://", "postgresql+psycopg://")


@pytest.mark.slow
def test_two_machines_that_register_at_the_same_moment_leave_the_better_champion(
    shared_uri: str, store: Store, tmp_path: Path
) -> None:
    """Versions 2 and 3 both beat version 1, and version 3 beats version 2."""
    original = store.locks.parents[1]
    try:
        shared = opened(tmp_path / "host-0", shared_uri)
        prepare_races(shared, tmp_path)
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        racers = []
        for version in ("2", "3"):
            opened(tmp_path / f"host-{version}", shared_uri)
            command = [sys.executable, "-c", RACER, str(tmp_path / f"host-{version}"), shared_uri, version]
            racers.append(
                subprocess.Popen(
                    command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
                )
            )
        try:
            assert [racer.stdout.readline() for racer in racers if racer.stdout] == ["ready\n"] * 2
            champions, contested = [], 0
            for number in range(ROUNDS):
                for racer in racers:
                    print(f"race-{number}", file=racer.stdin, flush=True)
                verdicts = [racer.stdout.readline() for racer in racers if racer.stdout]
                assert verdicts[1] == "True\n"
                champions.append(champion_of(shared, f"race-{number}"))
                contested += [made.before for made in moves(shared, f"race-{number}")].count("1") == 2
        finally:
            for racer in racers:
                racer.kill()
                racer.communicate()
        print(f"{contested} of {ROUNDS} races had two moves from the same champion")
        assert champions == ["3"] * ROUNDS
    finally:
        opened(original, None)


def prepare_races(shared: Store, folder: Path) -> None:
    """Make a registered model for each race, with the same three evaluated generators as versions 1, 2 and 3."""
    with TrackedRun.start(shared, experiment="race", name="training", params={}) as run:
        pass
    experiment = shared.client.get_run(run.id).info.experiment_id
    models = []
    for psnr in (20.0, 21.0, 22.0):
        model = shared.client.create_logged_model(experiment, name=f"G_{psnr:g}", source_run_id=run.id)
        measured(psnr).save(folder)
        for file in ("figures.json", "per_image.csv"):
            shared.client.log_model_artifact(model.model_id, str(folder / file), EVALUATION)
        models.append(model.model_id)
    for number in range(ROUNDS):
        name = f"race-{number}"
        shared.client.create_registered_model(name)
        for model_id in models:
            version = str(shared.client.create_model_version(name, f"models:/{model_id}", model_id=model_id).version)
            shared.client.set_model_version_tag(name, version, WEIGHTS_TAG, model_id)
            shared.client.set_model_version_tag(name, version, "gate.metric", "pair_psnr")
        move(shared, name, "1", "register", "first")
