"""The plug is pulled, again and again, in every stage: what comes out must be what an undisturbed run gives.

Each kill is a SIGKILL to the whole process group of a `dvc repro`, at a moment drawn from a seed: some time after the
start, or right after a certain file has appeared, such as the temporary file of a checkpoint. Then the same command is
started again. `KILL_SEEDS="7 8 9" pytest -m slow tests/pipeline/test_kills.py` takes other seeds.
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

SIGNS = {
    "fetch": ("data/.raw.new", "data/.raw.new/.unpacked/*/trainB/*", "data/.raw.new/trainA/*", "data/raw"),
    "split": ("data/.split.new", "data/.split.new/trainA.npy", "data/.split.new/manifest.csv", "data/split"),
    "search": ("reports/search",),
    "train": (
        "mlruns/*.db",
        "checkpoints/*/.step-*.npz",
        "checkpoints/*/step-*.npz",
        "checkpoints/*/step-*.sha256",
        "mlruns/artifacts/*/artifacts/images/*",
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
"""Files whose appearance marks a tender moment of a stage."""

KILLS = {"fetch": 4, "split": 4, "search": 1, "train": 12, "evaluate": 4, "register": 6}
assert sum(KILLS.values()) >= 30

ENDURES = ("training/images_per_second", "training/seconds_per_epoch", "system/")
"""Series that hold durations and the state of the machine."""


@dataclass(frozen=True)
class Moment:
    """When to pull the plug: `delay` seconds after the start, or after the `sign` has appeared."""

    sign: str | None
    delay: float


def moments(stage: str, rng: random.Random, duration: float) -> Iterator[Moment]:
    """Tender moments in turn, with moments anywhere in the stage between them."""
    while True:
        signs = list(SIGNS[stage])
        rng.shuffle(signs)
        for sign in signs:
            yield Moment(sign, rng.choice([0, rng.uniform(0, 0.02), rng.uniform(0, 0.3)]))
            if rng.random() < 0.4:
                yield Moment(None, rng.uniform(0.3, 1) * duration)


def killed_at(moment: Moment, sandbox: Sandbox, stage: str) -> bool:
    """Start the stage and kill it at that moment; False if it had come to its end."""

    def signs() -> set[tuple[str, int]]:
        found = set()
        for path in sandbox.root.glob(moment.sign or ""):
            with contextlib.suppress(FileNotFoundError):
                found.add((str(path), path.stat().st_mtime_ns))
        return found

    before = signs() if moment.sign else set()
    with subprocess.Popen(
        # Forced: the stage runs again where it had come to its end.
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
    """DVC writes dvc.lock in place. Half of one is put back as it was, which README tells the user to do."""
    file = sandbox.root / "dvc.lock"
    try:
        whole = "stages" in YAML(typ="safe").load(file.read_text())
    except (FileNotFoundError, TypeError, YAMLError):
        whole = not file.exists() and before is None
    if not whole:
        file.write_text(before) if before else file.unlink(missing_ok=True)
    return not whole


def rwlock_was_cut(sandbox: Sandbox) -> bool:
    """So it does its table of running stages, which README tells the user to delete."""
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
    """A project with an archive of small images, in which nothing has run."""
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
    """How long each stage took."""


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
                    print("  DVC was cut off while it wrote dvc.lock: put back as with 'git checkout dvc.lock'")
                if rwlock_was_cut(sandbox):
                    print("  DVC was cut off while it wrote .dvc/tmp/rwlock: deleted")
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
    """A sum of every output, without what names the run and counts seconds."""
    report = sandbox.root / "reports/train/run.json"
    run = sandbox.json("reports/train/run.json") if report.exists() else {}
    found = {}
    for path in list_files(sandbox):
        name = path.relative_to(sandbox.root).as_posix()
        # Git's note, and what a killed process left beside: both are looked at in `leftovers`.
        if not path.name.startswith("."):
            found[name] = hashlib.sha256(declared_aside(path, run)).hexdigest()
    return found


def declared_aside(path: Path, run: dict[str, Any]) -> bytes:
    """A file's content without the declared differences."""
    content = path.read_bytes()
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            # metadata.json holds the date; the zip itself holds times.
            names = sorted(set(archive.namelist()) - {"metadata.json"})
            whole = b"".join(name.encode() + archive.read(name) for name in names)
        # Keras' name for an object that layers share is its place in memory.
        return re.sub(rb'"shared_object_id": \d+', b"", whole)
    if path.name in ("run.json", "register.json"):
        tree = json.loads(content)
        return json.dumps({k: v for k, v in tree.items() if k not in ("run_id", "seconds")}).encode()
    if path.name == "report.html":
        text = content.decode()
        assert run["run_id"] in text
        return re.sub(r"[0-9.]+ minutes", "… minutes", text.replace(run["run_id"], "…")).encode()
    return content


def state(sandbox: Sandbox) -> dict[str, Any]:
    """The last checkpoint: weights, optimizers, pools, moving averages, counters, and what the run has recorded."""
    newest = max(sandbox.root.glob("checkpoints/*/step-*.npz"), key=lambda path: path.name)
    assert newest.with_suffix(".sha256").is_file()
    with np.load(newest, allow_pickle=False) as saved:
        arrays = {name: hashlib.sha256(saved[name].tobytes()).hexdigest() for name in saved.files if name != "progress"}
        progress = json.loads(saved["progress"].tobytes())
    assert any("pool" in name for name in arrays)
    assert any("optimizer" in name or "momentum" in name or "velocity" in name for name in arrays)
    return {"file": newest.name, **arrays, **{k: v for k, v in progress.items() if k not in ("run_id", "seconds")}}


def leftovers(sandbox: Sandbox) -> list[str]:
    """Temporary files and folders that nothing will ever remove."""
    roots = [sandbox.root / name for name in ("data", "models", "reports", "checkpoints")]
    found = [path.relative_to(sandbox.root).as_posix() for root in roots for path in root.rglob(".*")]
    return [name for name in found if not name.endswith(".gitignore")]


def assert_same_runs(sandbox: Sandbox, other: Sandbox) -> None:
    run, expected = finished_run(sandbox), finished_run(other)
    assert series(sandbox, run) == series(other, expected)
    assert run.data.params == expected.data.params
    assert artifacts(sandbox, run) == artifacts(other, expected)


def finished_run(sandbox: Sandbox) -> Run:
    """The run of the training. Others are of processes that were killed before they could write its name down."""
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
    """Every point of every series, but of the durations only the steps."""
    found = {}
    for name in run.data.metrics:
        points = sorted((p.step, p.value) for p in sandbox.client.get_metric_history(run.info.run_id, name))
        assert all(math.isfinite(value) for _, value in points)
        steps = Counter(step for step, _ in points)
        if not name.startswith("system/"):
            assert max(steps.values()) == 1, f"{name} has a step twice"
            found[name] = [(s, 0.0) for s in steps] if name.startswith(ENDURES) else points
    return found


def artifacts(sandbox: Sandbox, run: Run) -> Counter[str]:
    """Names of all files of the run; of images without the time and the random part of their names."""

    def walk(folder: str | None) -> Iterator[str]:
        for item in sandbox.client.list_artifacts(run.info.run_id, folder):
            if item.is_dir:
                yield from walk(item.path)
            else:
                name, _, rest = item.path.partition("+timestamp")
                yield name + "".join(re.findall(r"\+compressed|\.\w+$", rest))

    return Counter(walk(None))


def registered(sandbox: Sandbox) -> dict[str, Any]:
    """Every registered model with its versions and aliases, and how many models the store holds."""
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
