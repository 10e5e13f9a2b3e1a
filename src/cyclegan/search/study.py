"""One Optuna study, shared by workers that may be killed at any moment, on this host or on several.

Optuna numbers trials in the order in which they are queued; a trial whose worker died would stay RUNNING for ever. So
the trials that were asked for are *slots* here: a slot's attempts carry its name, and one that its worker lost or
gave back is followed by another with the same values. The first attempt of a slot that ended counts; whoever finds that
it holds another one gives it up. Nothing depends on an order between workers.
"""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, fail_stale_trials
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import FrozenTrial, Trial, TrialState

from cyclegan.params import Search, flatten
from cyclegan.search.storage import AWAY, GRACE_SECONDS, HEARTBEAT_SECONDS, claiming
from cyclegan.system.errors import UserError, system_fault
from cyclegan.system.locks import held, is_held

ATTEMPTS = 3
"""A slot that lost its worker so often is not tried again: its setting may be what kills the machine."""

SLOT, OWNER, REASON, SURPLUS, DEFINITION = "slot", "owner", "reason", "surplus", "definition"
"""Keys of trials' and studies' user attributes."""
GIVEN_BACK = "given back"
"""Key of a trial that was interrupted, or met something wrong around it: no fault of its own."""
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Slot:
    """One trial that was asked for.

    Attributes:
        name: unique in its study.
        fixed: values that are not for the sampler to choose.
        prunable: False: it runs to its end however bad it looks.
    """

    name: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    prunable: bool = True


def definition(search: Search) -> dict[str, Any]:
    """What all trials of a study must have in common, flat."""
    chosen = search.model_dump(mode="json", include={"seed", "command", "space", "pruner", "fidelity"})
    objectives = {item.name: item.model_dump(exclude={"name"}) for item in search.compared}
    # A column's name may hold a dot only where it would not be told from a level.
    flat = {f"search.{key}": value for key, value in flatten({**chosen, "objectives": objectives})}
    # Trials hold their values in this order, which a mapping does not keep apart.
    return {**flat, "search.objectives": list(objectives)}


def open_study(
    storage: BaseStorage, name: str, search: Search, lock: Path, *, create: bool, pruner: optuna.pruners.BasePruner
) -> optuna.Study:
    """Go on with the study of this name, or create it.

    Raises:
        UserError: it is missing and not to be created, or its trials were made by another definition.
    """
    directions = [objective.direction for objective in search.compared]
    wanted = definition(search)
    with claiming(lock):
        known = set(optuna.get_all_study_names(storage))
        if name not in known and not create:
            raise UserError(
                f"the storage holds no study {name}, but {', '.join(sorted(known)) or 'none at all'}: start it with "
                "'cyclegan search' on the same data, parameters and code"
            )
        # Optuna itself would take the study whatever its directions and ranges are.
        if name in known:
            study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
        else:
            # Another host may create it at this moment.
            study = optuna.create_study(
                study_name=name, storage=storage, directions=directions, pruner=pruner, load_if_exists=True
            )
        if not study.trials and DEFINITION not in study.user_attrs:
            study.set_user_attr(DEFINITION, wanted)
    made = study.user_attrs.get(DEFINITION, {})
    nothing = "(none)"
    changes = [
        f"{key} was {made.get(key, nothing)} and is {wanted.get(key, nothing)}"
        for key in sorted({**made, **wanted})
        if made.get(key, nothing) != wanted.get(key, nothing)
    ]
    if changes:
        raise UserError(
            f"study {name} holds {len(study.trials)} trials of another search, which are not mixed: "
            f"{'; '.join(changes)}. Put the values back, or give search.study a new name"
        )
    return study


class Phase:
    """The slots of one study, each of which comes to an end once.

    Args:
        study: of Optuna.
        slots: all that were asked for.
        seed: of the sampler.
        lock: file under which this host's workers claim trials one by one.
    """

    def __init__(self, study: optuna.Study, slots: Sequence[Slot], seed: int, lock: Path) -> None:
        self.study = study
        self.slots = {slot.name: slot for slot in slots}
        self._seed = seed
        self._lock = lock

    def counted(self) -> dict[str, FrozenTrial]:
        """The attempt that counts of each slot that has come to an end, in the order of the slots."""
        found = {}
        attempts = self.attempts()
        for name in self.slots:
            trials = attempts.get(name, [])
            ended = next((trial for trial in trials if has_ended(trial)), None)
            if ended is None and _tries(trials) >= ATTEMPTS and all(trial.state == TrialState.FAIL for trial in trials):
                ended = trials[-1]
            if ended is not None:
                found[name] = ended
        return found

    @property
    def done(self) -> bool:
        return len(self.counted()) == len(self.slots)

    def attempts(self) -> dict[str, list[FrozenTrial]]:
        """All attempts of each slot, oldest first."""
        found: dict[str, list[FrozenTrial]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            name = trial.user_attrs.get(SLOT)
            if name is not None and SURPLUS not in trial.user_attrs:
                found.setdefault(name, []).append(trial)
        return found

    def claim(self, owner: Path) -> Trial | None:
        """Take the next trial; None while there is none to take.

        It is that of the first slot without an attempt that runs or has ended; attempts whose worker is dead are given
        up before, so that a lost one is what comes next.

        Args:
            owner: a lock file that this process holds for as long as it lives.
        """
        with claiming(self._lock):
            self._fail_lost()
            if not self._queue_next():
                return None
            with warnings.catch_warnings():
                # Optuna expects heartbeats from its own loop only; here `working` sends them.
                warnings.simplefilter("ignore")
                trial = self.study.ask()
            # Not RDBStorage, which a study wraps in a cache.
            if isinstance(self.study._storage, BaseHeartbeat):
                self.study._storage.record_heartbeat(trial._trial_id)
            trial.set_user_attr(OWNER, str(owner))
        if self._is_surplus(trial):
            trial.set_user_attr(SURPLUS, True)
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        # By slot, so that a resumed study neither repeats choices nor differs from one that was not interrupted.
        slot = trial.user_attrs[SLOT]
        self.study.sampler = optuna.samplers.TPESampler(seed=derived_seed(self._seed, "sampler", slot))
        return trial

    @contextmanager
    def working(self, trial: Trial) -> Iterator[None]:
        """Say that the trial's worker lives while this context lasts; give the trial back if it ends in an error."""
        stop = threading.Event()
        storage = self.study._storage
        thread = None
        if isinstance(storage, BaseHeartbeat):
            # A daemon: it must not keep a worker alive that is told to end.
            thread = threading.Thread(target=_beat, args=(storage, trial._trial_id, stop), daemon=True)
            thread.start()
        try:
            yield
        except BaseException as error:
            stopped = (KeyboardInterrupt, SystemExit, UserError, *AWAY)
            given_back = isinstance(error, stopped) or system_fault(error) is not None
            # First where no database is needed: that may be what is away.
            if given_back:
                with suppress(OSError):
                    self._note(trial.number).touch()
            if not isinstance(error, AWAY):
                with suppress(Exception):
                    self._fail(trial.number, trial._trial_id, given_back)
            raise
        finally:
            stop.set()
            if thread is not None:
                # Not to its end: it may be waiting for a database that is away.
                thread.join(HEARTBEAT_SECONDS)

    def _note(self, number: int) -> Path:
        """The file that says on this host that a trial is given back, until the study says so."""
        return self._lock.parent / f"{self.study.study_name}-{number}.given-back"

    def _fail(self, number: int, trial_id: int, given_back: bool) -> None:
        """End an attempt without a reason: its slot has not ended and is queued again."""
        if given_back:
            self.study._storage.set_trial_user_attr(trial_id, GIVEN_BACK, True)
        self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        self._note(number).unlink(missing_ok=True)

    def _is_surplus(self, trial: Trial) -> bool:
        name = trial.user_attrs.get(SLOT)
        if name not in self.slots:
            return True
        earlier = [other for other in self.attempts()[name] if other.number < trial.number]
        return any(other.state == TrialState.RUNNING or has_ended(other) for other in earlier)

    def _queue_next(self) -> bool:
        """Queue the next slot for `ask` to take; False if there is none."""
        if self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            # Somebody died, or on another host is, between queueing and taking it.
            return True
        attempts = self.attempts()
        for name, slot in self.slots.items():
            trials = attempts.get(name, [])
            open_still = all(trial.state == TrialState.FAIL and not has_ended(trial) for trial in trials)
            if open_still and _tries(trials) < ATTEMPTS:
                values = {**slot.fixed, **(trials[-1].params if trials else {})}
                self.study.enqueue_trial(values, user_attrs={SLOT: name})
                return True
        return False

    def _fail_lost(self) -> None:
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            owner = trial.user_attrs.get(OWNER)
            given_back = self._note(trial.number).exists()
            if isinstance(self.study._storage, BaseHeartbeat):
                # Its owner may live on another host: only its heartbeat tells. One that died before the first has none.
                started = trial.datetime_start or datetime.now()
                lost = owner is None and datetime.now() - started > timedelta(seconds=GRACE_SECONDS)
            else:
                lost = owner is None or not is_held(Path(owner))
                if lost and owner is not None:
                    Path(owner).unlink(missing_ok=True)
            if lost or given_back:
                self._fail(trial.number, trial._trial_id, given_back)
        fail_stale_trials(self.study)


def has_ended(trial: FrozenTrial) -> bool:
    """Whether an attempt came to an end by itself, well or not; one that was lost with its worker has not."""
    return trial.state in ENDED or (trial.state == TrialState.FAIL and REASON in trial.user_attrs)


def reason_of(trial: FrozenTrial) -> str:
    """Why a slot failed, by the attempt that counts."""
    return str(trial.user_attrs.get(REASON, "its worker died each time"))


def _tries(trials: Sequence[FrozenTrial]) -> int:
    """How many attempts of a slot count against ATTEMPTS: who interrupts a search takes no try from a trial."""
    return sum(1 for trial in trials if GIVEN_BACK not in trial.user_attrs)


def derived_seed(*parts: object) -> int:
    """A seed that follows from others: 0…2³¹-1."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 2**31


@contextmanager
def living(folder: Path) -> Iterator[Path]:
    """Hold a lock file of one's own, which the kernel releases when this process dies, however it dies."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"worker-{uuid.uuid4().hex[:12]}"
    with held(path):
        path.write_text(f"{os.getpid()}\n", encoding="utf-8")
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _beat(storage: BaseHeartbeat, trial_id: int, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        # The database may be away for a moment; without further heartbeats the trial would count as lost.
        with suppress(*AWAY):
            storage.record_heartbeat(trial_id)
