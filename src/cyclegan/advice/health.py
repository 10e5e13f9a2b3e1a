"""Whether this machine can run the pipeline: each part is tried for real."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import psutil
import tensorflow as tf

from cyclegan.advice.timing import StepCost, measure_steps
from cyclegan.data.fetching.raw_folder import image_folders
from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.domains import DOMAINS
from cyclegan.experiment.networks import with_precision
from cyclegan.experiment.plan import (
    refuse_other_channels,
    training_plan,
    training_size,
    with_possible_selection,
)
from cyclegan.params import Params, Size
from cyclegan.params.overrides import effective
from cyclegan.project import Project
from cyclegan.system.errors import UserError, one_line
from cyclegan.tracking.provenance import DISTRIBUTIONS, installed
from cyclegan.tracking.store import open_store
from cyclegan.training.device import bfloat16_pays, prepare_device

TIMED_STEPS = 20
# Turns in which a convolution is timed in both precisions.
CONVOLUTION_TURNS = 7
# Images of each domain that the steps use.
IMAGES = 16
# The largest relative difference to float32: XLA may use TensorFloat-32, bfloat16 has 8 bits.
XLA_TOLERANCE, BFLOAT16_TOLERANCE = 0.01, 0.05
# Beside checkpoints: models, reports, packed images, the MLflow store.
SPARE_BYTES = 2**30
GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        text: what was found, or why it fails and the remedy.
        ok: whether a training would get past this.
    """

    name: str
    text: str
    ok: bool = True


def run_checks(project: Project) -> Iterator[Check]:
    """Check one part after the other; a part that needs a failed one is left out."""
    yield Check("versions", _versions())
    params: Params | None = None
    try:
        params = effective(project).params
        yield Check("params.yaml", "valid")
    except UserError as error:
        yield Check("params.yaml", one_line(error), ok=False)
    device = prepare_device(0, deterministic=params is not None and params.train.deterministic)
    yield _attempt("device", lambda: _device(device))
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    yield _attempt("XLA", _try_xla, needed=_compiles(params, on_gpu), key="train.jit_compile: false")
    mixed = params is not None and with_precision(params).train.mixed_precision is True
    yield _attempt("bfloat16", _try_bfloat16, needed=mixed, key="train.mixed_precision: false")
    if params is not None:
        known = params
        yield _attempt("images", lambda: _images(known, project))
        yield from _steps(known, project, device, on_gpu)
        yield _attempt("MLflow", lambda: _mlflow(known, project))
    yield _attempt("DVC", lambda: _dvc(project))


def _compiles(params: Params | None, on_gpu: bool) -> bool:
    """Whether the training step is compiled with XLA."""
    if params is None or params.train.deterministic:
        return False
    return on_gpu if params.train.jit_compile == "auto" else params.train.jit_compile


def _attempt(name: str, function: Callable[[], str], needed: bool = True, key: str = "") -> Check:
    """Run one check. Any exception is its finding, for here the machine is what is tested."""
    try:
        return Check(name, function())
    except UserError as error:
        return Check(name, one_line(error), ok=False)
    except Exception as error:
        remedy = f"; set {key}" if key and needed else "" if needed else "; params.yaml does not use it"
        return Check(name, _reason(error) + remedy, ok=not needed)


def _reason(error: Exception) -> str:
    """Why a check fails: a message for users as it is, any other error with its class."""
    return one_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)[:120]}"


def _versions() -> str:
    found = {name: installed(name) for name in DISTRIBUTIONS}
    listed = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    return f"Python {platform.python_version()}, {listed}"


def _device(device: str) -> str:
    """The device, the driver and what TensorFlow was built with.

    Raises:
        UserError: there is a GPU that TensorFlow does not use.
    """
    driver = _driver()
    if not tf.config.list_physical_devices("GPU"):
        if driver:
            raise UserError(f"GPU {driver}: TensorFlow does not find it; run 'make GPU=1 install'")
        memory = psutil.virtual_memory()
        return f"{device}, {memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB memory free"
    build = tf.sysconfig.get_build_info()
    cuda = f"TensorFlow is built for CUDA {build.get('cuda_version')}, cuDNN {build.get('cudnn_version')}"
    return f"{device}; {driver or 'driver unknown'}; {cuda}"


def _driver() -> str | None:
    """Name, driver and memory of the first NVIDIA GPU, as its driver reports them; None without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60)
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def _try_xla() -> str:
    """Compile a convolution and its gradient."""
    images, kernel = _problem()
    expected = _gradient(images, kernel)
    compiled = tf.function(_gradient, jit_compile=True)
    return f"compiles, {_difference(compiled(images, kernel), expected, XLA_TOLERANCE)}"


def _try_bfloat16() -> str:
    """Convolve in bfloat16."""
    images, kernel = _problem()
    expected = _gradient(images, kernel)
    found = _gradient(tf.cast(images, tf.bfloat16), tf.cast(kernel, tf.bfloat16))
    difference = _difference(tf.cast(found, tf.float32), expected, BFLOAT16_TOLERANCE)
    chosen = "bfloat16" if bfloat16_pays() else "float32"
    return f"runs, {difference}; a convolution takes {_bfloat16_ratio():.1f} times less; auto is {chosen}"


def _bfloat16_ratio() -> float:
    """Time of a large convolution with its gradient in float32, over that in bfloat16; the median of some turns."""
    draws = np.random.default_rng(0)
    images, kernel = (draws.normal(size=shape) for shape in ((1, 32, 32, 256), (3, 3, 256, 256)))
    step = tf.function(_gradient)
    inputs = {kind: (tf.constant(images, kind), tf.constant(kernel, kind)) for kind in (tf.float32, tf.bfloat16)}
    seconds: dict[tf.DType, list[float]] = {kind: [] for kind in inputs}
    # The first turn builds the graphs.
    for _ in range(CONVOLUTION_TURNS + 1):
        for kind, values in inputs.items():
            start = time.monotonic()
            step(*values).numpy()
            seconds[kind].append(time.monotonic() - start)
    ratios = [float32 / bfloat16 for float32, bfloat16 in zip(*seconds.values(), strict=True)]
    return statistics.median(ratios[1:])


def _problem() -> tuple[tf.Tensor, tf.Tensor]:
    draws = np.random.default_rng(0)
    images = tf.constant(draws.normal(size=(2, 32, 32, 8)), tf.float32)
    return images, tf.constant(draws.normal(size=(3, 3, 8, 8)), tf.float32)


def _gradient(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        loss = tf.reduce_sum(tf.nn.conv2d(images, kernel, 1, "SAME") ** 2)
    return tape.gradient(loss, kernel)


def _difference(found: tf.Tensor, expected: tf.Tensor, tolerance: float) -> str:
    """The largest difference in units of the largest value.

    Raises:
        UserError: it is above the tolerance.
    """
    difference = float(tf.reduce_max(tf.abs(found - expected)) / tf.reduce_max(tf.abs(expected)))
    text = f"differs from float32 by {difference:.1e}"
    if not difference <= tolerance:
        raise UserError(f"{text}, more than {tolerance}; the driver or the libraries are faulty, reinstall them")
    return text


def _images(params: Params, project: Project) -> str:
    """Where the images come from.

    Raises:
        UserError: a folder is missing.
    """
    if params.data.source == "folders":
        folders = image_folders(params.data, project)
        return " and ".join(str(folder) for folder in folders.values())
    return params.data.recorded_source


def _steps(params: Params, project: Project, device: str, on_gpu: bool) -> Iterator[Check]:
    """Time steps of the parameters; then the memory and the disk that they need."""
    try:
        dataset = _packed(params, project)
        if dataset is None and params.training_size is None:
            yield Check("steps", "not timed: the size follows from the images; run 'dvc repro split' first")
            return
        if dataset is None:
            images = _noise(params)
        else:
            # As a training begins, with all that it refuses.
            params = with_possible_selection(params, dataset)
            images = _cropped(dataset, training_size(params, dataset))
            total = training_plan(params, dataset).total_steps
        cost = measure_steps(params, *images, device, TIMED_STEPS)
    except Exception as error:
        yield Check("steps", _reason(error), ok=False)
        return
    note = "on noise, as data/split does not hold the images yet"
    if dataset is not None:
        note = f"{total:,} steps take {total * cost.seconds / 60:.1f} min, without evaluations"
    yield Check(
        "steps", f"{TIMED_STEPS} of {cost.seconds:.3f} s each, after {cost.build_seconds:.0f} s of building; {note}"
    )
    yield _memory(cost, on_gpu)
    yield _disk(params, project, cost)


def _packed(params: Params, project: Project) -> PackedDataset | None:
    """The packed images; None where there are none, or those of other parameters, which `dvc repro` replaces.

    Raises:
        UserError: they are corrupt, or at their own size do not fit the parameters.
    """
    if not project.split.is_dir():
        return None
    dataset = PackedDataset.open(project.split)
    try:
        refuse_other_channels(params, dataset)
        training_size(params, dataset)
    except UserError:
        if params.data.load_size == "original":
            raise
        return None
    return dataset


def _noise(params: Params) -> tuple[np.ndarray, np.ndarray]:
    """Random images of both domains, of the size that the networks see."""
    kind = np.uint8 if params.data.bit_depth == 8 else np.uint16
    draws, size = np.random.default_rng(0), params.training_size
    assert size is not None
    a, b = (
        draws.integers(0, np.iinfo(kind).max, (IMAGES, *size, channels), kind)
        for channels in (params.data.channels_A, params.data.channels_B)
    )
    return a, b


def _cropped(dataset: PackedDataset, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Training images of both domains, cut to the size that the networks see."""
    height, width = size
    packed = [dataset.images(domain, "train") for domain in DOMAINS]
    a, b = (
        np.stack([np.asarray(images[n])[:height, :width] for n in range(min(IMAGES, len(images)))]) for images in packed
    )
    return a, b


def _memory(cost: StepCost, on_gpu: bool) -> Check:
    if on_gpu:
        return Check("memory", f"{cost.memory} of the GPU at the peak")
    total = psutil.virtual_memory().total
    text = f"{cost.memory} of {total / GIB:.1f} GiB at the peak"
    return Check("memory", text, ok=cost.memory_bytes < 0.9 * total)


def _disk(params: Params, project: Project, cost: StepCost) -> Check:
    free = shutil.disk_usage(project.home).free
    # One more while the newest is written.
    checkpoints = params.train.keep_checkpoints + 1
    needed = checkpoints * cost.state_bytes + SPARE_BYTES
    text = f"{free / GIB:.1f} GiB free, {needed / GIB:.1f} GiB needed ({checkpoints} checkpoints and 1 GiB)"
    if not os.access(project.home, os.W_OK):
        return Check("disk", f"{project.home}: no permission to write; change its owner or mode", ok=False)
    return Check("disk", text if free >= needed else f"{text}; free some space", ok=free >= needed)


def _mlflow(params: Params, project: Project) -> str:
    """Open the store.

    Raises:
        UserError: it cannot be used.
    """
    if params.tracking.offline:
        return "not tried, because of tracking.offline: true"
    return open_store(project, params.tracking).display_uri


def _dvc(project: Project) -> str:
    """List the stages.

    Raises:
        UserError: DVC fails.
    """
    command = [sys.executable, "-m", "dvc", "stage", "list"]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.split())[:120]
        raise UserError(f"dvc stage list fails: {reason}; run it for the details")
    return f"{len(done.stdout.splitlines())} stages in {project.root / 'dvc.yaml'}"
