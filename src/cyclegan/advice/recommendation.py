"""Which parameters fit some images, a device and a time: rules, each with its source.

"Paper" is Zhu et al. 2017 (arXiv:1703.10593). "Row t" is a row of docs/notes/results.md, which compares settings of
the quick start; "horse2zebra" is its section on that data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cyclegan.advice.findings import CLOSE_KID, FEW_IMAGES, VALIDATION_IMAGES, Findings
from cyclegan.advice.inspection import CONVERTIBLE
from cyclegan.advice.schedule import Candidate, Schedule
from cyclegan.domains import DOMAINS, Split
from cyclegan.evaluation.distributions import FEWEST as FEWEST_FOR_ERROR

# Up to here a training is short: horse2zebra used 0.0004 for 7,520 steps, the paper 0.0002 for 266,800.
SHORT_TRAINING_STEPS = 20_000
# The paper's ratio of loaded to cropped images.
LOAD_TO_CROP = 286 / 256


@dataclass(frozen=True)
class Choice:
    """One parameter with its reason."""

    key: str
    value: Any
    reason: str


def image_choices(findings: Findings, size: int) -> list[Choice]:
    """Section `data`, and how images are cropped and mirrored."""
    return [*_size_choices(findings, size), *_channel_choices(findings), *_split_choices(findings)]


def _size_choices(findings: Findings, size: int) -> list[Choice]:
    load = round(size * LOAD_TO_CROP)
    has_room = min(findings.domains[domain].side for domain in DOMAINS) >= load
    loaded = (
        Choice("data.load_size", load, "the paper's ratio of 286 to 256; random crops add variety")
        if has_room
        else Choice("data.load_size", size, "the images have no pixels left for random crops")
    )
    return [
        loaded,
        Choice("train.crop_size", size, "what the images and the time allow"),
        Choice("train.flip", True, "paper; set false for lettering, or light from one side (row u)"),
    ]


def _channel_choices(findings: Findings) -> list[Choice]:
    channels = {domain: _channels(findings.domains[domain].channels) for domain in DOMAINS}
    if set(channels.values()) <= CONVERTIBLE:
        # Equal channels keep the identity loss and the residual output possible.
        both = 1 if set(channels.values()) == {1} else 3
        reason = "all images are gray" if both == 1 else "color; gray is repeated, transparency lies over white"
        chosen = [Choice(f"data.channels_{domain}", both, reason) for domain in DOMAINS]
    else:
        chosen = [Choice(f"data.channels_{domain}", channels[domain], "as the TIFF files have") for domain in DOMAINS]
    deep = [findings.domains[domain].deep > findings.domains[domain].total / 2 for domain in DOMAINS]
    only_one = "only one domain has 16 bits" if any(deep) else "most images have 8 bits"
    depth = Choice("data.bit_depth", 16 if all(deep) else 8, "most images have 16 bits" if all(deep) else only_one)
    unreadable = sum(len(findings.domains[domain].unreadable or {}) for domain in DOMAINS)
    bad = Choice(
        "data.on_bad_image",
        "skip" if unreadable else "fail",
        f"{unreadable} unreadable images are left out" if unreadable else "all images are readable",
    )
    return [*chosen, depth, bad]


def _channels(images: Mapping[int, int]) -> int:
    """Channels that keep what the images of a domain hold, without transparency."""
    if set(images) <= CONVERTIBLE:
        return 1 if set(images) == {1} else 3
    return next(iter(images))


def _split_choices(findings: Findings) -> list[Choice]:
    names: dict[Split, str] = {"val": "val", "test": "test"}
    chosen = []
    for split, name in names.items():
        counts = " and ".join(map(str, findings.in_split(split)))
        own = findings.least(split) > 0
        reason = f"{counts} images, the source's own" if own else f"{counts} images"
        if split == "val" and not own:
            reason += f", at most {VALIDATION_IMAGES}: each evaluation takes time"
        chosen.append(Choice(f"data.{name}_fraction", findings.fractions[split], reason))
    return chosen


def network_choices(findings: Findings, candidate: Candidate) -> list[Choice]:
    """The networks, the losses and all else that a step depends on."""
    size, filters = candidate.size, candidate.filters
    if size <= 64 and size % 16 == 0:
        generator = Choice("model.generator", "unet_full", "single pixels matter at up to 64 pixels (row s)")
    else:
        generator = Choice("model.generator", "resnet", "paper")
    layers, field = (3, 70) if size >= 128 else (2, 34) if size >= 48 else (1, 16)
    where = "paper" if layers == 3 else "half of the image (row b)" if layers == 2 else "small images, as in digits"
    few = findings.least("train") < FEW_IMAGES
    augment = ["color", "translation", "cutout"] if few else []
    return [
        generator,
        Choice("model.base_filters", filters, "the widest that the time allows; paper: 64"),
        Choice("model.discriminator_filters", filters, "as the generators, paper"),
        Choice("model.upsample", "resize", "no checkerboard (Odena et al. 2016)"),
        Choice("model.patch_layers", layers, f"a discriminator sees {field} pixels: {where}"),
        *_distance_choices(findings),
        _discriminator_batch(size, few),
        Choice(
            "train.diff_augment",
            augment,
            f"fewer than {FEW_IMAGES} images (Zhao et al. 2020)" if few else "enough images (row y)",
        ),
        Choice("train.batch_size", 1, "paper; more gained nothing per second on a CPU (row i)"),
        Choice(
            "train.deterministic",
            not findings.on_gpu,
            "slows a GPU" if findings.on_gpu else "equal runs give equal numbers, at no cost on a CPU",
        ),
    ]


def _discriminator_batch(size: int, few: bool) -> Choice:
    if few:
        return Choice("train.discriminator_batch", None, "few images are memorized soon enough")
    if size <= 64:
        return Choice("train.discriminator_batch", 8, "discriminators learn faster (rows o to t)")
    if size <= 128:
        return Choice("train.discriminator_batch", 4, "discriminators learn faster (horse2zebra)")
    return Choice("train.discriminator_batch", None, "paper; more costs too much at this size")


def _distance_choices(findings: Findings) -> list[Choice]:
    """What depends on how far apart the domains are."""
    channels = [choice.value for choice in _channel_choices(findings)[:2]]
    comparable = channels[0] == channels[1]
    close = findings.is_close and comparable
    measured = f"KID {findings.distance:.2f} between the domains"
    why = f"{measured}, below {CLOSE_KID}: close" if close else f"{measured}: paper"
    if not comparable:
        why = "the domains have different channels"
    cycle, identity, source = (4.0, 2.0, "close domains (row t)") if close else (10.0, 5.0, "paper")
    return [
        Choice("model.residual_output", close, f"{why}; only the change is learned" if close else why),
        Choice("train.loss_weights.forward_cycle", cycle, source),
        Choice("train.loss_weights.backward_cycle", cycle, source),
        # The identity loss compares images of both domains.
        Choice("train.loss_weights.identity", identity if comparable else 0.0, source if comparable else why),
    ]


def training_choices(findings: Findings, schedule: Schedule) -> list[Choice]:
    """How long, how fast, and which generators are kept."""
    short = schedule.steps < SHORT_TRAINING_STEPS
    val = min(findings.in_split("val"))
    measurable = val >= FEWEST_FOR_ERROR or findings.has_pairs
    return [
        Choice("train.epochs", schedule.epochs, f"{schedule.steps:,} steps in all"),
        Choice(
            "train.steps_per_epoch",
            schedule.steps_per_epoch,
            "the larger domain once"
            if schedule.steps_per_epoch == "auto"
            else "an evaluation after each of these parts",
        ),
        Choice("train.evaluate_every", schedule.evaluate_every, f"{schedule.evaluations} evaluations"),
        Choice(
            "train.learning_rate",
            0.0004 if short else 0.0002,
            f"under {SHORT_TRAINING_STEPS:,} steps (horse2zebra)" if short else "paper",
        ),
        Choice(
            "train.ema_decay",
            0.99 if schedule.steps < 1000 else 0.998,
            "averages the last 100 steps" if schedule.steps < 1000 else "averages the last 500 steps (row c)",
        ),
        Choice(
            "train.select",
            "auto" if measurable else "last",
            f"{val} validation images or more choose the best evaluation"
            if measurable
            else f"{val} validation images are too few to choose by",
        ),
        Choice("train.log_every", max(1, min(100, schedule.steps // 100)), "about 100 points in each curve"),
    ]


def overrides(choices: Iterable[Choice]) -> dict[str, Any]:
    """Key → value."""
    return {choice.key: choice.value for choice in choices}
