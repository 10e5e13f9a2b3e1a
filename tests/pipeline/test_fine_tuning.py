"""`train.initialize_from`: from imported weights through the pipeline to the registry."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sandbox import Sandbox

from cyclegan.models.translator import load_generator
from cyclegan.system.digests import file_digest

PYTORCH = Path(__file__).parents[1] / "fixtures" / "pytorch"
MODEL = {"base_filters": 8, "blocks": 2, "padding": "reflect", "upsample": "transpose", "halving": "centered"}
FILE = "data/pretrained/G.keras"


@pytest.mark.slow
def test_imported_weights_are_trained_on_and_registered(make_sandbox: Callable[[], Sandbox]) -> None:
    sandbox = make_sandbox()
    sandbox.run("cyclegan", "import", str(PYTORCH / "resnet2_instance.pth"), "-o", FILE, "--register", "given")
    sandbox.configure(
        model={**MODEL, "residual_output": False},
        # A rate so low that the weights hardly move.
        train={
            "learning_rate": 1e-9,
            "ema_decay": 0.0,
            "initialize_from": {"G_AtoB": FILE, "G_BtoA": "models:/given/1"},
        },
    )
    sandbox.run("dvc", "repro")
    given = load_generator(sandbox.root / FILE).get_weights()
    for direction in ("AtoB", "BtoA"):
        trained = load_generator(sandbox.root / f"models/generator_{direction}.keras").get_weights()
        assert max(np.abs(new - old).max() for new, old in zip(trained, given, strict=True)) < 1e-6
        assert not all(map(np.array_equal, trained, given))

    # The run and the registered version record the origin.
    first = sandbox.json("reports/train/run.json")
    run = sandbox.client.get_run(first["run_id"])
    checksum = file_digest(sandbox.root / FILE)
    assert run.data.tags["cyclegan.initialized_from.G_AtoB"] == f"{FILE} sha256:{checksum}"
    assert run.data.tags["cyclegan.initialized_from.G_BtoA"].startswith("models:/given/1 sha256:")
    version = sandbox.client.get_model_version_by_alias("fluent-emoji-AtoB", "challenger")
    assert version.run_id == first["run_id"]

    # The finished training resumes at its end. DVC notices another file, which is another training.
    assert "resuming at step 12 of 12" in sandbox.run("cyclegan", "train").stdout
    sandbox.run("cyclegan", "import", str(PYTORCH / "resnet2_instance_legacy.pth"), "-o", "data/pretrained/other.keras")
    other = load_generator(sandbox.root / "data/pretrained/other.keras")
    other.set_weights([0.5 * array for array in other.get_weights()])
    other.save(sandbox.root / FILE)
    sandbox.run("dvc", "repro", "train")
    assert sandbox.json("reports/train/run.json")["run_key"] != first["run_key"]

    # A network that does not fit ends the training before its first step.
    shutil.copy(sandbox.root / "models/generator_AtoB.keras", sandbox.root / FILE)
    sandbox.configure(model={"base_filters": 4})
    refused = sandbox.run("cyclegan", "train", check=False)
    assert refused.returncode == 2
    assert f"train.initialize_from.G_AtoB = {FILE}: " in refused.stderr
    assert "expected 4, found 8" in refused.stderr
    # So does a version that the registry lacks.
    sandbox.configure(train={"initialize_from": {"G_AtoB": "models:/given/7"}})
    refused = sandbox.run("cyclegan", "train", check=False)
    assert refused.returncode == 2
    assert "train.initialize_from.G_AtoB: models:/given/7: " in refused.stderr
