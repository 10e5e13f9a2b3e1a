"""How a training relates to those before it: which one it extends, or in what it differs from the newest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cyclegan.experiment.earlier_trainings import Relative, differences, relatives
from cyclegan.params import Params
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.progress import Progress, logged_losses


def tell_differences(root: Path, own: Path, shapes: Mapping[str, Any]) -> None:
    """Say why a training starts anew though there are checkpoints: in what it differs from the newest one."""
    newest = next(relatives(root, own), None)
    if newest is not None:
        name = newest.checkpoints.path.name
        print(f"a new training; the newest other checkpoint ({name}, step {newest.step}) differs:")
        print("\n".join(f"  {line}" for line in differences(newest.shapes, shapes)))


def extended(origin: Relative, model: CycleGAN, params: Params) -> Progress:
    """Take over the state and the record of a finished, shorter training, and say how it goes on."""
    progress = Progress.restore(origin.checkpoints, model)
    # The new run is told the whole history.
    progress.run_id, progress.unlogged = None, []
    assert model.schedule is not None
    rate = float(model.schedule(progress.step) * model.learning_rate_factor.value)
    options, last = params.train, progress.losses[-1]["learning_rate"]
    print(
        f"extending the finished training of {origin.epochs} epochs (step {progress.step}, MLflow run {origin.run_id}) "
        f"to {options.epochs}; its learning rate ended at {last:.3g} and goes on at {rate:.3g} "
        f"({options.lr_policy} over {options.epochs} epochs)"
    )
    return progress


def lineage(origin: Relative | None) -> dict[str, str]:
    """Tags of a run that extends another one."""
    if origin is None:
        return {}
    return {"cyclegan.extended_from": str(origin.run_id), "cyclegan.extended_from_step": str(origin.step)}


def history(progress: Progress) -> Iterator[tuple[int, dict[str, float]]]:
    """The points that a run takes over from the one that it extends, so that its curves are whole."""
    for row in progress.losses:
        yield int(row["step"]), logged_losses(row)
    for row in progress.validation:
        yield int(row["step"]), {name: value for name, value in row.items() if "/" in name}
