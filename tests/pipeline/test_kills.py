"""Every stage is killed many times. The results must equal those of an undisturbed run.

Each kill sends SIGKILL to the process group of a `dvc repro` at a random moment: some time after the start, or right
after a certain file has appeared, such as the temporary file of a checkpoint. Then the same command starts again.
`KILL_SEEDS="7 8 9" pytest -m slow tests/pipeline/test_kills.py` uses other seeds.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.entities import Run
from PIL import Image
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from sandbox import Sandbox

MakeSandbox = Callable[[], Sandbox]

SEEDS = [int(seed) for seed in os.environ.get("KILL_SEEDS", "2026").split()]

# Files whose appearance marks a critical moment of a stage.
SIGNS = {
    "fetch": ("data/.raw.new", "data/.raw.new/.unpacked/*/trainB/*", "data/.raw.new/trainA/*", "data/raw"),
    "split": ("data/.split.new", "data/.split.new/trainA.npy", "data/.split.new/manifest.csv", "data/split"),
    "search": ("reports/search",),
    "train": (
        "mlruns/*.db",
        "checkpoints/*/.step-*.npz",
        "checkpoints/*/step-*.npz",
        "checkpoints/*/step-*.sha256",
        "mlruns/artifacts/*/artifacts/samples/*",
        "models/.generator_*",
        "models/generator_BtoA.keras",
        "reports/train/losses.csv",
        "reports/train/run.json",
    ),
    "evaluate": (
        "reports/evaluate/per_image.csv",
        "reports/evaluate/report.html",
        "mlruns/artifacts/*/artifacts/evaluate/*",
    ),
    "register": ("mlruns/artifacts/models/*", "mlruns/artifacts/models/*/artifacts/*", "reports/register.json"),
}

KILLS = {"fetch": 4, "split": 4, "search": 1, "train": 12, "evaluate": 4, "register": 6}
assert sum(KILLS.values()) >= 30

# Series of durations and of the state of the machine.
DURATIONS = ("4_training/images_per_second", "4_training/seconds_per_epoch", "system/")


@dataclass(frozen=True)
class Moment:
    """When to kill: `delay` seconds after the start, or after the `sign` has appeared."""

    sign: str | None
    delay: float


def moments(stage: str, rng: random.Random, duration: float) -> Iterator[Moment]:
    """Critical moments in turn, with random moments of the stage between them."""
    while True:
        signs = list(SIGNS[stage])
        rng.shuffle(signs)
        for sign in signs:
            yield Moment(sign, rng.choice([0, rng.uniform(0, 0.02), rng.uniform(0, 0.3)]))
            if rng.random() < 0.4:
                yield Moment(None, rng.uniform(0.3, 1) * duration)


def killed_at(moment: Moment, sandbox: Sandbox, stage: str) -> bool:
    """Start the stage and kill it at that moment; False if it had already ended."""

    def signs() -> set[tuple[str, int]]:
        found = set()
        for path in sandbox.root.glob(moment.sign or ""):
            with contextlib.suppress(FileNotFoundError):
                found.add((str(path), path.stat().st_mtime_ns))
        return found

    before = signs() if moment.sign else set()
    with subprocess.Popen(
        # Force the stage to run again if it had already ended.
        ["dvc", "repro", "--force", "--single-item", stage],
        cwd=sandbox.root,
        env=sandbox.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        if moment.sign:
            while process.poll() is None and not signs() - before:
                time.sleep(0.001)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment.delay)
        over = process.poll() is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return not over


def lock_was_cut(sandbox: Sandbox, before: str | None) -> bool:
    """Restore an incomplete dvc.lock, as docs/troubleshooting.md advises. DVC writes this file in place."""
    file = sandbox.root / "dvc.lock"
    try:
        is_complete = "stages" in YAML(typ="safe").load(file.read_text())
    except (FileNotFoundError, TypeError, YAMLError):
        is_complete = not file.exists() and before is None
    if not is_complete:
        file.write_text(before) if before else file.unlink(missing_ok=True)
    return not is_complete


def rwlock_was_cut(sandbox: Sandbox) -> bool:
    """Delete an incomplete rwlock, as docs/troubleshooting.md advises. DVC writes this table of stages in place."""
    file = sandbox.root / ".dvc" / "tmp" / "rwlock"
    try:
        json.loads(file.read_text())
    except FileNotFoundError:
        return False
    except ValueError:
        file.unlink()
        return True
    return False


@pytest.fixture(scope="module")
def start(make_sandbox: MakeSandbox) -> Sandbox:
    """A project with an archive of small images, in which no stage has run."""
    sandbox = make_sandbox()
    archive, rng = sandbox.root / "images.zip", np.random.default_rng(5)
    with zipfile.ZipFile(archive, "w") as file:
        for folder, count in {"trainA": 120, "trainB": 110, "testA": 20, "testB": 25}.items():
            for number in range(count):
                content = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(content, "PNG")
                file.writestr(f"images/{folder}/{number:03}.png", content.getvalue())
    sandbox.configure(
        data={
            "source": "file:images.zip",
            "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
            "load_size": 16,
        },
        train={
            "crop_size": 16,
            "epochs": 5,
            "steps_per_epoch": 6,
            "log_every": 2,
            "checkpoint_every": 1e-9,
            "sample_images": 2,
        },
    )
    return sandbox


def copy(sandbox: Sandbox, target: Path) -> Sandbox:
    shutil.copytree(sandbox.root, target, symlinks=True)
    return Sandbox(target)


@dataclass(frozen=True)
class Undisturbed:
    sandbox: Sandbox
    seconds: dict[str, float]
    """Duration of each stage."""


@pytest.fixture(scope="module")
def undisturbed(start: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    sandbox, seconds = copy(start, tmp_path_factory.mktemp("undisturbed") / "project"), {}
    for stage in KILLS:
        begin = time.monotonic()
        sandbox.run("dvc", "repro", "--single-item", stage)
        seconds[stage] = time.monotonic() - begin
    return Undisturbed(sandbox, seconds)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_thirty_kills_change_nothing(seed: int, start: Sandbox, undisturbed: Undisturbed, tmp_path: Path) -> None:
    rng = random.Random(seed)
    sandbox, expected = copy(start, tmp_path / "project"), digests(undisturbed.sandbox)
    print(f"\nseed {seed}")
    for stage, wanted in KILLS.items():
        survived = 0
        for attempt, moment in enumerate(moments(stage, rng, undisturbed.seconds[stage])):
            lock = (sandbox.root / "dvc.lock").read_text() if (sandbox.root / "dvc.lock").exists() else None
            if killed_at(moment, sandbox, stage):
                survived += 1
                where = f"{moment.delay:.3f} s after {moment.sign or 'the start'}"
                print(f"kill {survived}/{wanted} of {stage}: {where}; {len(list_files(sandbox))} files")
                if lock_was_cut(sandbox, lock):
                    print("  dvc.lock was incomplete: restored as with 'git checkout dvc.lock'")
                if rwlock_was_cut(sandbox):
                    print("  .dvc/tmp/rwlock was incomplete: deleted")
                left = digests(sandbox)
                half = {path for path, digest in left.items() if expected[path] != digest}
                assert not half, f"{stage} killed {where} left {half} half-written"
            if survived == wanted:
                break
            assert attempt < 4 * wanted + 8, "the stage ends before it can be killed"
        sandbox.run("dvc", "repro", "--single-item", stage)
    assert digests(sandbox) == expected
    assert state(sandbox) == state(undisturbed.sandbox)
    assert leftovers(sandbox) == leftovers(undisturbed.sandbox) == []
    assert_same_runs(sandbox, undisturbed.sandbox)
    assert registered(sandbox) == registered(undisturbed.sandbox)


OUTPUTS = ("data/raw", "data/split", "models", "reports")


def list_files(sandbox: Sandbox) -> list[Path]:
    roots = [sandbox.root / name for name in OUTPUTS]
    return sorted(path for root in roots for path in root.rglob("*") if path.is_file())


def digests(sandbox: Sandbox) -> dict[str, str]:
    """A checksum of every output, without run IDs and durations."""
    report = sandbox.root / "reports/train/run.json"
    run = sandbox.json("reports/train/run.json") if report.exists() else {}
    found = {}
    for path in list_files(sandbox):
        name = path.relative_to(sandbox.root).as_posix()
        # Skip temporary files of killed processes, which `leftovers` checks, and git's files.
        if not path.name.startswith("."):
            found[name] = hashlib.sha256(without_differences(path, run)).hexdigest()
    return found


def without_differences(path: Path, run: dict[str, Any]) -> bytes:
    """The content of a file without the differences that are expected."""
    content = path.read_bytes()
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            # metadata.json holds the date; the zip itself holds times.
            names = sorted(set(archive.namelist()) - {"metadata.json"})
            content = b"".join(name.encode() + archive.read(name) for name in names)
        # Keras identifies an object that layers share by its address in memory.
        return re.sub(rb'"shared_object_id": \d+', b"", content)
    if path.name in ("run.json", "register.json"):
        tree = json.loads(content)
        return json.dumps({k: v for k, v in tree.items() if k not in ("run_id", "seconds")}).encode()
    if path.name in ("report.html", "register.html"):
        text = content.decode()
        assert run["run_id"] in text
        return re.sub(r"[0-9.]+ minutes", "… minutes", text.replace(run["run_id"], "…")).encode()
    return content


def state(sandbox: Sandbox) -> dict[str, Any]:
    """The latest checkpoint: weights, optimizers, pools, moving averages, counters, and the progress."""
    newest = max(sandbox.root.glob("checkpoints/*/step-*.npz"), key=lambda path: path.name)
    assert newest.with_suffix(".sha256").is_file()
    with np.load(newest, allow_pickle=False) as saved:
        arrays = {name: hashlib.sha256(saved[name].tobytes()).hexdigest() for name in saved.files if name != "progress"}
        progress = json.loads(saved["progress"].tobytes())
    assert any("pool" in name for name in arrays)
    assert any("optimizer" in name or "momentum" in name or "velocity" in name for name in arrays)
    return {"file": newest.name, **arrays, **{k: v for k, v in progress.items() if k not in ("run_id", "seconds")}}


def leftovers(sandbox: Sandbox) -> list[str]:
    """Temporary files and folders that no stage has removed."""
    roots = [sandbox.root / name for name in ("data", "models", "reports", "checkpoints")]
    found = [path.relative_to(sandbox.root).as_posix() for root in roots for path in root.rglob(".*")]
    return [name for name in found if not name.endswith(".gitignore")]


def assert_same_runs(sandbox: Sandbox, other: Sandbox) -> None:
    run, expected = finished_run(sandbox), finished_run(other)
    assert series(sandbox, run) == series(other, expected)
    assert run.data.params == expected.data.params
    assert artifacts(sandbox, run) == artifacts(other, expected)


def finished_run(sandbox: Sandbox) -> Run:
    """The run of the training. Other runs come from processes that were killed before they could save its ID."""
    experiment = sandbox.client.get_experiment_by_name(sandbox.json("reports/train/run.json")["experiment"])
    runs = sandbox.client.search_runs([experiment.experiment_id])
    run_id = sandbox.json("reports/train/run.json")["run_id"]
    (run,) = [run for run in runs if run.info.run_id == run_id]
    assert run.info.status == "FINISHED"
    for other in runs:
        if other.info.run_id != run_id:
            assert (other.info.status, other.data.metrics) == ("KILLED", {})
    return run


def series(sandbox: Sandbox, run: Run) -> dict[str, list[tuple[int, float]]]:
    """Every point of every series, but only the steps of durations."""
    found = {}
    for name in run.data.metrics:
        points = sorted((p.step, p.value) for p in sandbox.client.get_metric_history(run.info.run_id, name))
        assert all(math.isfinite(value) for _, value in points)
        steps = Counter(step for step, _ in points)
        if not name.startswith("system/"):
            assert max(steps.values()) == 1, f"{name} has a step twice"
            found[name] = [(s, 0.0) for s in steps] if name.startswith(DURATIONS) else points
    return found


def artifacts(sandbox: Sandbox, run: Run) -> Counter[str]:
    """Names of all files of the run."""

    def walk(folder: str | None) -> Iterator[str]:
        for item in sandbox.client.list_artifacts(run.info.run_id, folder):
            if item.is_dir:
                yield from walk(item.path)
            else:
                yield item.path

    return Counter(walk(None))


def registered(sandbox: Sandbox) -> dict[str, Any]:
    """Every registered model with its versions and aliases, and the logged models."""
    client = sandbox.client
    experiment = client.get_experiment_by_name(sandbox.json("reports/train/run.json")["experiment"])
    return {
        "names": sorted(model.name for model in client.search_registered_models()),
        "versions": sorted(
            (v.name, str(v.version), v.tags["model.sha256"] != "") for v in client.search_model_versions()
        ),
        "aliases": {model.name: dict(model.aliases) for model in client.search_registered_models()},
        "logged": sorted((m.name, str(m.status)) for m in client.search_logged_models([experiment.experiment_id])),
    }
