"""Peak memory of a training step in several configurations, each in its own process.

python -m benchmarks.memory
python -m benchmarks.memory --sizes 256 512 --blocks 9 --filters 64 --forms sequential joint joint-add
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import measure
from benchmarks.networks import FORMS, add_options, our_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(blocks=3, filters=16)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["joint-add"], help="default joint-add")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="default 64 128; instead of --size")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2], help="default 1 2; instead of --batch")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure.serve(our_step(options, options.child), warm_up=2)
        return
    measure.describe(
        f"{options.blocks} blocks, {options.filters} filters, {'bfloat16' if options.bf16 else 'float32'}; the "
        "tutorial's networks; 4 steps in a process for each row; resident memory on a CPU, TensorFlow's count on a GPU"
    )
    rows = []
    for form in options.forms:
        for size in options.sizes:
            for batch in options.batches:
                command = [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:]]
                command += ["--size", str(size), "--batch", str(batch), "--child", form]
                (one,) = measure.alternate({form: command}, turns=1, steps=1).values()
                measure.require_learning(form, one.losses)
                rows.append([form, str(size), str(batch), f"{one.device_peak_mib or one.peak_mib:.0f}"])
    measure.table(["", "size", "batch", "peak MiB"], rows)
    print("\nchecked: all losses finite, cycle losses fell in every row")


if __name__ == "__main__":
    main()
