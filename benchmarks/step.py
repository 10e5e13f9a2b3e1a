"""Time of a training step: ours, the Keras tutorial's loop, and a checkout of the reference implementation.

    python -m benchmarks.step
    python -m benchmarks.step --peer PATH --size 256 --blocks 9

The tutorial's loop needs the extra `bench` (tf_keras); the reference implementation needs PyTorch and torchvision.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import sys
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.networks import FORMS, add_options, images, our_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--peer", type=Path, metavar="PATH", help="checkout of the reference PyTorch implementation")
    parser.add_argument(
        "--peer-autocast", action="store_true", help="with --peer: also the reference in bfloat16 and channels_last"
    )
    parser.add_argument("--forms", nargs="+", choices=FORMS, help="our variants; default all, or joint-add with --peer")
    parser.add_argument("--turns", type=int, default=5, help="default 5")
    parser.add_argument("--steps", type=int, default=2, help="steps in a turn; default 2")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure.serve(_step(options.child, options))
        return
    if options.peer and not (options.peer / "models" / "cycle_gan_model.py").is_file():
        parser.error(
            f"--peer {options.peer}: no models/cycle_gan_model.py; name a checkout of the reference implementation"
        )
    if options.peer and options.blocks not in (6, 9):
        parser.error(f"--blocks {options.blocks}: the reference implementation has 6 or 9; set one of them")

    if options.peer_autocast and not options.peer:
        parser.error("--peer-autocast: needs the reference implementation; add --peer PATH")

    base = "reference" if options.peer else "tutorial"
    stronger = ["reference-autocast"] if options.peer_autocast else []
    names = [base, *stronger, *(options.forms or (["joint-add"] if options.peer else FORMS))]
    arithmetic = f"ours bfloat16, {base} float32" if options.bf16 else "float32"
    measure.describe(
        f"{options.size}x{options.size}, {options.blocks} blocks, {options.filters} filters, batch {options.batch}, "
        f"{arithmetic}; one process for each row, {options.turns} turns of {options.steps} steps after 3 steps of "
        f"warm-up, in turn; median (smallest to largest); a ratio is {base} / "
        "ours in the same turn",
        "torch" if options.peer else "tf_keras",
    )
    command = [sys.executable, "-m", "benchmarks.step", *sys.argv[1:], "--child"]
    contestants = measure.alternate({name: [*command, name] for name in names}, options.turns, options.steps)
    rows = []
    for name, one in contestants.items():
        measure.require_learning(name, one.losses)
        wall, cpu = (
            [b / o for b, o in zip(getattr(contestants[base], kind), getattr(one, kind), strict=True)]
            for kind in ("wall", "cpu")
        )
        rows.append(
            [
                name,
                *(measure.spread(values) for values in (one.wall, one.cpu)),
                *(measure.spread(values, 2) for values in (wall, cpu)),
                f"{one.first_step:.0f}",
                f"{one.device_peak_mib or one.peak_mib:.0f}",
            ]
        )
    head = ["", "wall s / step", "CPU s / step", "ratio, wall", "ratio, CPU", "first step s", "peak MiB"]
    measure.table(head, rows)
    print("\nchecked: all losses finite, cycle losses fell in every row")


def _step(name: str, options: argparse.Namespace) -> measure.Step:
    if name == "tutorial":
        from benchmarks.tutorial_loop import TutorialLoop

        loop = TutorialLoop(options.size, options.filters, options.blocks)
        pairs = itertools.cycle(zip(*images(options.size, options.batch), strict=True))
        return lambda: loop.step(*next(pairs))
    if name.startswith("reference"):
        return _reference(options, autocast=name == "reference-autocast")
    return our_step(options, name, paper=bool(options.peer))


def _reference(options: argparse.Namespace, autocast: bool) -> measure.Step:
    """The reference implementation's step: its training script calls `set_input` and `optimize_parameters`.

    Args:
        options: of the command line.
        autocast: compute in bfloat16 with the channels last in memory, which is PyTorch's advice for speed.
    """
    sys.path.insert(0, str(options.peer.resolve()))
    import torch
    from options.train_options import TrainOptions

    # mypy would look for an import statement's module in this project's folder models.
    create_model = importlib.import_module("models").create_model
    cuda = torch.cuda.is_available()
    sys.argv = ["train.py", "--dataroot", "unused", "--model", "cycle_gan", "--netG", f"resnet_{options.blocks}blocks"]
    sys.argv += ["--ngf", str(options.filters), "--ndf", str(options.filters), "--batch_size", str(options.batch)]
    chosen: Any = TrainOptions()
    chosen.isTrain = True
    chosen = chosen.gather_options()
    # Set the options as its startup does. Newer versions read `device`, older ones `gpu_ids`.
    chosen.isTrain, chosen.gpu_ids, chosen.device = True, [0] if cuda else [], torch.device("cuda" if cuda else "cpu")
    model = create_model(chosen)
    model.setup(chosen)
    tensors = torch.from_numpy(images(options.size, options.batch)).movedim(-1, -3).contiguous()
    layout = torch.channels_last if autocast else torch.contiguous_format
    for network in model.model_names:
        getattr(model, f"net{network}").to(memory_format=layout)
    number = iter(range(1 << 60))

    def step() -> dict[str, float]:
        n = next(number) % tensors.shape[1]
        real_A, real_B = (domain[n].contiguous(memory_format=layout) for domain in tensors)
        model.set_input({"A": real_A, "B": real_B, "A_paths": [""], "B_paths": [""]})
        with torch.autocast("cuda" if cuda else "cpu", torch.bfloat16, enabled=autocast):
            model.optimize_parameters()
        # Reading the losses waits for the device, as with our losses.
        return model.get_current_losses()

    return step


if __name__ == "__main__":
    main()
