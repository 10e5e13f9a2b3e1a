"""`dvc repro` from the embedded images to registered generators, and its outputs."""

from __future__ import annotations

import csv
import html
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from mlflow.entities import Run
from sandbox import Sandbox

from cyclegan.models.translator import load_generator
from cyclegan.params.train import LossWeights
from cyclegan.system.digests import folder_digest
from cyclegan.tracking.series import mlflow_name, plain_name
from in_process import cyclegan_here

MakeSandbox = Callable[[], Sandbox]
STEPS = [4, 6, 8, 12]
# The files of a pipeline run that git tracks.
NUMBERS = ["dvc.lock", "reports/evaluate/metrics.json", "reports/train/losses.csv", "reports/train/validation.csv"]
IDENTITY = {
    f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "T"), ("EMAIL", "t@e"))
}
TERMS = tuple(LossWeights.model_fields)
SERIES = {
    *(f"{G}/{term}" for G in ("G_AtoB", "G_BtoA") for term in ("total", *TERMS)),
    *(f"{D}/{term}" for D in ("D_A", "D_B") for term in ("total", "real", "fake", "output_real", "output_fake")),
    "training/learning_rate",
    "training/epoch",
    "training/images_per_second",
    "training/seconds_per_epoch",
}
VALIDATION = {
    f"val_{direction}/{metric}"
    for direction in ("AtoB", "BtoA")
    for metric in ("cycle_l1", "identity_l1", "kid", "pair_psnr", "pair_ssim")
}
TEST = {f"test_{direction}/{metric}" for metric in ("pair_psnr", "pair_ssim", "kid") for direction in ("AtoB", "BtoA")}


def run_of(sandbox: Sandbox) -> Run:
    return sandbox.client.get_run(sandbox.json("reports/train/run.json")["run_id"])


def weights(sandbox: Sandbox) -> list[np.ndarray]:
    """All weights of both generators."""
    return [
        array
        for direction in ("AtoB", "BtoA")
        for array in load_generator(sandbox.root / f"models/generator_{direction}.keras").get_weights()
    ]


def test_a_second_repro_runs_no_stage(finished: Sandbox) -> None:
    assert "Data and pipelines are up to date." in finished.run("dvc", "repro").stdout


def test_every_stage_writes_its_outputs(finished: Sandbox) -> None:
    for path in (
        "data/raw/source.json",
        "data/split/manifest.csv",
        "data/split/trainA.npy",
        "models/generator_AtoB.keras",
        "models/generator_BtoA.keras",
        "reports/search/best.yaml",
        "reports/search/trials.csv",
        "reports/split.json",
        "reports/train/run.json",
        "reports/train/losses.csv",
        "reports/train/validation.csv",
        "reports/train/samples.png",
        "reports/train/over_time.png",
        "reports/evaluate/details.json",
        "reports/evaluate/metrics.json",
        "reports/evaluate/per_image.csv",
        "reports/evaluate/grid.png",
        "reports/evaluate/report.html",
        "reports/register.html",
        "reports/register.json",
    ):
        assert (finished.root / path).stat().st_size > 0, path
    status = finished.run("git", "status", "--porcelain", "--untracked-files=all").stdout
    assert status.splitlines() == [f"?? {path}" for path in NUMBERS]


def test_a_training_outside_dvc_has_the_same_data_digest(finished: Sandbox) -> None:
    recorded = finished.json("reports/train/run.json")["data_md5"]
    assert f"md5: {recorded}\n" in (finished.root / "dvc.lock").read_text()
    assert folder_digest(finished.root / "data/split") == recorded
    assert "resuming at step 12 of 12" in cyclegan_here("train", cwd=finished.root).stdout
    # Its outputs have the same bytes, so no later stage runs again.
    assert "Data and pipelines are up to date." in finished.run("dvc", "status").stdout


def test_one_run_holds_every_series_once(finished: Sandbox) -> None:
    run = run_of(finished)
    assert run.info.status == "FINISHED"
    for name in SERIES:
        points = finished.client.get_metric_history(run.info.run_id, mlflow_name(name))
        assert [point.step for point in points] == STEPS, name
    for name in VALIDATION:
        points = finished.client.get_metric_history(run.info.run_id, mlflow_name(name))
        assert [point.step for point in points] == [6, 12], name
    for name in TEST:
        # The identity baseline, and the generators.
        assert [point.step for point in finished.client.get_metric_history(run.info.run_id, name)] == [0, 12], name
    own = {plain_name(name) for name in run.data.metrics if not name.startswith("system/")}
    assert own == SERIES | VALIDATION | TEST
    # A person can look through this number. "system/" adds three, and three per GPU.
    assert len(own) <= 40


def test_a_generators_total_is_the_weighted_sum_of_its_terms(finished: Sandbox) -> None:
    metrics, params = run_of(finished).data.metrics, run_of(finished).data.params
    for direction in ("AtoB", "BtoA"):
        parts = [
            float(params[f"train.loss_weights.{term}.{direction}"]) * metrics[f"2_G_{direction}/{term}"]
            for term in TERMS
        ]
        assert metrics[f"2_G_{direction}/total"] == pytest.approx(sum(parts), rel=1e-4)


def test_a_run_records_its_origin(finished: Sandbox) -> None:
    run = run_of(finished)
    commit = finished.run("git", "rev-parse", "HEAD").stdout.strip()
    assert run.data.tags["git.commit"] == commit
    assert run.data.tags["git.dirty"] == "false"
    assert run.data.tags["dvc.stage"] == "train"
    assert run.data.tags["device"].startswith(("CPU", "GPU", "NVIDIA", "Tesla"))
    assert run.data.params["train.epochs"] == "2"
    # Parameters that no run of this data changes are in the file only.
    assert "data.source" not in run.data.params
    (dataset,) = [entry.dataset for entry in run.inputs.dataset_inputs]
    assert dataset.digest in (finished.root / "dvc.lock").read_text()
    images = [file.path for file in finished.client.list_artifacts(run.info.run_id, "samples")]
    assert images == [f"samples/{way}_epoch_{epoch:03}.png" for way in ("AtoB", "BtoA") for epoch in (1, 2)]
    # Files of equal names, which MLflow compares.
    files = [file.path for file in finished.client.list_artifacts(run.info.run_id) if not file.is_dir]
    assert files == ["grid.png", "over_time.png", "params.yaml", "samples.png"]
    page = run.data.tags["mlflow.note.content"]
    for part in (
        "| pair_psnr | ",
        f"path=grid.png&run_uuid={run.info.run_id}",
        "(#/models/fluent-emoji-AtoB/versions/1)",
    ):
        assert part in page, page
    assert [file.path for file in finished.client.list_artifacts(run.info.run_id, "evaluate")]


def test_every_metric_has_the_identity_baseline_beside_it(finished: Sandbox) -> None:
    metrics = finished.json("reports/evaluate/details.json")
    for direction in ("AtoB", "BtoA"):
        found = metrics[direction]
        assert found["pair_n"] == 233
        # Measured independently of this project.
        assert found["identity"]["pair_psnr"] == pytest.approx(19.84, abs=0.005)
        assert found["identity"]["pair_ssim"] == pytest.approx(0.752, abs=0.0006)
        assert found["identity"]["pair_l1"] == pytest.approx(0.0576, abs=0.00005)
        assert {"cycle_l1", "cycle_psnr", "cycle_ssim", "identity_l1", "change_l1", "pair_ssim"} <= set(found)
    with (finished.root / "reports/evaluate/per_image.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["direction"] == "AtoB" and row["scored"] == "True"]
    assert np.mean([float(row["pair_psnr"]) for row in rows]) == pytest.approx(metrics["AtoB"]["pair_psnr"], rel=1e-4)
    logged = run_of(finished).data.metrics
    assert logged["test_AtoB/pair_psnr"] == pytest.approx(metrics["AtoB"]["pair_psnr"])


def test_dvc_shows_metrics_and_plots(finished: Sandbox) -> None:
    shown = finished.run("dvc", "metrics", "show").stdout
    assert {"AtoB.psnr", "AtoB.kid", "BtoA.kid_se", "base.psnr", "base.kid"} <= set(shown.split())
    assert max(map(len, shown.splitlines())) <= 160
    assert "AtoB.psnr" in finished.run("dvc", "metrics", "diff", "--all").stdout
    plots = json.loads(finished.run("dvc", "plots", "show", "--json").stdout)
    assert "errors" not in plots
    curves = {"validation_psnr", "validation_kid", "generator_AtoB", "generator_BtoA", "discriminators"}
    images = {"reports/train/samples.png", "reports/train/over_time.png", "reports/evaluate/grid.png"}
    files = {"reports/train/losses.csv", "reports/train/validation.csv"}
    assert set(plots["data"]) == curves | images | files | {"discriminator_outputs"}
    for name in curves:
        (plot,) = plots["data"][name]
        points = plot["content"]["data"]["values"]
        fields = {point["field"] for point in points}
        assert len(fields) >= 2
        kept = {point["step"] for point in points if point.get("kept") == "1"}
        expected = {str(finished.json("reports/train/run.json")["kept"]["step"])} if "validation" in name else set()
        assert kept == expected, name
        assert all(float(point["dvc_inferred_y_value"]) < 100 for point in points)


def test_the_table_of_experiments_fits_on_a_screen(finished: Sandbox) -> None:
    # `dvc exp save` writes dvc.lock, too.
    before = {file: file.read_bytes() for file in (finished.root / "params.yaml", finished.root / "dvc.lock")}
    try:
        for name, epochs in (("shorter-training", 1), ("longer-training", 3)):
            finished.configure(train={"epochs": epochs})
            finished.run("dvc", "exp", "save", "--name", name, **IDENTITY)
        table = finished.run("make", "experiments", "VENV=/nonexistent", "--assume-old=install", COLUMNS="160").stdout
    finally:
        for file, content in before.items():
            file.write_bytes(content)
        finished.run("dvc", "exp", "remove", "shorter-training", "longer-training")
    assert max(map(len, table.splitlines())) <= 160
    assert len(table.splitlines()) <= 40
    assert {"shorter-training", "longer-training"} <= {word.strip("[]") for word in table.split()}
    assert "train.epochs" in table
    assert "AtoB.psnr" in table


def test_a_clone_has_the_numbers_of_its_commit(finished: Sandbox, tmp_path: Path) -> None:
    """With a remote, `dvc pull` gets the other files. A second `dvc repro` changes no tracked file."""
    author, clone = Sandbox(tmp_path / "author"), Sandbox(tmp_path / "clone")
    shutil.copytree(finished.root, author.root, ignore=shutil.ignore_patterns("mlruns", "checkpoints"))
    author.run("git", "config", "user.name", "Test")
    author.run("git", "config", "user.email", "test@example.org")
    author.run("dvc", "remote", "add", "--quiet", "--default", "store", str(tmp_path / "store"))
    author.run("dvc", "push", "--quiet")
    author.run("git", "add", "--all")
    author.run("git", "commit", "--quiet", "--message", "numbers")
    assert "Data and pipelines are up to date." in author.run("dvc", "repro").stdout
    assert author.run("git", "status", "--porcelain").stdout == ""

    author.run("git", "clone", "--quiet", ".", str(clone.root))
    value = clone.json("reports/evaluate/metrics.json")["AtoB"]["psnr"]
    for command in (("metrics", "show", "--json"), ("exp", "show", "--csv")):
        assert str(value) in clone.run("dvc", *command).stdout
    (clone.root / "reports/evaluate/metrics.json").write_text('{"AtoB": {"psnr": 1.0}}')
    changed = json.loads(clone.run("dvc", "metrics", "diff", "HEAD", "--json").stdout)
    change = changed["reports/evaluate/metrics.json"]["AtoB.psnr"]
    assert (change["old"], change["new"]) == (value, 1.0)
    plots = json.loads(clone.run("dvc", "plots", "diff", "HEAD", "--json").stdout)["data"]
    assert plots["generator_AtoB"][0]["revisions"] == ["workspace", "HEAD"]
    clone.run("git", "checkout", "--quiet", "reports")
    assert clone.run("git", "status", "--porcelain").stdout == ""

    clone.run("dvc", "pull", "--quiet")
    assert (clone.root / "models/generator_AtoB.keras").is_file()
    assert (clone.root / "reports/evaluate/grid.png").is_file()
    assert clone.run("dvc", "status").stdout == "Data and pipelines are up to date.\n"


def test_both_generators_are_registered(finished: Sandbox) -> None:
    report = finished.json("reports/register.json")
    for direction in ("AtoB", "BtoA"):
        version = finished.client.get_model_version_by_alias(f"fluent-emoji-{direction}", "challenger")
        assert report[direction]["version"] == str(version.version)
        decision = report[direction]["gate"]
        assert decision["metric"] == "pair_psnr"
        assert decision["images"] == 233
        assert decision["against"] == pytest.approx(19.84, abs=0.005)
        better = decision["gain"] > max(decision["standard_error"], 0.001 * decision["against"])
        assert report[direction]["champion"] == ("1" if better else None)
        assert decision["reason"] in html.unescape((finished.root / "reports/register.html").read_text())
        assert decision["reason"] in version.description
        assert version.run_id == run_of(finished).info.run_id
        assert version.tags["git.commit"]


def test_translate_takes_the_registered_model(finished: Sandbox, tmp_path: Path) -> None:
    images = sorted((finished.root / "data/fluent-emoji/testA").glob("*.png"))[:3]
    model, output = "models:/fluent-emoji-AtoB@challenger", str(tmp_path / "out")
    finished.run("cyclegan", "translate", model, *map(str, images), "--output", output)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [path.name for path in images]

    for named, message in ((model, "exists already"), (model + "x", "cannot be loaded from the registry")):
        done = cyclegan_here("translate", named, *images, "--output", output, cwd=finished.root)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_commands_print_in_any_encoding(finished: Sandbox) -> None:
    for command, printed in (
        ("register", "models:/fluent-emoji-AtoB/1 (was already registered)"),
        ("registry list", "fluent-emoji-AtoB"),
        ("registry show fluent-emoji-AtoB", "challenger"),
        ("registry show fluent-emoji-AtoB/1", " ? "),
        ("runs", "fluent-emoji-"),
        ("runs --csv -", "fluent-emoji-"),
        ("summary", "G_AtoB"),
    ):
        assert printed in finished.run("cyclegan", *command.split(), PYTHONIOENCODING="ascii").stdout, command


@pytest.mark.slow
def test_earlier_parameters_restore_their_run(finished: Sandbox) -> None:
    first = finished.json("reports/train/run.json")["run_id"]
    finished.configure(train={"epochs": 1})
    finished.run("dvc", "repro", "register")
    second = finished.json("reports/train/run.json")["run_id"]
    assert second != first
    finished.configure(train={"epochs": 2})
    assert "is cached - skipping run" in finished.run("dvc", "repro").stdout
    assert finished.json("reports/train/run.json")["run_id"] == first
    version = finished.client.get_model_version_by_alias("fluent-emoji-AtoB", "challenger")
    assert version.run_id == first


@pytest.mark.slow
def test_experiment_in_a_temporary_folder_keeps_its_run(finished: Sandbox) -> None:
    before = finished.json("reports/train/run.json")["run_id"]
    finished.run("dvc", "exp", "run", "--temp", "--name", "shorter", "-S", "train.epochs=1", "-S", "train.seed=5")
    assert finished.json("reports/train/run.json")["run_id"] == before
    experiment = finished.client.get_experiment_by_name("fluent-emoji")
    (run,) = finished.client.search_runs([experiment.experiment_id], "tags.`dvc.exp` = 'shorter'")
    assert run.info.run_name.endswith(" shorter")
    assert run.info.status == "FINISHED"
    assert run.data.params["train.seed"] == "5"


@pytest.mark.slow
def test_another_feature_network_in_the_same_file_is_used(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox()
    sandbox.configure(evaluate={"features": "own.keras"})
    image = keras.Input((None, None, 3))
    found = []
    for size in (2, 3):
        x = keras.layers.AveragePooling2D(size)(image)
        keras.Model(image, keras.layers.ReLU()(x)).save(sandbox.root / "own.keras")
        if found:
            stale = json.loads(sandbox.run("dvc", "status", "--json").stdout)
            assert set(stale) >= {"search", "train", "evaluate"}
        sandbox.run("dvc", "repro", "evaluate")
        found.append(sandbox.json("reports/evaluate/details.json")["protocol"]["features"])
    assert found[0]["sha256"] != found[1]["sha256"]
    assert sandbox.run("dvc", "status", "evaluate").stdout == "Data and pipelines are up to date.\n"


@pytest.mark.slow
def test_a_resumed_training_equals_an_uninterrupted_one(finished: Sandbox, make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox()
    sandbox.configure(train={"checkpoint_every": 1e-9})
    sandbox.run("dvc", "repro", "split")
    with subprocess.Popen(
        ["dvc", "repro", "train"],
        cwd=sandbox.root,
        env=sandbox.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as killed:
        deadline = time.monotonic() + 240
        while not list(sandbox.root.glob("checkpoints/*/step-*.sha256")):
            assert time.monotonic() < deadline, "no checkpoint was written"
            assert killed.poll() is None, "the training ended before it could be killed"
            time.sleep(0.02)
        os.killpg(killed.pid, signal.SIGKILL)
    assert not (sandbox.root / "models/generator_AtoB.keras").exists()
    resumed = sandbox.run("dvc", "repro", "train").stdout
    assert "resuming at step" in resumed
    for got, expected in zip(weights(sandbox), weights(finished), strict=True):
        np.testing.assert_array_equal(got, expected)
    for report in ("losses.csv", "validation.csv"):
        path = f"reports/train/{report}"
        assert (sandbox.root / path).read_text() == (finished.root / path).read_text()
    run = run_of(sandbox)
    assert run.info.status == "FINISHED"
    for name in SERIES:
        points = sandbox.client.get_metric_history(run.info.run_id, mlflow_name(name))
        assert [point.step for point in points] == STEPS, name
    experiment = sandbox.client.get_experiment_by_name("fluent-emoji")
    assert len(sandbox.client.search_runs([experiment.experiment_id])) == 1
