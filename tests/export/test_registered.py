"""Registered generators, exported by name, and as ONNX models of the registry."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
import pytest

from cyclegan.cli import main
from cyclegan.models.generator import build_generator
from cyclegan.models.translator import Translator, load_generator
from cyclegan.params import load
from cyclegan.project import Project
from cyclegan.registry.measurements import Measured
from cyclegan.registry.onnx_flavor import prepare_export
from cyclegan.registry.versions import Candidate, RegisteredVersion, register
from cyclegan.system.digests import file_digest
from cyclegan.system.errors import UserError
from cyclegan.tracking.run import TrackedRun
from cyclegan.tracking.store import Store, open_store

ROOT = Path(__file__).parents[2]
PARAMS = {"data.load_size": 40, "train.crop_size": 32}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of a project."""
    root = tmp_path_factory.mktemp("project")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, root)
    build_generator(3, 1, base_filters=2, blocks=1, init_gain=0.2).save(root / "generator.keras")
    return open_store(Project(root=root, home=root), load(root / "params.yaml").tracking)


@pytest.fixture
def project(store: Store, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder, as the working directory."""
    root = store.locks.parents[1]
    monkeypatch.chdir(root)
    return root


def registered(store: Store, project: Path, dataset: str, bit_depth: int, *with_onnx: bool) -> list[RegisteredVersion]:
    """One run's generator, registered again and again, with and without an ONNX file."""
    table = pd.DataFrame({"direction": "AtoB", "domain": "A", "id": ["x", "y"], "scored": True, "pair_psnr": 20.0})
    measured = Measured({"pair_psnr": 20.0}, {}, {"version": 1, "split": "test", "md5": "aa"}, table)
    with TrackedRun.start(store, experiment=dataset, name="training", params=PARAMS) as run:
        run.log_metrics(1, {"loss": 1.0})
    versions = []
    for flag in with_onnx:
        candidate = Candidate("AtoB", project / "generator.keras", 3, 1, measured, "pair_psnr", with_onnx=flag)
        versions += register(store, run.id, dataset, [candidate], bit_depth=bit_depth, tags={"git.commit": "0123abcd"})
    return versions


def images(bit_depth: int) -> np.ndarray:
    dtype = np.uint8 if bit_depth == 8 else np.uint16
    return np.random.default_rng(0).integers(0, 2**bit_depth, (2, 9, 14, 3), dtype)


def test_registered_model_is_exported_with_its_lineage(store: Store, project: Path, tmp_path: Path) -> None:
    (version,) = registered(store, project, "emoji", 16, False)
    path = tmp_path / "out.onnx"
    main(["export", "models:/emoji-AtoB@challenger", str(path)])
    session = onnxruntime.InferenceSession(path)
    found = session.get_modelmeta().custom_metadata_map
    run_id = store.client.get_model_version("emoji-AtoB", version.version).run_id
    expected = {
        "registered_model": "emoji-AtoB",
        "registered_version": "1",
        "run_id": run_id,
        "dataset": "emoji",
        "direction": "AtoB",
        "git.commit": "0123abcd",
        "data.load_size": "40",
        "train.crop_size": "32",
        "model.sha256": file_digest(project / "generator.keras"),
        "bit_depth": "16",
    }
    assert {key: found.get(f"cyclegan.{key}") for key in expected} == expected
    translated = Translator(load_generator(project / "generator.keras"), 16).translate(images(16))
    different = session.run(None, {"image": images(16)})[0].astype(int) - translated
    assert np.abs(different).max() <= 2


def test_unknown_model(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["export", "models:/none@champion", str(tmp_path / "out.onnx")])
    assert end.value.code == 2
    assert "no registered model 'none'" in capsys.readouterr().err


def test_packages_are_missing_before_anything_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(UserError, match=r"ONNX: Python module tf2onnx is not installed; run pip install 'cyclegan\[ex"):
        prepare_export()


@pytest.mark.slow
def test_mlflow_loads_the_onnx_model_without_tensorflow(store: Store, project: Path, tmp_path: Path) -> None:
    version, again, without = registered(store, project, "both", 8, True, True, False)
    assert [again.version, without.version] == [version.version, "2"]
    np.save(tmp_path / "images.npy", images(8))
    code = f"""
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
import mlflow, numpy, onnxruntime
mlflow.set_tracking_uri({store.uri!r})
model = mlflow.onnx.load_model({version.uri!r})
session = onnxruntime.InferenceSession(model.SerializeToString())
(found,) = session.run(None, {{"image": numpy.load("images.npy")}})
numpy.save("found.npy", found)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    translated = Translator(load_generator(project / "generator.keras")).translate(images(8))
    assert np.abs(np.load(tmp_path / "found.npy").astype(int) - translated).max() <= 1
    # Both flavors live in one version.
    served = mlflow.pyfunc.load_model(version.uri)
    assert np.abs(served.predict(images(8)).astype(int) - translated).max() <= 1
    main(["export", version.uri, str(tmp_path / "out.tflite")])
