"""One Optuna study, shared by workers on one or several hosts that may be killed at any moment.

Optuna numbers trials in the order of the queue, and a trial whose worker died would stay RUNNING forever. Therefore
each trial that was asked for is a *slot*, and each Optuna trial is an attempt at a slot. After a lost attempt, or one
that was given back, another attempt has the same values. The first attempt that ended counts. A worker with a surplus
attempt gives it up. Nothing depends on the order of the workers.
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
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, fail_stale_trials
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import FrozenTrial, Trial, TrialState

from cyclegan.params import Search, flatten
from cyclegan.search.storage import DATABASE_ERRORS, GRACE_SECONDS, HEARTBEAT_SECONDS, claiming
from cyclegan.system.errors import UserError, system_fault
from cyclegan.system.locks import held, is_held

# A slot fails after losing this many workers, because its hyperparameters may be what kills them.
ATTEMPTS = 3

# User attributes of trials and of the study.
SLOT, OWNER, METRICS, REASON, SURPLUS, DEFINITION = "slot", "owner", "metrics", "reason", "surplus", "definition"
# User attribute of a trial that was interrupted, or that met a fault which it did not cause.
GIVEN_BACK = "given back"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Slot:
    """One trial that was asked for.

    Attributes:
        name: unique in its study.
        fixed: values that the sampler does not choose.
        prunable: whether the pruner may stop it.
    """

    name: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    prunable: bool = True


def definition(search: Search) -> dict[str, Any]:
    """The parameters that all trials of a study have in common, by their full keys."""
    chosen = search.model_dump(mode="json", include={"seed", "command", "space", "pruner", "fidelity"})
    objectives = {item.name: item.model_dump(exclude={"name"}) for item in search.compared}
    flat = {f"search.{key}": value for key, value in flatten({**chosen, "objectives": objectives})}
    # The order of the objectives is that of the trials' values, and two mappings are equal in any order.
    return {**flat, "search.objectives": list(objectives)}


def open_study(
    storage: BaseStorage, name: str, search: Search, lock: Path, *, create: bool, pruner: optuna.pruners.BasePruner
) -> optuna.Study:
    """Open the study of this name, or create it.

    Raises:
        UserError: it is missing and `create` is False, or its trials have another definition.
    """
    directions = [objective.direction for objective in search.compared]
    names = [objective.name for objective in search.compared]
    wanted = definition(search)
    with claiming(lock):
        known = set(optuna.get_all_study_names(storage))
        if name not in known and not create:
            raise UserError(
                f"search.storage: holds no study {name}, only {', '.join(sorted(known)) or 'none'}; start it with "
                "'cyclegan search' on the same data, parameters and code"
            )
        # Optuna does not check the directions and ranges of an existing study, so its definition is compared below.
        if name in known:
            study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
        else:
            # `load_if_exists`, because another host may create the study at this moment.
            study = optuna.create_study(
                study_name=name, storage=storage, directions=directions, pruner=pruner, load_if_exists=True
            )
        if not study.trials and DEFINITION not in study.user_attrs:
            study.set_user_attr(DEFINITION, wanted)
    stored = study.user_attrs.get(DEFINITION, {})
    missing = "(none)"
    changes = [
        f"{key} was {stored.get(key, missing)} and is {wanted.get(key, missing)}"
        for key in sorted({**stored, **wanted})
        if stored.get(key, missing) != wanted.get(key, missing)
    ]
    if changes:
        raise UserError(
            f"study {name}: holds {len(study.trials)} trials of another search ({', '.join(changes)}); "
            "restore these values, or give search.study a new name"
        )
    # Optuna's dashboard shows these names. It calls the method experimental.
    if study.metric_names != names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(names)
    return study


class Phase:
    """The slots of one study. Each slot ends once.

    Args:
        study: of Optuna.
        slots: all trials that were asked for.
        seed: of the sampler.
        lock: lock file under which the workers of this host claim trials one by one.
    """

    def __init__(self, study: optuna.Study, slots: Sequence[Slot], seed: int, lock: Path) -> None:
        self.study = study
        self.slots = {slot.name: slot for slot in slots}
        self._seed = seed
        self._lock = lock

    def counted(self) -> dict[str, FrozenTrial]:
        """The attempt that counts for each slot that has ended, in the order of the slots."""
        counted = {}
        attempts = self.attempts()
        for name in self.slots:
            trials = attempts.get(name, [])
            ended = next((trial for trial in trials if has_ended(trial)), None)
            all_failed = all(trial.state == TrialState.FAIL for trial in trials)
            if ended is None and _count_tries(trials) >= ATTEMPTS and all_failed:
                ended = trials[-1]
            if ended is not None:
                counted[name] = ended
        return counted

    @property
    def done(self) -> bool:
        return len(self.counted()) == len(self.slots)

    def attempts(self) -> dict[str, list[FrozenTrial]]:
        """All attempts at each slot, oldest first."""
        by_slot: dict[str, list[FrozenTrial]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            name = trial.user_attrs.get(SLOT)
            if name is not None and SURPLUS not in trial.user_attrs:
                by_slot.setdefault(name, []).append(trial)
        return by_slot

    def claim(self, owner: Path) -> Trial | None:
        """Claim the next trial; None while there is none.

        It belongs to the first slot without an attempt that runs or has ended. Attempts of dead workers fail first, so
        that their slots come next.

        Args:
            owner: lock file that this process holds as long as it lives.
        """
        with claiming(self._lock):
            self._fail_lost()
            if not self._queue_next():
                return None
            with warnings.catch_warnings():
                # Optuna warns that only its own loop sends heartbeats; here `working` sends them.
                warnings.simplefilter("ignore")
                trial = self.study.ask()
            # Test for BaseHeartbeat, because the study wraps an RDBStorage in a cache.
            if isinstance(self.study._storage, BaseHeartbeat):
                self.study._storage.record_heartbeat(trial._trial_id)
            trial.set_user_attr(OWNER, str(owner))
        if self._is_surplus(trial):
            trial.set_user_attr(SURPLUS, True)
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        # Seed the sampler by slot, so that a resumed study makes the same choices as an uninterrupted one.
        slot = trial.user_attrs[SLOT]
        self.study.sampler = optuna.samplers.TPESampler(seed=derived_seed(self._seed, "sampler", slot))
        return trial

    @contextmanager
    def working(self, trial: Trial) -> Iterator[None]:
        """Send heartbeats while this context lasts. If it ends with an error, fail the trial or give it back."""
        stop = threading.Event()
        storage = self.study._storage
        thread = None
        if isinstance(storage, BaseHeartbeat):
            # A daemon thread does not keep a worker alive that has to end.
            thread = threading.Thread(target=_send_heartbeats, args=(storage, trial._trial_id, stop), daemon=True)
            thread.start()
        try:
            yield
        except BaseException as error:
            stopped = (KeyboardInterrupt, SystemExit, UserError, *DATABASE_ERRORS)
            given_back = isinstance(error, stopped) or system_fault(error) is not None
            # Write the marker file first, because the database may be unavailable.
            if given_back:
                with suppress(OSError):
                    self._given_back_file(trial.number).touch()
            if not isinstance(error, DATABASE_ERRORS):
                with suppress(Exception):
                    self._fail(trial.number, trial._trial_id, given_back)
            raise
        finally:
            stop.set()
            if thread is not None:
                # Limit the wait, because the thread may be waiting for the database.
                thread.join(HEARTBEAT_SECONDS)

    def _given_back_file(self, number: int) -> Path:
        """The file that marks a trial on this host as given back, until the study records it."""
        return self._lock.parent / f"{self.study.study_name}-{number}.given-back"

    def _fail(self, number: int, trial_id: int, given_back: bool) -> None:
        """Fail an attempt without a reason: its slot has not ended and is queued again."""
        if given_back:
            self.study._storage.set_trial_user_attr(trial_id, GIVEN_BACK, True)
        self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        self._given_back_file(number).unlink(missing_ok=True)

    def _is_surplus(self, trial: Trial) -> bool:
        name = trial.user_attrs.get(SLOT)
        if name not in self.slots:
            return True
        earlier = [other for other in self.attempts()[name] if other.number < trial.number]
        return any(other.state == TrialState.RUNNING or has_ended(other) for other in earlier)

    def _queue_next(self) -> bool:
        """Queue the next slot for `ask`; False if there is none."""
        if self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            # Another worker died between queueing and asking, or is just there on another host.
            return True
        attempts = self.attempts()
        for name, slot in self.slots.items():
            trials = attempts.get(name, [])
            is_open = all(trial.state == TrialState.FAIL and not has_ended(trial) for trial in trials)
            if is_open and _count_tries(trials) < ATTEMPTS:
                values = {**slot.fixed, **(trials[-1].params if trials else {})}
                self.study.enqueue_trial(values, user_attrs={SLOT: name})
                return True
        return False

    def _fail_lost(self) -> None:
        """Fail the running attempts whose workers are dead."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            owner = trial.user_attrs.get(OWNER)
            given_back = self._given_back_file(trial.number).exists()
            if isinstance(self.study._storage, BaseHeartbeat):
                # The owner may be on another host, so Optuna checks its heartbeats below. Check here only an attempt
                # whose worker died before its first heartbeat.
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
    """Whether an attempt ended by itself: complete, pruned, or failed with a reason. A lost attempt has not ended."""
    return trial.state in ENDED or (trial.state == TrialState.FAIL and REASON in trial.user_attrs)


def reason_of(trial: FrozenTrial) -> str:
    """Why a slot failed, from the attempt that counts."""
    return str(trial.user_attrs.get(REASON, "its worker died each time"))


def reported_metrics(trial: FrozenTrial) -> dict[str, float]:
    """The validation metrics of a trial. Earlier versions stored them as "figures"."""
    return trial.user_attrs.get(METRICS, trial.user_attrs.get("figures", {}))


def _count_tries(trials: Sequence[FrozenTrial]) -> int:
    """The number of attempts at a slot that count against ATTEMPTS: those that were not given back."""
    return sum(1 for trial in trials if GIVEN_BACK not in trial.user_attrs)


def derived_seed(*parts: object) -> int:
    """A seed that is derived from other values: 0…2³¹-1."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 2**31


@contextmanager
def worker_lock(folder: Path) -> Iterator[Path]:
    """Hold a new lock file that marks this worker as alive. The kernel releases it whenever this process dies."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"worker-{uuid.uuid4().hex[:12]}"
    with held(path):
        path.write_text(f"{os.getpid()}\n", encoding="utf-8")
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _send_heartbeats(storage: BaseHeartbeat, trial_id: int, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        # Continue after an error, because without heartbeats the trial would count as lost.
        with suppress(*DATABASE_ERRORS):
            storage.record_heartbeat(trial_id)
