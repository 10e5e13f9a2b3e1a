"""Share of tracking in an epoch: series, sample grids and checkpoints, with a real store on this disk.

    python -m benchmarks.tracking
    python -m benchmarks.tracking --step-ms 14 --steps-per-epoch 1067

Give your own step time, steps per epoch and log_every; the defaults are those of the quick start.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import measure
from benchmarks.networks import images

# The training loop logs this many series: losses, weighted terms and rates.
SERIES = 34


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step-ms", type=float, default=170, help="milliseconds of a step; default 170")
    parser.add_argument("--steps-per-epoch", type=int, default=615, help="default 615")
    parser.add_argument("--log-every", type=int, default=25, help="default 25")
    parser.add_argument("--checkpoint-minutes", type=float, default=2, help="default 2")
    parser.add_argument("--size", type=int, default=64, help="side of the images; default 64")
    parser.add_argument("--filters", type=int, default=32, help="filters of the networks; default 32")
    parser.add_argument("--blocks", type=int, default=6, help="residual blocks; default 6")
    options = parser.parse_args()
    measure.describe(
        f"epochs of {options.steps_per_epoch} steps of {options.step_ms:g} ms, a point of {SERIES} series every "
        f"{options.log_every} steps, two grids an epoch, a checkpoint every {options.checkpoint_minutes:g} minutes; "
        "medians of 20 points, 6 grids, 3 checkpoints in a new store"
    )
    with tempfile.TemporaryDirectory() as folder:
        each = costs(Path(folder), options)
    epoch = options.steps_per_epoch * options.step_ms / 1000
    counts = (options.steps_per_epoch / options.log_every, 2, epoch / 60 / options.checkpoint_minutes)
    rows = [
        [name, f"{1000 * seconds:.1f}", f"{count:.1f}", f"{100 * seconds * count / epoch:.2f} %"]
        for name, seconds, count in zip(("points", "grids", "checkpoints"), each, counts, strict=True)
    ]
    share = 100 * sum(seconds * count for seconds, count in zip(each, counts, strict=True)) / epoch
    measure.table(["", "ms each", "in an epoch", "share of the time"], [*rows, ["all", "", "", f"{share:.2f} %"]])
    print("\nchecked: the store holds every point and grid, and the checkpoint can be restored")


def costs(folder: Path, options: argparse.Namespace) -> tuple[float, float, float]:
    """Median seconds of a point, a grid and a checkpoint."""
    from cyclegan import CycleGAN, build_discriminator, build_generator
    from cyclegan.params import Tracking
    from cyclegan.project import Project
    from cyclegan.tracking.run import TrackedRun
    from cyclegan.tracking.store import open_store
    from cyclegan.training.checkpoint import CheckpointFolder

    generator = {"base_filters": options.filters, "blocks": options.blocks}
    model = CycleGAN(
        **{name: build_generator(name=name, **generator) for name in ("G_AtoB", "G_BtoA")},
        **{name: build_discriminator(name=name, base_filters=options.filters) for name in ("D_A", "D_B")},
        image_size=(options.size, options.size),
    )
    model.compile()
    checkpoints = CheckpointFolder(folder / "checkpoints")
    draws = np.random.default_rng(0)
    store = open_store(Project(root=folder, home=folder), Tracking(uri=None, experiment=None, offline=False))
    with TrackedRun.start(store, experiment="benchmark", name="benchmark", params={}) as run:
        point = median(
            20, lambda n: run.log_metrics(n, {f"series/{k:02d}": float(draws.random()) for k in range(SERIES)})
        )
        grid = sample_grid(options.size, draws)
        # In a training, each grid is delivered long before the next one.
        image = median(6, lambda n: run.log_image(n, f"samples/{n % 2}", grid), apart=1)
        saved = median(3, lambda n: checkpoints.save(n, model.state(), {}))
        id = run.id

    import mlflow

    client = mlflow.MlflowClient()
    points = [len(client.get_metric_history(id, f"series/{k:02d}")) for k in range(SERIES)]
    grids = [file.path for file in client.list_artifacts(id, "samples")]
    if points != [20] * SERIES or len(grids) != 6 or checkpoints.restore(model.state()) is None:
        sys.exit(f"incomplete: {points} points, {len(grids)} grids in the store, or no checkpoint")
    return point, image, saved


def sample_grid(size: int, draws: np.random.Generator) -> np.ndarray:
    """Six rows of three images, uint8: smooth with a little noise, so that they compress like photographs."""
    columns = images(size, batch=6, count=3)[0]
    grid = 127.5 * (np.concatenate([np.concatenate(column) for column in columns], axis=1) + 1)
    return np.clip(grid + draws.normal(0, 4, grid.shape), 0, 255).astype(np.uint8)


def median(times: int, action: Callable[[int], object], apart: float = 0) -> float:
    """Median seconds of an action, which receives its number; it starts `apart` seconds after the previous one."""
    seconds = []
    for n in range(times):
        time.sleep(apart)
        start = time.perf_counter()
        action(n)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
