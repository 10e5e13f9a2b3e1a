"""How large the networks and how long the training, by what a step costs and the time that there is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

from cyclegan.advice.findings import FEW_IMAGES, Findings
from cyclegan.advice.timing import StepCost
from cyclegan.domains import DOMAINS, Split
from cyclegan.system.errors import UserError

# Share of the training's time for evaluations, and how often they come.
EVALUATION_SHARE = 0.15
EVALUATIONS = (2, 10)
# Steps after which a wider network or larger images are worth their time. 64 pixels: rows b and l differ after 1,250
# steps; 128 pixels: the reference needed 2,400 on horse2zebra; 256 pixels: a guess between these and the paper.
WORTHWHILE_STEPS = {64: 1500, 128: 3000, 256: 10_000}
# A shorter training shows nothing.
FEWEST_STEPS = 100
# Passes of a generator over each image of an evaluation: translation, cycle, identity; as much again for the features.
PASSES = 4
# What `dvc repro` takes beside training, evaluations and decoding: six processes start, reports are drawn, models are
# registered. Measured on two CPU cores.
STAGES_SECONDS = 80


@dataclass(frozen=True, order=True)
class Candidate:
    """What makes a step slow or fast: the size of the images in pixels and the filters of the first layers."""

    size: int
    filters: int


# More pixels need more filters, and more time: the quick start has 32 at 64 pixels, the paper 64 at 256.
CPU_LADDER = (Candidate(64, 16), Candidate(64, 32), Candidate(128, 32), Candidate(128, 64), Candidate(256, 64))
GPU_LADDER = (Candidate(128, 64), Candidate(256, 64))


@dataclass(frozen=True)
class Budget:
    """What a user asks for: minutes of `dvc repro`, or epochs. One of them is None."""

    minutes: float | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class Schedule:
    """How long a training is.

    Attributes:
        steps, evaluations: in all.
        train_seconds: with the evaluations.
        total_seconds: of `dvc repro`.
    """

    epochs: int
    steps_per_epoch: int | Literal["auto"]
    evaluate_every: int
    steps: int
    evaluations: int
    train_seconds: float
    total_seconds: float


# Size and width of the networks.


def largest_size(findings: Findings) -> int:
    """The largest training size that does not enlarge most images: a multiple of 16, below 32 of 4."""
    side = min(findings.domains[domain].side for domain in DOMAINS)
    multiple = 16 if side >= 32 else 4
    return max(8, side // multiple * multiple)


def candidates(findings: Findings, size: int | None) -> list[Candidate]:
    """What may be timed, the cheapest first.

    Args:
        size: of the training images in pixels; None: from 64 to 256, as the images allow.
    """
    if size is not None:
        widths = (32, 64) if findings.on_gpu else (16, 32, 64)
        ladder = [Candidate(size, filters) for filters in widths]
    else:
        limit = largest_size(findings)
        ladder = [Candidate(min(c.size, limit), c.filters) for c in (GPU_LADDER if findings.on_gpu else CPU_LADDER)]
    if findings.least("train") < FEW_IMAGES:
        # Wide networks memorize few images (docs/choosing-settings.md).
        ladder = [Candidate(c.size, min(32, c.filters)) for c in ladder]
    return list(dict.fromkeys(ladder))


def choose_network(
    ladder: Sequence[Candidate],
    findings: Findings,
    budget: Budget,
    cost_of: Callable[[Candidate], StepCost],
) -> tuple[Candidate, StepCost]:
    """The last candidate whose steps within the time are worthwhile; measures no further than needed.

    With epochs in place of a time, the one that is usual for the device.
    """
    if budget.minutes is None:
        at_least_32 = [candidate for candidate in ladder if candidate.filters >= 32]
        usual = at_least_32[-1 if findings.on_gpu else 0]
        return usual, cost_of(usual)
    chosen = ladder[0], cost_of(ladder[0])
    for candidate in ladder[1:]:
        # A cheaper one was not worthwhile, hence no dearer one is.
        if _steps_within(budget.minutes, chosen[1], findings) < _worthwhile(chosen[0].size):
            break
        try:
            cost = cost_of(candidate)
        except UserError:
            # Out of memory: a smaller one fits.
            break
        if _steps_within(budget.minutes, cost, findings) < _worthwhile(candidate.size):
            break
        chosen = candidate, cost
    return chosen


def _worthwhile(size: int) -> int:
    return next((steps for limit, steps in WORTHWHILE_STEPS.items() if size <= limit), WORTHWHILE_STEPS[256])


# The length of the training.


def make_schedule(findings: Findings, budget: Budget, cost: StepCost) -> Schedule:
    """Turn minutes into epochs, and epochs into an expected time.

    Raises:
        UserError: the minutes are too few for any training.
    """
    largest = max(findings.in_split("train"))
    if budget.epochs is not None:
        every = math.ceil(budget.epochs / EVALUATIONS[1])
        return _schedule(findings, cost, budget.epochs, "auto", every, largest)
    assert budget.minutes is not None
    steps = _steps_within(budget.minutes, cost, findings)
    if steps < FEWEST_STEPS:
        least = next(minutes for minutes in count(1) if _steps_within(minutes, cost, findings) >= FEWEST_STEPS)
        raise UserError(
            f"--minutes {budget.minutes:g}: too few for {FEWEST_STEPS} training steps; use at least {least}"
        )
    evaluations = _evaluations(budget.minutes, cost, findings)
    if steps >= largest * evaluations:
        epochs = steps // largest
        return _schedule(findings, cost, epochs, "auto", math.ceil(epochs / evaluations), largest)
    return _schedule(findings, cost, evaluations, steps // evaluations, 1, largest)


def _schedule(
    findings: Findings, cost: StepCost, epochs: int, per_epoch: int | Literal["auto"], every: int, largest: int
) -> Schedule:
    steps = epochs * (largest if per_epoch == "auto" else per_epoch)
    evaluations = math.ceil(epochs / every)
    train = cost.build_seconds + steps * cost.seconds + evaluations * _evaluation_seconds(findings, cost, "val")
    total = train + _fixed_seconds(findings, cost) - cost.build_seconds
    return Schedule(epochs, per_epoch, every, steps, evaluations, train, total)


def _fixed_seconds(findings: Findings, cost: StepCost) -> float:
    """What `dvc repro` takes for all but steps and evaluations."""
    # Stage evaluate also measures a change of colors alone: twice the work.
    evaluate = 2 * _evaluation_seconds(findings, cost, "test")
    return STAGES_SECONDS + 2 * findings.decode_seconds + evaluate + cost.build_seconds


def _evaluation_seconds(findings: Findings, cost: StepCost, split: Split) -> float:
    return sum(findings.in_split(split)) * PASSES * cost.translate_seconds


def _evaluations(minutes: float, cost: StepCost, findings: Findings) -> int:
    seconds = EVALUATION_SHARE * (60 * minutes - _fixed_seconds(findings, cost))
    least, most = EVALUATIONS
    return min(most, max(least, int(seconds / _evaluation_seconds(findings, cost, "val"))))


def _steps_within(minutes: float, cost: StepCost, findings: Findings) -> int:
    seconds = 60 * minutes - _fixed_seconds(findings, cost)
    seconds -= _evaluations(minutes, cost, findings) * _evaluation_seconds(findings, cost, "val")
    return max(0, int(seconds / cost.seconds))
