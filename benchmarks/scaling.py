"""How the cost of a training step grows with size, batch, blocks and filters: a CSV file and a plot.

python -m benchmarks.scaling --output scaling
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from benchmarks import measure
from benchmarks.networks import add_options, our_step

AXES = {
    "size": [32, 64, 96, 128],
    "batch": [1, 2, 4, 8],
    "blocks": [1, 3, 6, 9],
    "filters": [8, 16, 32, 64],
}
"""What is varied, one at a time; the others stay at the options' values."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(size=64, blocks=3, filters=16)
    parser.add_argument("--output", type=Path, default=Path("scaling"), help="without ending; default scaling")
    parser.add_argument("--turns", type=int, default=3, help="default 3")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure.serve(our_step(options, "joint-add", paper=True))
        return
    measure.describe(
        f"the paper's networks in joint order around {options.size}x{options.size}, batch {options.batch}, "
        f"{options.blocks} blocks, {options.filters} filters, {'bfloat16' if options.bf16 else 'float32'}; "
        f"{options.turns} turns of 2 steps after 3 of warm-up"
    )
    rows = [row(options, axis, value) for axis, values in AXES.items() for value in values]
    frame = pd.DataFrame(rows)
    frame.to_csv(options.output.with_suffix(".csv"), index=False)
    plot(frame, options.output.with_suffix(".png"))
    print(frame.to_string(index=False, float_format="{:.4f}".format))
    print("\nchecked: all losses finite, cycle losses fell in every row")


def row(options: argparse.Namespace, axis: str, value: int) -> dict[str, object]:
    """One configuration, measured."""
    command = [sys.executable, "-m", "benchmarks.scaling", *sys.argv[1:], f"--{axis}", str(value), "--child"]
    (one,) = measure.alternate({axis: command}, options.turns, steps=2).values()
    measure.require_learning(f"{axis} = {value}", one.losses)
    images = 2 * (value if axis == "batch" else options.batch)
    wall, cpu = statistics.median(one.wall), statistics.median(one.cpu)
    return {
        "axis": axis,
        "value": value,
        "wall_s_per_step": wall,
        "cpu_s_per_step": cpu,
        "cpu_s_per_picture": cpu / images,
        "peak_mib": one.device_peak_mib or one.peak_mib,
    }


def plot(frame: pd.DataFrame, file: Path) -> None:
    """One panel for each axis: CPU and wall seconds per step, logarithmic both ways."""
    figure, panels = plt.subplots(1, len(AXES), figsize=(4 * len(AXES), 3.5), sharey=True)
    for panel, axis in zip(panels, AXES, strict=True):
        rows = frame[frame["axis"] == axis]
        panel.loglog(rows["value"], rows["wall_s_per_step"], "o-", label="wall")
        panel.loglog(rows["value"], rows["cpu_s_per_step"], "s--", label="CPU")
        panel.set_xlabel(axis)
        panel.grid(True, which="both", alpha=0.3)
    panels[0].set_ylabel("seconds per step")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(file)


if __name__ == "__main__":
    main()
