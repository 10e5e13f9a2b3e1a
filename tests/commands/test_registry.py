"""`cyclegan registry …` and `cyclegan runs`, as a person types them, on a real store."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from mlflow.models import Model

from cyclegan.commands.served_model_facts import describe_model
from cyclegan.models.generator import build_generator
from cyclegan.params import load
from cyclegan.project import Project
from cyclegan.registry.champion import champion_of
from cyclegan.registry.measurements import Measured
from cyclegan.registry.versions import Candidate, register
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.store import Store, open_store

Command = Callable[..., str]
ROOT = Path(__file__).parents[2]
PSNR = {1: 20.0, 2: 22.0, 3: 21.0}
SIZES = {"train.crop_size": "whole", "data.load_size": (48, 64)}
DOMAINS = ("flat", "3D")


def measured(psnr: float) -> Measured:
    table = pd.DataFrame({"direction": "AtoB", "domain": "A", "id": ["x", "y"], "scored": True})
    table = table.assign(pair_psnr=[psnr - 0.01, psnr + 0.01], baseline_pair_psnr=19.0)
    return Measured({"pair_psnr": psnr}, {"pair_psnr": 19.0}, {"version": 1, "split": "test", "md5": "aa"}, table)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A project with three trainings and their versions; the third is no better than the second."""
    root = tmp_path_factory.mktemp("project")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, root)
    store = open_store(Project(root=root, home=root), load(root / "params.yaml").tracking)
    for number, psnr in PSNR.items():
        file = root / f"{number}.keras"
        build_generator(3, 3, base_filters=2, blocks=1, seed=number).save(file)
        with TrackedRun.start(
            store,
            experiment="fluent-emoji",
            name=f"run-{number}",
            params={"train.epochs": 10 * number, "train.batch_size": 1, **SIZES},
            tags={"git.commit": f"{number}abcdef0" * 5, "git.dirty": "true" if number == 3 else "false"},
        ) as run:
            run.log_metrics(1, {"test_AtoB/pair_psnr": psnr, "val_AtoB/pair_psnr": psnr})
        candidate = Candidate("AtoB", file, 3, 3, measured(psnr), "pair_psnr", domains=DOMAINS)
        register(store, run.id, "fluent-emoji", [candidate], tags={})
    return store


@pytest.fixture
def project(store: Store, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder as the working directory. Standard input is not a terminal."""
    root = store.locks.parents[1]
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return root


def test_list_and_show(cyclegan: Command) -> None:
    head, line = cyclegan("registry", "list").splitlines()
    assert head.split()[:4] == ["model", "versions", "champion", "challenger"]
    assert line.split()[:6] == ["fluent-emoji-AtoB", "3", "2", "3", "pair_psnr", "22"]

    versions = cyclegan("registry", "show", "fluent-emoji-AtoB")
    assert "pair_psnr 21, champion (version 2) 22: worse" in versions
    assert "none -> 1  by register: " in versions
    assert "1 -> 2  by register: " in versions

    one = cyclegan("registry", "show", "models:/fluent-emoji-AtoB@champion")
    assert one.startswith("fluent-emoji-AtoB version 2, registered ")
    assert "aliases: champion\n" in one
    assert "| pair_psnr | 22 | 19 |" in one
    assert "metric.pair_psnr = 22" in one
    assert cyclegan("registry", "show", "fluent-emoji-AtoB/2") == one


def test_the_page_of_serve_knows_domains_version_and_training_size(project: Path) -> None:
    about = describe_model("models:/fluent-emoji-AtoB/2")
    assert (about.title, about.source, about.target) == ("fluent-emoji-AtoB", "flat", "3D")
    assert about.facts["version"].split()[0] == "2"
    assert about.facts["trained at"] == "64×48 pixels"
    # A file of the project has the parameters of the project. Nothing is known about other files.
    about = describe_model("models/generator_BtoA.keras")
    names = load(project / "params.yaml").data.domain_names
    assert (about.source, about.target) == (names.B, names.A)
    assert about.facts["trained at"] == "64×64 pixels"
    assert describe_model("elsewhere/generator_AtoB.keras").facts == {}
    assert describe_model("models:/missing/1").source == ""


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (("show", "emoji"), "no registered model 'emoji'; available: "),
        (("show", "fluent-emoji-AtoB@best"), "'best'; available: challenger (version 3), champion (version 2)"),
        (("show", "fluent-emoji-AtoB/7"), "no version '7'; available: 1, 2, 3"),
        (("promote", "fluent-emoji-AtoB", "7", "--yes"), "no version '7'; available: 1, 2, 3"),
        (("promote", "emoji", "1", "--yes"), "available: fluent-emoji-AtoB"),
        (("rollback", "emoji", "--yes"), "available: fluent-emoji-AtoB"),
    ],
)  # fmt: skip
def test_missing_models_aliases_and_versions(cyclegan: Command, arguments: tuple[str, ...], fact: str) -> None:
    assert fact in cyclegan("registry", *arguments, code=2)


def test_the_champion_stays_if_stdin_is_not_a_terminal(cyclegan: Command, store: Store) -> None:
    for arguments in (("promote", "fluent-emoji-AtoB", "3"), ("rollback", "fluent-emoji-AtoB")):
        assert "pass --yes" in cyclegan("registry", *arguments, code=2)
        assert champion_of(store, "fluent-emoji-AtoB") == "2"


def test_a_change_on_a_terminal_asks_for_confirmation(project: Path, store: Store) -> None:
    """The change is printed before the question."""
    command = [sys.executable, "-m", "cyclegan", "registry", "promote", "fluent-emoji-AtoB", "3"]
    for answer, code, after in (("n", 1, "2"), ("y", 0, "3")):
        ours, theirs = pty.openpty()
        with subprocess.Popen(command, cwd=project, stdin=theirs, stdout=theirs, stderr=theirs) as asked:
            os.close(theirs)
            text = b""
            while not text.endswith(b"[y/N] "):
                text += os.read(ours, 1000)
            os.write(ours, answer.encode() + b"\n")
            assert asked.wait(120) == code
        os.close(ours)
        printed = text.decode().replace("\r\n", "\n")
        assert "pair_psnr 21, champion (version 2) 22: worse (-1 ± 0" in printed
        assert "champion of fluent-emoji-AtoB: version 2 -> version 3\n" in printed
        assert champion_of(store, "fluent-emoji-AtoB") == after
    store.client.set_registered_model_alias("fluent-emoji-AtoB", "champion", "2")


def test_promote_and_roll_back(cyclegan: Command, store: Store) -> None:
    name = "fluent-emoji-AtoB"
    assert "is already champion" in cyclegan("registry", "promote", name, "2", "--yes")
    done = cyclegan("registry", "promote", name, "1", "--yes")
    assert "champion of fluent-emoji-AtoB: version 2 -> version 1\n" in done
    assert champion_of(store, name) == "1"
    assert "version 1 -> version 2" in cyclegan("registry", "rollback", name, "--yes")
    assert champion_of(store, name) == "2"
    assert "1 -> 2  by rollback: by hand" in cyclegan("registry", "show", name)


def test_an_unreadable_evaluation_is_an_error(cyclegan: Command, store: Store, tmp_path: Path) -> None:
    source = store.client.get_model_version("fluent-emoji-AtoB", "3").source.removeprefix("models:/")
    folder = Path(store.client.get_logged_model(source).artifact_location.removeprefix("file://"))
    metrics = (folder / "evaluation" / "figures.json").rename(tmp_path / "figures.json")
    os.mkfifo(folder / "evaluation" / "figures.json")
    error = cyclegan("registry", "promote", "fluent-emoji-AtoB", "3", "--yes", code=2)
    metrics.rename(folder / "evaluation" / "figures.json")
    assert "mlflow.db: unavailable or not writable" in error
    assert champion_of(store, "fluent-emoji-AtoB") == "2"


def test_models_that_this_package_did_not_register_are_refused(cyclegan: Command, store: Store, tmp_path: Path) -> None:
    store.client.create_registered_model("foreign")
    (tmp_path / "0").mkdir()
    versions = [store.client.create_model_version("foreign", (tmp_path / "0").as_uri())]
    # Another flavor, no bit depth, no generator.
    for flavors in ({}, {"python_function": {}}, {"python_function": {"config": {"bit_depth": 8}}}):
        folder = tmp_path / str(len(versions))
        folder.mkdir()
        Model(artifact_path=folder.name, flavors=flavors).save(folder / "MLmodel")
        versions.append(store.client.create_model_version("foreign", folder.as_uri()))
    for version in versions:
        uri = f"models:/foreign/{version.version}"
        error = cyclegan("translate", uri, "params.yaml", "--output", str(tmp_path / "out"), code=2)
        assert f"{uri}: not a generator of this project" in error
    store.client.delete_registered_model("foreign")


def test_runs_prints_parameters_that_differ_and_metrics(cyclegan: Command) -> None:
    head, *lines = cyclegan("runs").splitlines()
    assert head.split() == ["id", "status", "start", "seconds", "commit", "train.epochs", "test_AtoB/pair_psnr"]
    assert [line.split()[0] for line in lines] == ["run-3", "run-2", "run-1"]
    assert lines[0].split()[-3:] == ["3abcdef0+", "30", "21"]
    assert "FINISHED" in lines[0]


def test_runs_sorted_filtered_and_by_column(cyclegan: Command) -> None:
    def names(*arguments: str) -> list[str]:
        return [line.split()[0] for line in cyclegan("runs", *arguments).splitlines()[1:]]

    assert names("--sort", "test_AtoB/pair_psnr") == ["run-2", "run-3", "run-1"]
    assert names("--sort", "train.epochs") == ["run-1", "run-2", "run-3"]
    assert names("--sort", "train.epochs", "--reverse") == ["run-3", "run-2", "run-1"]
    assert names("--filter", "metrics.`test_AtoB/pair_psnr` > 20.5 AND params.`train.epochs` = '30'") == ["run-3"]
    assert cyclegan("runs", "--filter", "params.`train.epochs` = '7'") == "no runs\n"
    table = cyclegan("runs", "--columns", "train.batch_size,tags.git.dirty")
    assert table.splitlines()[0].split() == ["train.batch_size", "tags.git.dirty"]
    assert table.splitlines()[1].split() == ["run-3", "1", "true"]


def test_the_link_opens_a_view_with_test_metrics(cyclegan: Command, store: Store) -> None:
    experiment = store.client.get_experiment_by_name("fluent-emoji")
    assert experiment is not None
    link = cyclegan("runs", "--link", "http://127.0.0.1:5000/").strip()
    address, _, query = link.partition("?")
    assert address == f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs"
    assert query == "workflowType=machine_learning&viewStateShareKey=cyclegan"
    tags = store.client.get_experiment(experiment.experiment_id).tags
    columns = json.loads(tags["mlflow.sharedViewState.cyclegan"])["selectedColumns"]
    assert columns[0] == "metrics.`test_AtoB/pair_psnr`"
    assert "params.`train.epochs`" in columns
    assert not [name for name in columns if "BtoA" in name]


def test_runs_as_csv(cyclegan: Command, tmp_path: Path) -> None:
    text = cyclegan("runs", "--csv", "-")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [float(row["test_AtoB/pair_psnr"]) for row in rows] == [21.0, 22.0, 20.0]
    assert {len(row["id"]) for row in rows} == {32}
    file = tmp_path / "runs.csv"
    assert "3 runs" in cyclegan("runs", "--csv", str(file))
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (("--experiment", "emoji"), "has no such experiment; there are: fluent-emoji"),
        (("--sort", "train.epoch"), "no run has a column 'train.epoch'; did you mean train.epochs"),
        (("--columns", "nothing-like-it"), "'--csv -' shows all columns"),
        (("--filter", "epochs is 3"), "--filter epochs is 3: "),
    ],
)
def test_runs_refuses_invalid_options(cyclegan: Command, arguments: tuple[str, ...], fact: str) -> None:
    assert fact in cyclegan("runs", *arguments, code=2)


def test_runs_and_registry_do_not_import_tensorflow(project: Path) -> None:
    code = (
        "import sys\n"
        "from cyclegan.cli import main\n"
        "main(['runs'])\n"
        "main(['registry', 'show', 'fluent-emoji-AtoB@champion'])\n"
        "print('TensorFlow:', 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("TensorFlow: False\n")
