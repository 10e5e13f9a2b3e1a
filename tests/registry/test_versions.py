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
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from PIL import Image

import cyclegan
from cyclegan.commands.model_argument import open_translator
from cyclegan.models.generator import build_generator
from cyclegan.params import Tracking
from cyclegan.project import Project
from cyclegan.registry.champion import move, moves, registry_lock
from cyclegan.registry.listing import format_details, format_models
from cyclegan.registry.measurements import Measured
from cyclegan.registry.model_page import update_model_page
from cyclegan.registry.versions import Candidate, RegisteredVersion, explain_decision, load_measurements, register
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.store import Store, open_store
from mlflow_server import Server

TAGS = {"git.commit": "0123abcd", "dvc.md5.data/split": "d41d8cd98f00b204e9800998ecf8427e.dir", "dvc.stage": "register"}
METRICS = {"pair_psnr": 20.5, "pair_ssim": 0.75, "cycle_l1": 0.05, "kid": 0.01234, "kid_se": 0.0021}
IDENTITY = {"pair_psnr": 18.25, "pair_ssim": 0.5, "kid": 0.2, "kid_se": 0.01}
KEYS = [f"test_{direction}/pair_psnr" for direction in ("AtoB", "BtoA")]


def write_generator(path: Path, channels_in: int, channels_out: int, seed: int = 0) -> Path:
    build_generator(channels_in, channels_out, base_filters=2, blocks=1, seed=seed).save(path)
    return path


def measured(psnr: float = 20.5, md5: str = "aa") -> Measured:
    """Four images, three of them scored, with a mean PSNR of `psnr`."""
    table = pd.DataFrame({"direction": "AtoB", "domain": "A", "id": ["0030", "NA", "x", "y"]})
    table["scored"] = [True, True, True, False]
    table["pair_psnr"] = [psnr - 0.1, psnr, psnr + 0.1, 99.0]
    table["baseline_pair_psnr"] = 18.25
    return Measured({**METRICS, "pair_psnr": psnr}, IDENTITY, {"version": 1, "split": "test", "md5": md5}, table)


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
        Candidate("AtoB", files["AtoB"], 3, 1, measured(), "pair_psnr"),
        Candidate("BtoA", files["BtoA"], 1, 3, measured(), "pair_psnr"),
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


def folder_of(store: Store, model_id: str) -> Path:
    return Path(store.client.get_logged_model(model_id).artifact_location.removeprefix("file://").replace("%20", " "))


def contents(store: Store, model_id: str) -> list[Path]:
    folder = folder_of(store, model_id)
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def counts(store: Store, dataset: str, run_id: str, directions: tuple[str, ...] = ("AtoB", "BtoA")) -> tuple[int, int]:
    experiment = store.client.get_run(run_id).info.experiment_id
    names = [f"{dataset}-{direction}" for direction in directions]
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
        # The model card has the rest.
        assert set(found.tags) == {
            "model.sha256", "git.commit", "gate.metric", "gate.reason", "metric.pair_psnr", "champion.since",
        }  # fmt: skip
        assert (found.tags["metric.pair_psnr"], found.tags["git.commit"]) == ("20.5", "0123abcd")
        tags = store.client.get_registered_model(version.name).tags
        assert {"dataset": "emoji", "direction": version.direction}.items() <= tags.items()


def test_the_model_card_has_verdict_metrics_grid_data_limits_lineage_and_how_to_load(
    store: Store, candidates: list[Candidate], tmp_path: Path
) -> None:
    grid = tmp_path / "grid.png"
    Image.new("RGB", (8, 8), (200, 0, 0)).save(grid)
    with TrackedRun.start(
        store,
        experiment="page",
        name="training",
        params={"train.epochs": 6, "model.generator": "unet"},
        tags={"search.study": "emoji", "search.trial": "17"},
    ) as run:
        pass
    facts = {"license": "MIT", "training images": "36 of flat, 40 of 3D", "training size": "64 × 64 pixels"}
    candidate = dataclasses.replace(candidates[0], grid=grid, domains=("flat", "3D"), facts=facts)
    (version,) = register(store, run.id, "page", [candidate], tags=TAGS)

    text = store.client.get_model_version("page-AtoB", "1").description
    assert "Generator flat → 3D: uint8 images [N, H, W, 3] to [N, H, W, 1]" in text
    assert "pair_psnr 20.5, identity baseline 18.25: better by more than its standard error (+2.25 ± 0.058" in text
    for row in ("pair_psnr | 20.5 | 18.25", "pair_ssim | 0.75 | 0.5", "kid | 0.01234 ± 0.0021 | 0.2 ± 0.01"):
        assert f"| {row} |\n" in text
    assert "kid_se" not in text
    assert "| test split md5 | `aa` |" in text
    assert all(f"| {name} | {value} |" in text for name, value in facts.items())
    assert "of about the training size (64 × 64 pixels)" in text
    assert f"logged-models/{version.model_id}/artifacts/files?artifact_file_path=evaluation%2Fgrid.png" in text
    assert 'mlflow.pyfunc.load_model("models:/page-AtoB/1")' in text
    assert store.uri in text
    assert "| git.commit | `0123abcd` |" in text
    assert "| search.study | `emoji` |\n| search.trial | `17` |" in text
    assert f"(#/experiments/{store.client.get_run(run.id).info.experiment_id}/runs/{run.id})" in text
    assert "| train.epochs | 6 |" in text
    assert len(text) <= 5000
    assert {"evaluation/grid.png", "model_card.md"} <= set(map(str, contents(store, version.model_id)))
    card = (folder_of(store, version.model_id) / "model_card.md").read_text(encoding="utf-8")
    assert card.startswith("# page-AtoB, version 1\n")
    assert "](evaluation/grid.png)" in card
    found = store.client.search_model_versions("tags.`git.commit` = '0123abcd' AND name = 'page-AtoB'")
    assert [(other.name, str(other.version)) for other in found] == [("page-AtoB", "1")]


def test_a_registered_models_description_has_its_champion_and_the_history(
    store: Store, candidates: list[Candidate], tmp_path: Path
) -> None:
    def add(seed: int, psnr: float) -> str:
        candidate = dataclasses.replace(candidate_of(candidates, tmp_path, seed, psnr=psnr), domains=("flat", "3D"))
        register(store, train(store, "model page"), "model page", [candidate], tags={})
        return str(store.client.get_registered_model("model page-AtoB").description)

    assert "Champion: [version 1](#/models/model%20page-AtoB/versions/1), pair_psnr 20" in add(1, 20)
    second = add(2, 22)
    assert second.startswith("Generators flat → 3D, trained on data set model page.")
    assert 'load_model("models:/model page-AtoB@champion")' in second
    history = [line.split(" | ")[1:3] for line in second.splitlines() if line.startswith("| 2")]
    assert history == [["1 → 2", "register"], ["– → 1", "register"]]
    store.client.update_registered_model("model page-AtoB", "Our best.")
    assert add(3, 23) == "Our best."


def test_main_metrics_of_the_run_are_metrics_of_the_model(store: Store, candidates: list[Candidate]) -> None:
    run_id = train(store, "compared")
    attached = TrackedRun.attach(store, run_id, experiment="compared", name="n")
    logged = {f"test_AtoB/{name}": METRICS[name] for name in ("pair_psnr", "pair_ssim", "kid")}
    attached.log_rows([(0, dict.fromkeys(logged, 0.0)), (7, logged)])
    (version,) = register(store, run_id, "compared", candidates[:1], tags={})
    model = store.client.get_logged_model(version.model_id)
    assert {metric.key: (metric.step, metric.value) for metric in model.metrics} == {
        name: (7, value) for name, value in logged.items()
    }
    for name in logged:
        assert [point.step for point in store.client.get_metric_history(run_id, name)] == [0, 7]


def test_versions_of_an_earlier_version_of_this_project_stay_usable(
    store: Store, candidates: list[Candidate], tmp_path: Path
) -> None:
    """They have a tag for each metric, and a description of another form."""
    (old,) = register(store, train(store, "earlier"), "earlier", candidates[:1], tags=TAGS)
    for name, value in METRICS.items():
        store.client.set_model_version_tag(old.name, "1", f"metric.{name}", f"{value:.6g}")
        store.client.set_model_version_tag(old.name, "1", f"identity.{name}", "1")
    store.client.update_model_version(old.name, "1", "Generator A → B.")
    store.client.delete_registered_model_tag(old.name, "domains")
    store.client.update_registered_model(old.name, "")
    assert "pair_psnr 20.5" in format_models(store)
    assert "gate.reason = pair_psnr 20.5" in format_details(store, f"{old.name}/1")
    assert explain_decision(store, old.name, "1") == "already the champion"
    new = candidate_of(candidates, tmp_path, 1, psnr=21)
    assert register(store, train(store, "earlier"), "earlier", [new], tags=TAGS)[0].champion == "2"
    with registry_lock(store):
        move(store, old.name, "1", "rollback", "by hand")
    update_model_page(store, old.name)
    assert "2 → 1 | rollback | by hand" in str(store.client.get_registered_model(old.name).description)


def test_page_shows_the_loss_weights_of_its_own_direction(store: Store, candidates: list[Candidate]) -> None:
    terms = ("adversarial", "identity", "forward_cycle", "backward_cycle")
    weights = {"AtoB": (1.0, 2.0, 3.0, 4.0), "BtoA": (5.0, 6.0, 4.0, 3.0)}
    params = {
        f"train.loss_weights.{term}.{direction}": value
        for direction, values in weights.items()
        for term, value in zip(terms, values, strict=True)
    }
    with TrackedRun.start(store, experiment="weights", name="training", params=params) as run:
        pass
    for version in register(store, run.id, "weights", candidates, tags=TAGS):
        text = store.client.get_model_version(version.name, version.version).description
        shown = [line for line in text.splitlines() if "loss_weights" in line]
        assert shown == [
            f"| train.loss_weights.{term}.{version.direction} | {value} |"
            for term, value in zip(terms, weights[version.direction], strict=True)
        ]


def test_the_evaluation_stays_with_the_version(store: Store, versions: list[RegisteredVersion]) -> None:
    kept = load_measurements(store, "emoji-AtoB", "1")
    assert kept is not None
    original = measured()
    assert (kept.metrics, kept.identity, kept.protocol) == (original.metrics, original.identity, original.protocol)
    pd.testing.assert_frame_equal(kept.per_image, original.per_image, check_dtype=False)


def test_run_stays_finished_and_has_its_models_and_their_metrics(
    store: Store, run_id: str, versions: list[RegisteredVersion]
) -> None:
    run = store.client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "training")
    assert {output.model_id for output in run.outputs.model_outputs} == {version.model_id for version in versions}
    # All other metrics are on the version: 30 test metrics would hide the curves.
    assert {key: value for key, value in run.data.metrics.items() if key != "loss"} == dict.fromkeys(KEYS, 20.5)
    for version in versions:
        model = store.client.get_logged_model(version.model_id)
        assert model.name == f"G_{version.direction}"
        assert str(model.status) == "READY"
        assert {metric.key: metric.value for metric in model.metrics} == {f"test_{version.direction}/pair_psnr": 20.5}


def test_form_in_the_registry(store: Store, versions: list[RegisteredVersion], files: dict[str, Path]) -> None:
    paths = contents(store, versions[0].model_id)
    assert not [path for path in paths if path.suffix in (".pkl", ".pickle", ".joblib", ".pt") or "pkl" in path.name]
    assert Path("code/cyclegan/models/layers.py") in paths
    assert not [path for path in paths if "__pycache__" in path.parts]

    model = Model.load(versions[0].uri)
    (given,), (returned,) = model.signature.inputs.inputs, model.signature.outputs.inputs
    assert (given.type, given.shape) == (np.dtype("uint8"), (-1, -1, -1, 3))
    assert (returned.type, returned.shape) == (np.dtype("uint8"), (-1, -1, -1, 1))
    requirements = (folder_of(store, versions[0].model_id) / "requirements.txt").read_text()
    for name in ("keras", "numpy", "mlflow"):
        assert f"{name}=={metadata.version(name)}" in requirements.split()
    assert "tensorflow" in requirements


LOAD = """
import importlib.machinery, json, os, sys
import numpy as np

class NotInstalled:
    # Where this package is installed, only the model's own copy may be imported.
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
import cyclegan.models.translator as used
print(json.dumps({"code": used.__file__, "refused": refused}))
"""


def test_loads_by_alias_in_a_process_without_this_package(
    store: Store, versions: list[RegisteredVersion], files: dict[str, Path], tmp_path: Path
) -> None:
    from cyclegan.models.translator import Translator, load_generator

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
    message: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])

    translated = np.load(tmp_path / "translated.npy")
    assert translated.dtype == np.uint8
    assert translated.shape == (2, 37, 53, 1)
    expected = Translator(load_generator(files["AtoB"])).translate(images)
    assert np.abs(translated.astype(int) - expected.astype(int)).max() <= 1
    assert np.ptp(translated) > 0
    np.testing.assert_array_equal(np.load(tmp_path / "served.npy"), translated)
    assert f"{versions[0].model_id}/artifacts/code/cyclegan" in message["code"]
    assert set(message["refused"]) == {"float", "channels", "rank"}


def test_registering_again_only_updates_metrics(store: Store, candidates: list[Candidate]) -> None:
    run_id = train(store, "again")
    first = register(store, run_id, "again", candidates, tags=TAGS)
    before = counts(store, "again", run_id)
    assert before == (2, 2)
    history = {key: len(store.client.get_metric_history(run_id, key)) for key in KEYS}
    assert set(history.values()) == {1}

    better = [dataclasses.replace(candidates[0], measured=measured(21.5)), candidates[1]]
    second = register(store, run_id, "again", better, tags={**TAGS, "git.commit": "4567"})

    assert [(v.name, v.version, v.model_id, v.reused, v.champion) for v in second] == [
        (v.name, v.version, v.model_id, True, "1") for v in first
    ]
    assert [v.decision.reason for v in second] == ["already the champion"] * 2
    assert [len(moves(store, name)) for name in ("again-AtoB", "again-BtoA")] == [1, 1]
    assert counts(store, "again", run_id) == before
    found = store.client.get_model_version("again-AtoB", "1")
    assert (found.tags["metric.pair_psnr"], found.tags["git.commit"]) == ("21.5", "4567")
    assert "| pair_psnr | 21.5 |" in found.description
    # The reason of its promotion stays on record.
    assert found.tags["gate.reason"] == first[0].decision.reason
    assert first[0].decision.reason in found.description
    grown = {key: len(store.client.get_metric_history(run_id, key)) - count for key, count in history.items()}
    assert grown == {key: int(key == "test_AtoB/pair_psnr") for key in KEYS}
    assert store.client.get_run(run_id).info.status == "FINISHED"


def test_a_version_that_becomes_champion_when_registered_again_records_the_reason(
    store: Store, candidates: list[Candidate]
) -> None:
    run_id = train(store, "late")
    register(store, run_id, "late", [dataclasses.replace(candidates[0], measured=measured(18.2))], tags={})
    (version,) = register(store, run_id, "late", candidates[:1], tags={})
    assert (version.version, version.champion) == ("1", "1")
    assert store.client.get_model_version("late-AtoB", "1").tags["gate.reason"] == version.decision.reason


def test_metrics_that_an_earlier_stage_has_logged_are_not_doubled(store: Store, candidates: list[Candidate]) -> None:
    run_id = train(store, "evaluated")
    attached = TrackedRun.attach(store, run_id, experiment="evaluated", name="n")
    attached.log_metrics(7, {"test_AtoB/pair_psnr": 20.5})
    (version,) = register(store, run_id, "evaluated", candidates[:1], tags={})
    (point,) = store.client.get_metric_history(run_id, "test_AtoB/pair_psnr")
    assert (point.step, point.value) == (7, 20.5)
    metrics = store.client.get_logged_model(version.model_id).metrics
    assert {metric.key: metric.step for metric in metrics} == {"test_AtoB/pair_psnr": 7}


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
    shutil.copytree(Path(cyclegan.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cyclegan, "__file__", str(package / "__init__.py"))
    serving_code = package / "models" / "translator.py"
    for addition, expected in (("# A comment.\n", "1"), ("FIXED = True\n", "4")):
        with serving_code.open("a", encoding="utf-8") as file:
            file.write(addition)
        assert version(run_id, candidate) == expected
    monkeypatch.undo()
    # The first generator keeps its version, which is the challenger again.
    assert version(run_id, candidate) == "1"
    assert str(store.client.get_model_version_by_alias("new-AtoB", "challenger").version) == "1"


@pytest.mark.parametrize(
    "step", ["log_model_artifacts", "finalize_logged_model", "create_model_version", "update_model_version"]
)
def test_interrupted_registering_is_completed(
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
    # No alias names an incomplete version.
    for alias in ("challenger", "champion"):
        with pytest.raises(MlflowException):
            store.client.get_model_version_by_alias(f"{name}-AtoB", alias)

    (version,) = register(store, run_id, name, candidates[:1], tags=TAGS)
    assert version.version == "1"
    experiment = store.client.get_run(run_id).info.experiment_id
    (model,) = store.client.search_logged_models([experiment])
    assert model.model_id == version.model_id
    assert str(store.client.get_model_version_by_alias(version.name, "challenger").version) == "1"


def test_registered_models_move_with_the_project(
    store: Store, versions: list[RegisteredVersion], tmp_path: Path
) -> None:
    copied = tmp_path / "renamed project"
    original = store.locks.parents[1]
    # Use another process: closing any handle of a database drops the SQLite locks of the whole process.
    subprocess.run(["cp", "-r", str(original), str(copied)], check=True)
    default = Tracking(uri=None, experiment=None, offline=False)
    try:
        moved = open_store(Project(root=copied, home=copied), default)
        location = moved.client.get_model_version_download_uri("emoji-AtoB", "1")
        model_folder = moved.client.get_logged_model(versions[0].model_id).artifact_location
        assert location == model_folder
        assert location.startswith((copied / "mlruns" / "artifacts" / "models").as_uri())
        assert Model.load("models:/emoji-AtoB@challenger").signature is not None
    finally:
        open_store(Project(root=original, home=original), default)


def test_sixteen_bit_images(store: Store, candidates: list[Candidate]) -> None:
    (version,) = register(store, train(store, "deep"), "deep", candidates[:1], bit_depth=16, tags={})
    model = Model.load(version.uri)
    assert model.signature.inputs.inputs[0].type == np.dtype("uint16")
    served = mlflow.pyfunc.load_model(version.uri)
    images = np.random.default_rng(0).integers(0, 65536, (1, 9, 11, 3), np.uint16)
    translated = served.predict(images)
    assert (translated.dtype, translated.shape) == (np.dtype("uint16"), (1, 9, 11, 1))


def candidate_of(candidates: list[Candidate], folder: Path, seed: int, **measures: Any) -> Candidate:
    path = write_generator(folder / f"{seed}.keras", 3, 1, seed=seed)
    return dataclasses.replace(candidates[0], path=path, measured=measured(**measures))


def test_champion_moves_only_for_the_better(store: Store, candidates: list[Candidate], tmp_path: Path) -> None:
    def add(seed: int, **measures: Any) -> RegisteredVersion:
        candidate = candidate_of(candidates, tmp_path, seed, **measures)
        return register(store, train(store, "contest"), "contest", [candidate], tags={})[0]

    def holders() -> dict[str, str]:
        aliases = store.client.get_registered_model("contest-AtoB").aliases
        return {alias: str(version) for alias, version in aliases.items()}

    first = add(1, psnr=18.2)
    assert first.champion is None
    assert first.decision.reason.startswith("pair_psnr 18.2, identity baseline 18.25: not better")
    assert holders() == {"challenger": "1"}
    assert add(2, psnr=20.5).champion == "2"
    worse = add(3, psnr=20.4)
    assert worse.champion == "2"
    assert worse.decision.reason == "pair_psnr 20.4, champion (version 2) 20.5: worse (-0.1 ± 0 over 3 images)"
    assert holders() == {"challenger": "3", "champion": "2"}
    elsewhere = add(4, psnr=30, md5="bb")
    assert elsewhere.champion == "2"
    assert "another test split (md5 aa, now bb)" in elsewhere.decision.reason
    best = add(5, psnr=21)
    assert (best.version, best.champion) == ("5", "5")
    assert [(m.before, m.version, m.by) for m in moves(store, "contest-AtoB")] == [
        (None, "2", "register"),
        ("2", "5", "register"),
    ]
    tags = store.client.get_model_version("contest-AtoB", "5").tags
    assert tags["champion.since"] == moves(store, "contest-AtoB")[-1].at
    assert tags["gate.reason"] == best.decision.reason


def test_a_rolled_back_generator_is_not_promoted_again(
    store: Store, candidates: list[Candidate], tmp_path: Path
) -> None:
    def add(candidate: Candidate) -> RegisteredVersion:
        return register(store, train(store, "guise"), "guise", [candidate], tags={})[0]

    good, better, best = (candidate_of(candidates, tmp_path, psnr, psnr=psnr) for psnr in (20, 22, 23))
    assert [add(good).champion, add(better).champion] == ["1", "2"]
    # The same generator from another run is another version.
    same = add(better)
    assert (same.version, same.champion) == ("3", "2")
    assert same.decision.reason.startswith("the same generator as the champion, version 2;")
    with registry_lock(store):
        move(store, "guise-AtoB", "1", "rollback", "by hand")
    again = add(better)
    assert (again.version, again.champion) == ("4", "1")
    assert again.decision.reason == (
        "this generator was champion and was rolled back; run 'cyclegan registry promote guise-AtoB 4' to restore it"
    )
    assert add(best).champion == "5"


def test_a_champion_without_an_evaluation_is_not_replaced(
    store: Store, candidates: list[Candidate], tmp_path: Path
) -> None:
    (old,) = register(store, train(store, "old"), "old", candidates[:1], tags={})
    shutil.rmtree(folder_of(store, old.model_id) / "evaluation")
    new = candidate_of(candidates, tmp_path, 1, psnr=40)
    (version,) = register(store, train(store, "old"), "old", [new], tags={})
    assert (version.version, version.champion) == ("2", "1")
    assert "no evaluation on record" in version.decision.reason


def test_an_unreadable_evaluation_does_not_count_as_a_missing_one(
    store: Store, candidates: list[Candidate], tmp_path: Path
) -> None:
    (old,) = register(store, train(store, "unread"), "unread", candidates[:1], tags={})
    metrics = folder_of(store, old.model_id) / "evaluation" / "figures.json"
    new, content = candidate_of(candidates, tmp_path, 1, psnr=40), metrics.read_bytes()
    run_id = train(store, "unread")
    # A pipe, which MLflow refuses to copy, and a link to itself, which the system refuses to follow.
    for spoil in (os.mkfifo, lambda file: file.symlink_to(file)):
        metrics.unlink()
        spoil(metrics)
        with pytest.raises((MlflowException, OSError)):
            register(store, run_id, "unread", [new], tags={})
        assert str(store.client.get_model_version_by_alias("unread-AtoB", "challenger").version) == "1"
    metrics.unlink()
    metrics.write_bytes(content)
    assert register(store, run_id, "unread", [new], tags={})[0].champion == "2"


@pytest.mark.slow
def test_a_missing_evaluation_behind_a_server_is_no_failure(
    store: Store, candidates: list[Candidate], tmp_path: Path
) -> None:
    server, original = Server(tmp_path), store.locks.parents[1]

    def opened(root: Path, uri: str | None) -> Store:
        return open_store(Project(root=root, home=root), Tracking(uri=uri, experiment=None, offline=False))

    try:
        server.start()
        remote = opened(tmp_path, server.uri)
        run_id = train(remote, "remote")
        register(remote, run_id, "remote", candidates[:1], tags={})
        assert load_measurements(remote, "remote-AtoB", "1") is not None
        (folder,) = tmp_path.glob("artifacts/*/models/*/artifacts/evaluation")
        shutil.rmtree(folder)
        assert load_measurements(remote, "remote-AtoB", "1") is None
        source = f"{remote.client.get_run(run_id).info.artifact_uri}/model"
        remote.client.create_registered_model("foreign")
        remote.client.create_model_version("foreign", source, run_id)
        assert load_measurements(remote, "foreign", "1") is None
    finally:
        server.kill()
        opened(original, None)


# Without this module, which imports TensorFlow.
# Three processes that share the imports, which take longer than the rest.
REGISTER = """
import sys
from multiprocessing import get_context
from pathlib import Path
import pandas as pd
from cyclegan.params import Tracking
from cyclegan.project import Project
from cyclegan.registry.measurements import Measured
from cyclegan.registry.versions import Candidate, register
from cyclegan.tracking.store import open_store

def register_it(root, run_id, seed):
    store = open_store(Project(root=Path(root), home=Path(root)), Tracking(uri=None, experiment=None, offline=False))
    table = pd.DataFrame({"direction": "AtoB", "domain": "A", "id": ["x", "y"], "scored": True})
    table = table.assign(pair_psnr=[20.4, 20.6], baseline_pair_psnr=18.25)
    protocol = {"version": 1, "split": "test", "md5": "aa"}
    measured = Measured({"pair_psnr": 20.5}, {"pair_psnr": 18.25}, protocol, table)
    candidate = Candidate("AtoB", Path(seed), 3, 1, measured, "pair_psnr")
    print("version", register(store, run_id, "race", [candidate], tags={})[0].version, flush=True)

processes = [get_context("fork").Process(target=register_it, args=sys.argv[1:]) for _ in range(3)]
for process in processes:
    process.start()
for process in processes:
    process.join()
sys.exit([process.exitcode for process in processes] != [0] * 3)
"""


def test_concurrent_registering_makes_one_version_and_one_champion(
    store: Store, candidates: list[Candidate], tmp_path: Path
) -> None:
    run_id = train(store, "race")
    command = [sys.executable, "-c", REGISTER, str(store.locks.parents[1]), run_id, str(candidates[0].path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("version ")] == ["version 1"] * 3
    assert counts(store, "race", run_id, directions=("AtoB",)) == (1, 1)
    assert [move.version for move in moves(store, "race-AtoB")] == ["1"]


@pytest.mark.parametrize("name", ["feature%2Flogin", "what? #1"])
def test_a_registered_model_is_loaded_from_a_path_with_percent_signs(
    tmp_path: Path, name: str, candidates: list[Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / name
    root.mkdir()
    (root / "dvc.yaml").write_text("stages: {}\n")
    shutil.copy(Path(__file__).parents[2] / "params.yaml", root)
    monkeypatch.chdir(root)
    store = open_store(Project(root=root, home=root), Tracking(uri=None, experiment=None, offline=False))
    register(store, train(store, "emoji"), "emoji", candidates, tags=TAGS)
    translator = open_translator("models:/emoji-AtoB@champion")
    assert (translator.channels, translator.channels_out, translator.bit_depth) == (3, 1, 8)
    assert [path.name for path in tmp_path.iterdir()] == [name]
