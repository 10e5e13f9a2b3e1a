"""Parameters for some images: measured on them and on this device, then chosen by rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from cyclegan.advice.findings import Findings
from cyclegan.advice.inspection import Inspection
from cyclegan.advice.recommendation import Choice, image_choices, network_choices, overrides, training_choices
from cyclegan.advice.schedule import Budget, Candidate, Schedule, candidates, choose_network, make_schedule
from cyclegan.advice.timing import StepCost, measure_steps
from cyclegan.domains import DOMAINS
from cyclegan.evaluation.distributions import kid
from cyclegan.evaluation.features import load_features
from cyclegan.params import Params, validate
from cyclegan.params.overrides import nested
from cyclegan.params.schema import FEATURES
from cyclegan.project import Project
from cyclegan.report.grid import comparison_grid
from cyclegan.training.device import prepare_device

# Images of each domain by which their distance is measured. Side: at which the metrics see them.
DISTANCE_IMAGES, DISTANCE_SIZE = 100, 128
# Images of each domain that steps are timed on.
TIMED_IMAGES = 16
TIMED_STEPS, TIMED_SECONDS = 8, 8.0
# Of the contact sheet, for each domain.
SHEET_COLUMNS, SHEET_ROWS, SHEET_SIZE = 4, 6, 128


@dataclass(frozen=True)
class Proposal:
    """Parameters, why each was chosen, and what to expect.

    Attributes:
        params: all of them.
        cost: of a step.
        schedule: how long the training is.
        choices: those that were chosen.
    """

    params: Params
    cost: StepCost
    schedule: Schedule
    choices: Sequence[Choice]


def measure_findings(inspection: Inspection, project: Project) -> Findings:
    """Prepare the device, and measure how far apart the domains are, as the evaluation will see them.

    Raises:
        UserError: the feature network is missing or altered.
    """
    device = prepare_device(seed=0, deterministic=False)
    features = load_features(project.root / FEATURES, DISTANCE_SIZE)
    sample_A, sample_B = samples_of(inspection, DISTANCE_IMAGES, DISTANCE_SIZE)
    distance = kid(features(sample_A), features(sample_B)).value
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    return Findings(inspection.domains, distance, device, on_gpu, inspection.has_pairs, inspection.seconds)


def propose(
    inspection: Inspection,
    findings: Findings,
    source: Mapping[str, Any],
    budget: Budget,
    size: int | None,
    on_timed: Callable[[Candidate, StepCost], object],
) -> Proposal:
    """Time the candidates as far as needed, and choose all parameters.

    Args:
        source: keys that say where the images are.
        size: of the training images; None: what images and time allow.
        on_timed: receives each measurement.

    Raises:
        UserError: the time is too short, the memory too small, or no name follows from the source.
    """

    def cost_of(candidate: Candidate) -> StepCost:
        choices = [*image_choices(findings, candidate.size), *network_choices(findings, candidate)]
        params = _params(source, choices)
        load, channels = overrides(choices)["data.load_size"], (params.data.channels_A, params.data.channels_B)
        images = samples_of(inspection, TIMED_IMAGES, load, channels)
        cost = measure_steps(params, *images, findings.device, TIMED_STEPS, TIMED_SECONDS)
        on_timed(candidate, cost)
        return cost

    candidate, cost = choose_network(candidates(findings, size), findings, budget, cost_of)
    schedule = make_schedule(findings, budget, cost)
    choices = [
        *image_choices(findings, candidate.size),
        *network_choices(findings, candidate),
        *training_choices(findings, schedule),
    ]
    return Proposal(_params(source, choices), cost, schedule, choices)


def contact_sheet(inspection: Inspection, headings: Sequence[str]) -> np.ndarray:
    """Images of both domains side by side: [height, width, 3] uint8."""
    count = SHEET_COLUMNS * SHEET_ROWS
    blocks = []
    for heading, images in zip(headings, samples_of(inspection, count, SHEET_SIZE), strict=True):
        # Whole rows only; a domain of few images has fewer.
        columns = min(SHEET_COLUMNS, len(images))
        images = images[: len(images) // columns * columns]
        blocks.append([(heading if n == 0 else "", images[n::columns]) for n in range(columns)])
    return comparison_grid(blocks)


def samples_of(
    inspection: Inspection, count: int, size: int, channels: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Samples of both domains, in their own channels where none are given."""
    own = [max(inspection.domains[domain].channels) for domain in DOMAINS]
    a, b = (
        inspection.sample(domain, count, size, wanted) for domain, wanted in zip(DOMAINS, channels or own, strict=True)
    )
    return a, b


def _params(source: Mapping[str, Any], choices: Iterable[Choice]) -> Params:
    return validate(nested({**source, **overrides(choices)}), "params.yaml")
