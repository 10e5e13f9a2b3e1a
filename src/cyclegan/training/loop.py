"""The training loop: run a window of steps, log, evaluate if due, save if due, exit if asked.

A window ends at every multiple of `log_every` and where an evaluation is due. Losses are averaged on the device over a
window and leave it once; everything is recorded between windows. A checkpoint may lie inside a window, between two
calls of the device. It holds the window's running means, so a resumed training repeats no point of a series, leaves
none out and alters none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress

import numpy as np

from cyclegan.system.signals import Stopped, StopRequest, stopping
from cyclegan.training.checkpoint import CheckpointFolder
from cyclegan.training.console import Console
from cyclegan.training.cyclegan import CycleGAN
from cyclegan.training.dispatch import Batch, Dispatcher
from cyclegan.training.divergence import DivergedError, refuse_divergence
from cyclegan.training.listener import Listener
from cyclegan.training.progress import Plan, Progress, logged_losses
from cyclegan.training.rewind import Rewinder
from cyclegan.training.state import TrainingState


def train(
    model: CycleGAN,
    batches: Callable[[int], Iterable[Batch]],
    plan: Plan,
    progress: Progress,
    checkpoints: CheckpointFolder,
    listener: Listener,
    validate: Callable[[], Mapping[str, float]],
    samples: Callable[[], Mapping[str, np.ndarray]],
) -> None:
    """Train a compiled model to the end of the plan, or until its selection gives up.

    Args:
        model: with the state that belongs to `progress`; with `plan.selection`, made to keep generators.
        batches: makes the batches that start at a given step.
        plan, progress: how far to go, and how far it has gone; `progress` is brought up to date.
        checkpoints: where the state is kept.
        listener: hears of losses, validation metrics and sample images. With `plan.on_divergence` it hears of metrics
            one evaluation late, and never of steps that were rewound. (Their sample images it has seen.)
        validate: measures the generators on the validation split.
        samples: translates some fixed validation images; `{name: [H, W, 3] uint8}`.

    Raises:
        UserError: a loss or a weight became infinite or NaN, or the validation lacks a metric that `plan.plateau` or
            `plan.selection` watches.
        ValueError: `plan.on_divergence` is to lower the rate of a model that has no schedule.
        SystemExit, KeyboardInterrupt: stopped by SIGTERM, SIGHUP or SIGINT, after a checkpoint.
    """
    state = TrainingState(model, plan, progress, checkpoints)
    with stopping() as stop, Console(plan, progress) as console:
        rewinder = Rewinder(state, listener)
        dispatcher, steps = Dispatcher(model), iter(batches(progress.step))
        try:
            while True:
                try:
                    # An evaluation that a stop has cut off is due again.
                    if state.evaluation_is_due:
                        evaluate(state, validate, samples, rewinder, stop, console)
                    exit_if_asked(stop, state, console)
                    state.save_if_due()
                    if state.is_over:
                        break
                    run_window(state, dispatcher, steps, stop, console)
                    log_window(state, rewinder.listener, console)
                    # There may be little time before the process is killed: an evaluation that is due waits.
                    exit_if_asked(stop, state, console)
                except DivergedError as error:
                    console.print(f"training diverged: {rewinder.rewind(error)}")
                    steps = iter(batches(progress.step))
            rewinder.end()
        except Stopped:
            # A state that is not finite is reported when the training resumes.
            with suppress(DivergedError):
                save_before_exit(state, console)
            stop.leave()


def run_window(
    state: TrainingState, dispatcher: Dispatcher, steps: Iterator[Batch], stop: StopRequest, console: Console
) -> None:
    """Train up to the end of a window, which a checkpoint may have cut in two.

    Raises:
        SystemExit, KeyboardInterrupt: stopped by a signal, after a checkpoint.
        DivergedError: a state to be saved is not finite.
    """
    progress = state.progress
    if not progress.window_steps:
        state.model.reset_metrics()
    end = state.plan.end_of_window(progress.step)
    while progress.step < end:
        exit_if_asked(stop, state, console)
        if state.seconds_until_checkpoint < 0:
            state.save_if_changed()
        console.show_building(not dispatcher.is_built)
        # While the graph is built, there is nothing to lose yet.
        with nullcontext() if dispatcher.is_built else stop.may_come_at_once():
            done, seconds = dispatcher.advance(steps, end - progress.step, state.seconds_until_checkpoint)
        state.add_steps(done, seconds)
        console.show_step()


def log_window(state: TrainingState, listener: Listener, console: Console) -> None:
    """Record the losses of a whole window.

    Raises:
        DivergedError: a loss is not finite.
    """
    losses, step, plan = state.window_losses(), state.progress.step, state.plan
    refuse_divergence(losses, step)
    rate = float(next(iter(state.model.optimizers.values())).learning_rate)
    row = {"step": step, "epoch": step / plan.steps_per_epoch, **losses, "learning_rate": rate}
    steps, seconds = state.add_losses(row)
    images_per_second = steps * plan.batch_size / seconds
    listener.log_metrics(
        step,
        {
            **logged_losses(row),
            "training/images_per_second": images_per_second,
            "training/seconds_per_epoch": seconds / steps * plan.steps_per_epoch,
        },
    )
    console.show_losses(losses, images_per_second)


def evaluate(
    state: TrainingState,
    validate: Callable[[], Mapping[str, float]],
    samples: Callable[[], Mapping[str, np.ndarray]],
    rewinder: Rewinder,
    stop: StopRequest,
    console: Console,
) -> None:
    """Measure the generators on the validation split, and record the metrics and the sample images.

    Raises:
        DivergedError: a variable is not finite.
        UserError: the validation lacks a metric that the plan watches.
    """
    step = state.progress.step
    # The losses of a step are those before its update, which may have been the one that diverged.
    state.refuse_not_finite()
    with stop.may_come_at_once():
        metrics = dict(validate())
        images = dict(samples())
    state.add_validation(metrics)
    rewinder.listener.log_metrics(step, metrics)
    rewinder.log_settled()
    # After the metrics: a crash while they are logged repeats no image when the training resumes.
    for key, image in images.items():
        rewinder.listener.log_image(step, key, image)
    rewinder.keep()
    console.show_validation(metrics)


def exit_if_asked(stop: StopRequest, state: TrainingState, console: Console) -> None:
    """Save and leave, if a signal has asked for it.

    Raises:
        SystemExit, KeyboardInterrupt: what the signal stands for.
        DivergedError: the state is not finite, and was not saved.
    """
    if stop.signal:
        save_before_exit(state, console)
        stop.leave()


def save_before_exit(state: TrainingState, console: Console) -> None:
    """Save the last step and say so.

    Raises:
        DivergedError: the state is not finite, and was not saved.
    """
    state.save_if_changed()
    console.print(f"stopping; step {state.progress.step} is saved, the same command resumes from it")
