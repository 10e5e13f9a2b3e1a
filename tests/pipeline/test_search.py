"""Stage `search` as a person uses it: real studies, and real worker processes that are really killed.

Most searches here run `planted.py`, whose best hyperparameters are known, in place of trainings.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from PIL import Image
from sandbox import Sandbox

from browser import CHROMIUM, content_width
from cyclegan.params import Params, read
from cyclegan.params.section import plain
from cyclegan.tracking.series import mlflow_name
from in_process import cyclegan_here
from postgresql import PostgreSQL

MakeSandbox = Callable[[], Sandbox]
PLANTED = Path(__file__).with_name("planted.py")
SPACE = {
    "cycle": {"low": 0.5, "high": 20.0, "scale": "log"},
    "identity": {"low": 0.0, "high": 5.0, "scale": "linear"},
}
# Far from the best values of `planted.py`, so that the search can improve.
FAR = {"adversarial": 1.0, "identity": 0.5, "forward_cycle": 1.5, "backward_cycle": 1.5}


@pytest.fixture(scope="module")
def sandbox(make_sandbox: MakeSandbox) -> Sandbox:
    """A project with split images; each test searches under a study name of its own."""
    sandbox = make_sandbox()
    sandbox.run("dvc", "repro", "split")
    shutil.copy(PLANTED, sandbox.root)
    return sandbox


def planted(sandbox: Sandbox, study: str, *arguments: str, **search: Any) -> None:
    """Configure a search of planted trials under a name of its own."""
    (sandbox.root / "ran.txt").unlink(missing_ok=True)
    command = " ".join([sys.executable, "planted.py", *arguments])
    start = {"trials": 8, "seed": 0, "workers": 2, "storage": None, "pruner": "none", "finalists": 1, "repeats": 2}
    start["objectives"] = [objective("quality", "maximize", "pair_psnr")]
    start["space"] = {**plain(Params().search.space), **SPACE}
    sandbox.configure(search={**start, **search, "study": study, "command": command}, train={"loss_weights": FAR})


def objective(name: str, direction: str, metric: str) -> dict[str, Any]:
    return {"name": name, "direction": direction, "terms": {f"val_{way}/{metric}": 0.5 for way in ("AtoB", "BtoA")}}


def ran(sandbox: Sandbox) -> list[dict[str, Any]]:
    """What the trials' processes logged."""
    return [json.loads(line) for line in (sandbox.root / "ran.txt").read_text().splitlines()]


def table(sandbox: Sandbox, phase: str = "trial") -> pd.DataFrame:
    rows = pd.read_csv(sandbox.root / "reports/search/trials.csv", dtype={"slot": str})
    return rows[rows["phase"] == phase]


def study_of(sandbox: Sandbox, name: str, storage: BaseStorage | None = None) -> optuna.Study:
    """Open the study `name` with Optuna alone."""
    backend = JournalFileBackend(str(sandbox.root / ".search/journal.log"))
    storage = storage or JournalStorage(backend)
    (full,) = [
        other
        for other in optuna.get_all_study_names(storage)
        if other.startswith(f"fluent-emoji-{name}-") and not other.endswith("-finals")
    ]
    return optuna.load_study(study_name=full, storage=storage)


def whole(study: optuna.Study, trials: int) -> None:
    """Check that every slot ended once, and that no trial is running or waiting."""
    ended = [trial for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert sorted(int(trial.user_attrs["slot"]) for trial in ended) == list(range(trials))
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    settings = [tuple(sorted(trial.params.items())) for trial in ended]
    assert len(set(settings)) == trials


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line.removeprefix("cyclegan: ")


def worker_pids(sandbox: Sandbox) -> list[int]:
    """IDs of the workers that live; each holds a file with its ID."""
    texts = [file.read_text() for file in (sandbox.root / ".search/workers").glob("worker-*")]
    found = [int(text) for text in texts if text.strip()]
    return [pid for pid in found if Path(f"/proc/{pid}").exists()]


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


@contextmanager
def running(sandbox: Sandbox, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own."""
    process = subprocess.Popen(
        command,
        cwd=sandbox.root,
        env=sandbox.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def output(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.read()


def count_ran(sandbox: Sandbox) -> int:
    file = sandbox.root / "ran.txt"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_no_trials_leave_the_parameters_as_they_are(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox()
    code = "import sys, cyclegan.cli; cyclegan.cli.main(['search']); print('LOADED', sorted(sys.modules))"
    done = sandbox.run(sys.executable, "-c", code)
    loaded = done.stdout.partition("LOADED ")[2]
    for heavy in ("tensorflow", "mlflow", "optuna", "matplotlib", "pandas"):
        assert f"'{heavy}'" not in loaded
    assert (sandbox.root / "reports/search/best.yaml").read_text() == "{}\n"
    assert list(pd.read_csv(sandbox.root / "reports/search/trials.csv").columns)[:2] == ["phase", "slot"]
    assert "there is no search to take part in" in refused(cyclegan_here("search", "worker", cwd=sandbox.root))


def test_a_planted_problem_is_solved(sandbox: Sandbox) -> None:
    planted(sandbox, "solved", trials=20, finalists=2, repeats=3)
    sandbox.run("cyclegan", "search")

    whole(study_of(sandbox, "solved"), 20)
    trials = table(sandbox)
    assert list(trials["slot"]) == [str(slot) for slot in range(20)]
    # Trial 0 is params.yaml, trial 1 the paper.
    assert list(zip(trials["cycle"], trials["identity"], strict=True))[:2] == [(1.5, 0.5), (10.0, 5.0)]
    best = read(sandbox.root / "reports/search/best.yaml")
    weights = best["train"]["loss_weights"]
    assert set(weights) == {"identity", "forward_cycle", "backward_cycle"}
    assert len({*weights["forward_cycle"].values(), *weights["backward_cycle"].values()}) == 1
    assert 2 < weights["forward_cycle"]["AtoB"] < 8
    assert 1 < weights["identity"]["AtoB"] < 3
    winner = trials[trials["slot"] == str(best["origin"]["trial"])].iloc[0]
    assert winner["cycle"] == weights["forward_cycle"]["AtoB"]
    assert winner["quality"] > trials["quality"][:2].max() + 0.5

    finals = table(sandbox, "final")
    assert len(finals) == 9
    by_setting = finals.groupby(finals["slot"].str.partition("-")[0])["seed"].agg(list)
    assert len({tuple(seeds) for seeds in by_setting}) == 1
    assert not set(by_setting.iloc[0]) & set(trials["seed"])
    assert trials["seed"].nunique() == 20
    assert {note["cheap"] for note in ran(sandbox) if note["final"]} == {False}
    # A process of its own for each, and the cores shared among two workers.
    assert len({note["pid"] for note in ran(sandbox)}) == 29
    assert {note["threads"] for note in ran(sandbox)} == {str(max(1, len(os.sched_getaffinity(0)) // 2))}

    folder = sandbox.root / "reports/search"
    images = {file.stem for file in folder.glob("*.png")}
    assert images == {"history", "slice", "importance", "intermediate", "finals"}
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert "http" not in page.replace("http-equiv", "")
    assert "params.yaml" in page
    assert "paper" in page
    assert page.count("<table") == page.count('<div class="scroll" tabindex="0"') == 2
    if CHROMIUM is not None:
        assert content_width(page, 390, sandbox.root) <= 390
    run = sandbox.client.get_run(best["origin"]["run_id"])
    assert run.info.status == "FINISHED"
    assert sandbox.client.get_experiment(run.info.experiment_id).name == "fluent-emoji-search"
    assert "beats params.yaml" in run.data.tags["search.verdict"]
    assert "search/report.html" in {file.path for file in sandbox.client.list_artifacts(run.info.run_id, "search")}

    # Once more: everything is done.
    before = count_ran(sandbox)
    assert "20 of 20 trials done" in cyclegan_here("search", cwd=sandbox.root).stdout
    assert count_ran(sandbox) == before
    # Another feature network, or another content of its file, is another study.
    others = []
    for content in ("one", "two"):
        (sandbox.root / "own.keras").write_text(content)
        sandbox.configure(evaluate={"features": "own.keras"})
        line = refused(cyclegan_here("search", "worker", cwd=sandbox.root))
        others.append(re.search(r"holds no study (fluent-emoji-solved-\w+)", line)[1])
    assert len({*others, best["origin"]["study"]}) == 3
    sandbox.configure(evaluate={"features": "data/features/efficientnet-lite0.npz"})
    # Another space, or another direction, is another search.
    sandbox.configure(search={"space": {**read(sandbox.root / "params.yaml")["search"]["space"], "cycle": None}})
    assert "search.space.cycle.high was 20.0 and is (none)" in refused(cyclegan_here("search", cwd=sandbox.root))
    planted(sandbox, "solved", trials=20, objectives=[objective("quality", "minimize", "pair_psnr")])
    line = refused(cyclegan_here("search", cwd=sandbox.root))
    assert "search.objectives.quality.direction was maximize and is minimize" in line
    assert "give search.study a new name" in line
    # More trials continue the same study.
    planted(sandbox, "solved", trials=22, finalists=2, repeats=3)
    assert "20 of 22 trials done" in cyclegan_here("search", cwd=sandbox.root).stdout
    assert len(table(sandbox)) == 22


def test_a_trial_counts_by_the_generators_that_it_keeps(sandbox: Sandbox) -> None:
    planted(sandbox, "falls", "--falls", trials=3)
    sandbox.run("cyclegan", "search")
    for trial in study_of(sandbox, "falls").trials:
        assert trial.value == max(trial.intermediate_values.values()) > trial.intermediate_values[3]
    rows = pd.concat([table(sandbox), table(sandbox, "final")])
    assert len(rows) == 3 + 4
    np.testing.assert_array_equal(rows["quality"], rows["val_AtoB/pair_psnr"])
    expected = 30 - np.log(rows["cycle"] / 4) ** 2 - (rows["identity"] - 2) ** 2 / 4
    np.testing.assert_allclose(rows["quality"], expected, atol=0.1)


def test_what_cannot_be_searched_is_refused_before_any_trial(sandbox: Sandbox) -> None:
    planted(sandbox, "refused", objectives=[objective("x", "maximize", "lpips")])
    line = refused(cyclegan_here("search", cwd=sandbox.root))
    assert line.startswith("search.objectives: val_AtoB/lpips: the validation split yields no such metric; use some of")
    planted(sandbox, "refused", objectives=[objective("x", "maximize", "pair_psnr")])
    sandbox.configure(search={"command": "no-such-program 1"})
    assert "program 'no-such-program' not found" in refused(cyclegan_here("search", cwd=sandbox.root))
    planted(sandbox, "refused", storage="not a URL")
    assert "must be null or a URL" in refused(cyclegan_here("search", cwd=sandbox.root))
    planted(sandbox, "refused", storage="postgresql://me:secret@127.0.0.1:1/none")
    line = refused(cyclegan_here("search", cwd=sandbox.root))
    assert "the database cannot be used" in line
    assert "secret" not in line
    assert not (sandbox.root / "ran.txt").exists()


def test_images_without_pairs_are_searched_by_kid(make_sandbox: MakeSandbox) -> None:
    """With the default objective, which is pair PSNR for the project's own paired images."""
    sandbox = make_sandbox()
    shutil.copy(PLANTED, sandbox.root)
    for number, name in enumerate("AB"):
        (sandbox.root / name).mkdir()
        for index, pixels in enumerate(np.random.default_rng(number).integers(0, 256, (20, 16, 16, 3), np.uint8)):
            Image.fromarray(pixels).save(sandbox.root / name / f"{index}.png")
    folders = {"source": "folders", "folder_A": "A", "folder_B": "B", "name": "fluent-emoji"}
    planted(sandbox, "unpaired", trials=2, workers=1, objectives="auto")
    sandbox.configure(data=folders)
    sandbox.run("dvc", "repro", "search")
    study = study_of(sandbox, "unpaired")
    assert [direction.name for direction in study.directions] == ["MINIMIZE"]
    rows = table(sandbox)
    assert list(rows["state"]) == ["complete", "complete"]
    np.testing.assert_allclose(rows["KID"], rows[["val_AtoB/kid", "val_BtoA/kid"]].mean(axis=1))
    assert len(table(sandbox, "final")) == 4


@pytest.mark.slow
def test_the_winner_flows_into_training(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox()
    shutil.copy(PLANTED, sandbox.root)
    planted(sandbox, "flow", trials=10)
    before = (sandbox.root / "params.yaml").read_text()
    sandbox.run("dvc", "repro", "train")
    assert (sandbox.root / "params.yaml").read_text() == before
    best = read(sandbox.root / "reports/search/best.yaml")
    identity = best["train"]["loss_weights"]["identity"]["AtoB"]
    recorded = sandbox.json("reports/train/run.json")
    assert recorded["search"]["origin"] == best["origin"]
    replaced = recorded["search"]["replaced"]["train.loss_weights.identity.AtoB"]
    assert replaced == {"params.yaml": 0.5, "best.yaml": identity}
    run = sandbox.client.get_run(recorded["run_id"])
    assert float(run.data.params["train.loss_weights.identity.AtoB"]) == pytest.approx(identity)
    assert run.data.tags["search.replaced.train.loss_weights.identity.AtoB"] == f"{identity} (params.yaml: 0.5)"
    assert run.data.tags["search.study"] == best["origin"]["study"]
    metrics = run.data.metrics
    cycle = best["train"]["loss_weights"]["forward_cycle"]["AtoB"]
    weights = {"adversarial": 1.0, "identity": identity, "forward_cycle": cycle, "backward_cycle": cycle}
    total = sum(weight * metrics[f"2_G_AtoB/{term}"] for term, weight in weights.items())
    assert metrics["2_G_AtoB/total"] == pytest.approx(total, rel=1e-4)
    assert "reports/search/best.yaml" in (sandbox.root / "dvc.lock").read_text()
    # Back to no search: the training of params.yaml.
    sandbox.configure(search={"trials": 0})
    sandbox.run("dvc", "repro", "train")
    assert sandbox.json("reports/train/run.json")["search"] == {"origin": {}, "replaced": {}}
    assert sandbox.json("reports/train/run.json")["run_id"] != recorded["run_id"]


@pytest.mark.slow
def test_trainings_are_trials_and_go_on_after_a_kill(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox()
    sandbox.run("dvc", "repro", "split")
    fidelity = {"epochs": 3, "steps_per_epoch": 4, "evaluate_every": None, "crop_size": None}
    sandbox.configure(
        search={
            "trials": 2,
            "study": "real",
            "finalists": 1,
            "repeats": 2,
            "fidelity": {**fidelity, "base_filters": None, "discriminator_filters": None},
        },
        train={"checkpoint_every": 1e-9, "epochs": 1, "select": "kid"},
    )
    with running(sandbox, "cyclegan", "search") as search:
        wait_for(lambda: bool(list(sandbox.root.glob(".search/*/trial-1/step-*.sha256"))), seconds=300)
        (worker,) = worker_pids(sandbox)
        os.kill(worker, signal.SIGKILL)
        text = output(search)
        assert search.wait() == 0, text
    study = study_of(sandbox, "real")
    whole(study, 2)
    assert [trial.state for trial in study.trials].count(TrialState.FAIL) == 1
    summary = sandbox.json("reports/search/study.json")
    experiment = sandbox.client.get_experiment_by_name("fluent-emoji-search")
    runs = sandbox.client.search_runs([experiment.experiment_id])
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == summary["run_id"]]
    assert len(runs) == 1 + len(children) == 7
    assert {run.info.status for run in children} == {"FINISHED"}
    (second,) = [run for run in children if run.data.tags.get("search.trial") == "1"]
    assert second.info.run_id == table(sandbox).set_index("slot")["run_id"]["1"]
    for name in ("G_AtoB/total", "G_BtoA/identity", "D_A/real", "val_AtoB/pair_psnr"):
        points = [point.step for point in sandbox.client.get_metric_history(second.info.run_id, mlflow_name(name))]
        assert points == [4, 8, 12], name
    # The resumed attempt also reported the evaluations of the first attempt to Optuna.
    (trial,) = [t for t in study.trials if t.user_attrs["slot"] == "1" and t.state == TrialState.COMPLETE]
    assert list(trial.intermediate_values) == [1, 2, 3]
    # Its value is that of the generators it keeps, by their metrics in MLflow.
    kept = int(second.data.tags["kept.step"])
    by_step = {
        name: {
            point.step: point.value
            for point in sandbox.client.get_metric_history(second.info.run_id, mlflow_name(name))
        }
        for way in ("AtoB", "BtoA")
        for name in (f"val_{way}/kid", f"val_{way}/pair_psnr")
    }
    sums = {step: sum(by_step[f"val_{way}/kid"][step] for way in ("AtoB", "BtoA")) for step in (4, 8, 12)}
    assert kept == min(sums, key=sums.__getitem__)
    assert trial.value == pytest.approx(sum(by_step[f"val_{way}/pair_psnr"][kept] for way in ("AtoB", "BtoA")) / 2)
    assert float(second.data.params["train.loss_weights.forward_cycle.AtoB"]) == 10.0
    assert second.data.params["train.epochs"] == "3"
    finals = [run for run in children if "search.final" in run.data.tags]
    assert {run.data.params["train.epochs"] for run in finals} == {"1"}
    assert not list(sandbox.root.glob(".search/*/trial-*/"))


@pytest.mark.slow
def test_trouble_costs_one_trial_each(sandbox: Sandbox) -> None:
    troubles = {"crash": "3", "kill": "4", "nan": "5", "null": "6", "text": "7"}
    options = [part for trouble, slot in troubles.items() for part in (f"--{trouble}", slot)]
    planted(sandbox, "trouble", *options, trials=9)
    sandbox.run("cyclegan", "search")
    trials = table(sandbox).set_index("slot")
    assert set(trials["state"][troubles.values()]) == {"fail"}
    assert (trials["state"].drop(troubles.values()) == "complete").all()
    assert trials["reason"]["3"] == "ended with exit code 1: MemoryError: planted crash"
    assert trials["reason"]["4"].startswith("was killed by SIGKILL")
    assert "reported no finite val_AtoB/pair_psnr" in trials["reason"]["5"]
    assert trials["reason"]["6"] == "reported val_AtoB/kid = null, which is not a number"
    assert trials["reason"]["7"] == 'reported val_AtoB/pair_psnr = "n/a", which is not a number'
    log = (sandbox.root / ".search" / study_of(sandbox, "trouble").study_name / "trial-8.log").read_text()
    assert 'stdout: {"level": "info", "result": "nor is this"}' in log
    # A trial that fails by its own fault is not tried again.
    assert [note["slot"] for note in ran(sandbox) if not note["final"]].count("4") == 1


@pytest.mark.slow
def test_a_trial_that_cannot_run_is_given_back(sandbox: Sandbox) -> None:
    """A fault that the next trial would meet too ends the search with one line."""
    planted(sandbox, "back", trials=2, workers=1)
    sandbox.configure(search={"command": "sh trial.sh"})
    trial = sandbox.root / "trial.sh"

    def given_back(script: str) -> str:
        trial.write_text(f"{script} exec {sys.executable} -m cyclegan search trial")
        done = sandbox.run("cyclegan", "search", check=False)
        assert done.returncode == 2
        line, last = done.stderr.strip().splitlines()
        assert last == "cyclegan: a worker of the search ended with exit code 2; see the error above"
        assert line.startswith("cyclegan: trial-0 was given back: ")
        assert line.endswith("; fix this and run the same command again")
        return line

    assert "the MLflow server does not answer" in given_back("export MLFLOW_TRACKING_URI=http://127.0.0.1:1;")
    # Changes of params.yaml during a search would mix trials that cannot be compared.
    file = sandbox.root / "params.yaml"
    started = file.read_text()
    fidelity = read(file)["search"]["fidelity"]
    for changes in ({"train": {"learning_rate": 0.003}}, {"search": {"fidelity": {**fidelity, "epochs": 7}}}):
        sandbox.configure(**changes)
        file.rename(sandbox.root / "changed.yaml")
        file.write_text(started)
        line = given_back("cp changed.yaml params.yaml;")
        assert "study fluent-emoji-back-" in line
        assert "has changed since its start" in line
        file.write_text(started)
    for _ in range(3):
        given_back("echo gone >&2; exit 75;")
    trial.write_text(f"exec {sys.executable} planted.py")
    sandbox.run("cyclegan", "search")
    whole(study_of(sandbox, "back"), 2)
    assert list(table(sandbox)["attempts"]) == [7, 1]


@pytest.mark.slow
def test_killed_workers_lose_no_trial(sandbox: Sandbox) -> None:
    planted(sandbox, "killed", "--seconds", "1.5", trials=10)
    with running(sandbox, "cyclegan", "search") as search:
        for number in (1, 4, 7):
            wait_for(lambda number=number: count_ran(sandbox) >= number and len(worker_pids(sandbox)) == 2)
            time.sleep(0.4)
            os.kill(worker_pids(sandbox)[0], signal.SIGKILL)
        text = output(search)
        assert search.wait() == 0, text
    assert text.count("starting another one") == 3
    study = study_of(sandbox, "killed")
    whole(study, 10)
    finals = optuna.load_study(study_name=f"{study.study_name}-finals", storage=study._storage)
    lost = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    lost_finals = [trial for trial in finals.trials if trial.state == TrialState.FAIL]
    assert sandbox.json("reports/search/study.json")["lost_attempts"] == len(lost) + len(lost_finals) >= 2
    # They were repeated with the same values.
    complete = {trial.user_attrs["slot"]: trial for trial in study.trials if trial.state == TrialState.COMPLETE}
    for trial in lost:
        assert trial.params.items() <= complete[trial.user_attrs["slot"]].params.items()


@pytest.mark.slow
def test_workers_that_are_ended_or_lose_a_trial_do_not_end_the_search(sandbox: Sandbox) -> None:
    planted(sandbox, "ended", "--seconds", "2", trials=5)
    with running(sandbox, "cyclegan", "search") as search:
        for number, sent in ((1, signal.SIGTERM), (4, signal.SIGHUP)):
            wait_for(lambda number=number: count_ran(sandbox) >= number and len(worker_pids(sandbox)) == 2)
            os.kill(worker_pids(sandbox)[0], sent)
        wait_for(lambda: count_ran(sandbox) >= 6)
        study = study_of(sandbox, "ended")
        # As another worker does on a database after 30 silent seconds.
        taken = next(trial for trial in study.trials if trial.state == TrialState.RUNNING)
        study.tell(taken.number, state=TrialState.FAIL)
        text = output(search)
        assert search.wait() == 0, text
    assert "killed by SIGTERM: starting another one" in text
    assert "killed by SIGHUP: starting another one" in text
    assert f"trial {taken.user_attrs['slot']}: another worker took it over" in text
    whole(study_of(sandbox, "ended"), 5)


@pytest.mark.slow
def test_a_killed_and_continued_search_equals_an_uninterrupted_one(sandbox: Sandbox) -> None:
    planted(sandbox, "smooth", trials=14, workers=1)
    sandbox.run("cyclegan", "search")
    smooth = table(sandbox)
    planted(sandbox, "broken", "--seconds", "0.3", trials=14, workers=1)
    for number in (4, 12):
        with running(sandbox, "cyclegan", "search") as search:
            wait_for(lambda number=number: count_ran(sandbox) >= number)
            (worker,) = worker_pids(sandbox)
            os.kill(search.pid, signal.SIGKILL)
            # Its worker must not continue alone.
            wait_for(lambda worker=worker: not Path(f"/proc/{worker}").exists(), seconds=30)
    assert "of 14 trials done" in cyclegan_here("search", cwd=sandbox.root).stdout
    whole(study_of(sandbox, "broken"), 14)
    broken = table(sandbox)
    for column in ("slot", "cycle", "identity", "seed", "quality"):
        np.testing.assert_array_equal(broken[column], smooth[column])
    runs = sandbox.client.search_runs(
        [sandbox.client.get_experiment_by_name("fluent-emoji-search").experiment_id],
        f"tags.`search.study` = '{sandbox.json('reports/search/study.json')['study']}'",
    )
    assert [run.info.status for run in runs] == ["FINISHED"]


@pytest.mark.slow
def test_a_second_search_of_the_same_study_is_refused(sandbox: Sandbox) -> None:
    planted(sandbox, "twice", "--seconds", "2", trials=3)
    with running(sandbox, "cyclegan", "search") as search:
        wait_for(lambda: count_ran(sandbox) >= 1)
        assert f"process {search.pid} runs the search" in refused(cyclegan_here("search", cwd=sandbox.root))
        os.kill(search.pid, signal.SIGTERM)
        assert search.wait(60) == 128 + signal.SIGTERM
    wait_for(lambda: not worker_pids(sandbox), seconds=30)
    # On SIGTERM, it gave its trials back.
    assert not [trial for trial in study_of(sandbox, "twice").trials if trial.state == TrialState.RUNNING]


@pytest.mark.slow
def test_bad_trials_are_pruned_and_trial_0_is_not(sandbox: Sandbox) -> None:
    for pruner in ("median", "hyperband"):
        planted(sandbox, pruner, trials=24, pruner=pruner)
        sandbox.run("cyclegan", "search")
        whole(study_of(sandbox, pruner), 24)
        trials = table(sandbox).set_index("slot")
        pruned = trials[trials["state"] == "pruned"]
        assert len(pruned) >= 2
        assert trials["state"]["0"] == "complete"
        assert pruned["quality"].isna().all()
        assert (sandbox.root / "reports/search/intermediate.png").exists()


@pytest.mark.slow
def test_two_objectives_give_a_front(sandbox: Sandbox) -> None:
    both = [objective("realism", "maximize", "pair_psnr"), objective("cycle error", "minimize", "cycle_l1")]
    planted(sandbox, "front", trials=14, objectives=both)
    sandbox.run("cyclegan", "search")
    whole(study_of(sandbox, "front"), 14)
    assert (sandbox.root / "reports/search/pareto.png").exists()
    assert {"realism", "cycle error"} <= set(table(sandbox).columns)
    compared = sandbox.json("reports/search/study.json")["compared"]
    assert [entry["objective"] for entry in next(iter(compared.values()))] == ["realism", "cycle error"]


def share_by_hand(sandbox: Sandbox, url: str, storage: BaseStorage) -> None:
    """Run a search and a worker that joins it by its URL; kill the search's own worker."""
    with running(sandbox, "cyclegan", "search", "--storage", url, "--workers", "1") as search:
        wait_for(lambda: count_ran(sandbox) >= 1)
        (first,) = worker_pids(sandbox)
        with running(sandbox, "cyclegan", "search", "worker", "--storage", url) as joined:
            wait_for(lambda: len(worker_pids(sandbox)) == 2 and count_ran(sandbox) >= 4)
            os.kill(first, signal.SIGKILL)
            text = output(joined)
            assert joined.wait() == 0, text
        assert search.wait() == 0, output(search)
    ran_here = int(text.partition("this worker ran ")[2].partition(" ")[0])
    assert ran_here >= 1
    study = study_of(sandbox, sandbox_study(sandbox), storage)
    whole(study, 8)
    assert [trial.state for trial in study.trials].count(TrialState.FAIL) <= 1
    assert len(table(sandbox)) == 8


def sandbox_study(sandbox: Sandbox) -> str:
    return str(read(sandbox.root / "params.yaml")["search"]["study"])


@pytest.mark.slow
def test_two_workers_share_a_sqlite_file(sandbox: Sandbox) -> None:
    planted(sandbox, "sqlite", "--seconds", "1", trials=8)
    # The path is relative to the project, in any working directory.
    share_by_hand(sandbox, "sqlite:///shared.db", RDBStorage(f"sqlite:///{sandbox.root}/shared.db"))
    missing = f"sqlite:///{sandbox.root}/another.db"
    line = refused(sandbox.run("cyclegan", "search", "worker", "--storage", missing, check=False))
    assert "holds no study fluent-emoji-sqlite-" in line


@pytest.mark.slow
def test_two_workers_share_a_postgresql_server(sandbox: Sandbox, postgresql: PostgreSQL) -> None:
    planted(sandbox, "postgresql", "--seconds", "1", trials=8)
    postgresql.start()
    share_by_hand(sandbox, postgresql.url, RDBStorage(postgresql.url))


@pytest.mark.slow
def test_a_search_waits_for_a_server_that_restarts(sandbox: Sandbox, postgresql: PostgreSQL) -> None:
    planted(sandbox, "restart", "--seconds", "1", trials=8, storage=postgresql.url)
    postgresql.start()
    with running(sandbox, "cyclegan", "search", "--workers", "2") as search:
        wait_for(lambda: count_ran(sandbox) >= 2)
        postgresql.stop()
        time.sleep(5)
        postgresql.start()
        text = output(search)
        assert search.wait() == 0, text
    assert "search.storage: the database is unavailable; waiting" in text
    whole(study_of(sandbox, "restart", RDBStorage(postgresql.url)), 8)
