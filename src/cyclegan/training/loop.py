"""The training loop: run a window of steps, log, evaluate if due, save if due, exit on a signal.

A window ends at every multiple of `log_every` and at every evaluation. The device averages the losses over a window,
and the loop reads and logs them once at its end. A checkpoint may lie inside a window, between two calls of the device.
It holds the window's running means, so a resumed training logs the same points.
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
from cyclegan.training.followers import Leader
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
    leader: Leader | None = None,
) -> None:
    """Train a compiled model to the end of the plan, or until its selection stops early.

    Args:
        model: has the state that belongs to `progress`; made with `keep_best` if there is a `plan.selection`.
        batches: returns the batches from a given step on.
        plan: what to train, and for how long.
        progress: the record of the training, which is updated.
        checkpoints: the folder of states.
        listener: receives losses, validation metrics and sample images. With `plan.on_divergence` it receives metrics
            one evaluation late and none of rewound steps. Sample images are never delayed.
        validate: measures the generators on the validation split.
        samples: translates some fixed validation images; `{name: [H, W, 3] uint8}`.
        leader: leads the other hosts of the training; None: there are none.

    Raises:
        UserError: a loss or a weight became infinite or NaN, or the validation lacks the metric of `plan.plateau` or
            `plan.selection`.
        ValueError: `plan.on_divergence` needs a schedule, and the model has none.
        SystemExit, KeyboardInterrupt: stopped by SIGTERM, SIGHUP or SIGINT, after a checkpoint.
    """
    state, leader = TrainingState(model, plan, progress, checkpoints), leader or Leader(model)
    with stopping() as stop, Console(plan, progress) as console:
        rewinder = Rewinder(state, listener)
        leader.load()
        dispatcher, steps = leader.dispatcher(), iter(batches(progress.step))
        try:
            while True:
                try:
                    # An evaluation that a signal interrupted is due again.
                    if state.evaluation_is_due:
                        evaluate(state, validate, samples, rewinder, stop, console)
                    exit_if_asked(stop, state, console)
                    state.save_if_due()
                    if state.is_over:
                        break
                    run_window(state, dispatcher, steps, stop, console)
                    log_window(state, rewinder.listener, console)
                    # The process may be killed soon, so exit before the next evaluation.
                    exit_if_asked(stop, state, console)
                except DivergedError as error:
                    console.print(f"training diverged: {rewinder.rewind(error)}")
                    leader.load()
                    steps = iter(batches(progress.step))
            rewinder.end()
        except Stopped:
            # The resumed training reports a state that is not finite.
            with suppress(DivergedError):
                save_before_exit(state, console)
            stop.leave()


def run_window(
    state: TrainingState, dispatcher: Dispatcher, steps: Iterator[Batch], stop: StopRequest, console: Console
) -> None:
    """Train to the end of the current window, which a resumed training may have begun earlier.

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
        # A stop may interrupt the first call, which builds the graph: no step is lost.
        is_first = not dispatcher.is_built and dispatcher.may_be_interrupted
        with stop.may_come_at_once() if is_first else nullcontext():
            done, seconds = dispatcher.advance(steps, end - progress.step, state.seconds_until_checkpoint)
        state.add_steps(done, seconds)
        console.show_step()


def log_window(state: TrainingState, listener: Listener, console: Console) -> None:
    """Log the losses of a finished window.

    Raises:
        DivergedError: a loss is not finite.
    """
    losses, step, plan = state.window_losses(), state.progress.step, state.plan
    refuse_divergence(losses, step)
    rate = float(next(iter(state.model.optimizers.values())).learning_rate.numpy())
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
    """Measure the generators on the validation split, and log the metrics and the sample images.

    Raises:
        DivergedError: a variable is not finite.
        UserError: the validation lacks the metric of `plan.plateau` or `plan.selection`.
    """
    step = state.progress.step
    # Losses are measured before the update of a step, so the last update may have diverged unnoticed.
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
    """Save and exit if a signal has arrived.

    Raises:
        SystemExit, KeyboardInterrupt: the exception of the signal.
        DivergedError: the state is not finite, and was not saved.
    """
    if stop.signal:
        save_before_exit(state, console)
        stop.leave()


def save_before_exit(state: TrainingState, console: Console) -> None:
    """Save the last step and print a message.

    Raises:
        DivergedError: the state is not finite, and was not saved.
    """
    state.save_if_changed()
    console.print(f"stopping: step {state.progress.step} is saved; run the same command again to resume")
