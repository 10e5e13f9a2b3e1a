"""How a training relates to those before it: which one it extends, or in what it differs from the newest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cyclegan.experiment.earlier_trainings import Relative, differences, relatives, shorter_finished
from cyclegan.experiment.session import Session
from cyclegan.params import Params
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.progress import Progress, logged_losses


def starting_point(session: Session, root: Path, shapes: Mapping[str, Any]) -> tuple[Session, Relative | None]:
    """Choose where a training starts, and print it: at its checkpoint, where a shorter training ended, or at step 0.

    Args:
        session: at its newest checkpoint, or at step 0 where there is none.
        root: the folder of all trainings' checkpoints.
        shapes: all that shapes this training.

    Returns:
        The session where it starts, and the training that it extends, if any.
    """
    plan, own = session.plan, session.checkpoints.path
    if session.progress.step:
        print(f"resuming at step {session.progress.step} of {plan.total_steps}")
        return session, None
    extends = session.params.train.extend
    origin = shorter_finished(root, own, shapes, plan.steps_per_epoch) if extends else None
    if origin is None:
        print_differences(root, own, shapes)
        return session, None
    return replace(session, progress=extended(origin, session.model, session.params)), origin


def print_differences(root: Path, own: Path, shapes: Mapping[str, Any]) -> None:
    """Print why a training starts at step 0 though there are checkpoints: how it differs from the newest one."""
    newest = next(relatives(root, own), None)
    if newest is not None:
        name = newest.checkpoints.path.name
        print(f"a new training; the newest other checkpoint ({name}, step {newest.step}) differs:")
        print("\n".join(f"  {line}" for line in differences(newest.shapes, shapes)))


def extended(origin: Relative, model: CycleGAN, params: Params) -> Progress:
    """Take over the state and the record of a finished, shorter training, and print how it continues."""
    progress = Progress.restore(origin.checkpoints, model)
    # The new run gets the whole history.
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
