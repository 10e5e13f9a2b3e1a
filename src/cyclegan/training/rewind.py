"""Rewinding a diverged training to the state of the last evaluation, with a lower learning rate.

Without `plan.on_divergence.retries` a divergence ends the training, and no states are kept here.
"""

from __future__ import annotations

from cyclegan.system.errors import UserError
from cyclegan.training.divergence import DivergedError
from cyclegan.training.listener import DeferredListener, Listener
from cyclegan.training.progress import Progress, good_states
from cyclegan.training.state import TrainingState

DIVERGED_TAG = "cyclegan.diverged"


class Rewinder:
    """Keeps the states of the last evaluations, and rewinds a training to them.

    The listener receives the metrics of a step when the training can no longer rewind past it, which is at the
    evaluation after the next one. Therefore no series has points of rewound steps.

    Args:
        state: the training state.
        listener: receives metrics, images and tags.

    Raises:
        ValueError: `plan.on_divergence` needs a schedule, and the model has none.
    """

    def __init__(self, state: TrainingState, listener: Listener) -> None:
        self._state, self._allowed = state, state.plan.on_divergence
        self._good = good_states(state.checkpoints)
        if self._allowed.retries and state.model.schedule is None:
            raise ValueError("on_divergence: lowers the rate of a schedule; compile the model with a schedule")
        self._deferred = DeferredListener(listener, state.progress) if self._allowed.retries else None
        self.listener: Listener = self._deferred or listener
        if self._allowed.retries and not self._good.steps():
            self._save_good()

    def log_settled(self) -> None:
        """Log the metrics of all steps up to the previous evaluation, which can no longer be rewound."""
        if self._deferred is not None:
            previous = self._state.progress.validation[-2:-1]
            self._deferred.release(until=previous[0]["step"] if previous else 0)

    def keep(self) -> None:
        """Save this state for a later rewind."""
        if self._deferred is not None:
            self._save_good()

    def end(self) -> None:
        """Release all remaining metrics."""
        if self._deferred is not None:
            self._deferred.release()

    def rewind(self, error: DivergedError) -> str:
        """Restore the state of the last evaluation, lower the learning rate, save, and return a message.

        If the training diverges again before the next evaluation, that state was already bad; the previous one is
        restored.

        Raises:
            UserError: all retries are used.
        """
        state, progress, allowed = self._state, self._state.progress, self._allowed
        if len(progress.rollbacks) >= allowed.retries:
            self.end()
            self.listener.set_tags({DIVERGED_TAG: str(error)})
            retried = f" after {allowed.retries} retries with a lower learning rate" if allowed.retries else ""
            raise UserError(
                f"training diverged: {error}{retried}; the last checkpoint is kept; lower train.learning_rate, set "
                f"train.gradient_clip_norm or {'raise' if retried else 'set'} train.on_divergence.retries, which "
                "starts a new training"
            )
        restored = self._restore_good()
        text = f"{error}: back to step {restored.step}, learning rate times {allowed.factor}"
        restored.rollbacks = [*progress.rollbacks, {"to": restored.step, "why": text}]
        restored.run_id = progress.run_id
        # The restored record may hold metrics that the listener has received since.
        first = progress.unlogged[0][0] if progress.unlogged else 0
        restored.unlogged = [(step, row) for step, row in restored.unlogged if step >= first]
        state.replace_progress(restored)
        state.checkpoints.forget_from(progress.step + 1)
        state.set_learning_rate_factor()
        self.listener.set_tags({f"{DIVERGED_TAG}.{len(progress.rollbacks)}": text})
        state.save()
        return text

    def _restore_good(self) -> Progress:
        state, last = self._state, self._good.steps()[0]
        rollbacks = state.progress.rollbacks
        if rollbacks and rollbacks[-1]["to"] == last and len(self._good.steps()) > 1:
            self._good.forget_from(last)
        saved = self._good.restore(state.model.state())
        assert saved is not None, "the initial state is always kept"
        return Progress(**saved)

    def _save_good(self) -> None:
        self._good.forget_from(self._state.progress.step)
        self._state.save_to(self._good)
        self._state.save()
