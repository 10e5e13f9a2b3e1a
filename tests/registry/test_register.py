from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from cyclegan.models.generator import build_generator
from cyclegan.params import Tracking
from cyclegan.project import Project
from cyclegan.registry import register as module
from cyclegan.registry.register import Candidate, RegisteredVersion, register
from cyclegan.tracking.runs import TrackedRun
from cyclegan.tracking.store import Store, open_store

TAGS = {"git.commit": "0123abcd", "dvc.md5.data/split": "d41d8cd98f00b204e9800998ecf8427e.dir", "dvc.stage": "register"}
METRICS = {"pair_psnr": 20.5, "pair_ssim": 0.75, "cycle_l1": 0.05}
IDENTITY = {"pair_psnr": 18.25, "pair_ssim": 0.5}
KEYS = [f"test_{direction}/{name}" for direction in ("AtoB", "BtoA") for name in METRICS]


def write_generator(path: Path, channels_in: int, channels_out: int, seed: int = 0) -> Path:
    build_generator(channels_in, channels_out, base_filters=2, blocks=1, seed=seed).save(path)
    return path


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "AtoB": write_generator(folder / "generator_AtoB.keras", 3, 1),
        "BtoA": write_generator(folder / "generator_BtoA.keras", 1, 3),
    }


@pytest.fixture(scope="session")
def candidates(files: dict[str, Path]) -> list[Candidate]:
    return [
        Candidate("AtoB", files["AtoB"], 3, 1, METRICS, IDENTITY),
        Candidate("BtoA", files["BtoA"], 1, 3, METRICS, IDENTITY),
    ]


def train(store: Store, experiment: str) -> str:
    with TrackedRun.start(store, experiment=experiment, name="training", params={}) as run:
        run.log_metrics(7, {"loss": 1.0})
    return run.id


@pytest.fixture(scope="session")
def run_id(store: Store) -> str:
    return train(store, "emoji")


@pytest.fixture(scope="session")
def versions(store: Store, run_id: str, candidates: list[Candidate]) -> list[RegisteredVersion]:
    return register(store, run_id, "emoji", candidates, tags=TAGS)


def contents(store: Store, model_id: str) -> list[Path]:
    folder = Path(store.client.get_logged_model(model_id).artifact_location.removeprefix("file://").replace("%20", " "))
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def counts(store: Store, dataset: str, run_id: str) -> tuple[int, int]:
    experiment = store.client.get_run(run_id).info.experiment_id
    names = [f"{dataset}-AtoB", f"{dataset}-BtoA"]
    found = [store.client.search_model_versions(f"name = '{name}'") for name in names]
    return sum(map(len, found)), len(store.client.search_logged_models([experiment]))


def test_both_directions_become_challengers_with_lineage_and_metrics(
    store: Store, run_id: str, versions: list[RegisteredVersion]
) -> None:
    assert [(v.name, v.version, v.uri, v.reused) for v in versions] == [
        ("emoji-AtoB", "1", "models:/emoji-AtoB/1", False),
        ("emoji-BtoA", "1", "models:/emoji-BtoA/1", False),
    ]
    for version in versions:
        found = store.client.get_model_version_by_alias(version.name, "challenger")
        assert str(found.version) == "1"
        assert found.run_id == run_id
        assert found.source == f"models:/{version.model_id}"
        assert TAGS.items() <= found.tags.items()
        assert (found.tags["metric.pair_psnr"], found.tags["identity.pair_psnr"]) == ("20.5", "18.25")
        assert store.client.get_registered_model(version.name).tags == {
            "dataset": "emoji",
            "direction": version.direction,
        }


def test_description_shows_the_baseline_beside_and_how_to_load(store: Store, versions: list[RegisteredVersion]) -> None:
    text = store.client.get_model_version("emoji-AtoB", "1").description
    assert "Generator A → B: uint8 pictures [N, H, W, 3] to [N, H, W, 1]" in text
    assert "| pair_psnr | 20.5 | 18.25 |\n| pair_ssim | 0.75 | 0.5 |\n| cycle_l1 | 0.05 |  |\n" in text
    assert 'mlflow.pyfunc.load_model("models:/emoji-AtoB/1")' in text
    assert store.uri in text
    assert "git.commit `0123abcd`" in text


def test_run_stays_finished_and_has_its_models_and_their_metrics(
    store: Store, run_id: str, versions: list[RegisteredVersion]
) -> None:
    run = store.client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "training")
    assert {output.model_id for output in run.outputs.model_outputs} == {version.model_id for version in versions}
    assert {key: run.data.metrics[key] for key in KEYS} == {key: METRICS[key.split("/")[1]] for key in KEYS}
    for version in versions:
        model = store.client.get_logged_model(version.model_id)
        assert model.name == f"G_{version.direction}"
        assert str(model.status) == "READY"
        assert {metric.key: metric.value for metric in model.metrics} == {
            f"test_{version.direction}/{name}": value for name, value in METRICS.items()
        }


def test_form_in_the_registry(store: Store, versions: list[RegisteredVersion], files: dict[str, Path]) -> None:
    paths = contents(store, versions[0].model_id)
    assert not [path for path in paths if path.suffix in (".pkl", ".pickle", ".joblib", ".pt") or "pkl" in path.name]
    assert Path("code/cyclegan/models/layers.py") in paths
    assert not [path for path in paths if "__pycache__" in path.parts]

    model = Model.load(versions[0].uri)
    (given,), (returned,) = model.signature.inputs.inputs, model.signature.outputs.inputs
    assert (given.type, given.shape) == (np.dtype("uint8"), (-1, -1, -1, 3))
    assert (returned.type, returned.shape) == (np.dtype("uint8"), (-1, -1, -1, 1))
    requirements = Path(
        store.client.get_logged_model(versions[0].model_id)
        .artifact_location.removeprefix("file://")
        .replace("%20", " "),
        "requirements.txt",
    ).read_text()
    for name in ("keras", "numpy", "mlflow"):
        assert f"{name}=={metadata.version(name)}" in requirements.split()
    assert "tensorflow" in requirements


LOAD = """
import importlib.machinery, json, os, sys
import numpy as np

class NotInstalled:
    # Where this package is installed after all, only the model's own copy may be found.
    def find_spec(self, name, path=None, target=None):
        if name != "cyclegan":
            return None
        places = [place for place in sys.path if place.endswith(os.sep + "code")]
        spec = importlib.machinery.PathFinder.find_spec(name, places)
        if spec is None:
            raise ModuleNotFoundError(name)
        return spec

sys.meta_path.insert(0, NotInstalled())
try:
    import cyclegan
except ModuleNotFoundError:
    pass
else:
    sys.exit("the package is there before the model is loaded")

import mlflow
from mlflow.pyfunc.scoring_server import invocations
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/emoji-AtoB@challenger")
images = np.load("images.npy")
np.save("translated.npy", model.predict(images))

schema = model.metadata.get_input_schema()
answer = invocations(json.dumps({"inputs": images.tolist()}), "application/json", model, schema)
np.save("served.npy", np.asarray(json.loads(answer.response)["predictions"]))

refused = {}
for name, wrong in {"float": images.astype("float32"), "channels": images[..., :2], "rank": images[0]}.items():
    try:
        model.predict(wrong)
    except Exception as error:
        refused[name] = str(error)
import cyclegan.inference.translate as used
print(json.dumps({"code": used.__file__, "refused": refused}))
"""


def test_loads_by_alias_in_a_process_without_this_package(
    store: Store, versions: list[RegisteredVersion], files: dict[str, Path], tmp_path: Path
) -> None:
    from cyclegan.inference.translate import Translator, load_generator

    images = np.random.default_rng(0).integers(0, 256, (2, 37, 53, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    environment = {
        **os.environ,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    # -I: neither the working directory nor PYTHONPATH is searched.
    command = [sys.executable, "-I", "-c", LOAD, store.uri]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])

    translated = np.load(tmp_path / "translated.npy")
    assert translated.dtype == np.uint8
    assert translated.shape == (2, 37, 53, 1)
    expected = Translator(load_generator(files["AtoB"])).translate(images)
    assert np.abs(translated.astype(int) - expected.astype(int)).max() <= 1
    assert np.ptp(translated) > 0
    np.testing.assert_array_equal(np.load(tmp_path / "served.npy"), translated)
    assert f"{versions[0].model_id}/artifacts/code/cyclegan" in told["code"]
    assert set(told["refused"]) == {"float", "channels", "rank"}


def test_registering_again_adds_nothing_and_brings_figures_up_to_date(
    store: Store, candidates: list[Candidate]
) -> None:
    run_id = train(store, "again")
    first = register(store, run_id, "again", candidates, tags=TAGS)
    before = counts(store, "again", run_id)
    assert before == (2, 2)
    history = {key: len(store.client.get_metric_history(run_id, key)) for key in KEYS}
    assert set(history.values()) == {1}

    better = [dataclasses.replace(candidates[0], metrics={**METRICS, "pair_psnr": 21.5}), candidates[1]]
    second = register(store, run_id, "again", better, tags={**TAGS, "git.commit": "4567"})

    assert [dataclasses.replace(version, reused=True) for version in first] == second
    assert counts(store, "again", run_id) == before
    found = store.client.get_model_version("again-AtoB", "1")
    assert (found.tags["metric.pair_psnr"], found.tags["git.commit"]) == ("21.5", "4567")
    assert "| pair_psnr | 21.5 |" in found.description
    grown = {key: len(store.client.get_metric_history(run_id, key)) - count for key, count in history.items()}
    assert grown == {key: int(key == "test_AtoB/pair_psnr") for key in KEYS}
    assert store.client.get_run(run_id).info.status == "FINISHED"


def test_figures_that_an_earlier_stage_has_logged_are_not_doubled(store: Store, candidates: list[Candidate]) -> None:
    run_id = train(store, "evaluated")
    attached = TrackedRun.attach(store, run_id, experiment="evaluated", name="n")
    attached.log_metrics(7, {f"test_AtoB/{name}": value for name, value in METRICS.items()})
    (version,) = register(store, run_id, "evaluated", candidates[:1], tags={})
    for name, value in METRICS.items():
        (point,) = store.client.get_metric_history(run_id, f"test_AtoB/{name}")
        assert (point.step, point.value) == (7, value)
    metrics = store.client.get_logged_model(version.model_id).metrics
    assert {metric.key: metric.step for metric in metrics} == {f"test_AtoB/{name}": 7 for name in METRICS}


def test_other_weights_other_run_or_other_serving_code_make_a_new_version(
    store: Store, candidates: list[Candidate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (candidate,) = candidates[:1]
    run_id = train(store, "new")

    def version(run: str, candidate: Candidate) -> str:
        return register(store, run, "new", [candidate], tags={})[0].version

    assert version(run_id, candidate) == "1"
    retrained = write_generator(tmp_path / "generator_AtoB.keras", 3, 1, seed=1)
    assert version(run_id, dataclasses.replace(candidate, path=retrained)) == "2"
    assert version(train(store, "new"), candidate) == "3"
    package = tmp_path / "cyclegan"
    shutil.copytree(Path(module.cyclegan.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    with (package / "inference" / "translate.py").open("a") as file:
        file.write("# mended\n")
    monkeypatch.setattr(module.cyclegan, "__file__", str(package / "__init__.py"))
    assert version(run_id, candidate) == "4"
    monkeypatch.undo()
    # Going back to the first: its version is there, and is the challenger again.
    assert version(run_id, candidate) == "1"
    assert str(store.client.get_model_version_by_alias("new-AtoB", "challenger").version) == "1"


@pytest.mark.parametrize(
    "step", ["log_model_artifacts", "finalize_logged_model", "create_model_version", "update_model_version"]
)
def test_registering_that_was_cut_off_is_completed(
    store: Store, candidates: list[Candidate], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    name = f"cut-{step}"
    run_id = train(store, name)

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.client, step, cut)
        with pytest.raises(KeyboardInterrupt):
            register(store, run_id, name, candidates[:1], tags=TAGS)
    # Nobody can follow the alias to something half-made.
    with pytest.raises(MlflowException):
        store.client.get_model_version_by_alias(f"{name}-AtoB", "challenger")

    (version,) = register(store, run_id, name, candidates[:1], tags=TAGS)
    assert version.version == "1"
    experiment = store.client.get_run(run_id).info.experiment_id
    (model,) = store.client.search_logged_models([experiment])
    assert model.model_id == version.model_id
    assert str(store.client.get_model_version_by_alias(version.name, "challenger").version) == "1"


def test_registered_models_move_with_the_project(
    store: Store, versions: list[RegisteredVersion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    copied = tmp_path / "renamed project"
    original = store.locks.parents[1]
    # By another process: a process that closes any handle of a data base it uses drops SQLite's locks on it.
    subprocess.run(["cp", "-r", str(original), str(copied)], check=True)
    default = Tracking(uri=None, experiment=None)
    try:
        moved = open_store(Project(root=copied, home=copied), default)
        location = moved.client.get_model_version_download_uri("emoji-AtoB", "1")
        model_folder = moved.client.get_logged_model(versions[0].model_id).artifact_location
        assert location == model_folder
        assert location.startswith((copied / "mlruns" / "artifacts" / "models").as_uri())
        assert Model.load("models:/emoji-AtoB@challenger").signature is not None
    finally:
        open_store(Project(root=original, home=original), default)


def test_sixteen_bit_pictures(store: Store, candidates: list[Candidate]) -> None:
    (version,) = register(store, train(store, "deep"), "deep", candidates[:1], bit_depth=16, tags={})
    model = Model.load(version.uri)
    assert model.signature.inputs.inputs[0].type == np.dtype("uint16")
    served = mlflow.pyfunc.load_model(version.uri)
    images = np.random.default_rng(0).integers(0, 65536, (1, 9, 11, 3), np.uint16)
    translated = served.predict(images)
    assert (translated.dtype, translated.shape) == (np.dtype("uint16"), (1, 9, 11, 1))
