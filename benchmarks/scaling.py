"""Cost of a training step over size, batch, blocks and filters, or over devices: a CSV file and a plot.

python -m benchmarks.scaling --output scaling
python -m benchmarks.scaling --devices 4 --output devices
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from benchmarks import devices, measure
from benchmarks.networks import add_options, our_step

# One option is varied at a time; the others keep their values.
AXES = {
    "size": [32, 64, 128],
    "batch": [1, 2, 4],
    "blocks": [1, 3, 9],
    "filters": [8, 16, 32],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(size=64, blocks=3, filters=16)
    parser.add_argument("--output", type=Path, default=Path("scaling"), help="without suffix; default scaling")
    parser.add_argument("--turns", type=int, default=10, help="default 10")
    parser.add_argument("--devices", type=int, help="1, 2, 4 … up to this number, --batch images on each")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure.serve(devices.step_on_devices(options) if options.devices else our_step(options, "joint-add", True))
        return
    measure.describe(
        f"the paper's networks in joint order around {options.size}x{options.size}, batch {options.batch}, "
        f"{options.blocks} blocks, {options.filters} filters, {'bfloat16' if options.bf16 else 'float32'}; "
        f"{options.turns} turns of 2 steps after 3 of warm-up"
    )
    if options.devices:
        frame = devices.compare(options)
        frame.to_csv(options.output.with_suffix(".csv"), index=False)
        measure.table([*frame.columns], [[f"{cell:.4g}" for cell in row] for row in frame.itertuples(index=False)])
        return
    # The middle configuration belongs to every axis, but is measured once.
    measured = functools.cache(lambda **sizes: measurement(options, sizes))
    middle = {axis: getattr(options, axis) for axis in AXES}
    frame = pd.DataFrame(
        {"axis": axis, "value": value, **measured(**{**middle, axis: value})}
        for axis, values in AXES.items()
        for value in values
    )
    frame.to_csv(options.output.with_suffix(".csv"), index=False)
    # CPU seconds do not include the work of a GPU. On a CPU they are less sensitive to other load.
    plot(frame, "cpu" if measure.gpus() == "none" else "wall", options.output.with_suffix(".png"))
    rows = [
        [f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row]
        for row in frame.itertuples(index=False)
    ]
    measure.table([*frame.columns], rows)
    print("\nchecked: all losses finite, cycle losses fell in every row")


def measurement(options: argparse.Namespace, sizes: dict[str, int]) -> dict[str, float]:
    """Measure one configuration in its own process."""
    chosen = [word for axis, value in sizes.items() for word in (f"--{axis}", str(value))]
    command = [sys.executable, "-m", "benchmarks.scaling", *sys.argv[1:], *chosen, "--child"]
    (one,) = measure.alternate({"ours": command}, options.turns, steps=2).values()
    measure.require_learning(str(sizes), one.losses)
    images = 2 * sizes["batch"]
    return {
        "wall_s_per_image": statistics.median(one.wall) / images,
        "cpu_s_per_image": statistics.median(one.cpu) / images,
        "peak_mib": one.device_peak_mib or one.peak_mib,
    }


def plot(frame: pd.DataFrame, kind: str, file: Path) -> None:
    """Plot milliseconds (`wall` or `cpu`) per image, with a panel for each axis and logarithmic scales."""
    figure, panels = plt.subplots(1, len(AXES), figsize=(4 * len(AXES), 3.5), sharey=True)
    for panel, axis in zip(panels, AXES, strict=True):
        rows = frame[frame["axis"] == axis]
        panel.plot(rows["value"], 1000 * rows[f"{kind}_s_per_image"], "o-")
        panel.set_xscale("log")
        panel.set_xticks(rows["value"], rows["value"])
        panel.minorticks_off()
        panel.set_yscale("log", base=2)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.set_xlabel(axis)
        panel.grid(True, alpha=0.3)
    panels[0].set_ylabel(f"{'CPU' if kind == 'cpu' else 'wall'} ms per image in a step")
    figure.tight_layout()
    figure.savefig(file)


if __name__ == "__main__":
    main()
