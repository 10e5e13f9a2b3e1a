"""How a training relates to earlier ones: it resumes itself, extends a shorter one, or starts at step 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cyclegan.experiment.earlier_trainings import EarlierTraining, differences, earlier_trainings, find_extendable
from cyclegan.experiment.session import Session
from cyclegan.params import Params
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.progress import Progress, logged_losses


def choose_start(session: Session, root: Path, shapes: Mapping[str, Any]) -> tuple[Session, EarlierTraining | None]:
    """Choose and print where a training starts: at its checkpoint, at the end of a shorter training, or at step 0.

    Args:
        session: at its newest checkpoint, or at step 0 if it has none.
        root: the folder of all trainings' checkpoints.
        shapes: everything that shapes this training's weights.

    Returns:
        The session at its start, and the training that it extends, if any.
    """
    plan, own = session.plan, session.checkpoints.path
    if session.progress.step:
        print(f"resuming at step {session.progress.step} of {plan.total_steps}")
        return session, None
    may_extend = session.params.train.extend
    origin = find_extendable(root, own, shapes, plan.steps_per_epoch) if may_extend else None
    if origin is None:
        print_differences(root, own, shapes)
        return session, None
    return replace(session, progress=extend(origin, session.model, session.params)), origin


def print_differences(root: Path, own: Path, shapes: Mapping[str, Any]) -> None:
    """Print how a training that starts at step 0 differs from the newest checkpoint."""
    newest = next(earlier_trainings(root, own), None)
    if newest is not None:
        name = newest.checkpoints.path.name
        print(f"a new training; the newest other checkpoint ({name}, step {newest.step}) differs:")
        print("\n".join(f"  {line}" for line in differences(newest.shapes, shapes)))


def extend(origin: EarlierTraining, model: CycleGAN, params: Params) -> Progress:
    """Restore the state and the history of a finished, shorter training, and print how it continues."""
    progress = Progress.restore(origin.checkpoints, model)
    # Start a new MLflow run, which `history` fills.
    progress.run_id, progress.unlogged = None, []
    assert model.schedule is not None
    rate = float(model.schedule(progress.step) * model.learning_rate_factor.value)
    options, last = params.train, progress.losses[-1]["learning_rate"]
    print(
        f"extending the finished training of {origin.epochs} epochs (step {progress.step}, MLflow run {origin.run_id}) "
        f"to {options.epochs}; its learning rate ended at {last:.3g} and continues at {rate:.3g} "
        f"({options.lr_policy} over {options.epochs} epochs)"
    )
    return progress


def lineage_tags(origin: EarlierTraining | None) -> dict[str, str]:
    """MLflow tags of a run that extends another one."""
    if origin is None:
        return {}
    return {"cyclegan.extended_from": str(origin.run_id), "cyclegan.extended_from_step": str(origin.step)}


def history(progress: Progress) -> Iterator[tuple[int, dict[str, float]]]:
    """The steps and metrics of an extended training, which complete the curves of the new run."""
    for row in progress.losses:
        yield int(row["step"]), logged_losses(row)
    for row in progress.validation:
        yield int(row["step"]), {name: value for name, value in row.items() if "/" in name}
