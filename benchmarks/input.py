"""Time and memory of the training batches, and the time that a step waits for them.

    python -m benchmarks.input
    python -m benchmarks.input --images 100000 --load-size 256 --crop 256

The packed images are files as stage `split` writes them. The first --filled images hold noise; the rest is sparse.
Holes take no disk space but are read like other pages: memory is measured correctly, the speed of the disk is not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="images of each domain; default 1000")
    parser.add_argument("--load-size", type=int, default=286, help="side of the packed images; default 286")
    parser.add_argument("--crop", type=int, default=256, help="default 256")
    parser.add_argument("--batch", type=int, default=1, help="default 1")
    parser.add_argument("--filled", type=int, default=200, help="images that hold noise; default 200")
    parser.add_argument("--steps", type=int, default=300, help="batches in a turn; default 300")
    parser.add_argument("--turns", type=int, default=5, help="default 5")
    parser.add_argument("--step-ms", type=float, default=33, help="duration of the step meanwhile; default 33")
    parser.add_argument("--deterministic", action="store_true", help="as train.deterministic")
    parser.add_argument("--folder", type=Path, help="folder of the packed files; default the system's temporary folder")
    options = parser.parse_args()
    measure.describe(
        f"{options.images} images of {options.load_size}x{options.load_size} in each domain, crop {options.crop}, "
        f"batch {options.batch}, {'' if options.deterministic else 'not '}deterministic; {options.turns} turns of "
        f"{options.steps} batches; median (smallest to largest)"
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        files = [write_packed(Path(folder) / f"train{domain}.npy", options) for domain in "AB"]
        size = sum(file.stat().st_size for file in files) / 2**30
        on_disk = sum(file.stat().st_blocks * 512 for file in files) / 2**30
        print(f"packed: {size:.1f} GiB; on disk: {on_disk:.2f} GiB")
        run([np.load(file, mmap_mode="r") for file in files], options)


def write_packed(file: Path, options: argparse.Namespace) -> Path:
    """Write a packed file as stage `split` does."""
    shape = (options.images, options.load_size, options.load_size, 3)
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    draws = np.random.default_rng(0)
    for n in range(min(options.filled, options.images)):
        array[n] = draws.integers(0, 256, shape[1:], dtype=np.uint8)
    array.flush()
    return file


def run(images: list[np.ndarray], options: argparse.Namespace) -> None:
    from cyclegan.data.loading.pipeline import training_batches
    from cyclegan.training.device import prepare_device

    prepare_device(0, options.deterministic)
    initial_peak = measure.peak_mib()
    crop = (options.crop, options.crop)
    batches = iter(training_batches(*images, batch_size=options.batch, crop_size=crop, flip=True, seed=0))
    first, _ = next(batches)
    if first.shape != (options.batch, *crop, 3) or not np.abs(first).max() <= 1:
        sys.exit(f"wrong batch: shape {first.shape}, largest absolute value {np.abs(first).max()}")
    wall, cpu = [], []
    for _ in range(options.turns):
        start, used = time.perf_counter(), time.process_time()
        for _ in range(options.steps):
            next(batches)
        wall.append(1000 * (time.perf_counter() - start) / options.steps)
        cpu.append(1000 * (time.process_time() - used) / options.steps)
    waiting = [share_waited(batches, options.step_ms / 1000) for _ in range(options.turns)]
    rows = [
        ["wall ms / batch", measure.spread(wall, 2)],
        ["CPU ms / batch", measure.spread(cpu, 2)],
        [f"waiting time, % of steps of {options.step_ms:g} ms", measure.spread(waiting, 2)],
        ["anonymous memory, MiB", f"{anonymous_mib():.0f}"],
        ["peak resident memory, mapped pages included, MiB", f"{measure.peak_mib():.0f}"],
        ["the same before the first batch, MiB", f"{initial_peak:.0f}"],
    ]
    measure.table(["", ""], rows)
    print("\nchecked: shape and range of the batches")


def share_waited(batches: Iterator[Any], step: float, steps: int = 50) -> float:
    """The percentage of time that steps of `step` seconds wait for their batches.

    A step sleeps, which leaves the CPU to the input pipeline, as a step on a GPU does.
    """
    waited = 0.0
    for _ in range(steps):
        start = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - start
        time.sleep(step)
    return 100 * waited / (waited + steps * step)


def anonymous_mib() -> float:
    """Memory of this process that no file backs, in MiB. The system cannot reclaim it."""
    status = Path(f"/proc/{os.getpid()}/status").read_text(encoding="utf-8")
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
